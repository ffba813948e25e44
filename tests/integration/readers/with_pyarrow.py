"""Folds the change log of a table with pyarrow alone and prints its rows, each as JSON.

Usage: with_pyarrow.py FOLDER_OF_THE_TABLE
"""

import datetime
import decimal
import json
import pathlib
import sys

import pyarrow.parquet as pq

RESERVED = ("__op", "__partition", "__position", "__ordinal", "__committed_at", "__unchanged", "__before")


def shown(value):
    """A cell as the source's query shows it."""
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return value.strftime("%m-%dT%H:%M:%S.%f").join([f"{value.year:04}-", ""])
        utc = value.astimezone(datetime.timezone.utc)
        return utc.strftime("%m-%dT%H:%M:%S.%fZ").join([f"{utc.year:04}-", ""])
    if isinstance(value, datetime.time):
        return value.strftime("%H:%M:%S.%f")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, list):
        return [shown(item) for item in value]
    return value


table = pathlib.Path(sys.argv[1])
commits = [json.loads(path.read_text()) for path in sorted((table / "_commits").glob("[0-9]*.json"))]
changes = []
for commit in commits:
    for file in commit["files"]:
        rows = pq.ParquetFile(table / file["path"]).read().to_pylist()
        assert len(rows) == file["rows"], file["path"]
        changes.extend(rows)
changes.sort(key=lambda row: (row["__partition"], row["__position"], row["__ordinal"]))

state, columns = {}, {}
# By key: columns whose value was left out and read again, which may be a later row's.
read_again = {}
# The row that the last delete removed, and the place of a create that moves it to another key.
removed, moved_at = {}, None
for row in changes:
    place = (row["__partition"], row["__position"], row["__ordinal"])
    if row["__op"] == "t":
        state.clear()
        read_again.clear()
        continue
    cells = {name: cell for name, cell in row.items() if name not in RESERVED}
    columns.update(dict.fromkeys(cells))
    if row["__op"] == "d":
        was_read = read_again.pop(row["id"], set())
        removed = {name: cell for name, cell in state.pop(row["id"], {}).items() if name not in was_read}
        moved_at = (*place[:2], place[2] + 1)
        continue
    moved = row["__op"] == "c" and place == moved_at
    had = removed if moved else state.get(row["id"], {})
    was_read = set() if moved else read_again.get(row["id"], set())
    read_again[row["id"]] = set()
    for name in row["__unchanged"] or []:
        if had.get(name) is not None and (name not in was_read or cells[name] is None):
            cells[name] = had[name]
        if had.get(name) is None or name in was_read:
            read_again[row["id"]].add(name)
    state[row["id"]] = cells

for _, cells in sorted(state.items()):
    print(json.dumps([shown(cells.get(name)) for name in columns]))
