"""Reads values at the edges of their types with pyarrow and with DuckDB.

Usage: extremes.py FOLDER_OF_THE_TABLE
Prints a JSON object: what each reader makes of the columns, rows in the order of their ids.
"""

import json
import pathlib
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

table = pathlib.Path(sys.argv[1])
commits = [json.loads(path.read_text()) for path in sorted((table / "_commits").glob("[0-9]*.json"))]
files = [str(table / file["path"]) for commit in commits for file in commit["files"]]
rows = pa.concat_tables([pq.ParquetFile(file).read() for file in files]).sort_by("id")
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")


def with_duckdb(cell):
    found = connection.execute(f"SELECT {cell} FROM read_parquet(?, hive_partitioning = false) ORDER BY id", [files])
    return [cell for (cell,) in found.fetchall()]


found = {
    # Python has no dates beyond the year 9999, so numbers are compared.
    "pyarrow": {
        "at": rows["at"].cast(pa.int64()).to_pylist(),
        "local": rows["local"].cast(pa.int64()).to_pylist(),
        "day": rows["day"].cast(pa.int32()).to_pylist(),
        "wide": [None if cell is None else format(cell, "f") for cell in rows["wide"].to_pylist()],
        "free": rows["free"].to_pylist(),
    },
    # As text, DuckDB fails on the smallest numbers of these types, by which -infinity is stored.
    "duckdb": {column: with_duckdb(f'isinf("{column}")') for column in ["at", "local", "day"]}
    | {"free": with_duckdb("free"), "wide": with_duckdb("typeof(wide)")[0]},
}
print(json.dumps(found))
