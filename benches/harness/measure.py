"""Runs that are compared: in turn, each several times, each checked."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from .process import Usage, warm_memory


@dataclass
class Runner:
    """One way to do a case's work. `run` returns what it took, with further figures by name."""

    name: str
    run: Callable[[int], tuple[Usage, dict[str, float]]]
    rounds: int | None = None
    # Whether it may be missing: another's program, which a machine may lack.
    is_peer: bool = False


@dataclass
class Result:
    """The runs of one runner."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    more: dict[str, list[float]] = field(default_factory=dict)
    missing: str | None = None

    def median(self, figure: str) -> float | None:
        values = self.more.get(figure) if figure in self.more else getattr(self, figure, None)
        return statistics.median(values) if values and not self.missing else None

    def summary(self) -> dict:
        if self.missing:
            return {"missing": self.missing}
        figures = {**{name: values for name, values in asdict(self).items() if isinstance(values, list)}, **self.more}
        return {
            name: {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}
            for name, values in figures.items()
            if values
        }


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(f"bench: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def in_turn(case: str, runners: list[Runner], rounds: int) -> dict[str, Result]:
    """Runs A B A B. A peer that fails is reported as missing, with its reason; nothing else may fail."""
    results = {runner.name: Result() for runner in runners}
    for turn in range(rounds):
        for runner in runners:
            result = results[runner.name]
            if result.missing or (runner.rounds is not None and turn >= runner.rounds):
                continue
            warm_memory()
            try:
                usage, more = runner.run(turn)
            except Exception as error:
                if not runner.is_peer:
                    raise
                result.missing = str(error).strip().splitlines()[-1][:300]
                say(f"{case}: {runner.name} is missing: {result.missing}")
                continue
            result.wall_s.append(usage.wall_s)
            result.cpu_s.append(usage.cpu_s)
            result.rss_mib.append(usage.rss_mib)
            for name, value in more.items():
                result.more.setdefault(name, []).append(value)
            figures = ", ".join(f"{name} {value:.3g}" for name, value in more.items())
            say(
                f"{case} {turn + 1}/{rounds}: {runner.name} {usage.wall_s:.2f} s, "
                f"CPU {usage.cpu_s:.2f} s, {usage.rss_mib:.0f} MiB{', ' if figures else ''}{figures}"
            )
    return results


def ratio(above: float | None, below: float | None) -> float | None:
    """`above / below`, where both were measured."""
    return above / below if above and below else None
