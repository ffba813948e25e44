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
use crate::sweep::Sweeping;
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
            let (held, schema) = columns(table, last.as_ref())?;
            let mut unpartitionable = partition::faults(&self.config.partition_by, &schema).into_iter();
            if let Some(fault) = unpartitionable.next() {
                return Err(fault::partition(&table.name, fault));
            }
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

    /// What would stop the table from being opened, without a trace; `reachable` tells whether
    /// the store can be asked.
    async fn faults(&self, table: &SinkTable, reachable: bool) -> Vec<Error> {
        let mut faults = Vec::new();
        let mut last = None;
        if reachable {
            match CommitLog::new(self.storage.clone(), &table.name).last().await {
                Ok(found) => last = found,
                Err(error) => faults.push(error),
            }
        }
        let schema = match columns(table, last.as_ref()) {
            Ok((_, schema)) => Some(schema),
            Err(fault) => {
                faults.push(fault);
                // The partitions may be at fault as well.
                evolve(None, &table.schema.batch_schema()).ok()
            }
        };
        if let Some(schema) = schema {
            let unpartitionable = partition::faults(&self.config.partition_by, &schema);
            faults.extend(
                unpartitionable
                    .into_iter()
                    .map(|fault| fault::partition(&table.name, fault)),
            );
        }
        faults
    }
}

#[async_trait]
impl Sink for ParquetSink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn preflight(&self, tables: &[SinkTable]) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let probed = probe::probe(&self.storage).await;
        if let Err(error) = &probed {
            findings.push(Finding {
                subject: "object store".to_owned(),
                ..Finding::from(error)
            });
        }
        for table in tables {
            let faults = self.faults(table, probed.is_ok()).await;
            findings.extend(faults.iter().map(Finding::from));
        }
        Ok(findings)
    }

    async fn open(&self, table: SinkTable) -> Result<Box<dyn TableWriter>> {
        self.probed.get_or_try_init(|| probe::probe(&self.storage)).await?;
        let log = CommitLog::new(self.storage.clone(), &table.name);
        let (head, schema) = self.take_over(&table, &log).await?;
        failpoint::pass("parquet::after-open")?;
        failpoint::pass("parquet::before-sweep")?;
        let sweeping = Sweeping::begin(&self.storage, &table.name, &head).await;
        Ok(Box::new(ParquetWriter::new(
            &self.storage,
            &self.config,
            &table.name,
            log,
            head,
            schema,
            sweeping,
        )))
    }
}

/// The table's columns, as they are now where it exists, and as they will be.
fn columns(table: &SinkTable, last: Option<&CommitRecord>) -> Result<(Option<Schema>, Schema)> {
    let held = match last {
        Some(last) => Some(
            last.schema
                .to_arrow()
                .map_err(|fault| fault::unknown_type(&table.name, last.version, fault))?,
        ),
        None => None,
    };
    match evolve(held.as_ref(), &table.schema.batch_schema()) {
        Ok(schema) => Ok((held, schema)),
        Err(fault) => Err(fault::schema(&table.name, fault)),
    }
}

/// Now, in RFC 3339.
pub(crate) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
