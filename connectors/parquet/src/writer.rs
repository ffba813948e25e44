//! The only writer of one table.

use std::sync::{Arc, LazyLock};

use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use millstream_core::{
    ChangeBatch, Checkpoint, CheckpointDelta, CommitReceipt, Error, ErrorKind, Prepared, Result, TableWriter,
    quarantine,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use uuid::Uuid;

use crate::commit_log::{CommitLog, PublishFault};
use crate::config::{Compression, ParquetConfig};
use crate::data_file::{WriteFault, properties};
use crate::decision::recover::{CommitFiles, Stamp, data_record};
use crate::evolution::{adapt, evolve};
use crate::names::{DATA, QUARANTINE};
use crate::open_files::{Destination, OpenFiles};
use crate::record::CommitRecord;
use crate::storage::Storage;
use crate::stored_schema::StoredSchema;
use crate::sweep::Sweeping;
use crate::{failpoint, fault};

/// A commit of more files than this is worth a word: readers open each of them.
const MANY_FILES: usize = 1_000;

/// The columns of rejected rows, as they are stored.
static QUARANTINE_COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let columns = quarantine::schema().batch_schema();
    // Nothing is held yet, so there is nothing that they could contradict.
    Arc::new(evolve(None, &columns).unwrap_or_else(|_| Schema::clone(&columns)))
});

/// Writes one table from its open commit on.
pub(crate) struct ParquetWriter {
    table: String,
    log: CommitLog,
    store: Arc<dyn ObjectStore>,
    /// The newest record of the table, which is our own.
    head: CommitRecord,
    sweeping: Sweeping,
    schema: StoredSchema,
    /// Schemas that the table had since its last commit, before `schema`.
    interim_schemas: Vec<StoredSchema>,
    arrow: SchemaRef,
    compression: Compression,
    files: OpenFiles,
    /// Files of rejected rows.
    quarantine: OpenFiles,
    /// The objects of the prepared commit, until it is published or aborted.
    prepared: Vec<Path>,
    /// The id of the next commit, which its files carry in their metadata.
    commit_id: String,
}

/// What [`Prepared::token`] holds.
struct Token(CommitRecord);

impl ParquetWriter {
    /// The writer whose open commit is `head`.
    pub(crate) fn new(
        storage: &Storage,
        config: &ParquetConfig,
        table: &str,
        log: CommitLog,
        head: CommitRecord,
        arrow: Schema,
        sweeping: Sweeping,
    ) -> Self {
        let arrow = Arc::new(arrow);
        let commit_id = Uuid::new_v4().to_string();
        let destination = Destination {
            store: storage.store.clone(),
            table: storage.table(table),
            folder: DATA,
            generation: head.generation,
            writer: head.writer_id[..8].to_owned(),
            target: config.file,
            encodings: config.encodings,
            buffer: usize::try_from(config.buffer.0).unwrap_or(usize::MAX),
            last_seq: Arc::default(),
        };
        let schema = head.schema.clone();
        let properties = properties(config.compression, table, &commit_id);
        let rejected = Destination {
            folder: QUARANTINE,
            // Few are expected, and the table's own files have the whole.
            buffer: destination.buffer / 4,
            ..destination.clone()
        };
        let quarantine = OpenFiles::new(
            rejected,
            Vec::new(),
            (0, QUARANTINE_COLUMNS.clone()),
            properties.clone(),
        );
        let files = OpenFiles::new(
            destination,
            config.partition_by.clone(),
            (schema.id, arrow.clone()),
            properties,
        );
        Self {
            table: table.to_owned(),
            log,
            store: storage.store.clone(),
            head,
            sweeping,
            schema,
            interim_schemas: Vec::new(),
            arrow,
            compression: config.compression,
            files,
            quarantine,
            prepared: Vec::new(),
            commit_id,
        }
    }

    /// Moves the table's columns on to those of `incoming`, where they differ.
    async fn follow(&mut self, incoming: &Schema) -> Result<()> {
        let evolved = evolve(Some(&self.arrow), incoming).map_err(|fault| fault::schema(&self.table, fault))?;
        if evolved == *self.arrow {
            return Ok(());
        }
        let id = self.schema.id + 1;
        let stored = StoredSchema::of(id, &evolved)
            .map_err(|fault| fault::unknown_type(&self.table, self.head.version, fault))?;
        let before = std::mem::replace(&mut self.schema, stored);
        if before.id != self.head.schema.id {
            self.interim_schemas.push(before);
        }
        self.arrow = Arc::new(evolved);
        let schema = (id, self.arrow.clone());
        let set = self.files.set_schema(schema).await;
        judged(set, &self.log, &self.head).await
    }

    fn next_commit(&mut self) {
        self.commit_id = Uuid::new_v4().to_string();
        let properties = properties(self.compression, &self.table, &self.commit_id);
        self.quarantine.set_properties(properties.clone());
        self.files.set_properties(properties);
    }
}

/// Removes files that no commit holds. What cannot be removed now is left to the next sweep.
async fn remove(store: &dyn ObjectStore, objects: &[Path]) {
    for path in objects {
        match store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => tracing::debug!(%error, "an uncommitted file stays until the next sweep"),
        }
    }
}

/// What a write amounts to, whose writer's newest record is `head`. Whoever takes a table over sweeps away
/// what the one before is uploading, to which that looks like an outage: so a fence is looked for first.
async fn judged(written: Result<(), WriteFault>, log: &CommitLog, head: &CommitRecord) -> Result<()> {
    match written {
        Ok(()) => Ok(()),
        Err(WriteFault::Store(_)) if log.is_taken_over(head).await => Err(fenced(log.table(), head.version + 1)),
        Err(fault) => Err(write_error(log.table(), fault)),
    }
}

fn write_error(table: &str, fault: WriteFault) -> Error {
    match fault {
        WriteFault::Store(error) => fault::store("write a data file", error).with("table", table),
        WriteFault::Partition(fault) => fault::partition(table, fault),
        other => Error::new(ErrorKind::Internal, "cannot write a data file")
            .with("table", table)
            .caused_by(other),
    }
}

#[async_trait]
impl TableWriter for ParquetWriter {
    fn checkpoint(&self) -> &Checkpoint {
        &self.head.positions
    }

    async fn write(&mut self, batch: ChangeBatch) -> Result<()> {
        self.follow(batch.rows().schema_ref()).await?;
        let rows = adapt(batch.rows(), &self.arrow).map_err(|error| {
            Error::new(ErrorKind::SchemaChange, "rows do not fit the table's columns")
                .with("table", &self.table)
                .caused_by(error)
        })?;
        let written = self.files.write(rows).await;
        judged(written, &self.log, &self.head).await
    }

    async fn quarantine(&mut self, rejected: ChangeBatch) -> Result<()> {
        let rows = adapt(rejected.rows(), &QUARANTINE_COLUMNS).map_err(|error| {
            fault::internal("rejected rows do not have their columns", &self.table).caused_by(error)
        })?;
        let written = self.quarantine.write(rows).await;
        judged(written, &self.log, &self.head).await
    }

    async fn prepare(&mut self, advance: CheckpointDelta) -> Result<Prepared> {
        failpoint::pass("parquet::before-prepare")?;
        for files in [&mut self.files, &mut self.quarantine] {
            let finished = files.finish_all().await;
            judged(finished, &self.log, &self.head).await?;
        }
        let (data, objects) = self.files.take();
        let (quarantine, rejected) = self.quarantine.take();
        let quarantined = quarantine.iter().map(|file| file.rows).sum();
        if data.len() > MANY_FILES {
            let files = data.len();
            tracing::warn!(
                table = self.table,
                files,
                "a commit of very many files; commit less often, or partition by something coarser"
            );
        }
        let files = CommitFiles {
            data,
            quarantine,
            interim_schemas: self.interim_schemas.clone(),
        };
        self.prepared.extend(objects.into_iter().chain(rejected));
        failpoint::pass("parquet::after-upload")?;
        let stamp = Stamp {
            writer_id: self.head.writer_id.clone(),
            commit_id: self.commit_id.clone(),
            committed_at: crate::sink::now(),
        };
        let record = data_record(
            &self.head,
            files,
            self.schema.clone(),
            advance.clone(),
            self.sweeping.swept_generation(),
            stamp,
        )
        .map_err(|fault| fault::advance(&self.table, fault))?;
        self.next_commit();
        let (rows, bytes) = (record.rows, record.bytes);
        Ok(Prepared {
            advance,
            rows,
            quarantined,
            bytes,
            token: Box::new(Token(record)),
        })
    }

    async fn commit(&mut self, prepared: Prepared) -> Result<CommitReceipt> {
        let token = prepared
            .token
            .downcast::<Token>()
            .map_err(|_| fault::internal("a table was given another sink's token", &self.table))?;
        let Token(record) = *token;
        failpoint::pass("parquet::before-commit")?;
        // Taken here, so that nothing removes them while the outcome is not known.
        let objects = std::mem::take(&mut self.prepared);
        match self.log.publish(&record).await {
            Ok(()) => {}
            Err(PublishFault::Taken) => {
                // Our record is not there and never will be, so its files belong to nobody.
                remove(&*self.store, &objects).await;
                return Err(fenced(&self.table, record.version));
            }
            // The files stay: the commit may be there. The next open finds out, and sweeps if not.
            Err(PublishFault::Failed(error)) => return Err(error),
        }
        failpoint::pass("parquet::after-commit")?;
        let receipt = CommitReceipt {
            version: record.version,
            rows: record.rows,
            quarantined: record.quarantine.iter().map(|file| file.rows).sum(),
            bytes: record.bytes,
            files: (record.files.len() + record.quarantine.len()) as u64,
        };
        self.head = record;
        self.interim_schemas.clear();
        self.log.leave_hint(receipt.version).await;
        Ok(receipt)
    }

    async fn abort(&mut self) -> Result<()> {
        let mut objects = self.files.discard().await;
        objects.append(&mut self.quarantine.discard().await);
        objects.append(&mut self.prepared);
        remove(&*self.store, &objects).await;
        Ok(())
    }
}

fn fenced(table: &str, version: u64) -> Error {
    Error::new(ErrorKind::Fenced, "another writer has taken over the table")
        .code("PQ0015")
        .with("table", table)
        .with("version", version)
        .hint("run one daemon for each table; stop the other, then reload this one")
}
