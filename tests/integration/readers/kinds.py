"""What pyarrow and DuckDB count in the table in the folder that is the argument, by kind, with filters that indexes answer."""

import json
import sys
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pyarrow.dataset as ds

folder = Path(sys.argv[1])
files = []
for record in sorted((folder / "_commits").glob("[0-9]*.json")):
    files += [str(folder / file["path"]) for file in json.loads(record.read_text())["files"]]

rows = ds.dataset(files, format="parquet")
kind = pc.field("kind")
with_pyarrow = {
    "one": rows.count_rows(filter=kind == "kind 3"),
    "none": rows.count_rows(filter=kind.is_null()),
    "sum": pc.sum(rows.to_table(columns=["id"], filter=kind == "kind 3")["id"]).as_py(),
}
print(json.dumps(with_pyarrow))
sql = """SELECT count(*) FILTER (kind = 'kind 3'), count(*) FILTER (kind IS NULL) FROM read_parquet($files)"""
database = duckdb.connect()
counts = database.execute(sql, {"files": files}).fetchone()
total = database.execute("SELECT sum(id) FROM read_parquet($files) WHERE kind = 'kind 3'", {"files": files}).fetchone()
print(json.dumps(dict(zip(("one", "none", "sum"), (*counts, int(total[0]))))))
encodings = database.execute(
    "SELECT DISTINCT path_in_schema, encodings FROM parquet_metadata($files) WHERE path_in_schema IN ('id', 'kind')",
    {"files": files},
).fetchall()
print(json.dumps({column: encodings for column, encodings in encodings}))
