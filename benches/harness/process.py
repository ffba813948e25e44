"""Processes, and what they cost."""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
GOODBYE_SECONDS = 60
WARM_BYTES = 2 << 30


@dataclass(frozen=True)
class Usage:
    """What a run took: wall time and CPU of the process and its children, and its peak RSS."""

    wall_s: float
    cpu_s: float
    rss_mib: float


class Failed(Exception):
    """A process that did not end well, with the end of what it said."""


def run(command: list[str], env: dict[str, str] | None = None, timeout_s: float = 900) -> tuple[Usage, str]:
    """Runs a command to its end and returns what it took and what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=out, stderr=err, start_new_session=True)
        try:
            status, usage, rss = _watch(process.pid, command[0], started + timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said = [_read(file) for file in (out, err)]
    if process.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit code {process.returncode}\n{(said[1] or said[0])[-3000:]}")
    return Usage(wall, usage.ru_utime + usage.ru_stime, rss), said[0]


def run_at_once(commands: list[list[str]]) -> Usage:
    """Runs commands beside each other, and returns the time until the last has ended, and what they took together."""
    with ThreadPoolExecutor(len(commands)) as pool:
        started = time.monotonic()
        usages = [usage for usage, _out in pool.map(run, commands)]
        wall = time.monotonic() - started
    return Usage(wall, sum(usage.cpu_s for usage in usages), sum(usage.rss_mib for usage in usages))


def warm_memory() -> None:
    """Uses memory and gives it back, so that what runs next need not wait for it.

    A virtual machine may have memory only once it is touched, and lose it again when it is idle: a page took
    13 µs then, and so a process of 250 MiB most of a second. No more than half of what is free is taken, which
    leaves the page cache alone.
    """
    size = min(WARM_BYTES, os.sysconf("SC_AVPHYS_PAGES") // 2 * mmap.PAGESIZE)
    if size == 0:
        return
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def discard(folder: Path) -> None:
    """Frees what a folder's files take; they vanish at the end of the harness.

    Without a journal, as on many virtual machines, ext4 leaves the inode of a deleted file alone for a minute,
    and looks at all of them for each new file (`recently_deleted`): a fifth of the CPU of a drain into 100 tables.
    """
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # What cannot be emptied is removed at the end.
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)


def _watch(pid: int, name: str, deadline: float) -> tuple[int, resource.struct_rusage, float]:
    """Waits for the end. The peak is looked at meanwhile: `ru_maxrss` begins with the harness's own."""
    rss = 0.0
    while True:
        try:
            rss = max(rss, peak_rss_mib(pid))
        except (Failed, OSError):
            # It has ended.
            pass
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage, rss
        if time.monotonic() > deadline:
            raise Failed(f"{name} did not end in time")
        time.sleep(0.005)


def _read(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def cpu_seconds(pid: int, with_waited_children: bool = False) -> float:
    """The CPU seconds of a process that runs (proc(5)); 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15] if with_waited_children else fields[11:13])) / TICKS


def peak_rss_mib(pid: int) -> float:
    """The most memory that a process that runs has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise Failed(f"process {pid} shows no VmHWM")


def stop(process: subprocess.Popen, how: int = signal.SIGTERM) -> None:
    """Ends a process that was started here."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
