"""A table into zstd Parquet by dlt with its ConnectorX backend. Arguments: how to connect, the table, a folder."""

import logging
import os
import sys

dsn, table, folder = sys.argv[1:]
os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "DATA_WRITER__COMPRESSION": "zstd"}
import dlt  # noqa: E402
from dlt.destinations import filesystem  # noqa: E402
from dlt.sources.sql_database import sql_table  # noqa: E402

logging.disable(logging.WARNING)
rows = sql_table(
    credentials=dsn.replace("postgresql://", "postgresql+psycopg2://", 1),
    table=table,
    schema="public",
    backend="connectorx",
    backend_kwargs={"return_type": "arrow_stream", "batch_size": 65536},
    chunk_size=65536,
    reflection_level="full_with_precision",
)
pipeline = dlt.pipeline(
    "peer", destination=filesystem(bucket_url=f"file://{folder}/out"), dataset_name="d", pipelines_dir=f"{folder}/work"
)
pipeline.run(rows, loader_file_format="parquet", write_disposition="replace")
