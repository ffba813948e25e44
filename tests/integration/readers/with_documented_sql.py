"""Runs SQL in DuckDB and prints the rows of each statement as one line of JSON.

Usage: with_documented_sql.py SQL
"""

import json
import sys

import duckdb

connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
for statement in connection.extract_statements(sys.argv[1]):
    result = connection.sql(statement.query.strip().rstrip(";"))
    # As an Arrow table, because DuckDB's own conversion of zoned timestamps wants one more module.
    rows = result.to_arrow_table().to_pylist() if result is not None else []
    print(json.dumps([[None if cell is None else str(cell) for cell in row.values()] for row in rows]))
