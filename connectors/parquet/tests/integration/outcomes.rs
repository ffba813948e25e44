//! What the writer makes of answers that leave open whether a commit took effect.

use std::sync::Arc;

use millstream_core::ErrorKind;
use millstream_testkit::change_log::change_rows;

use crate::faulty_store::{Fate, FaultyStore};
use crate::lake::{Lake, checkpoint, commit, commit_orders, open, orders, some_orders};

/// Commits three orders while the store plays `fates`, and three more after them.
async fn commits_through(fates: Vec<Fate>) {
    let lake = Lake::in_memory().await;
    let store = Arc::new(FaultyStore::new(lake.store.clone()));
    let mut writer = open(&lake.sink_on(store.clone()), &orders()).await.unwrap();
    store.script(fates.clone());
    let first = commit_orders(&mut writer, 0, 3).await.unwrap();
    let second = commit_orders(&mut writer, 3, 3).await.unwrap();
    assert!(store.is_played(), "{fates:?}");
    assert_eq!((first.version, second.version), (2, 3), "{fates:?}");
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 6, "{fates:?}");
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_made_once() {
    for fates in [
        vec![Fate::LostBefore],
        vec![Fate::LostAfter],
        vec![Fate::MetItself],
        vec![Fate::TakenThenDenied],
        vec![Fate::TornReadBack],
        vec![Fate::Conflict],
        vec![Fate::LostBefore, Fate::Conflict, Fate::LostAfter],
    ] {
        commits_through(fates).await;
    }
}

#[tokio::test]
async fn an_open_of_unknown_outcome_takes_the_table_once() {
    let lake = Lake::in_memory().await;
    let store = Arc::new(FaultyStore::new(lake.store.clone()));
    store.script([Fate::LostAfter]);
    let mut writer = open(&lake.sink_on(store), &orders()).await.unwrap();
    commit_orders(&mut writer, 0, 1).await.unwrap();
    assert_eq!(lake.records("orders").await.len(), 2);
}

#[tokio::test]
async fn anothers_record_is_a_fence_and_the_files_go() {
    let lake = Lake::in_memory().await;
    let store = Arc::new(FaultyStore::new(lake.store.clone()));
    let mut writer = open(&lake.sink_on(store.clone()), &orders()).await.unwrap();
    store.script([Fate::LostBefore, Fate::Overtaken(r#"{"commit_id": "another's"}"#)]);
    let error = commit_orders(&mut writer, 0, 3).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::Fenced, Some("PQ0015")),
        "{}",
        error.summary()
    );
    assert!(error.hint_text().is_some());
    assert!(lake.objects("orders", "data").await.is_empty());
}

#[tokio::test]
async fn a_refused_commit_is_reported_at_once_and_can_be_made_later() {
    let lake = Lake::in_memory().await;
    let store = Arc::new(FaultyStore::new(lake.store.clone()));
    let sink = lake.sink_on(store.clone());
    let mut writer = open(&sink, &orders()).await.unwrap();
    store.script([Fate::Denied]);
    let error = commit_orders(&mut writer, 0, 3).await.unwrap_err();
    assert_eq!((error.kind(), error.error_code()), (ErrorKind::Denied, Some("PQ0002")));
    writer.abort().await.unwrap();
    assert!(
        !lake.objects("orders", "data").await.is_empty(),
        "a refusal does not prove that no earlier try of the client took effect"
    );
    drop(writer);
    let mut writer = open(&sink, &orders()).await.unwrap();
    commit_orders(&mut writer, 0, 3).await.unwrap();
    assert_eq!(lake.objects("orders", "data").await, lake.committed("orders").await);
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 3);
}

/// The client's tries took effect, and neither its answers nor the read-back said so.
#[tokio::test]
async fn the_files_of_a_commit_that_landed_unnoticed_stay() {
    let lake = Lake::in_memory().await;
    let store = Arc::new(FaultyStore::new(lake.store.clone()));
    let sink = lake.sink_on(store.clone());
    let mut writer = open(&sink, &orders()).await.unwrap();
    store.script([Fate::TakenThenDenied]);
    store.refuse_reads(true);
    let error = commit_orders(&mut writer, 0, 3).await.unwrap_err();
    assert_eq!(error.error_code(), Some("PQ0002"));
    writer.abort().await.unwrap();
    store.refuse_reads(false);
    let writer = open(&sink, &orders()).await.unwrap();
    assert_eq!(*writer.checkpoint(), checkpoint(3));
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 3);
}

#[tokio::test]
async fn an_advance_that_does_not_follow_on_is_refused() {
    let lake = Lake::in_memory().await;
    let mut writer = lake.open(&orders()).await.unwrap();
    commit_orders(&mut writer, 0, 3).await.unwrap();
    for (from, to, kind, code) in [
        (4, 6, ErrorKind::Corrupt, Some("PQ0018")),
        (2, 6, ErrorKind::Internal, None),
        (0, 3, ErrorKind::Internal, None),
    ] {
        writer.write(some_orders(from, to - from)).await.unwrap();
        let error = commit(&mut writer, from, to).await.unwrap_err();
        assert_eq!((error.kind(), error.error_code()), (kind, code));
        writer.abort().await.unwrap();
    }
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 3);
}
