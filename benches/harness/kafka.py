"""An Apache Kafka of the harness's own: one node in KRaft mode."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from . import process
from .postgres import free_port

CLUSTER_ID = "bWlsbHN0cmVhbS1iZW5jaA"
LOGGING = """status=error
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
rootLogger.level=WARN
rootLogger.appenderRef.0.ref=OUT
"""


def jars() -> Path | None:
    """The newest Kafka that scripts/setup.sh has fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = (cache / "millstream/tools").glob("kafka-*")
    return max(found, key=lambda path: [int(part) for part in path.name[6:].split(".")], default=None)


class Node:
    """A node on free loopback ports. Used with `with`."""

    def __enter__(self) -> Node:
        self.jars = jars()
        if self.jars is None or shutil.which("java") is None:
            raise process.Failed("no Kafka: scripts/setup.sh test fetches it, if Maven and Java are there")
        self.folder = Path(tempfile.mkdtemp(prefix="millstream-bench-kafka-"))
        self.port, controller = free_port(), free_port()
        (self.folder / "log4j2.properties").write_text(LOGGING)
        (self.folder / "server.properties").write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}\nlog.dirs={self.folder}/data\n"
            "auto.create.topics.enable=false\noffsets.topic.replication.factor=1\n"
            "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n"
            "share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n"
        )
        configuration = str(self.folder / "server.properties")
        try:
            self.start(configuration)
        except BaseException:
            process.discard(self.folder)
            raise
        return self

    def start(self, configuration: str) -> None:
        """Writes the cluster's id into the data folder, and starts the node."""
        process.run(self.java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", configuration))
        log = (self.folder / "server.log").open("w")
        self.server = subprocess.Popen(self.java("kafka.Kafka", configuration), stdout=log, stderr=log, cwd=self.folder)

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.server.wait()
        process.discard(self.folder)

    def java(self, main: str, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile=file:{self.folder}/log4j2.properties"
        return ["java", "-Xmx1g", logging, "-cp", f"{self.jars}/*", main, *arguments]

    @property
    def brokers(self) -> str:
        """How clients reach it."""
        return f"127.0.0.1:{self.port}"

    def fill(self, tool: str, topic: str, messages: int, partitions: int, lines: Path) -> None:
        """Makes a topic with so many messages, and a file with the same lines."""
        arguments = ["--brokers", self.brokers, "--topic", topic, "--messages", str(messages)]
        arguments += ["--partitions", str(partitions), "--lines", str(lines)]
        for attempt in range(20):
            try:
                process.run([tool, *arguments])
                return
            except process.Failed as error:
                # It may not be up yet.
                if attempt == 19 or self.server.poll() is not None:
                    log = (self.folder / "server.log").read_text()[-2000:]
                    raise process.Failed(f"{error}\n{log}") from None
                time.sleep(1)
