//! Reads committed tables back, with the parquet crate's own reader.

use std::collections::BTreeSet;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use bytes::Bytes;
use futures::TryStreamExt;
use millstream_core::envelope;
use millstream_parquet::{CommittedFile, CommittedTable, ParquetConfig, committed_files};
use millstream_testkit::change_log::{ChangeRow, FoldedTable, change_rows, fold};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::runtime::Runtime;

/// The committed rows of a table in a local lake.
pub struct Table {
    batches: Vec<RecordBatch>,
}

impl Table {
    /// Reads `table` of the lake at the folder `lake`.
    pub fn read(lake: &Path, table: &str) -> Self {
        let config = ParquetConfig::new(format!("file://{}", lake.display()));
        Self::load(
            &config,
            table,
            |committed| committed.files,
            |path| std::fs::read(lake.join(table).join(path)).map(Bytes::from),
        )
    }

    /// Reads the rows that were meant for `table` and rejected.
    pub fn read_quarantine(lake: &Path, table: &str) -> Self {
        let config = ParquetConfig::new(format!("file://{}", lake.display()));
        Self::load(
            &config,
            table,
            |committed| committed.quarantine,
            |path| std::fs::read(lake.join(table).join(path)).map(Bytes::from),
        )
    }

    /// Reads `table` of the lake of `config`, whose url ends in `prefix` of `store`.
    pub fn read_from(config: &ParquetConfig, store: &dyn ObjectStore, prefix: &str, table: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        Self::load(
            config,
            table,
            |committed| committed.files,
            |path| {
                let path = object_store::path::Path::from(format!("{prefix}/{table}/{path}"));
                runtime.block_on(async { store.get(&path).await?.bytes().await })
            },
        )
    }

    fn load<E: std::fmt::Debug>(
        config: &ParquetConfig,
        table: &str,
        files: impl Fn(CommittedTable) -> Vec<CommittedFile>,
        content: impl Fn(&str) -> Result<Bytes, E>,
    ) -> Self {
        let committed = Runtime::new()
            .unwrap()
            .block_on(committed_files(config, table))
            .expect("the table can be listed");
        let batches = files(committed).into_iter().flat_map(|file| {
            let content = content(&file.path).expect("a committed file is there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(content)
                .unwrap()
                .build()
                .unwrap();
            reader.map(|batch| batch.expect("a committed file can be read"))
        });
        Self {
            batches: batches.collect(),
        }
    }

    /// The table that the change log amounts to.
    pub fn fold(&self, key: &str) -> FoldedTable {
        fold(&[key.to_owned()], &self.batches)
    }

    /// The changes, in the order in which they were committed.
    pub fn changes(&self) -> Vec<ChangeRow> {
        change_rows(&self.batches)
    }

    /// Fails if a change was committed more than once.
    pub fn assert_each_change_once(&self) {
        let mut places: Vec<_> = self
            .changes()
            .into_iter()
            .map(|row| (row.partition, row.position, row.ordinal))
            .collect();
        places.sort();
        for pair in places.windows(2) {
            assert_ne!(pair[0], pair[1], "a change was committed twice");
        }
    }
}

/// The objects of a table's data and rejected rows that no commit lists. The url of `config` ends
/// in `prefix` of `store`.
pub fn orphans(config: &ParquetConfig, store: &dyn ObjectStore, prefix: &str, table: &str) -> Vec<String> {
    Runtime::new().unwrap().block_on(async {
        let committed = committed_files(config, table).await.expect("the table can be listed");
        let listed = committed.files.into_iter().chain(committed.quarantine);
        let listed: BTreeSet<String> = listed.map(|file| file.path).collect();
        let folder = format!("{prefix}/{table}/");
        let found: Vec<_> = store
            .list(Some(&folder.trim_end_matches('/').into()))
            .map_ok(|object| object.location.as_ref()[folder.len()..].to_owned())
            .try_collect()
            .await
            .expect("the table can be listed");
        found
            .into_iter()
            .filter(|path| !path.starts_with("_commits/") && !listed.contains(path))
            .collect()
    })
}

/// The rows of `table` and the sum of its Int64 column `column`, over all committed files, which
/// are read one batch at a time.
pub fn count_and_sum(lake: &Path, table: &str, column: &str) -> (u64, u128) {
    let (mut rows, mut sum) = (0, 0);
    each_batch(lake, table, |batch| {
        let values = batch.column_by_name(column).expect("the column is there");
        rows += batch.num_rows() as u64;
        let whole = values.as_primitive::<Int64Type>().values();
        sum += whole
            .iter()
            .map(|value| u128::try_from(*value).expect("not negative"))
            .sum::<u128>();
    });
    (rows, sum)
}

/// How many rows of `table` have the operation `op`.
pub fn count_of_op(lake: &Path, table: &str, op: &str) -> u64 {
    let mut rows = 0;
    each_batch(lake, table, |batch| {
        let ops = batch.column_by_name(envelope::OP).expect("the column is there");
        rows += ops.as_string::<i32>().iter().filter(|found| *found == Some(op)).count() as u64;
    });
    rows
}

/// Goes through all committed files of a table, one batch at a time.
fn each_batch(lake: &Path, table: &str, mut seen: impl FnMut(RecordBatch)) {
    let config = ParquetConfig::new(format!("file://{}", lake.display()));
    let listing = Runtime::new().unwrap().block_on(committed_files(&config, table));
    for file in listing.expect("the table can be listed").files {
        let opened = std::fs::File::open(lake.join(table).join(&file.path)).expect("a committed file is there");
        let reader = ParquetRecordBatchReaderBuilder::try_new(opened)
            .unwrap()
            .build()
            .unwrap();
        reader.for_each(|batch| seen(batch.expect("a committed file can be read")));
    }
}
