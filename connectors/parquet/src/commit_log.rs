//! The commit records of one table: finding the last, reading, publishing the next.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::TryStreamExt;
use millstream_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::decision::publish::{Next, Publication, PutOutcome, ReadOutcome};
use crate::fault;
use crate::names::{COMMITS, HINT, commit_file, parse_commit_file};
use crate::record::{CommitRecord, RecordFault};
use crate::storage::Storage;

/// How often a publication may be retried, over about half a minute.
const RETRIES: u32 = 8;

/// How long a look at the next record may keep a writer from reporting another fault.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Versions from one hint to the next: a request for each commit would cost more than it saves, and
/// behind a hint one answer of a store lists up to a thousand.
const HINT_EVERY: u64 = 100;

/// The commit log of one table.
#[derive(Debug, Clone)]
pub(crate) struct CommitLog {
    storage: Storage,
    table: String,
    folder: Path,
}

/// How a publication ended, other than by success.
#[derive(Debug)]
pub(crate) enum PublishFault {
    /// Another writer's record has the version.
    Taken,
    /// It failed, as far as is known: the record may be there all the same.
    Failed(Error),
}

#[derive(Serialize, Deserialize)]
struct Hint {
    version: u64,
}

impl CommitLog {
    pub(crate) fn new(storage: Storage, table: &str) -> Self {
        let folder = storage.table(table).join(COMMITS);
        Self {
            storage,
            table: table.to_owned(),
            folder,
        }
    }

    /// The table's name.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    fn path(&self, version: u64) -> Path {
        self.folder.clone().join(commit_file(version))
    }

    fn store(&self) -> &dyn ObjectStore {
        self.storage.store.as_ref()
    }

    fn error(&self, what: &str, error: object_store::Error) -> Error {
        fault::store(what, error).with("table", &self.table)
    }

    /// The newest record; `None` for a table that has none.
    pub(crate) async fn last(&self) -> Result<Option<CommitRecord>> {
        match self.last_version().await? {
            Some(version) => self.read(version).await.map(Some),
            None => Ok(None),
        }
    }

    /// Every version, in order and without gaps from 1.
    pub(crate) async fn versions(&self) -> Result<Vec<u64>> {
        let mut versions = self.list(None).await?;
        versions.sort_unstable();
        match (1..).zip(&versions).find(|(expected, version)| *expected != **version) {
            None => Ok(versions),
            Some((missing, _)) => Err(fault::corrupt(&self.table, missing, "the record is missing")),
        }
    }

    async fn last_version(&self) -> Result<Option<u64>> {
        if let Some(hinted) = self.hint().await {
            let found = self.list(Some(hinted)).await?;
            // A hint that names no record proves nothing, so it is left aside.
            if found.contains(&hinted) {
                return Ok(found.into_iter().max());
            }
        }
        Ok(self.list(None).await?.into_iter().max())
    }

    /// The versions from `from` on, in no order.
    async fn list(&self, from: Option<u64>) -> Result<Vec<u64>> {
        let objects = match from {
            Some(from) => self
                .store()
                .list_with_offset(Some(&self.folder), &self.path(from.saturating_sub(1))),
            None => self.store().list(Some(&self.folder)),
        };
        let versions =
            objects.try_filter_map(|object| async move { Ok(object.location.filename().and_then(parse_commit_file)) });
        versions
            .try_collect()
            .await
            .map_err(|error| self.error("list the commits", error))
    }

    async fn hint(&self) -> Option<u64> {
        let object = self.store().get(&self.folder.clone().join(HINT)).await.ok()?;
        let hint: Hint = serde_json::from_slice(&object.bytes().await.ok()?).ok()?;
        Some(hint.version)
    }

    /// Leaves a hint for the next open, which then need not list all records, at every version that is
    /// a multiple of [`HINT_EVERY`]. In a local folder it saves nothing, as the whole folder is read in any
    /// case. Only a matter of speed, so that a failure is no error.
    pub(crate) async fn leave_hint(&self, version: u64) {
        if !version.is_multiple_of(HINT_EVERY) {
            return;
        }
        let json = format!("{{\"version\":{version}}}");
        if let Err(error) = self.store().put(&self.folder.clone().join(HINT), json.into()).await {
            tracing::debug!(table = self.table, %error, "cannot leave a hint to the newest commit");
        }
    }

    /// Reads the record of `version`.
    pub(crate) async fn read(&self, version: u64) -> Result<CommitRecord> {
        let fetch = async { self.store().get(&self.path(version)).await?.bytes().await };
        let json = fetch.await.map_err(|error| {
            fault::read("read a commit", error)
                .with("table", &self.table)
                .with("version", version)
        })?;
        CommitRecord::parse(version, &json).map_err(|fault| match fault {
            RecordFault::TooNew(_) => Error::new(ErrorKind::Unsupported, "the table was written by a newer version")
                .code("PQ0014")
                .with("table", &self.table)
                .with("version", version)
                .hint("upgrade millstream here, too")
                .caused_by(fault),
            _ => fault::corrupt(&self.table, version, fault),
        })
    }

    /// Whether another writer is known to have taken the number that follows `head`. What cannot be read
    /// within a moment is not known.
    pub(crate) async fn is_taken_over(&self, head: &CommitRecord) -> bool {
        let next = timeout(LONGEST_LOOK, self.read(head.version + 1)).await;
        matches!(next, Ok(Ok(record)) if record.writer_id != head.writer_id)
    }

    /// Publishes `record` under its version, once.
    ///
    /// Not cancel safe: after a drop the outcome is unknown.
    pub(crate) async fn publish(&self, record: &CommitRecord) -> Result<(), PublishFault> {
        let path = self.path(record.version);
        let json = bytes::Bytes::from(record.to_json());
        let mut delays = backoff();
        let mut publication = Publication::new(RETRIES);
        let mut last_error = None;
        let mut next = Next::PutAgain;
        let mut first = true;
        loop {
            if matches!(next, Next::PutAgain | Next::ReadAgain) && !std::mem::take(&mut first) {
                tokio::time::sleep(delays.next().unwrap_or(MAX_DELAY)).await;
            }
            next = match next {
                Next::PutAgain => {
                    let options = PutOptions::from(PutMode::Create);
                    let put = self.store().put_opts(&path, json.clone().into(), options).await;
                    let outcome = put_outcome(&put);
                    if let Err(error) = put {
                        tracing::debug!(table = self.table, version = record.version, %error, "a commit was not acknowledged");
                        last_error = Some(error);
                    }
                    publication.after_put(outcome)
                }
                Next::ReadBack | Next::ReadAgain => {
                    let outcome = match self.commit_id_at(&path).await {
                        Ok(Some(id)) if id == record.commit_id => ReadOutcome::Ours,
                        Ok(Some(_)) => ReadOutcome::Theirs,
                        Ok(None) => ReadOutcome::Absent,
                        Err(error) => {
                            tracing::debug!(table = self.table, version = record.version, %error, "a commit cannot be read back");
                            // The refusal says more than the read that followed it.
                            last_error.get_or_insert(error);
                            ReadOutcome::Failed
                        }
                    };
                    publication.after_read(outcome)
                }
                Next::Committed => return Ok(()),
                Next::Fenced => return Err(PublishFault::Taken),
                Next::GiveUp => {
                    let error = match last_error {
                        Some(error) => self.error("publish a commit", error),
                        None => fault::internal("a commit failed without an error", &self.table),
                    };
                    return Err(PublishFault::Failed(error.with("version", record.version)));
                }
            };
        }
    }

    /// The commit id in the record at `path`. An object that cannot be parsed proves nothing: the
    /// answer may have been cut short, or come from something between here and the store.
    async fn commit_id_at(&self, path: &Path) -> object_store::Result<Option<String>> {
        #[derive(Deserialize)]
        struct Id {
            commit_id: String,
        }
        let json = match self.store().get(path).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found?.bytes().await?,
        };
        match serde_json::from_slice::<Id>(&json) {
            Ok(id) => Ok(Some(id.commit_id)),
            Err(error) => Err(object_store::Error::Generic {
                store: "commit log",
                source: Box::new(error),
            }),
        }
    }
}

fn put_outcome<T>(put: &object_store::Result<T>) -> PutOutcome {
    match put {
        Ok(_) => PutOutcome::Created,
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => PutOutcome::Exists,
        Err(error) if fault::is_refusal(error) => PutOutcome::Refused,
        Err(_) => PutOutcome::Unknown,
    }
}

const MAX_DELAY: Duration = Duration::from_secs(8);

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_DELAY)
        .with_max_times(RETRIES as usize)
        .with_jitter()
        .build()
}
