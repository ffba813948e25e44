"""Messages of JSON into a table, beside a bare consumer and DuckDB on the same lines."""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from .. import verify
from ..context import Context
from ..kafka import Node
from ..measure import Runner, in_turn, ratio, say
from ..millstream import Daemon, Project
from ..process import Usage, run, run_at_once

PARTITIONS = 4
PIPELINE = """
pipeline: clicks
sources:
  clicks:
    kafka:
      brokers: BROKERS
      topics: [clicks]
      decode:
        json:
          columns: {id: int64, user: int64, session: utf8, sent_at: timestamp_ms, url: utf8, agent: utf8, amount: float64, ok: bool, took_ms: int64}
sinks:
  lake:
    parquet: {url: "LAKE"}
    commit: {every: 250ms, idle_every: 1s}
"""
COLUMNS = {
    "id": "BIGINT", "user": "BIGINT", "session": "VARCHAR", "sent_at": "BIGINT", "url": "VARCHAR", "agent": "VARCHAR",
    "amount": "DOUBLE", "ok": "BOOLEAN", "took_ms": "BIGINT",
}  # fmt: skip


def run_case(context: Context) -> tuple[dict, dict]:
    """The case and its ratios."""
    messages = context.size(5_000_000, 2_000_000)
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder, Node() as node:
        lines = Path(folder) / "lines.ndjson"
        say(f"kafka: producing {messages:,} messages")
        node.fill(context.tool("produce-json"), "clicks", messages, PARTITIONS, lines)
        hashed = 'id, "user", session, {at}, url, agent, amount, ok, took_ms'
        source = duckdb.connect().read_json(str(lines), format="newline_delimited", columns=COLUMNS)
        expected = verify.fingerprint(source, hashed.format(at="sent_at"))

        def ours(_: int) -> tuple[Usage, dict[str, float]]:
            project = Project.new({"clicks": PIPELINE.replace("BROKERS", node.brokers)})
            with Daemon(context.binary, project, "kafka") as daemon:
                usage = daemon.usage(daemon.wait_for_rows(project, "clicks", messages))
            target = project.bytes("clicks") / (1 << 20)
            found = verify.fingerprint(project.relation("clicks", None), hashed.format(at="epoch_ms(sent_at)"))
            verify.equal("kafka", found, expected)
            project.remove()
            return usage, {"target_mib": target}

        consume = [context.tool("bare-consume"), "--brokers", node.brokers, "--topic", "clicks", "--messages", str(messages)]
        target = Path(folder) / "duckdb.parquet"
        convert = [*context.peer("duckdb_ndjson"), str(lines), str(target)]

        def bare(_: int) -> tuple[Usage, dict[str, float]]:
            return run(consume)[0], {}

        def with_duckdb(_: int) -> tuple[Usage, dict[str, float]]:
            usage, _out = run(convert)
            return usage, {"target_mib": target.stat().st_size / (1 << 20)}

        def both(_: int) -> tuple[Usage, dict[str, float]]:
            """What remains where the way from the one to the other costs nothing."""
            return run_at_once([consume, convert]), {}

        runners = [Runner("millstream", ours), Runner("bare_consumer", bare), Runner("duckdb_one_thread", with_duckdb)]
        runners.append(Runner("consumer_beside_duckdb", both))
        results = in_turn("kafka", runners, context.rounds)
    mine, limit = results["millstream"], results["consumer_beside_duckdb"]
    ratios = {
        "kafka_json_vs_consumer_and_duckdb": ratio(limit.median("wall_s"), mine.median("wall_s")),
        "kafka_json_vs_raw": ratio(results["bare_consumer"].median("wall_s"), mine.median("wall_s")),
        "json_cpu_vs_duckdb": ratio(mine.median("cpu_s"), results["duckdb_one_thread"].median("cpu_s")),
    }
    return {"kafka_json": {"messages": messages, **{name: result.summary() for name, result in results.items()}}}, ratios
