//! The start-up probe: finds out whether the store can be written, read, listed and cleaned, and
//! whether its conditional create holds, on which every commit stands.

use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::future::join_all;
use millstream_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use uuid::Uuid;

use crate::fault;
use crate::storage::Storage;

/// Creates that race for one name.
const RACERS: usize = 16;
/// Races, while there is time. A store that checks and then writes loses only some of them.
const RACES: usize = 32;
/// How long races may take on a slow store. One is always run.
const RACING: Duration = Duration::from_secs(1);

/// Fails with what is wrong with the store. Leaves nothing behind.
pub(crate) async fn probe(storage: &Storage) -> Result<()> {
    let (folder, races) = match &storage.folder {
        // A folder that is not there is left to the first commit, and in a folder the kernel
        // itself keeps a second create out.
        Some(folder) => (nearest(folder)?, 0),
        None => (storage.prefix.clone().join("_millstream_probe"), RACES),
    };
    let mut made = Vec::new();
    let mut outcome = find(storage, &folder, races, &mut made).await;
    let deletions = join_all(made.iter().map(|name| storage.store.delete(name)));
    for deletion in deletions.await {
        if let Err(error) = deletion
            && !matches!(error, StoreError::NotFound { .. })
            && outcome.is_ok()
        {
            outcome = Err(fault::store("remove the probe's object", error));
        }
    }
    outcome
}

/// `folder`, or the nearest one above it that is there.
fn nearest(folder: &FilePath) -> Result<Path> {
    let there = folder
        .ancestors()
        .find(|folder| !matches!(folder.try_exists(), Ok(false)));
    Path::from_absolute_path(there.unwrap_or(folder))
        .map_err(|error| fault::store("find the sink's folder", error.into()))
}

async fn find(storage: &Storage, folder: &Path, races: usize, made: &mut Vec<Path>) -> Result<()> {
    let mut fresh = || {
        let name = folder.clone().join(format!("_millstream_probe-{}", Uuid::new_v4()));
        made.push(name.clone());
        name
    };
    let first = fresh();
    // A reply that was lost makes the client try again, and meet its own object.
    let (content, created) = create(storage, &first).await;
    if let Err(error) = created
        && !exists(&error)
    {
        return Err(fault::store("write to the store", error));
    }
    match create(storage, &first).await.1 {
        Err(error) if exists(&error) => {}
        Ok(()) => return Err(not_conditional("a second create of one object succeeded")),
        Err(error) => return Err(fault::store("create an object twice", error)),
    }
    if read(storage, &first).await? != content {
        return Err(not_conditional("a refused create replaced the object"));
    }
    if storage.folder.is_none() {
        let listing = storage.store.list(Some(folder)).map_ok(|object| object.location);
        let listed: Vec<_> = listing
            .try_collect()
            .await
            .map_err(|error| fault::store("list the store", error))?;
        if !listed.contains(&first) {
            return Err(not_conditional("a listing leaves out an object that was just created"));
        }
    }
    let begun = Instant::now();
    for race in 0..races {
        if race > 0 && begun.elapsed() > RACING {
            break;
        }
        let name = fresh();
        let outcomes = join_all((0..RACERS).map(|_| create(storage, &name))).await;
        let mut winners = outcomes.into_iter().filter(|(_, created)| created.is_ok());
        match (winners.next(), winners.next()) {
            (Some(_), Some(_)) => {
                return Err(not_conditional(
                    "several of the creates that raced for one object succeeded",
                ));
            }
            (Some((content, _)), None) if read(storage, &name).await? != content => {
                return Err(not_conditional("the create that won a race was overwritten"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn exists(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }
    )
}

/// Creates an object with a content that no other has, and returns that.
async fn create(storage: &Storage, name: &Path) -> (String, object_store::Result<()>) {
    let content = Uuid::new_v4().to_string();
    let options = PutOptions::from(PutMode::Create);
    let created = storage.store.put_opts(name, content.clone().into(), options).await;
    (content, created.map(drop))
}

async fn read(storage: &Storage, name: &Path) -> Result<bytes::Bytes> {
    let fetch = async { storage.store.get(name).await?.bytes().await };
    fetch.await.map_err(|error| fault::store("read from the store", error))
}

fn not_conditional(seen: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the store does not keep what commits stand on: {seen}"),
    )
    .code("PQ0017")
    .hint("use a store that supports `If-None-Match: *` on PUT; without it two writers could commit over each other")
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_store_that_keeps_its_promises_passes_and_is_left_empty() {
        let store = std::sync::Arc::new(InMemory::new());
        let storage = Storage::with_store(store.clone(), Path::from("lake"));
        probe(&storage).await.unwrap();
        let left: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(left, []);
    }
}
