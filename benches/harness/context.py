"""What all cases share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Context:
    """The programs that are measured, and how thorough to be."""

    binary: str
    tools: Path
    python: str
    quick: bool
    rounds: int

    def tool(self, name: str) -> str:
        """A program of the harness's own."""
        return str(self.tools / name)

    def peer(self, name: str) -> list[str]:
        """A script that stands for what a user would pick instead."""
        return [self.python, str(Path(__file__).parent / "peers" / f"{name}.py")]

    def size(self, full: int, quick: int) -> int:
        """How much work a case does."""
        return quick if self.quick else full
