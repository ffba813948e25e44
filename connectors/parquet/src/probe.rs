//! The start-up probe: finds out whether the store can be written, and whether its
//! conditional create holds, on which every commit stands.

use futures::future::join_all;
use millstream_core::{Finding, Severity};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use uuid::Uuid;

use crate::fault;
use crate::storage::Storage;

/// Creates that race for one name.
const RACERS: usize = 8;

/// What is wrong with the store. Writes two objects of its own and removes them.
pub(crate) async fn probe(storage: &Storage) -> Vec<Finding> {
    let folder = storage.prefix.clone().join("_millstream_probe");
    let names = [
        folder.clone().join(Uuid::new_v4().to_string()),
        folder.join(Uuid::new_v4().to_string()),
    ];
    let finding = find(storage, &names).await;
    for name in &names {
        if let Err(error) = storage.store.delete(name).await
            && !matches!(error, Error::NotFound { .. })
            && finding.is_none()
        {
            return vec![Finding::from(&fault::store("remove the probe's object", error))];
        }
    }
    finding.into_iter().collect()
}

async fn find(storage: &Storage, [first, raced]: &[Path; 2]) -> Option<Finding> {
    if let Err(error) = create(storage, first).await {
        return Some(Finding::from(&fault::store("write to the store", error)));
    }
    match create(storage, first).await {
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
        Ok(()) => return Some(not_conditional("a second create of one object succeeded")),
        Err(error) => return Some(Finding::from(&fault::store("create an object twice", error))),
    }
    let outcomes = join_all((0..RACERS).map(|_| create(storage, raced))).await;
    let winners = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    (winners > 1).then(|| not_conditional("several of the creates that raced for one object succeeded"))
}

async fn create(storage: &Storage, name: &Path) -> object_store::Result<()> {
    let content = Uuid::new_v4().to_string();
    storage
        .store
        .put_opts(name, content.into(), PutOptions::from(PutMode::Create))
        .await
        .map(drop)
}

fn not_conditional(seen: &str) -> Finding {
    Finding::new(
        Severity::Error,
        "object store",
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
        assert_eq!(probe(&storage).await, Vec::new());
        let left = store
            .list_with_delimiter(Some(&Path::from("lake/_millstream_probe")))
            .await
            .unwrap();
        assert!(left.objects.is_empty());
    }
}
