"""A table into zstd Parquet by DuckDB's postgres extension. Arguments: how to connect, the table, a folder."""

import sys
from pathlib import Path

import duckdb
import duckdb_extension_postgres_scanner

dsn, table, folder = sys.argv[1:]
# The wheel has the extension, which DuckDB would fetch from a host of its own otherwise.
carried = Path(next(iter(duckdb_extension_postgres_scanner.__path__)))
extension = next(carried.rglob("*.duckdb_extension"))
connection = duckdb.connect()
connection.execute(f"LOAD '{extension}'")
connection.execute(
    f"COPY (SELECT * FROM postgres_scan('{dsn}', 'public', '{table}')) TO '{folder}/{table}.parquet' "
    "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
)
