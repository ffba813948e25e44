//! Batches into Parquet, and commits.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use millstream_core::{ChangeBatch, Checkpoint, PartitionId, Position, Sink, SinkTable, TableWriter};
use millstream_parquet::{ParquetConfig, ParquetSink};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{ROWS, model, postgres};

/// A file of 32 batches, with its commit.
pub fn encode(criterion: &mut Criterion) {
    encode_batches(criterion, "encode_32_batches", &postgres::batch());
}

/// The same of what a model makes of them: five columns more.
pub fn encode_model(criterion: &mut Criterion) {
    encode_batches(criterion, "encode_32_batches_of_a_model", &model::batch());
}

fn encode_batches(criterion: &mut Criterion, name: &str, batch: &ChangeBatch) {
    const BATCHES: usize = 32;
    let mut table = Table::open(batch);
    let mut group = criterion.benchmark_group("parquet");
    group
        .throughput(Throughput::Elements((ROWS * BATCHES) as u64))
        .sample_size(20);
    group.bench_function(name, |bencher| {
        bencher.iter(|| table.commit((0..BATCHES).map(|_| batch.clone())));
    });
}

/// A commit of one row: what each commit costs, whatever is in it.
pub fn commit(criterion: &mut Criterion) {
    let batch = postgres::batch();
    let row = ChangeBatch::try_new(batch.schema().clone(), batch.rows().slice(0, 1)).expect("a row");
    let mut table = Table::open(&batch);
    criterion
        .benchmark_group("parquet")
        .sample_size(20)
        .bench_function("commit_one_row", |bencher| bencher.iter(|| table.commit([row.clone()])));
}

/// The CPU of a commit of 1,000 rows, in all threads: what many tables or pipelines with some rows each cost. The time of
/// the others is that of the clock, with what a disk takes.
pub fn commit_cpu(criterion: &mut Criterion) {
    let batch = postgres::batch();
    let rows = ChangeBatch::try_new(batch.schema().clone(), batch.rows().slice(0, 1000)).expect("rows");
    let mut table = Table::open(&batch);
    criterion
        .benchmark_group("parquet")
        .sample_size(20)
        .bench_function("cpu_of_a_commit_of_1000_rows", |bencher| {
            bencher.iter_custom(|times| {
                let before = cpu_of_threads();
                (0..times).for_each(|_| table.commit([rows.clone()]));
                cpu_of_threads() - before
            });
        });
}

/// What the threads of this process have run so far, which stay as they are meanwhile (proc(5): `schedstat`).
fn cpu_of_threads() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let ran = threads.map(|thread| {
        let path = thread.expect("a thread").path().join("schedstat");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(ran.sum())
}

/// A table in a folder of its own.
struct Table {
    runtime: Runtime,
    writer: Box<dyn TableWriter>,
    commits: u64,
    _folder: TempDir,
}

impl Table {
    fn open(batch: &ChangeBatch) -> Self {
        let folder = TempDir::new().expect("a folder");
        let runtime = Runtime::new().expect("a runtime");
        let config = ParquetConfig::new(folder.path().to_str().expect("a plain path"));
        let sink = ParquetSink::new(config).expect("a sink");
        let table = SinkTable {
            name: "orders".to_owned(),
            schema: Arc::clone(batch.schema()),
        };
        Self {
            writer: runtime.block_on(sink.open(table)).expect("a table"),
            runtime,
            commits: 0,
            _folder: folder,
        }
    }

    fn commit(&mut self, batches: impl IntoIterator<Item = ChangeBatch>) {
        let checkpoint = |commits: u64| {
            let mut checkpoint = Checkpoint::default();
            if commits > 0 {
                checkpoint.set(PartitionId::new("shop", "wal"), Position::at(format!("{commits:016X}")));
            }
            checkpoint
        };
        let advance = checkpoint(self.commits).delta_to(&checkpoint(self.commits + 1));
        self.commits += 1;
        let writer = &mut self.writer;
        self.runtime.block_on(async {
            for batch in batches {
                writer.write(batch).await.expect("rows that are taken");
            }
            let prepared = writer.prepare(advance).await.expect("rows that are durable");
            writer.commit(prepared).await.expect("a commit");
        });
    }
}
