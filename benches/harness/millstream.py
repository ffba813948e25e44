"""The daemon: its project, its run, and what it has written."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import duckdb

from . import process
from .flame import Recording
from .postgres import free_port

PATIENCE_SECONDS = 900

PIPELINE = """
pipeline: {slot}
sources:
  db:
    postgres: {{url: {{env: DB_URL}}, publication: {publication}, tables: [{tables}], slot: {slot}}}
{models}
sinks:
  lake:
    parquet: {{url: "LAKE{below}"}}
    commit: {{every: {every}, idle_every: {idle_every}}}
"""


def of_postgres(
    slot: str,
    tables: str,
    publication: str = "millstream",
    models: str = "",
    below: str = "",
    every: str = "1s",
    idle_every: str = "1s",
) -> str:
    """A pipeline that is called as its slot, and writes to the lake or to a folder `below` it."""
    return PIPELINE.format(
        slot=slot,
        publication=publication,
        tables=tables,
        models=models,
        below=below,
        every=every,
        idle_every=idle_every,
    )


@dataclass
class Project:
    """A folder with pipelines, and the lake that they write."""

    folder: Path
    lake: Path

    @classmethod
    def new(cls, pipelines: dict[str, str]) -> Project:
        folder = Path(tempfile.mkdtemp(prefix="millstream-bench-project-"))
        lake = folder / "lake"
        for name, text in pipelines.items():
            (folder / f"{name}.yaml").write_text(text.replace("LAKE", str(lake)))
        return cls(folder, lake)

    def copy(self, replace: dict[str, str]) -> Project:
        """Another project with what this one has written, and with other words in its pipelines."""
        folder = Path(tempfile.mkdtemp(prefix="millstream-bench-project-"))
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        for file in folder.glob("*.yaml"):
            text = file.read_text().replace(str(self.folder), str(folder))
            for old, new in replace.items():
                text = text.replace(old, new)
            file.write_text(text)
        return Project(folder, folder / "lake")

    def remove(self) -> None:
        process.discard(self.folder)

    def commits(self, table: str) -> list[dict]:
        """The records of a table's commits, in order."""
        return [json.loads(path.read_text()) for path in sorted((self.lake / table / "_commits").glob("[0-9]*.json"))]

    def rows(self, table: str) -> int:
        """How many rows the table's commits hold."""
        return sum(file["rows"] for commit in self.commits(table) for file in commit["files"])

    def reached_at(self, table: str, rows: int) -> float | None:
        """When the table's commits came to hold so many rows (`time.time()`), `None` if they do not.

        A record's ctime is when it got its name, to a tick of the kernel's clock; to look for that often instead
        would take CPU from those who are measured.
        """
        held = 0
        for path in sorted((self.lake / table / "_commits").glob("[0-9]*.json")):
            held += sum(file["rows"] for file in json.loads(path.read_text())["files"])
            if held >= rows:
                return path.stat().st_ctime
        return None

    def bytes(self, table: str) -> int:
        """How large the files of the table's commits are."""
        return sum(file["bytes"] for commit in self.commits(table) for file in commit["files"])

    def relation(self, table: str, key: str | None) -> duckdb.DuckDBPyRelation:
        """The table's rows: all of them, or with a key the last of each that was not deleted."""
        paths = [str(self.lake / table / file["path"]) for commit in self.commits(table) for file in commit["files"]]
        source = duckdb.connect().sql("SELECT * FROM read_parquet($paths, hive_partitioning = false)", params={"paths": paths})
        if key is None:
            return source
        return source.query(
            "changes",
            "SELECT * FROM changes QUALIFY __op <> 'd' AND 1 = row_number() OVER "
            f"(PARTITION BY {key} ORDER BY __position DESC, __ordinal DESC)",
        )


class Daemon:
    """A `millstream run`. Used with `with`; it is drained at the end.

    Where flame graphs are asked for, one is made of it under the name `flame`.
    """

    flames: Path | None = None

    def __init__(self, binary: str, project: Project, flame: str | None = None, **env: str):
        self.admin = f"127.0.0.1:{free_port()}"
        self.log = project.folder / f"daemon-{self.admin.rpartition(':')[2]}.log"
        self.started, self.started_at = time.monotonic(), time.time()
        output = self.log.open("w")
        self.child = subprocess.Popen(
            [binary, "run", str(project.folder), "--admin-listen", self.admin],
            env={**os.environ, "RUST_LOG": "info", **env},
            stdout=output,
            stderr=output,
        )
        self.recording = Recording(self.child.pid, self.flames, flame) if self.flames and flame else None

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.recording:
            self.recording.finish()
        process.stop(self.child)
        if kind is None and self.child.returncode != 0:
            raise process.Failed(f"the daemon ended with {self.child.returncode}\n{self.log.read_text()[-3000:]}")

    def is_ready(self) -> bool:
        """Whether it answers that all of its pipelines run."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}/health/ready", timeout=5) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait(self, what: str, reached, pause_s: float = 0.01) -> float:
        """Waits until `reached()` holds and returns the seconds since the start."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise process.Failed(f"the daemon did not come to: {what}\n{self.log.read_text()[-3000:]}")
            time.sleep(pause_s)
        return time.monotonic() - self.started

    def wait_for_rows(self, project: Project, table: str, rows: int) -> float:
        """Waits until so many rows of a table are committed and returns the seconds from the start until they were."""
        waited = self.wait("all rows", lambda: project.reached_at(table, rows) is not None, pause_s=0.05)
        if abs(time.time() - self.started_at - waited) > 0.1:
            raise process.Failed("the system's clock was set during the run")
        return project.reached_at(table, rows) - self.started_at

    def usage(self, wall_s: float) -> process.Usage:
        """What it took up to now."""
        return process.Usage(wall_s, process.cpu_seconds(self.child.pid), process.peak_rss_mib(self.child.pid))
