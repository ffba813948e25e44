//! Removing what crashed writers left behind, where that is proven safe.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use millstream_core::Result;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::decision::sweep::{SweepFacts, is_dead_staging, is_orphan, swept_by};
use crate::fault;
use crate::names::{COMMITS, DATA, DataFileName, HINT, QUARANTINE, parse_commit_file};
use crate::record::CommitRecord;
use crate::storage::Storage;

/// How long an open waits for the sweep, which mostly is done at once. Beyond this it goes on
/// beside the writer, since a listing takes longer the more a table holds.
const PATIENCE: Duration = Duration::from_secs(1);

/// A sweep that runs beside the writer. It ends when this is dropped.
pub(crate) struct Sweeping {
    running: JoinSet<bool>,
    generation: u64,
    swept_generation: u64,
}

impl Sweeping {
    /// Begins the sweep after `open`, our published open commit, and waits for it for a moment.
    pub(crate) async fn begin(storage: &Storage, table: &str, open: &CommitRecord) -> Self {
        let mut running = JoinSet::new();
        let (storage, table, record) = (storage.clone(), table.to_owned(), open.clone());
        running.spawn(async move {
            let swept = sweep(&storage, &table, &record).await;
            match &swept {
                Ok(0) => {}
                Ok(files) => tracing::info!(table, files, "removed what a crashed writer left"),
                Err(error) => {
                    tracing::warn!(table, error = %error.summary(), "orphans stay until the next start");
                }
            }
            swept.is_ok()
        });
        let mut sweeping = Self {
            running,
            generation: open.generation,
            swept_generation: open.swept_generation,
        };
        if let Ok(Some(ended)) = timeout(PATIENCE, sweeping.running.join_next()).await {
            sweeping.learn(ended.unwrap_or(false));
        }
        sweeping
    }

    /// Below which generation no orphans need be looked for, as far as is known by now.
    pub(crate) fn swept_generation(&mut self) -> u64 {
        if let Some(ended) = self.running.try_join_next() {
            self.learn(ended.unwrap_or(false));
        }
        self.swept_generation
    }

    fn learn(&mut self, swept: bool) {
        if swept {
            self.swept_generation = swept_by(self.generation, self.swept_generation);
        }
    }
}

/// Removes the orphans of generations before that of `open`, our published open commit.
/// Returns how many files were removed.
async fn sweep(storage: &Storage, table: &str, open: &CommitRecord) -> Result<usize> {
    let facts = SweepFacts {
        own_generation: open.generation,
        swept_generation: open.swept_generation,
        last_file_seq: &open.last_file_seq,
    };
    let failed = |error| fault::store("remove what a crashed writer left", error).with("table", table);
    let mut orphans = Vec::new();
    let folders = [DATA, QUARANTINE].map(|folder| storage.table(table).join(folder));
    for folder in folders.iter().filter(|_| open.swept_generation < open.generation) {
        let mut objects = storage.store.list(Some(folder));
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            let name = object
                .location
                .filename()
                .and_then(|name| name.parse::<DataFileName>().ok());
            if name.is_some_and(|name| is_orphan(&facts, &name)) {
                orphans.push(object.location);
            }
        }
    }
    let mut removed = 0;
    let mut deletions = storage
        .store
        .delete_stream(futures::stream::iter(orphans).map(Ok).boxed());
    while let Some(deletion) = deletions.next().await {
        match deletion {
            Ok(_) => removed += 1,
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if let Some(folder) = &storage.folder {
        removed += sweep_staging(folder.join(table), open.generation, open.version).await?;
    }
    Ok(removed)
}

/// Removes the staging files (`name#digits`) of earlier writers in a local folder.
async fn sweep_staging(table: PathBuf, own_generation: u64, own_open_version: u64) -> Result<usize> {
    let sweep = move || {
        let mut removed = 0;
        let dead = |name: &str| {
            let Some((name, digits)) = name.split_once('#') else {
                return false;
            };
            let staging = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let old_file = name
                .parse::<DataFileName>()
                .is_ok_and(|name| name.generation < own_generation);
            let old_commit = parse_commit_file(name).is_some_and(|version| is_dead_staging(own_open_version, version));
            // One that is being written now is lost with it, and the next commit leaves another.
            staging && (old_file || old_commit || name == HINT)
        };
        for folder in [COMMITS, DATA, QUARANTINE] {
            visit(&table.join(folder), &mut |path| {
                if path.file_name().and_then(|name| name.to_str()).is_some_and(dead) && fs::remove_file(path).is_ok() {
                    removed += 1;
                }
            })?;
        }
        Ok::<_, std::io::Error>(removed)
    };
    let failed = |error: std::io::Error| {
        let error = object_store::Error::Generic {
            store: "folder",
            source: Box::new(error),
        };
        fault::store("remove what a crashed writer left", error)
    };
    let swept = tokio::task::spawn_blocking(sweep).await;
    swept
        .map_err(|error| fault::store("remove what a crashed writer left", error.into()))?
        .map_err(failed)
}

fn visit(folder: &FilePath, seen: &mut dyn FnMut(&FilePath)) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            visit(&entry.path(), seen)?
        } else {
            seen(&entry.path())
        }
    }
    Ok(())
}
