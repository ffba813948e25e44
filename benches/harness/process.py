"""Processes, and what they cost."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
GOODBYE_SECONDS = 60


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
