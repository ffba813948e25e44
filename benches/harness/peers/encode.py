"""What encoding a table's rows into zstd Parquet costs pyarrow, alone or beside a command of the shell.

Arguments: a folder with the rows, and the command. Prints the CPU seconds of the encoding, and how long that and
the command lasted.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

folder, *command = sys.argv[1:]
table = pq.read_table(next(Path(folder).rglob("*.parquet")))


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


before, started = cpu(), time.monotonic()
beside = [subprocess.Popen(one, shell=True) for one in command]
pq.write_table(table, Path(folder) / "again.parquet", compression="zstd", compression_level=1)
encoded = cpu() - before
if any(one.wait() != 0 for one in beside):
    sys.exit("the command failed")
print(json.dumps({"encode_cpu_s": encoded, "at_once_s": time.monotonic() - started}))
