"""NDJSON into zstd Parquet by one thread of DuckDB. Arguments: the lines, the target."""

import sys

import duckdb

lines, target = sys.argv[1:]
types = (
    "{id: 'BIGINT', \"user\": 'BIGINT', session: 'VARCHAR', sent_at: 'BIGINT', url: 'VARCHAR', agent: 'VARCHAR', "
    "amount: 'DOUBLE', ok: 'BOOLEAN', took_ms: 'BIGINT'}"
)
connection = duckdb.connect(config={"threads": 1})
connection.execute(
    f"COPY (SELECT * REPLACE (make_timestamp_ms(sent_at) AS sent_at) FROM read_json('{lines}', format = 'newline_delimited', columns = {types})) "
    f"TO '{target}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
)
