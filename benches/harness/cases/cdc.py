"""Drains a log of changes into a table, beside bare readers and Debezium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from .. import verify
from ..context import Context
from ..flame import Recording
from ..measure import Result, Runner, in_turn, ratio, say
from ..millstream import Daemon, Project, of_postgres
from ..postgres import Cluster
from ..process import Failed, Usage, cpu_seconds, run

ROWS = """SELECT g, g % 10007, (g % 1000003) / 100.0, 'order ' || md5(g::text),
    '2026-01-01'::timestamptz + g * interval '1 second' FROM generate_series"""

TABLE = f"""
CREATE TABLE orders (id bigint PRIMARY KEY, account int NOT NULL, amount numeric(12,2), note text, placed_at timestamptz);
CREATE PUBLICATION millstream FOR TABLE orders;
-- Each transaction inserts 70 rows, updates 20 of the one before and deletes 10 of it.
CREATE PROCEDURE load(transactions int) LANGUAGE plpgsql AS $$
BEGIN
    FOR t IN 1..transactions LOOP
        INSERT INTO orders {ROWS}(t * 70::bigint, t * 70 + 69) g;
        UPDATE orders SET amount = amount + 1, account = account + 1 WHERE id BETWEEN t * 70 - 70 AND t * 70 - 51;
        DELETE FROM orders WHERE id BETWEEN t * 70 - 10 AND t * 70 - 1;
        COMMIT;
    END LOOP;
END $$;
"""
FIRST_OF_THE_LARGE = 1_000_000_000
# As in the case of latency: both are measured of one configuration.
EVERY = "250ms"
COLUMNS = {"id": "BIGINT", "account": "INTEGER", "amount": "DECIMAL(12,2)", "note": "VARCHAR", "placed_at": "TIMESTAMPTZ"}
HASHED = "id, account, amount, note, epoch_us(placed_at)"

# A projection, a filter, five expressions and six checks.
MODELS = """
models:
  clean:
    sql: >
      SELECT id, account, amount, note, placed_at, amount * 1.19 AS gross, account % 16 AS shard,
        upper(substr(note, 7, 4)) AS code, date_trunc('day', placed_at) AS day, amount > 5000 AS is_large
      FROM db.orders WHERE account >= 0
    key: [id]
    checks:
      - {not_null: [id, account], then: quarantine}
      - {accepted_range: {column: amount, min: 0, max: 100000}, then: quarantine}
      - {accepted_range: {column: account, min: 0}, then: drop}
      - {not_null: [note], then: warn}
      - {accepted_range: {column: gross, min: 0}, then: warn}
      - {row_count: {min: 1, per: epoch}, then: warn}
"""


class Drain:
    """A cluster whose log is drained again and again: each run has a copy of a slot from before it."""

    def __init__(self, context: Context, cluster: Cluster):
        self.context, self.cluster = context, cluster
        self.prepared: dict[str, Project] = {}

    def prepare(self, ours: dict[str, str], changes: int) -> None:
        """Makes the slots, and then the log. `ours` has the models of our pipelines."""
        self.cluster.sql(TABLE)
        self.cluster.sql("SELECT pg_create_logical_replication_slot('others', 'pgoutput')")
        for name, models in ours.items():
            project = self.prepared[name] = Project.new({"drain": of_postgres(name, "orders", models=models, every=EVERY)})
            table = "clean" if models else "orders"
            with Daemon(self.context.binary, project, DB_URL=self.cluster.dsn) as daemon:
                daemon.wait("the stream", lambda: streams(project, table), pause_s=0.05)
        say(f"cdc: writing {changes:,} changes")
        large = changes // 10
        self.cluster.sql("INSERT INTO orders SELECT g, 0, 0, 'before', now() FROM generate_series(0, 69) g")
        self.cluster.sql(f"CALL load({(changes - large) // 100})")
        self.cluster.sql(f"INSERT INTO orders {ROWS}({FIRST_OF_THE_LARGE}, {FIRST_OF_THE_LARGE + large - 1}) g")
        self.until = self.cluster.insert_lsn()
        self.cluster.sql("INSERT INTO orders VALUES (-1, 0, 0, 'last', now())")
        # Before the first, all of the changes, and the last.
        self.sent = 70 + changes + 1
        self.expected = verify.of_table(self.cluster, "orders", COLUMNS, HASHED)

    @contextmanager
    def slot(self, of: str) -> Iterator[str]:
        """A slot that begins where another one does."""
        self.cluster.sql(f"SELECT pg_copy_logical_replication_slot('{of}', 'run')")
        try:
            yield "run"
        finally:
            self.cluster.drop_slot("run")

    def ours(self, name: str, table: str):
        """A run of our daemon, until the server knows that all is committed."""

        def drain(_: int) -> tuple[Usage, dict[str, float]]:
            project = self.prepared[name].copy({f"slot: {name}": "slot: run"})
            seen = {"walsender": 0.0}
            recordings: list[Recording] = []
            before = project.rows(table)

            def drained() -> bool:
                at_end, pid = self.cluster.sql(
                    f"SELECT confirmed_flush_lsn >= '{self.until}', active_pid FROM pg_replication_slots WHERE slot_name = 'run'"
                )[0]
                seen["walsender"] = max(seen["walsender"], cpu_seconds(pid) if pid else 0.0)
                if pid and Daemon.flames and not recordings:
                    recordings.append(Recording(pid, Daemon.flames, f"cdc-{name}-walsender"))
                return at_end

            with self.slot(name):
                with Daemon(self.context.binary, project, f"cdc-{name}", DB_URL=self.cluster.dsn) as daemon:
                    usage = daemon.usage(daemon.wait("the end of the log", drained))
                    came = project.rows(table) - before
                    for recording in recordings:
                        recording.finish()
            # All but the last at least, at the moment at which the clock was stopped.
            if came not in (self.sent - 1, self.sent):
                raise Failed(f"{came} of {self.sent} changes were committed")
            verify.equal(name, verify.fingerprint(project.relation(table, "id"), HASHED), self.expected)
            more = {"walsender_cpu_s": seen["walsender"], "cpu_share": usage.cpu_s / seen["walsender"]}
            more["target_mib"] = project.bytes(table) / (1 << 20)
            project.remove()
            return usage, more

        return drain

    def bare(self, *options: str):
        """A run of the harness's own reader."""

        def drain(_: int) -> tuple[Usage, dict[str, float]]:
            with self.slot("others") as slot:
                before = self.cluster.cpu_seconds()
                usage, out = run(
                    [self.context.tool("bare-drain"), "--port", str(self.cluster.port), "--slot", slot]
                    + ["--publication", "millstream", "--until", self.until, *options]
                )
                return usage, {"reads": json.loads(out)["reads"], "server_cpu_s": self.cluster.cpu_seconds() - before}

        return drain

    def recvlogical(self, _: int) -> tuple[Usage, dict[str, float]]:
        """PostgreSQL's own reader, into the void."""
        options = ["proto_version=1", "publication_names=millstream", "binary=true"]
        with self.slot("others") as slot:
            command = [str(self.cluster.bin / "pg_recvlogical"), "-d", self.cluster.dsn, "--slot", slot]
            command += ["--start", "-f", "/dev/null", "--no-loop", "--endpos", self.until]
            return run(command + [part for option in options for part in ("-o", option)])[0], {}

    def debezium(self, _: int) -> tuple[Usage, dict[str, float]]:
        """Debezium embedded, which decodes and counts."""
        with self.slot("others") as slot:
            usage, out = run([*self.context.peer("debezium"), self.cluster.dsn, slot, "millstream", str(self.sent)])
        result = json.loads(out.splitlines()[-1])
        if result["changes"] != self.sent:
            raise Failed(f"Debezium counted {result['changes']} of {self.sent} changes")
        # In its favour, without the start of the JVM.
        return Usage(result["stream_s"], result["stream_cpu_s"], usage.rss_mib), {"whole_s": usage.wall_s}


def streams(project: Project, table: str) -> bool:
    """Whether the target holds a place in the log."""
    commits = project.commits(table) if (project.lake / table).exists() else []
    return any("wal" in json.dumps(commit["positions"]) for commit in commits)


def run_case(context: Context) -> tuple[dict, dict]:
    """The case and its ratios."""
    changes, rounds = context.size(2_000_000, 1_000_000), context.rounds
    with Cluster() as cluster:
        drain = Drain(context, cluster)
        drain.prepare({"plain": "", "sql": MODELS}, changes)
        runners = [
            Runner("millstream", drain.ours("plain", "orders")),
            Runner("bare_reader", drain.bare()),
            Runner("millstream_sql", drain.ours("sql", "clean")),
            Runner("pg_recvlogical", drain.recvlogical),
            Runner("bare_reader_eager", drain.bare("--eager"), rounds=1),
            Runner("debezium", drain.debezium, rounds=1 if context.quick else 2, is_peer=True),
        ]
        try:
            results = in_turn("cdc", runners, rounds)
        finally:
            for project in drain.prepared.values():
                project.remove()
    return {"cdc": {"changes": changes, **{name: result.summary() for name, result in results.items()}}}, ratios(results)


def ratios(results: dict[str, Result]) -> dict[str, float | None]:
    """Rates of ours over theirs, and the share of CPU."""
    ours, peer = results["millstream"], results["debezium"]
    return {
        "cdc_vs_raw_drain": ratio(results["bare_reader"].median("wall_s"), ours.median("wall_s")),
        "cdc_vs_pg_recvlogical": ratio(results["pg_recvlogical"].median("wall_s"), ours.median("wall_s")),
        "cdc_vs_debezium": ratio(peer.median("wall_s"), ours.median("wall_s")),
        "cdc_vs_debezium_cpu": ratio(ours.median("cpu_s"), peer.median("cpu_s")),
        "cdc_vs_debezium_memory": ratio(ours.median("rss_mib"), peer.median("rss_mib")),
        "cdc_cpu_share": ours.median("cpu_share"),
        "sql_overhead": ratio(results["millstream_sql"].median("cpu_s"), ours.median("cpu_s")),
        "rss_mib_steady": ours.median("rss_mib"),
    }
