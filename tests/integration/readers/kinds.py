"""What pyarrow and DuckDB count and sum in the table in the folder that is the argument, with filters that indexes answer."""

import datetime
import decimal
import json
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

folder = Path(sys.argv[1])
files = []
for record in sorted((folder / "_commits").glob("[0-9]*.json")):
    files += [str(folder / file["path"]) for file in json.loads(record.read_text())["files"]]

rows = ds.dataset(files, format="parquet")
kind, far, rate, day = pc.field("kind"), pc.field("far"), pc.field("rate"), pc.field("day")
# The row that was changed may be there twice.
others = pc.field("id") != 5
table = rows.to_table(columns=["far", "amount", "rate", "small", "same", "day", "at"], filter=others)
epoch = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
with_pyarrow = {
    "one": rows.count_rows(filter=kind == "kind 3"),
    "none": rows.count_rows(filter=kind.is_null()),
    "sum": pc.sum(rows.to_table(columns=["id"], filter=kind == "kind 3")["id"]).as_py(),
    "far": pc.sum(table["far"]).as_py(),
    "above": rows.count_rows(filter=others & (far > 1_000_000_000)),
    "amount": str(pc.sum(table["amount"]).as_py()),
    "rate": str(pc.sum(table["rate"]).as_py()),
    "rated": rows.count_rows(filter=others & (rate == decimal.Decimal("-0.07"))),
    "small": pc.sum(table["small"]).as_py(),
    "same": pc.sum(table["same"]).as_py(),
    "days": pc.count_distinct(table["day"]).as_py(),
    "first": str(pc.min(table["day"]).as_py()),
    "early": rows.count_rows(filter=others & (day < datetime.date(1968, 1, 1))),
    "seconds": pc.sum(pc.seconds_between(pa.scalar(epoch, table["at"].type), table["at"])).as_py(),
}
print(json.dumps(with_pyarrow))
database = duckdb.connect()


def one(sql):
    """The only value that a query gives."""
    return database.execute(f"SELECT {sql}", {"files": files}).fetchone()[0]


rows = "FROM (FROM read_parquet($files) WHERE id <> 5)"
with_duckdb = {
    "one": one(f"count(*) {rows} WHERE kind = 'kind 3'"),
    "none": one(f"count(*) {rows} WHERE kind IS NULL"),
    "sum": int(one(f"sum(id) {rows} WHERE kind = 'kind 3'")),
    "far": int(one(f"sum(far) {rows}")),
    "above": one(f"count(*) {rows} WHERE far > 1000000000"),
    "amount": str(one(f"sum(amount) {rows}")),
    "rate": str(one(f"sum(rate) {rows}")),
    "rated": one(f"count(*) {rows} WHERE rate = -0.07"),
    "small": int(one(f"sum(small) {rows}")),
    "same": int(one(f"sum(same) {rows}")),
    "days": one(f"count(DISTINCT day) {rows}"),
    "first": str(one(f"min(day) {rows}")),
    "early": one(f"count(*) {rows} WHERE day < DATE '1968-01-01'"),
    "seconds": int(one(f"sum(epoch(\"at\") - 1767225600)::BIGINT {rows}")),
}
print(json.dumps(with_duckdb))
# Of the largest row group: that of a change alone has too few rows for any of it.
encodings = database.execute(
    "SELECT path_in_schema, arg_max(encodings, num_values) FROM parquet_metadata($files) GROUP BY ALL", {"files": files}
).fetchall()
print(json.dumps(dict(encodings)))
