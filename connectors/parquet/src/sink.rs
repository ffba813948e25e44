//! The sink: opens tables for writing.

use arrow_schema::Schema;
use async_trait::async_trait;
use millstream_core::{Delivery, Error, ErrorKind, Finding, Result, Sink, SinkTable, TableWriter};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::commit_log::{CommitLog, PublishFault};
use crate::config::ParquetConfig;
use crate::decision::recover::{Stamp, open_record};
use crate::evolution::evolve;
use crate::record::CommitRecord;
use crate::storage::Storage;
use crate::stored_schema::StoredSchema;
use crate::sweep::sweep;
use crate::writer::ParquetWriter;
use crate::{failpoint, fault, partition, probe};

/// How often an open that lost the race for its number starts again from the newest commit.
const OPEN_ATTEMPTS: usize = 16;

/// Publishes tables as Parquet files on an object store, exactly once.
#[derive(Debug)]
pub struct ParquetSink {
    config: ParquetConfig,
    storage: Storage,
    /// Set once the store has shown that its conditional create holds.
    probed: OnceCell<()>,
}

impl ParquetSink {
    /// A sink with this configuration, without I/O.
    ///
    /// # Errors
    /// `Config` for a URL or an option that cannot be used.
    pub fn new(config: ParquetConfig) -> Result<Self> {
        let storage = Storage::of(&config)?;
        // In a local folder the kernel itself keeps a second create out.
        let probed = OnceCell::new_with(storage.folder.is_some().then_some(()));
        Ok(Self {
            config,
            storage,
            probed,
        })
    }

    /// A sink on any object store, such as one that injects faults. The store is trusted.
    pub fn with_store(
        config: ParquetConfig,
        store: std::sync::Arc<dyn object_store::ObjectStore>,
        prefix: object_store::path::Path,
    ) -> Self {
        Self {
            config,
            storage: Storage::with_store(store, prefix),
            probed: OnceCell::new_with(Some(())),
        }
    }

    /// Takes the table over: publishes an open commit after the newest one. Returns it with the
    /// table's columns.
    async fn take_over(&self, table: &SinkTable, log: &CommitLog) -> Result<(CommitRecord, Schema)> {
        for _ in 0..OPEN_ATTEMPTS {
            let last = log.last().await?;
            let held = match &last {
                Some(last) => Some(
                    last.schema
                        .to_arrow()
                        .map_err(|fault| fault::unknown_type(&table.name, last.version, fault))?,
                ),
                None => None,
            };
            let schema = evolve(held.as_ref(), &table.schema.batch_schema())
                .map_err(|fault| fault::schema(&table.name, fault))?;
            let stored = match &last {
                Some(last) if held.as_ref() == Some(&schema) => last.schema.clone(),
                last => {
                    let id = last.as_ref().map_or(1, |last| last.schema.id + 1);
                    StoredSchema::of(id, &schema).map_err(|fault| fault::unknown_type(&table.name, 0, fault))?
                }
            };
            let stamp = Stamp {
                writer_id: Uuid::new_v4().simple().to_string(),
                commit_id: Uuid::new_v4().to_string(),
                committed_at: now(),
            };
            let record = open_record(last.as_ref(), stored, stamp);
            match log.publish(&record).await {
                Ok(()) => return Ok((record, schema)),
                Err(PublishFault::Taken) => {}
                Err(PublishFault::Failed(error)) => return Err(error),
            }
        }
        Err(
            Error::new(ErrorKind::Unavailable, "other writers keep taking the table over")
                .code("PQ0016")
                .with("table", &table.name)
                .hint("run one daemon for each table"),
        )
    }
}

#[async_trait]
impl Sink for ParquetSink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn preflight(&self) -> Result<Vec<Finding>> {
        let probed = probe::probe(&self.storage).await;
        Ok(probed
            .err()
            .map(|error| Finding {
                subject: "object store".to_owned(),
                ..Finding::from(&error)
            })
            .into_iter()
            .collect())
    }

    async fn open(&self, table: SinkTable) -> Result<Box<dyn TableWriter>> {
        self.probed.get_or_try_init(|| probe::probe(&self.storage)).await?;
        partition::check(&self.config.partition_by, &table.schema.batch_schema())
            .map_err(|fault| fault::partition(&table.name, fault))?;
        let log = CommitLog::new(self.storage.clone(), &table.name);
        let (head, schema) = self.take_over(&table, &log).await?;
        log.leave_hint(head.version).await;
        failpoint::pass("parquet::after-open")?;
        failpoint::pass("parquet::before-sweep")?;
        let swept_generation = match sweep(&self.storage, &table.name, &head).await {
            Ok(removed) => {
                if removed > 0 {
                    tracing::info!(
                        table = table.name,
                        files = removed,
                        "removed what a crashed writer left"
                    );
                }
                head.generation
            }
            Err(error) => {
                tracing::warn!(table = table.name, error = %error.summary(), "orphans stay until the next start");
                head.swept_generation
            }
        };
        Ok(Box::new(ParquetWriter::new(
            &self.storage,
            &self.config,
            &table.name,
            log,
            head,
            schema,
            swept_generation,
        )))
    }
}

/// Now, in RFC 3339.
pub(crate) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
