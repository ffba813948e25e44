"""Whether a target holds what its source holds. A run whose target differs does not count."""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from .postgres import Cluster
from .process import Failed


def fingerprint(relation: duckdb.DuckDBPyRelation, columns: str) -> tuple:
    """The number of rows and the sum of their hashes, whatever their order."""
    return relation.query("rows", f"SELECT count(*), sum(hash({columns})::hugeint) FROM rows").fetchall()[0]


def of_table(cluster: Cluster, table: str, types: dict[str, str], columns: str) -> tuple:
    """The fingerprint of a table as the server itself prints it."""
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        path = Path(folder) / "rows.csv"
        with path.open("wb") as file, cluster.session.cursor() as cursor:
            cursor.execute("SET timezone = 'UTC'")
            with cursor.copy(f"COPY {table} TO STDOUT (FORMAT csv)") as copy:
                for block in copy:
                    file.write(block)
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        relation = connection.read_csv(str(path), header=False, columns=types)
        return fingerprint(relation, columns)


def equal(what: str, found: tuple, expected: tuple) -> None:
    """Holds a target against its source."""
    if found != expected:
        raise Failed(f"{what}: the target has {found}, the source {expected} (rows, sum of hashes)")
