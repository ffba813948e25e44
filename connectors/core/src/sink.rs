//! Sinks: what publishes tables in a target.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::{ChangeBatch, Checkpoint, CheckpointDelta, Finding, Result, TableSchema};

/// What a sink promises about each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "delivery")]
pub enum Delivery {
    /// Positions are committed atomically with the rows.
    ExactlyOnce,
    /// A change may be written again after a crash.
    AtLeastOnce {
        /// Why it cannot be exactly once.
        reason: String,
    },
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExactlyOnce => f.write_str("exactly once"),
            Self::AtLeastOnce { reason } => write!(f, "at least once ({reason})"),
        }
    }
}

/// A target that tables are published in.
#[async_trait]
pub trait Sink: Send + Sync {
    /// The promise, printed by `millstream check`.
    fn delivery(&self) -> Delivery;

    /// Everything that would stop this sink from working or from opening one of `tables`, all at
    /// once. May write and remove probe objects of its own, and nothing else. `tables` is empty
    /// where they are not known, as when a source cannot be reached.
    async fn preflight(&self, tables: &[SinkTable]) -> Result<Vec<Finding>>;

    /// Opens a table for writing: creates it if it is missing, recovers its checkpoint, fences
    /// out earlier writers, then removes what crashed writers left, where that is proven safe.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `Corrupt`, or `SchemaChange` if `table.schema` cannot be
    /// stored in the table as it is.
    async fn open(&self, table: SinkTable) -> Result<Box<dyn TableWriter>>;
}

/// A table of a sink, as the pipeline defines it.
#[derive(Debug, Clone)]
pub struct SinkTable {
    /// The table's name in the target.
    pub name: String,
    /// Columns and key of what will be written; later batches may carry newer versions.
    pub schema: Arc<TableSchema>,
}

/// The only writer of one table. The calls come in this order:
/// `open, ((write | quarantine)* prepare commit)*`; [`abort`](Self::abort) may come instead of `commit`, or
/// before `prepare`. After an error the writer is dropped and the table opened anew.
#[async_trait]
pub trait TableWriter: Send {
    /// The positions that the table holds, as of the last commit.
    fn checkpoint(&self) -> &Checkpoint;

    /// Takes rows that no commit holds yet. They may be uploaded at once, but no reader sees them.
    async fn write(&mut self, batch: ChangeBatch) -> Result<()>;

    /// Takes rows that were meant for the table and rejected: a batch of
    /// [`quarantine::schema`](crate::quarantine::schema). They are kept beside the table and
    /// published by the same commit as the rows written, so that a row is in the table or in
    /// quarantine, never in both or neither.
    async fn quarantine(&mut self, rejected: ChangeBatch) -> Result<()>;

    /// Makes everything written since the last commit durable, though not visible. `advance`
    /// starts at [`checkpoint`](Self::checkpoint). With nothing written, the commit that
    /// follows moves the positions alone.
    async fn prepare(&mut self, advance: CheckpointDelta) -> Result<Prepared>;

    /// Publishes rows and positions in one atomic step.
    ///
    /// # Errors
    /// `Fenced` if another writer has moved the table. An unknown outcome is read back before
    /// this returns; an `Unavailable` error means that even that failed, and that the next
    /// `open` will find out.
    async fn commit(&mut self, prepared: Prepared) -> Result<CommitReceipt>;

    /// Discards what was written since the last commit, prepared or not.
    async fn abort(&mut self) -> Result<()>;
}

/// Rows that are durable in the target but visible to no reader.
pub struct Prepared {
    /// The advance that the commit will record.
    pub advance: CheckpointDelta,
    /// Rows in it.
    pub rows: u64,
    /// Rejected rows in it.
    pub quarantined: u64,
    /// Bytes stored for it.
    pub bytes: u64,
    /// The sink's own record of what to publish.
    pub token: Box<dyn Any + Send>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("advance", &self.advance)
            .field("rows", &self.rows)
            .field("quarantined", &self.quarantined)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// What one commit published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitReceipt {
    /// The commit's number in the table, from 1.
    pub version: u64,
    /// Rows published.
    pub rows: u64,
    /// Rejected rows published beside them.
    pub quarantined: u64,
    /// Bytes published.
    pub bytes: u64,
    /// Files published; 0 for a commit of positions alone.
    pub files: u64,
}
