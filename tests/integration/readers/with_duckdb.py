"""Folds the change log of a table with DuckDB's SQL and prints its rows, each as JSON.

Usage: with_duckdb.py FOLDER_OF_THE_TABLE
The table must have no truncation and no column that the stream left out.
"""

import pathlib
import json
import sys

import duckdb

table = pathlib.Path(sys.argv[1])
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
# The commits say which files are the table.
files = connection.execute(
    "SELECT unnest(files).path FROM read_json(?, columns = {version: 'BIGINT', files: 'STRUCT(path VARCHAR)[]'}) ORDER BY version",
    [str(table / "_commits" / "[0-9]*.json")],
).fetchall()
files = [str(table / path) for (path,) in files]
rows = connection.execute(
    """
    WITH latest AS (
        SELECT * FROM read_parquet(?, union_by_name = true, hive_partitioning = false)
        QUALIFY row_number() OVER (
            PARTITION BY id ORDER BY __partition DESC, __position DESC, __ordinal DESC) = 1
    )
    SELECT id, amount::VARCHAR, "free", strftime("at", '%Y-%m-%dT%H:%M:%S.%fZ'), strftime("local", '%Y-%m-%dT%H:%M:%S.%f'),
        day::VARCHAR, strftime(DATE '2000-01-01' + clock, '%H:%M:%S.%f'), note, lower(hex(raw)), flag, ratio, small, big,
        ident, doc, feeling, tags, prices::VARCHAR[], later::VARCHAR
    FROM latest WHERE __op <> 'd' ORDER BY id
    """,
    [files],
).fetchall()
for row in rows:
    print(json.dumps(row))
