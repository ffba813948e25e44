"""Where the daemon's CPU goes: a flame graph of one run as SVG, and each stage's share.

`perf` samples the daemon from beside it, which costs time of the same cores: what was recorded does not count
as measured.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .measure import say
from .process import Failed

# An odd rate, so that it does not go with a timer. Stacks are copied and unwound, since nothing keeps frame pointers.
PERF = ["record", "--freq", "499", "--call-graph", "dwarf,16384"]
# What runs everything, and tells nothing.
RUNTIME = re.compile(r"^(\[unknown\]|std::|core::|<core::|<std::|<alloc::|tokio::|<tokio|__GI|start_thread|clone|futures|<futures|_start|main$)")
# What each stage is known by: the first of these that any function of a stack matches.
STAGES = {
    "kernel: memory": r"asm_exc_page_fault|do_syscall_64;.*(madvise|munmap|mmap)",
    "kernel: sockets": r"tcp_|sock_|inet_",
    "kernel: files": r"vfs_|ext4_|fsync|iomap_",
    "zstd": r"ZSTD_|zstd_safe",
    "Parquet encoding": r"(?<!millstream_)parquet::",
    "JSON into Arrow": r"millstream_kafka::decode::|serde_json",
    "Kafka: batches into records": r"millstream_kafka::wire|lz4_flex|crc32c::",
    "Kafka: records into rows": r"millstream_kafka::",
    "PostgreSQL: COPY into Arrow": r"millstream_postgres::(decode::copy|run::copy)",
    "PostgreSQL: pgoutput into Arrow": r"millstream_postgres::(decode|run)",
    "PostgreSQL: wire": r"millstream_postgres::wire",
    "DataFusion": r"datafusion|arrow_",
    "engine": r"millstream::engine|millstream_core",
    "lake": r"millstream_parquet::",
    "allocator": r"^(malloc|free|realloc|calloc|_int_)",
}
BEFORE_S = 0.2
# Less than this share of all is not drawn.
LEAST_SHARE = 0.004
WIDTH, ROW = 1200, 17


@dataclass
class Frame:
    """A function within its callers."""

    samples: int = 0
    callees: dict[str, Frame] = field(default_factory=dict)


class Recording:
    """A run of `perf` beside a process. Used with `with`, around its work."""

    def __init__(self, pid: int, folder: Path, name: str):
        if not (perf := shutil.which("perf")):
            raise Failed("flame graphs are made with perf(1), which this machine has not")
        self.perf, self.folder, self.name = perf, folder, name
        self.data = Path(tempfile.mkdtemp(prefix="millstream-bench-perf-")) / "perf.data"
        command = [perf, *PERF, "--pid", str(pid), "--output", self.data]
        # Of a process that has not made its threads yet perf was seen to record nothing.
        time.sleep(BEFORE_S)
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self) -> None:
        """Ends it, and writes the graph and the shares."""
        self.child.send_signal(signal.SIGINT)
        _, said = self.child.communicate(timeout=60)
        script = [self.perf, "script", "--no-inline", "--fields", "comm,ip,sym", "--input", self.data]
        stacks = parse(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
        shutil.rmtree(self.data.parent)
        if not stacks:
            raise Failed(f"perf recorded nothing of {self.name}: {said.strip() or 'it does not say why'}")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.name}.svg").write_text(draw(stacks, self.name))
        (self.folder / f"{self.name}.json").write_text(json.dumps(shares(stacks), indent=2) + "\n")
        say(f"flame graph: {self.folder / self.name}.svg")


def parse(script: str) -> Counter[tuple[str, ...]]:
    """How often each stack was met: the thread's name, then functions from the outermost."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for sample in script.split("\n\n"):
        lines = [line.strip() for line in sample.strip().splitlines()]
        if lines:
            # Threads of a pool are one.
            thread = re.sub(r"^:?\d+$", "pool", lines[0])
            # Each line is an address and a name.
            names = [line.partition(" ")[2] for line in lines[1:]]
            stacks[(thread, *(plain(name) for name in reversed(names)))] += 1
    return stacks


def plain(symbol: str) -> str:
    """A function's name without its hash and its type parameters."""
    symbol = re.sub(r"::h[0-9a-f]{16}$", "", symbol)
    while (shorter := re.sub(r"(?<=[\w>:])<[^<>]*>", "", symbol)) != symbol:
        symbol = shorter
    return symbol.replace("{{closure}}", "{…}")


def shares(stacks: Counter[tuple[str, ...]]) -> dict[str, float]:
    """Each stage's share of all samples."""
    total, found = stacks.total(), Counter()
    for stack, samples in stacks.items():
        joined = ";".join(stack)
        stage = next((stage for stage, pattern in STAGES.items() if re.search(pattern, joined)), "other")
        found[stage] += samples
    return {stage: round(samples / total, 3) for stage, samples in found.most_common()}


def draw(stacks: Counter[tuple[str, ...]], title: str) -> str:
    """The stacks as nested boxes, callers above what they call, as wide as their share."""
    root = Frame()
    for stack, samples in stacks.items():
        told = [stack[0], *(name for name in stack[1:] if not RUNTIME.match(name))]
        root.samples += samples
        frame = root
        for name in told:
            frame = frame.callees.setdefault(name, Frame())
            frame.samples += samples
    boxes: list[str] = []
    deepest = boxed(root, title, 0.0, 0, root.samples, boxes)
    height = (deepest + 1) * ROW + 4
    style = "text{font:11px monospace;pointer-events:none}rect{stroke:#fff;stroke-width:.5}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"><style>{style}</style>'
    return "\n".join([head, *boxes, "</svg>", ""])


def boxed(frame: Frame, name: str, left: float, depth: int, total: int, boxes: list[str]) -> int:
    """Adds the boxes of a frame and of what it calls. Returns how deep they go."""
    width = frame.samples / total * WIDTH
    label, share = html.escape(name), 100 * frame.samples / total
    fits = int(width / 6.7)
    shown = html.escape(name if len(name) <= fits else name[: max(fits - 1, 0)] + "…") if fits > 3 else ""
    # The same function has the same colour in all graphs.
    hue = 15 + sum(name.encode()) % 40
    boxes.append(
        f'<g><title>{label} {share:.1f} %</title><rect x="{left:.1f}" y="{depth * ROW}" width="{width:.1f}" height="{ROW}" '
        f'fill="hsl({hue},75%,70%)"/><text x="{left + 3:.1f}" y="{depth * ROW + 12}">{shown}</text></g>'
    )
    deepest = depth
    for callee, below in sorted(frame.callees.items(), key=lambda item: -item[1].samples):
        if below.samples / total >= LEAST_SHARE:
            deepest = max(deepest, boxed(below, callee, left, depth + 1, total, boxes))
            left += below.samples / total * WIDTH
    return deepest
