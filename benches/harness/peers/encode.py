"""What encoding a table's rows into zstd Parquet costs pyarrow, in CPU seconds. Argument: a folder with the rows."""

import resource
import sys
from pathlib import Path

import pyarrow.parquet as pq

folder = Path(sys.argv[1])
table = pq.read_table(next(folder.rglob("*.parquet")))


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


before = cpu()
pq.write_table(table, folder / "again.parquet", compression="zstd", compression_level=1)
print(cpu() - before)
