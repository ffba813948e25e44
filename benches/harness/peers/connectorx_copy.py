"""A table into zstd Parquet by ConnectorX's stream. Arguments: how to connect, the table, a folder."""

import sys

import connectorx
import pyarrow.parquet as pq

dsn, table, folder = sys.argv[1:]
batches = connectorx.read_sql(dsn, f"SELECT * FROM {table}", return_type="arrow_stream", batch_size=65536)
with pq.ParquetWriter(f"{folder}/{table}.parquet", batches.schema, compression="zstd", compression_level=1) as writer:
    for batch in batches:
        writer.write_batch(batch)
