"""First copies of tables, beside COPY alone and other tools that make Parquet of a table."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb

from .. import verify
from ..context import Context
from ..measure import Result, Runner, in_turn, ratio, say
from ..millstream import Daemon, Project, of_postgres
from ..postgres import Cluster
from ..process import Failed, Usage, run

PEERS = ["duckdb", "connectorx", "adbc", "dlt"]
# These come as sources of Rust alone, which a benchmark cannot build in reasonable time.
NOT_MEASURED = {"pg2parquet": "not on PyPI", "faucet-stream": "not on PyPI"}


@dataclass(frozen=True)
class Table:
    """A table, its rows, and how they are compared."""

    name: str
    ddl: str
    rows: str
    types: dict[str, str]
    hashed: str


NARROW = Table(
    name="narrow",
    ddl="CREATE TABLE narrow (id bigint PRIMARY KEY, account int, amount numeric(12,2), kind text, placed_at timestamptz)",
    rows="SELECT g, (g * 7919) % 1000003, (g * 31 % 10000019) / 100.0, 'kind ' || g % 50, "
    "'2026-01-01'::timestamptz + g * interval '1 second' FROM generate_series(1::bigint, {rows}) g",
    types={"id": "BIGINT", "account": "INTEGER", "amount": "DECIMAL(12,2)", "kind": "VARCHAR", "placed_at": "TIMESTAMPTZ"},
    hashed="id, account, amount, kind, epoch_us(placed_at)",
)
# The columns of TPC-H's largest table, with values as scattered as those of its generator.
LINEITEM = Table(
    name="lineitem",
    ddl="CREATE TABLE lineitem (l_orderkey bigint, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric(15,2), "
    "l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag varchar(1), l_linestatus varchar(1), "
    "l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct varchar(25), l_shipmode varchar(10), l_comment varchar(44), "
    "PRIMARY KEY (l_orderkey, l_linenumber))",
    rows="SELECT g / 4, h % 200000, h % 10000, g % 4, 1 + h % 50, (90000 + h % 10000000) / 100.0, (h % 11) / 100.0, (h % 9) / 100.0, "
    "substr('RAN', (1 + h % 3)::int, 1), substr('OF', (1 + h % 2)::int, 1), '1992-01-01'::date + (h % 2500)::int, "
    "'1992-02-01'::date + (h % 2503)::int, '1992-01-11'::date + (h % 2497)::int, "
    "(ARRAY['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[1 + h % 4], "
    "(ARRAY['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[1 + h % 7], substr(md5(h::text) || md5(g::text), 1, (10 + h % 34)::int) "
    "FROM (SELECT g, (g * 2654435761) % 4294967291 AS h FROM generate_series(1::bigint, {rows}) g) s",
    types={
        "l_orderkey": "BIGINT", "l_partkey": "INTEGER", "l_suppkey": "INTEGER", "l_linenumber": "INTEGER",
        "l_quantity": "DECIMAL(15,2)", "l_extendedprice": "DECIMAL(15,2)", "l_discount": "DECIMAL(15,2)",
        "l_tax": "DECIMAL(15,2)", "l_returnflag": "VARCHAR", "l_linestatus": "VARCHAR", "l_shipdate": "DATE",
        "l_commitdate": "DATE", "l_receiptdate": "DATE", "l_shipinstruct": "VARCHAR", "l_shipmode": "VARCHAR",
        "l_comment": "VARCHAR",
    },  # fmt: skip
    hashed="l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax, l_returnflag, "
    "l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment",
)


class Copy:
    """The runs on one table."""

    def __init__(self, context: Context, cluster: Cluster, table: Table, rows: int):
        self.context, self.cluster, self.table, self.rows = context, cluster, table, rows
        say(f"snapshot: writing {rows:,} rows of {table.name}")
        for statement in (table.ddl, f"INSERT INTO {table.name} {table.rows.format(rows=rows)}", f"VACUUM ANALYZE {table.name}"):
            cluster.sql(statement)
        cluster.sql(f"ALTER PUBLICATION millstream ADD TABLE {table.name}")
        self.expected = verify.of_table(cluster, table.name, table.types, table.hashed)

    def ours(self, turn: int) -> tuple[Usage, dict[str, float]]:
        """Our first copy, until its last row is committed."""
        slot = f"copy_{self.table.name}_{turn}"
        project = Project.new({"copy": of_postgres(slot, self.table.name)})
        before = self.cluster.cpu_seconds()
        with Daemon(self.context.binary, project, f"snapshot-{self.table.name}", DB_URL=self.cluster.dsn) as daemon:
            usage = daemon.usage(daemon.wait_for_rows(project, self.table.name, self.rows))
            server = self.cluster.cpu_seconds() - before
        relation = project.relation(self.table.name, None)
        if wrong := self.wrong_types(relation):
            raise Failed(f"{self.table.name}: the target has other types: {wrong}")
        verify.equal(self.table.name, verify.fingerprint(relation, self.table.hashed), self.expected)
        self.cluster.drop_slot(slot)
        more = {"server_cpu_s": server, "target_mib": project.bytes(self.table.name) / (1 << 20)}
        project.remove()
        return usage, more

    def wrong_types(self, relation: duckdb.DuckDBPyRelation) -> dict[str, str | None]:
        """Columns that have not the type that they should have, as DuckDB reads them."""
        found = dict(zip(relation.columns, map(str, relation.types), strict=True))
        named = {column: found.get(column, "").replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ") for column in self.table.types}
        return {column: found.get(column) for column, wanted in self.table.types.items() if named[column] != wanted}

    def copy_command(self) -> str:
        """One session's COPY into the void, for the shell."""
        return f'"{self.cluster.bin}/psql" "{self.cluster.dsn}" -Xqc "COPY {self.table.name} TO STDOUT (FORMAT binary)" >/dev/null'

    def copy_alone(self, _: int) -> tuple[Usage, dict[str, float]]:
        """One session's COPY into the void, in a process of its own."""
        before = self.cluster.cpu_seconds()
        usage, _out = run(["sh", "-c", self.copy_command()])
        return usage, {"server_cpu_s": self.cluster.cpu_seconds() - before}

    def peer(self, name: str):
        """Another tool's copy, whose rows and types must be those of the source."""

        def copy(_: int) -> tuple[Usage, dict[str, float]]:
            folder = Path(tempfile.mkdtemp(prefix="millstream-bench-peer-"))
            try:
                usage, _out = run([*self.context.peer(f"{name}_copy"), self.cluster.dsn, self.table.name, str(folder)])
                # Not those that a tool worked with.
                files = [str(path) for path in folder.rglob("*.parquet") if "work" not in path.parts]
                relation = duckdb.connect().from_parquet(files)
                wrong = self.wrong_types(relation)
                if wrong:
                    say(f"snapshot: {name} gives other types: {wrong}")
                else:
                    verify.equal(f"{name}, {self.table.name}", verify.fingerprint(relation, self.table.hashed), self.expected)
                size = sum(Path(file).stat().st_size for file in files) / (1 << 20)
                return usage, {"exact": 0.0 if wrong else 1.0, "target_mib": size}
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        return copy

    def encode(self, *beside: str):
        """What encoding the same rows costs pyarrow, and how long it lasts beside a command of the shell."""

        def encode(_: int) -> tuple[Usage, dict[str, float]]:
            folder = Path(tempfile.mkdtemp(prefix="millstream-bench-encode-"))
            try:
                run([*self.context.peer("duckdb_copy"), self.cluster.dsn, self.table.name, str(folder)])
                usage, out = run([*self.context.peer("encode"), str(folder), *beside])
                more = json.loads(out)
                # Without the start of Python, and reading the rows.
                return Usage(more["at_once_s"], usage.cpu_s, usage.rss_mib), more
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        return encode


def run_case(context: Context) -> tuple[dict, dict]:
    """The case and its ratios; each is the worst of the two tables."""
    cases, of_tables = {}, []
    with Cluster() as cluster:
        cluster.sql("CREATE PUBLICATION millstream")
        for table, rows in ((NARROW, context.size(5_000_000, 2_000_000)), (LINEITEM, context.size(3_000_000, 1_000_000))):
            copy = Copy(context, cluster, table, rows)
            runners = [Runner("millstream", copy.ours), Runner("copy_binary", copy.copy_alone)]
            runners += [Runner(name, copy.peer(name), None if name == "duckdb" else 1, is_peer=True) for name in PEERS]
            runners.append(Runner("encode", copy.encode(), rounds=1, is_peer=True))
            runners.append(Runner("encode_beside_copy", copy.encode(copy.copy_command()), rounds=context.rounds, is_peer=True))
            # Runs of a second or two differ by more than what is looked for.
            results = in_turn(f"snapshot of {table.name}", runners, context.rounds + 2)
            ratios = of_table(results)
            of_tables.append(ratios)
            cases[f"snapshot_{table.name}"] = {
                "rows": rows,
                **{name: result.summary() for name, result in results.items()},
                **{name: {"missing": reason} for name, reason in NOT_MEASURED.items()},
                "ratios": ratios,
            }
    worst = {key: worst_of([ratios[key] for ratios in of_tables], key.endswith("_memory")) for key in of_tables[0]}
    return cases, worst


def of_table(results: dict[str, Result]) -> dict[str, float | None]:
    """The ratios of one table."""
    ours, alone = results["millstream"], results["copy_binary"]
    wall = ours.median("wall_s")
    cores = len(os.sched_getaffinity(0))
    costs = [alone.median("server_cpu_s"), results["encode"].median("encode_cpu_s")]
    floor = sum(costs) / cores if None not in costs else None
    exact = {name: results[name] for name in PEERS if results[name].median("exact") == 1.0}
    # Without DuckDB, which is known to be the best, nothing is said.
    exact = exact if "duckdb" in exact else {}
    best = min((peer.median("wall_s") for peer in exact.values()), default=None)
    least = min((peer.median("rss_mib") for peer in exact.values()), default=None)
    return {
        # What remains where decoding and all else costs nothing, on cores that are what they are.
        "snapshot_vs_copy_and_encode": ratio(results["encode_beside_copy"].median("at_once_s"), wall),
        "snapshot_vs_copy": ratio(alone.median("wall_s"), wall),
        "snapshot_vs_floor": ratio(floor, wall),
        "snapshot_vs_best_peer": ratio(best, wall),
        "snapshot_vs_best_peer_memory": ratio(ours.median("rss_mib"), least),
    }


def worst_of(values: list[float | None], higher_is_worse: bool) -> float | None:
    """The worst of what was measured; `None` where one was not."""
    if None in values:
        return None
    return max(values) if higher_is_worse else min(values)
