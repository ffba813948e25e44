"""What a row costs where there are more rows, more tables or more pipelines; memory; and the start."""

from __future__ import annotations

import statistics

from ..context import Context
from ..measure import ratio, say
from ..millstream import Daemon, Project, of_postgres
from ..postgres import Cluster
from ..process import Failed, Usage, warm_memory
from .cdc import streams


class Drained:
    """Pipelines over tables of one cluster, and what draining a log into them takes."""

    def __init__(self, context: Context, cluster: Cluster, tables: int, pipelines: int):
        self.context, self.cluster = context, cluster
        self.tables = [f"t{number}" for number in range(tables)]
        self.names = [f"p{number}" for number in range(pipelines)]
        for table in self.tables:
            cluster.sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY, account int, amount numeric(12,2), note text)")
        files = {}
        for number, name in enumerate(self.names):
            own = self.tables[number::pipelines]
            cluster.sql(f"CREATE PUBLICATION {name} FOR TABLE {', '.join(own)}")
            # The default. With the second of the other cases, tables without rows would commit all the time.
            files[name] = of_postgres(name, ", ".join(own), publication=name, below=f"/{name}", idle_every="60s")
        self.project = Project.new(files)
        self.lakes = {
            table: Project(self.project.folder, self.project.lake / self.names[number % pipelines])
            for number, table in enumerate(self.tables)
        }
        with self.daemon() as daemon:
            daemon.wait("the streams", lambda: all(streams(lake, table) for table, lake in self.lakes.items()), 0.2)

    def daemon(self, flame: str | None = None) -> Daemon:
        return Daemon(self.context.binary, self.project, flame, DB_URL=self.cluster.dsn)

    def write(self, rows: int, in_one_transaction: bool = False) -> None:
        """Writes rows over all tables in turn, in transactions of 1,000."""
        per_table = rows // len(self.tables)
        batch = per_table if in_one_transaction else min(1000, per_table)
        for first in range(0, per_table, batch):
            for table in self.tables:
                self.cluster.sql(
                    f"INSERT INTO {table} SELECT g, g % 1000, (g % 100000) / 100.0, 'note ' || md5(g::text) "
                    f"FROM generate_series({first}::bigint, {first + batch - 1}) g"
                )

    def drain(self, rows: int) -> tuple[Usage, int]:
        """Starts the daemon and runs it until all is committed. Returns what it took, and how many files it wrote."""
        per_table = rows // len(self.tables)
        warm_memory()
        # One table after the other: to look at all of them again and again would take the daemon's cores.
        left = list(self.lakes.items())

        def committed() -> bool:
            while left and left[-1][1].rows(left[-1][0]) >= per_table:
                left.pop()
            return not left

        with self.daemon(f"scale-{len(self.tables)}-tables") as daemon:
            usage = daemon.usage(daemon.wait("all rows", committed, 0.25))
        found = sum(lake.rows(table) for table, lake in self.lakes.items())
        if found != rows:
            raise Failed(f"{found} rows came of {rows}")
        files = sum(len(commit["files"]) for table, lake in self.lakes.items() for commit in lake.commits(table))
        self.project.remove()
        return usage, files


def measured(
    context: Context, rows: int, tables: int = 1, pipelines: int = 1, one_transaction: bool = False
) -> tuple[Usage, int]:
    """What draining so many rows takes, and into how many files they go."""
    with Cluster() as cluster:
        drained = Drained(context, cluster, tables, pipelines)
        drained.write(rows, one_transaction)
        usage, files = drained.drain(rows)
    say(
        f"scale: {rows:,} rows, {tables} tables, {pipelines} pipelines: {usage.wall_s:.1f} s, "
        f"CPU {usage.cpu_s / rows * 1e6:.2f} µs a row, {usage.rss_mib:.0f} MiB, {files:,} files"
    )
    return usage, files


def cost(context: Context, rows: int, **shape: int) -> dict[str, float]:
    """The CPU of a row, in microseconds, and the files that they go into."""
    usage, files = measured(context, rows, **shape)
    return {"us": usage.cpu_s / rows * 1e6, "wall_s": usage.wall_s, "rss_mib": usage.rss_mib, "files": files}


def run_rows(context: Context) -> tuple[dict, dict]:
    """The cost of a row by how many there are."""
    sizes = [500_000, 2_000_000] if context.quick else [1_000_000, 10_000_000, 50_000_000]
    costs = {rows: cost(context, rows) for rows in sizes}
    most = max(each["us"] for each in costs.values())
    return {"scale_rows": named("rows", costs)}, {"scale_rows": most / costs[sizes[0]]["us"]}


def run_tables(context: Context) -> tuple[dict, dict]:
    """The cost of a row by how many tables there are."""
    rows, many = context.size(10_000_000, 1_000_000), context.size(1000, 100)
    costs = {tables: cost(context, rows, tables=tables) for tables in (1, many)}
    return {"scale_tables": named("tables", costs)}, {"scale_tables": ratio(costs[many]["us"], costs[1]["us"])}


def run_pipelines(context: Context) -> tuple[dict, dict]:
    """The cost of a row by how many pipelines there are."""
    rows, many = context.size(5_000_000, 1_000_000), context.size(100, 10)
    costs = {pipelines: cost(context, rows, tables=many, pipelines=pipelines) for pipelines in (1, many)}
    return {"scale_pipelines": named("pipelines", costs)}, {
        "scale_pipelines": ratio(costs[many]["us"], costs[1]["us"])
    }


def named(what: str, costs: dict[int, dict[str, float]]) -> dict[str, float]:
    """The figures of a case, by how many of what there were."""
    return {f"{count}_{what}_{figure}": value for count, each in costs.items() for figure, value in each.items()}


def run_memory(context: Context) -> tuple[dict, dict]:
    """Peak memory over one huge transaction."""
    rows = context.size(10_000_000, 2_000_000)
    usage, _ = measured(context, rows, one_transaction=True)
    case = {"rows": rows, "wall_s": usage.wall_s, "cpu_s": usage.cpu_s, "rss_mib": usage.rss_mib}
    return {"big_transaction": case}, {"rss_mib_big_txn": usage.rss_mib}


def run_start(context: Context) -> tuple[dict, dict]:
    """From the start of the process until it says that it is ready, with 100 tables that have their copies."""
    times = []
    with Cluster() as cluster:
        drained = Drained(context, cluster, tables=100, pipelines=1)
        for _ in range(context.rounds * 3):
            with drained.daemon() as daemon:
                times.append(daemon.wait("ready", daemon.is_ready, 0.001) * 1000)
        drained.project.remove()
    say(f"start: {', '.join(f'{time:.0f}' for time in times)} ms")
    return {"start": {"tables": 100, "ms": times}}, {"start_ms": statistics.median(times)}
