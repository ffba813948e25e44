//! The start-up probe: finds out whether the store can be written, and whether its
//! conditional create holds, on which every commit stands.

use futures::future::join_all;
use millstream_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use uuid::Uuid;

use crate::fault;
use crate::storage::Storage;

/// Creates that race for one name.
const RACERS: usize = 8;

/// Fails with what is wrong with the store. Writes two objects of its own and removes them.
pub(crate) async fn probe(storage: &Storage) -> Result<()> {
    let folder = storage.prefix.clone().join("_millstream_probe");
    let names = [
        folder.clone().join(Uuid::new_v4().to_string()),
        folder.join(Uuid::new_v4().to_string()),
    ];
    let mut outcome = find(storage, &names).await;
    for name in &names {
        if let Err(error) = storage.store.delete(name).await
            && !matches!(error, StoreError::NotFound { .. })
            && outcome.is_ok()
        {
            outcome = Err(fault::store("remove the probe's object", error));
        }
    }
    outcome
}

async fn find(storage: &Storage, [first, raced]: &[Path; 2]) -> Result<()> {
    // A reply that was lost makes the client try again, and meet its own object.
    match create(storage, first).await {
        Ok(()) | Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
        Err(error) => return Err(fault::store("write to the store", error)),
    }
    match create(storage, first).await {
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
        Ok(()) => return Err(not_conditional("a second create of one object succeeded")),
        Err(error) => return Err(fault::store("create an object twice", error)),
    }
    let outcomes = join_all((0..RACERS).map(|_| create(storage, raced))).await;
    match outcomes.iter().filter(|outcome| outcome.is_ok()).count() {
        0 | 1 => Ok(()),
        _ => Err(not_conditional(
            "several of the creates that raced for one object succeeded",
        )),
    }
}

async fn create(storage: &Storage, name: &Path) -> object_store::Result<()> {
    let content = Uuid::new_v4().to_string();
    storage
        .store
        .put_opts(name, content.into(), PutOptions::from(PutMode::Create))
        .await
        .map(drop)
}

fn not_conditional(seen: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the store does not honour conditional creates: {seen}"),
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
        let left = store
            .list_with_delimiter(Some(&Path::from("lake/_millstream_probe")))
            .await
            .unwrap();
        assert!(left.objects.is_empty());
    }
}
