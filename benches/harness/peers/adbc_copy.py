"""A table into zstd Parquet by ADBC and pyarrow. Arguments: how to connect, the table, a folder."""

import sys

import adbc_driver_postgresql.dbapi as adbc
import pyarrow.parquet as pq

dsn, table, folder = sys.argv[1:]
with adbc.connect(dsn) as connection, connection.cursor() as cursor:
    cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(16 << 20)})
    cursor.execute(f"SELECT * FROM {table}")
    batches = cursor.fetch_record_batch()
    with pq.ParquetWriter(f"{folder}/{table}.parquet", batches.schema, compression="zstd", compression_level=1) as writer:
        for batch in batches:
            writer.write_batch(batch)
