"""A PostgreSQL cluster of the harness's own, and what its processes cost."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from . import process

# No background work in the middle of a run, and the log stays in the page cache.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": 250,
    "max_replication_slots": 250,
    "max_connections": 1000,
    "shared_buffers": "1GB",
    "fsync": "off",
    "synchronous_commit": "off",
    "max_wal_size": "32GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "wal_sender_timeout": "60s",
    "max_parallel_workers_per_gather": 0,
}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def binaries() -> Path:
    """The folder of the server's programs: `$MILLSTREAM_PG_BIN`, else the newest package's."""
    if named := os.environ.get("MILLSTREAM_PG_BIN"):
        return Path(named)
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = packaged[-1] if packaged else shutil.which("initdb")
    if not found:
        raise process.Failed("no PostgreSQL; scripts/setup.sh test installs it, or set MILLSTREAM_PG_BIN")
    return Path(found).resolve().parent


class Cluster:
    """A server on a free loopback port that trusts everyone there. Used with `with`."""

    def __init__(self, **settings: object):
        self.bin = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="millstream-bench-"))
        self.port = free_port()
        self.settings = {**SETTINGS, "port": self.port, "unix_socket_directories": str(self.folder), **settings}

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        # The server refuses to run as root.
        self.prefix = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres" if "postgres" in (entry.pw_name for entry in pwd.getpwall()) else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        data = self.folder / "data"
        initdb = [self.bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([*self.prefix, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in self.settings.items())
        log = (self.folder / "server.log").open("w")
        self.server = subprocess.Popen([*self.prefix, self.bin / "postgres", "-D", data], stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 60
        while True:
            try:
                self.session = psycopg.connect(self.dsn, autocommit=True)
                return
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    raise process.Failed((self.folder / "server.log").read_text()[-3000:]) from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "session"):
            self.session.close()
        if hasattr(self, "server"):
            process.stop(self.server, signal.SIGINT)
        process.discard(self.folder)

    @property
    def dsn(self) -> str:
        """How clients reach it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def sql(self, statement: str) -> list[tuple]:
        """Runs statements and returns the rows of the last."""
        cursor = self.session.execute(statement)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str):
        """The one value of a query."""
        return self.sql(statement)[0][0]

    def cpu_seconds(self) -> float:
        """The CPU of all of the server's processes up to now, those that have ended too."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        own = process.cpu_seconds(self.server.pid, with_waited_children=True)
        return own + sum(process.cpu_seconds(int(child)) for child in children)

    def drop_slot(self, name: str) -> None:
        """Drops a slot, as soon as its reader is seen to be gone."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.sql(f"SELECT pg_drop_replication_slot('{name}')")
                return
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def insert_lsn(self) -> str:
        """Where the next record of the log goes."""
        return self.value("SELECT pg_current_wal_insert_lsn()::text")
