//! Stores on which no commit can stand.

use std::sync::Arc;

use millstream_core::{Severity, Sink};
use object_store::memory::InMemory;

use crate::faulty_store::FaultyStore;
use crate::lake::Lake;

#[tokio::test]
async fn a_store_whose_conditional_create_does_not_hold_is_refused() {
    let mut store = FaultyStore::new(Arc::new(InMemory::new()));
    store.forgets_conditions = true;
    let lake = Lake::on(Arc::new(store)).await;
    let findings = lake.sink().preflight().await.unwrap();
    let [finding] = &findings[..] else {
        panic!("one finding: {findings:?}")
    };
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.code, Some("PQ0017"));
    assert!(finding.hint.is_some());
}

#[tokio::test]
async fn a_sound_folder_passes_and_is_left_as_it_was() {
    let lake = Lake::in_folder().await;
    assert_eq!(lake.sink().preflight().await.unwrap(), []);
    assert!(lake.objects("_millstream_probe", "").await.is_empty());
}
