"""How long a row takes from its commit in PostgreSQL until a reader of the target sees it."""

from __future__ import annotations

import threading
import time

import duckdb
import psycopg

from ..context import Context
from ..measure import say
from ..millstream import Daemon, Project, of_postgres
from ..postgres import Cluster
from ..process import Failed
from .cdc import streams

CHANGES_PER_SECOND = 5000
TRANSACTIONS_PER_SECOND = 50


class Watcher(threading.Thread):
    """A reader of the target: notes when it first sees each commit."""

    def __init__(self, project: Project):
        super().__init__(daemon=True)
        self.commits = project.lake / "events" / "_commits"
        self.seen: dict[int, float] = {}
        self.next = len(list(self.commits.glob("[0-9]*.json"))) + 1
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            if (self.commits / f"{self.next:020}.json").exists():
                self.seen[self.next] = time.time()
                self.next += 1
            else:
                time.sleep(0.002)


def write(dsn: str, seconds: float) -> int:
    """Writes at the wanted pace and returns how many rows that was."""
    rows = CHANGES_PER_SECOND // TRANSACTIONS_PER_SECOND
    with psycopg.connect(dsn, autocommit=True) as session:
        started = time.monotonic()
        count = int(seconds * TRANSACTIONS_PER_SECOND)
        for number in range(count):
            first = number * rows
            session.execute(
                "INSERT INTO events SELECT g, g %% 1000, 'note ' || md5(g::text) FROM generate_series(%s::bigint, %s) g",
                (first, first + rows - 1),
            )
            late = time.monotonic() - started - (number + 1) / TRANSACTIONS_PER_SECOND
            if late < 0:
                time.sleep(-late)
            elif late > 1:
                raise Failed(f"the writer cannot keep up: {late:.1f} s late")
    return count * rows


def run_case(context: Context) -> tuple[dict, dict]:
    """The case and its ratios."""
    seconds = context.size(60, 15)
    with Cluster(synchronous_commit="on") as cluster:
        cluster.sql("CREATE TABLE events (id bigint PRIMARY KEY, account int, note text)")
        cluster.sql("CREATE PUBLICATION millstream FOR TABLE events")
        project = Project.new({"latency": of_postgres("latency", "events", every="250ms")})
        with Daemon(context.binary, project, "latency", DB_URL=cluster.dsn) as daemon:
            daemon.wait("the stream", lambda: streams(project, "events"), 0.05)
            watcher = Watcher(project)
            watcher.start()
            rows = write(cluster.dsn, seconds)
            daemon.wait("all rows", lambda: project.rows("events") >= rows)
            time.sleep(0.1)
            watcher.ended.set()
            watcher.join()
        latencies = []
        for commit in project.commits("events"):
            for file in commit["files"]:
                path = str(project.lake / "events" / file["path"])
                committed = duckdb.sql(f"SELECT epoch_us(__committed_at) FROM read_parquet('{path}')").fetchall()
                seen = watcher.seen[commit["version"]] * 1e6
                latencies += [(seen - at) / 1000 for (at,) in committed]
        project.remove()
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99))
    say(f"latency: p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {latencies[-1]:.0f} ms, {len(latencies):,} rows")
    case = {"rows": len(latencies), "changes_per_s": CHANGES_PER_SECOND, "p50_ms": p50, "p99_ms": p99, "max_ms": latencies[-1]}
    return {"latency": case}, {"latency_p50_ms": p50, "latency_p99_ms": p99}
