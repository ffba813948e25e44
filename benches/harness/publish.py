"""`python -m harness.publish SUMMARY PLOT`: the tables of docs/performance.md on standard output, and its plot."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import matplotlib

from .report import TARGETS, table

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402


def of_case(name: str, case: dict) -> list[str]:
    """A case's runs, one line for each runner."""
    runners = {runner: figures for runner, figures in case.items() if isinstance(figures, dict) and "ratios" not in runner}
    if not any("wall_s" in figures or "missing" in figures for figures in runners.values()):
        figures = ", ".join(f"{key} {value if not isinstance(value, float) else round(value, 2)}" for key, value in case.items())
        return [f"**{name}**: {figures}", ""]
    size = ", ".join(f"{value:,} {key}" for key, value in case.items() if isinstance(value, int))
    lines = [f"**{name}** ({size})", "", "| | wall s | CPU s | server CPU s | peak MiB | runs |", "|---|---:|---:|---:|---:|---:|"]
    for runner, figures in runners.items():
        if "missing" in figures:
            lines.append(f"| {runner} | missing: {figures['missing']} | | | | |")
            continue
        server = figures.get("walsender_cpu_s") or figures.get("server_cpu_s")
        wall, cpu, rss = (figures[key] for key in ("wall_s", "cpu_s", "rss_mib"))
        note = " (types are not exact)" if figures.get("exact", {}).get("median") == 0 else ""
        lines.append(
            f"| {runner}{note} | {spread(wall)} | {spread(cpu)} | {spread(server) if server else ''} "
            f"| {rss['median']:.0f} | {wall['runs']} |"
        )
    return [*lines, ""]


def spread(figure: dict) -> str:
    """A median, and what it lies between."""
    return f"{figure['median']:.2f} ({figure['min']:.2f}–{figure['max']:.2f})"


def plot(ratios: dict[str, float | None], path: Path) -> None:
    """How many times better than its target each figure is, on a logarithmic scale."""
    names, better = [], []
    for name, (relation, target) in TARGETS.items():
        if value := ratios.get(name):
            names.append(name)
            better.append(math.log2(value / target if relation == ">=" else target / value))
    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(names) + 1))
    axes.barh(names, better, color=["#2a7" if one >= 0 else "#c63" for one in better])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("better than the target: 1 is twice, −1 half as good")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Reads what was measured."""
    summary = json.loads(Path(sys.argv[1]).read_text())
    print(table(summary["ratios"]), end="\n\n")
    for name, case in summary["cases"].items():
        print("\n".join(of_case(name, case)))
    plot(summary["ratios"], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
