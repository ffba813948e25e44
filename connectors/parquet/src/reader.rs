//! What is committed in a table, for readers.

use futures::StreamExt;
use millstream_core::{Checkpoint, Result};
use serde::Serialize;

use crate::commit_log::CommitLog;
use crate::config::ParquetConfig;
use crate::record::DataFile;
use crate::storage::Storage;

/// Records that are read at the same time.
const READS: usize = 16;

/// A committed data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommittedFile {
    /// Where it is, relative to the table's folder.
    pub path: String,
    /// Where it is, as other tools write it: an absolute path, or a URL.
    pub location: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// The commit that added it.
    pub version: u64,
}

/// A table as of its newest commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CommittedTable {
    /// The newest commit's number; 0 for a table that does not exist.
    pub version: u64,
    /// The positions that the table holds.
    pub positions: Checkpoint,
    /// All files, in the order in which they were committed.
    pub files: Vec<CommittedFile>,
    /// The files of rejected rows, in the same order.
    pub quarantine: Vec<CommittedFile>,
}

/// Lists what is committed in `table` of the sink with this configuration. This list is the
/// table: other files under `data/` and `_quarantine/` belong to no commit.
///
/// # Errors
/// `Unavailable`, `Denied`, or `Corrupt` where a record is missing or cannot be read.
pub async fn committed_files(config: &ParquetConfig, table: &str) -> Result<CommittedTable> {
    committed_files_in(&Storage::of(config)?, table).await
}

async fn committed_files_in(storage: &Storage, table: &str) -> Result<CommittedTable> {
    let log = CommitLog::new(storage.clone(), table);
    let mut committed = CommittedTable::default();
    let folder = storage.table(table);
    let versions = futures::stream::iter(log.versions().await?);
    let mut records = versions
        .map(|version| {
            let log = &log;
            async move { log.read(version).await }
        })
        .buffered(READS);
    while let Some(record) = records.next().await {
        let record = record?;
        let version = record.version;
        committed.version = version;
        committed.positions = record.positions;
        let located = |file: DataFile| CommittedFile {
            location: format!("{}/{}", storage.location(&folder), file.path),
            path: file.path,
            rows: file.rows,
            bytes: file.bytes,
            version,
        };
        committed.files.extend(record.files.into_iter().map(located));
        committed.quarantine.extend(record.quarantine.into_iter().map(located));
    }
    Ok(committed)
}
