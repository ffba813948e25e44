"""`python -m harness`: runs the cases and writes summary.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from . import report
from .cases import cdc, kafka_json, latency, scale, snapshot
from .context import Context
from .measure import say
from .millstream import Daemon

CASES = {
    "cdc": cdc.run_case,
    "snapshot": snapshot.run_case,
    "kafka": kafka_json.run_case,
    "latency": latency.run_case,
    "memory": scale.run_memory,
    "start": scale.run_start,
    "rows": scale.run_rows,
    "tables": scale.run_tables,
    "pipelines": scale.run_pipelines,
}


def machine() -> dict:
    """What the figures are of."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1), "system": platform.platform()}


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(prog="harness", description=__doc__)
    parser.add_argument("--binary", required=True, help="the millstream to measure")
    parser.add_argument("--tools", required=True, type=Path, help="the folder of the harness's own programs")
    parser.add_argument("--out", required=True, type=Path, help="where summary.json goes")
    parser.add_argument("--quick", action="store_true", help="less work and fewer rounds")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; can be given again")
    parser.add_argument("--rounds", type=int, help="how often each is run")
    parser.add_argument("--flames", type=Path, help="profile our process with perf, and put flame graphs there")
    arguments = parser.parse_args()
    Daemon.flames = arguments.flames
    rounds = arguments.rounds or (2 if arguments.quick else 3)
    context = Context(arguments.binary, arguments.tools, sys.executable, arguments.quick, rounds)
    chosen = arguments.case or list(CASES)
    summary = {"machine": machine(), "versions": report.versions(context), "quick": arguments.quick, "chosen": chosen}
    summary |= {"cases": {}, "ratios": {}}
    failed = []
    for name in chosen:
        say(f"case {name}")
        try:
            cases, ratios = CASES[name](context)
        except Exception as error:
            # What was measured before and comes after is kept.
            say(f"case {name} FAILED: {error!r}")
            cases, ratios = {name: {"failed": repr(error)}}, {}
            failed.append(name)
        summary["cases"].update(cases)
        summary["ratios"].update(ratios)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(summary, indent=2) + "\n")
    print(report.table(summary["ratios"]))
    for name in failed:
        print(f"case {name} FAILED; its reason stands in the summary")
    say(f"written: {arguments.out}")
    return 1 if failed else 0


sys.exit(main())
