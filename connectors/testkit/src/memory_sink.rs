//! A sink whose tables live in memory and survive the crash of their writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use fail::fail_point;
use millstream_core::{
    ChangeBatch, Checkpoint, CheckpointDelta, CommitReceipt, Delivery, DeltaVerdict, Error, ErrorKind, Finding,
    Prepared, Result, Sink, SinkTable, TableSchema, TableWriter,
};

use crate::change_log::{FoldedTable, fold};

/// The crash points of a [`MemorySink`]'s commit, in their order. At each, the action `return`
/// of the `fail` crate makes the writer report `Unavailable`, and `panic` makes it panic.
pub const FAILPOINTS: [&str; 4] = [
    "memory::before-prepare",
    "memory::after-prepare",
    "memory::before-commit",
    "memory::after-commit",
];

/// The committed tables. Clones share them, as clients share a real store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    tables: Arc<Mutex<BTreeMap<String, StoredTable>>>,
}

/// One committed table.
#[derive(Debug, Clone, Default)]
pub struct StoredTable {
    /// Counts the writers that have opened the table; the last one alone may commit.
    pub generation: u64,
    /// Counts the commits.
    pub version: u64,
    /// The positions committed with the rows.
    pub checkpoint: Checkpoint,
    /// The schema of the newest rows.
    pub schema: Option<Arc<TableSchema>>,
    /// The rows, as they were written.
    pub rows: Vec<RecordBatch>,
    /// The rows that were rejected.
    pub quarantine: Vec<RecordBatch>,
}

impl MemoryStore {
    /// A copy of what is committed in the table called `name`; empty if it was never opened.
    pub fn table(&self, name: &str) -> StoredTable {
        self.lock().get(name).cloned().unwrap_or_default()
    }

    /// The names of the tables that were ever opened.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The table that the committed change log of `name` amounts to.
    pub fn fold(&self, name: &str) -> FoldedTable {
        let StoredTable { schema, rows, .. } = self.table(name);
        schema.map(|schema| fold(&schema.key, &rows)).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, StoredTable>> {
        // Nothing panics between the first and the last change of a commit.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes tables in a [`MemoryStore`], exactly once.
#[derive(Debug, Clone, Default)]
pub struct MemorySink {
    store: MemoryStore,
}

impl MemorySink {
    /// A sink that writes to `store`.
    pub fn new(store: MemoryStore) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn preflight(&self, tables: &[SinkTable]) -> Result<Vec<Finding>> {
        let stored = self.store.lock();
        let refused = tables.iter().filter_map(|table| {
            let held = stored.get(&table.name)?.schema.as_ref()?;
            refuse_retyped(held, &table.schema).err()
        });
        Ok(refused.map(|error| Finding::from(&error)).collect())
    }

    async fn open(&self, table: SinkTable) -> Result<Box<dyn TableWriter>> {
        let mut tables = self.store.lock();
        let stored = tables.entry(table.name.clone()).or_default();
        let schema = stored.schema.get_or_insert_with(|| table.schema.clone());
        refuse_retyped(schema, &table.schema)?;
        stored.generation += 1;
        Ok(Box::new(MemoryWriter {
            name: table.name,
            generation: stored.generation,
            checkpoint: stored.checkpoint.clone(),
            pending: Pending::default(),
            store: self.store.clone(),
        }))
    }
}

struct MemoryWriter {
    name: String,
    generation: u64,
    checkpoint: Checkpoint,
    pending: Pending,
    store: MemoryStore,
}

/// What gathered since the last commit; also what [`Prepared::token`] holds.
#[derive(Default)]
struct Pending {
    rows: Vec<(Arc<TableSchema>, RecordBatch)>,
    quarantine: Vec<RecordBatch>,
}

impl Pending {
    fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.rows.iter().map(|(_, rows)| rows).chain(&self.quarantine)
    }
}

#[async_trait]
impl TableWriter for MemoryWriter {
    fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    async fn write(&mut self, batch: ChangeBatch) -> Result<()> {
        if let Some(stored) = self.store.table(&self.name).schema {
            refuse_retyped(&stored, batch.schema())?;
        }
        // The batch ends here, and its byte permits with it, as if it were encoded and uploaded.
        self.pending.rows.push((batch.schema().clone(), batch.rows().clone()));
        Ok(())
    }

    async fn quarantine(&mut self, rejected: ChangeBatch) -> Result<()> {
        self.pending.quarantine.push(rejected.rows().clone());
        Ok(())
    }

    async fn prepare(&mut self, advance: CheckpointDelta) -> Result<Prepared> {
        hit("memory::before-prepare")?;
        let count = |rows: &RecordBatch| rows.num_rows() as u64;
        let prepared = Prepared {
            advance,
            rows: self.pending.rows.iter().map(|(_, rows)| count(rows)).sum(),
            quarantined: self.pending.quarantine.iter().map(count).sum(),
            bytes: self
                .pending
                .batches()
                .map(|rows| rows.get_array_memory_size() as u64)
                .sum(),
            token: Box::new(std::mem::take(&mut self.pending)),
        };
        hit("memory::after-prepare")?;
        Ok(prepared)
    }

    async fn commit(&mut self, prepared: Prepared) -> Result<CommitReceipt> {
        hit("memory::before-commit")?;
        let receipt = self.publish(prepared)?;
        // Committed, and the reply is lost.
        hit("memory::after-commit")?;
        Ok(receipt)
    }

    async fn abort(&mut self) -> Result<()> {
        self.pending = Pending::default();
        Ok(())
    }
}

impl MemoryWriter {
    fn publish(&mut self, prepared: Prepared) -> Result<CommitReceipt> {
        let Prepared {
            advance,
            rows,
            quarantined,
            bytes,
            token,
        } = prepared;
        let pending = token
            .downcast::<Pending>()
            .map_err(|_| Error::new(ErrorKind::Internal, "a memory table was given another sink's token"))?;
        let mut tables = self.store.lock();
        let table = tables.entry(self.name.clone()).or_default();
        let fenced = || Error::new(ErrorKind::Fenced, "another writer has opened the table").with("table", &self.name);
        if table.generation != self.generation {
            return Err(fenced());
        }
        let DeltaVerdict::Applied(checkpoint) = table.checkpoint.apply(&advance) else {
            return Err(fenced());
        };
        let Pending {
            rows: written,
            quarantine,
        } = *pending;
        if let Some((newest, _)) = written.last() {
            table.schema = Some(newest.clone());
        }
        let files = u64::from(rows > 0) + u64::from(quarantined > 0);
        table.rows.extend(written.into_iter().map(|(_, rows)| rows));
        table.quarantine.extend(quarantine);
        table.checkpoint = checkpoint.clone();
        table.version += 1;
        self.checkpoint = checkpoint;
        Ok(CommitReceipt {
            version: table.version,
            rows,
            quarantined,
            bytes,
            files,
        })
    }
}

/// A column may be added; one that is held may not change its type.
fn refuse_retyped(held: &TableSchema, new: &TableSchema) -> Result<()> {
    for field in new.columns.fields() {
        if let Ok(old) = held.columns.field_with_name(field.name())
            && old.data_type() != field.data_type()
        {
            return Err(Error::new(ErrorKind::SchemaChange, "a column has changed its type")
                .with("table", &held.id)
                .with("column", field.name())
                .with("held", old.data_type())
                .with("new", field.data_type()));
        }
    }
    Ok(())
}

/// Does what the failpoint called `point` is set to; nothing without the `failpoints` feature.
fn hit(point: &str) -> Result<()> {
    tracing::trace!(point, "commit step");
    fail_point!(point, |_| {
        Err(Error::new(ErrorKind::Unavailable, "the memory sink was told to fail").with("failpoint", point))
    });
    Ok(())
}
