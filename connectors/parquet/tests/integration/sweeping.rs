//! What is removed, and what never is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_core::ErrorKind;
use millstream_core::config::Size;
use millstream_parquet::Compression;
use object_store::ObjectStoreExt;

use crate::faulty_store::FaultyStore;
use crate::lake::{Lake, advance, commit, commit_orders, incompressible_orders, open, orders, some_orders};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_files_of_a_crashed_writer_go_and_all_others_stay() {
    let lake = Lake::in_folder().await;
    let mut writer = lake.open(&orders()).await.unwrap();
    commit_orders(&mut writer, 0, 2).await.unwrap();
    writer.write(some_orders(2, 2)).await.unwrap();
    let lost = writer.prepare(advance(2, 4)).await.unwrap();
    drop((writer, lost));
    let foreign = lake.path("orders", "data/part-0.parquet");
    lake.store.put(&foreign, "not ours".into()).await.unwrap();
    assert_eq!(lake.objects("orders", "data").await.len(), 3);
    let staging = lake.folder().unwrap().join("orders/_commits/_last.json#4711");
    std::fs::write(&staging, "{").unwrap();

    let mut writer = lake.open(&orders()).await.unwrap();
    assert!(!staging.exists());
    let mut expected = lake.committed("orders").await;
    assert_eq!(expected.len(), 1);
    expected.insert("data/part-0.parquet".to_owned());
    assert_eq!(lake.objects("orders", "data").await, expected);
    commit_orders(&mut writer, 2, 2).await.unwrap();
}

/// A writer that was slow to sweep must leave the files of the one that replaced it alone.
#[tokio::test]
async fn a_late_sweep_leaves_the_files_of_a_live_writer() {
    let lake = Lake::in_memory().await;
    let mut crashed = lake.open(&orders()).await.unwrap();
    crashed.write(some_orders(0, 1)).await.unwrap();
    drop((crashed.prepare(advance(0, 1)).await.unwrap(), crashed));

    let slow_store = Arc::new(FaultyStore::new(lake.store.clone()));
    let gate = slow_store.hold_listing();
    let slow_sink = lake.sink_on(slow_store);
    let table = orders();
    let slow_open = open(&slow_sink, &table);
    let live_writer = async {
        while lake.records("orders").await.len() < 2 {
            tokio::task::yield_now().await;
        }
        let mut live = lake.open(&table).await.unwrap();
        live.write(some_orders(0, 2)).await.unwrap();
        let prepared = live.prepare(advance(0, 2)).await.unwrap();
        gate.send(()).unwrap();
        (live, prepared)
    };
    let (slow, (mut live, prepared)) = futures::future::join(slow_open, live_writer).await;
    let mut slow = slow.unwrap();
    live.commit(prepared).await.unwrap();
    assert_eq!(lake.rows("orders").await.len(), 1, "the committed file is there");
    let error = commit_orders(&mut slow, 0, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(lake.objects("orders", "data").await, lake.committed("orders").await);
}

#[tokio::test]
async fn an_abort_removes_what_was_uploaded_prepared_or_not() {
    let mut lake = Lake::in_memory().await;
    lake.config.file.rows = Some(1);
    let mut writer = lake.open(&orders()).await.unwrap();
    writer.write(some_orders(0, 1)).await.unwrap();
    writer.abort().await.unwrap();
    assert!(lake.objects("orders", "data").await.is_empty());
    writer.write(some_orders(0, 1)).await.unwrap();
    let prepared = writer.prepare(advance(0, 1)).await.unwrap();
    drop(prepared);
    writer.abort().await.unwrap();
    assert!(lake.objects("orders", "data").await.is_empty());
    commit_orders(&mut writer, 0, 1).await.unwrap();
    commit(&mut writer, 1, 2).await.unwrap();
    writer.abort().await.unwrap();
    assert_eq!(lake.objects("orders", "data").await, lake.committed("orders").await);
    assert_eq!(lake.committed("orders").await.len(), 1);
}

/// A writer that was fenced and died before it knew, after the sweep of the one that fenced it.
#[tokio::test]
async fn what_a_fenced_writer_uploads_late_is_swept_by_a_later_open() {
    let lake = Lake::in_memory().await;
    let mut older = lake.open(&orders()).await.unwrap();
    let mut newer = lake.open(&orders()).await.unwrap();
    commit_orders(&mut newer, 0, 1).await.unwrap();
    older.write(some_orders(0, 1)).await.unwrap();
    drop((older.prepare(advance(0, 1)).await.unwrap(), older));
    assert_eq!(lake.objects("orders", "data").await.len(), 2);
    drop(newer);
    lake.open(&orders()).await.unwrap();
    assert_eq!(lake.objects("orders", "data").await, lake.committed("orders").await);
}

/// A listing takes minutes where a table has a million files.
#[tokio::test]
async fn a_slow_sweep_does_not_hold_up_the_writer() {
    let lake = Lake::in_memory().await;
    let mut crashed = lake.open(&orders()).await.unwrap();
    crashed.write(some_orders(0, 1)).await.unwrap();
    drop((crashed.prepare(advance(0, 1)).await.unwrap(), crashed));

    let store = Arc::new(FaultyStore::new(lake.store.clone()));
    let gate = store.hold_listing();
    let mut writer = open(&lake.sink_on(store), &orders()).await.unwrap();
    commit_orders(&mut writer, 0, 2).await.unwrap();
    assert_eq!(lake.objects("orders", "data").await.len(), 2);
    gate.send(()).unwrap();
    let swept = async {
        while lake.objects("orders", "data").await != lake.committed("orders").await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, swept).await.expect("the sweep ends");
    commit_orders(&mut writer, 2, 2).await.unwrap();
}

/// Parts of an upload that nobody completes or aborts are in no listing, and cost money for ever.
#[tokio::test]
async fn uploads_that_fail_or_are_dropped_are_aborted() {
    for parts in [0, 1, 2, usize::MAX] {
        let mut lake = Lake::in_memory().await;
        lake.config.compression = Compression::None;
        lake.config.buffer = Size(8 << 20);
        let store = Arc::new(FaultyStore::new(lake.store.clone()));
        store.parts_left.store(parts, Ordering::Relaxed);
        let mut writer = open(&lake.sink_on(store.clone()), &orders()).await.unwrap();
        let mut written = 0;
        let mut failed = false;
        // Dropped while one is on its way, which a file that is closed early would end.
        let is_on_its_way = || parts == usize::MAX && store.unfinished_uploads.load(Ordering::Relaxed) > 0;
        while !failed && !is_on_its_way() && written < 300_000 {
            failed = writer.write(incompressible_orders(written, 20_000)).await.is_err();
            written += 20_000;
        }
        if parts < usize::MAX {
            assert!(failed || writer.prepare(advance(0, written)).await.is_err(), "{parts}");
        } else {
            assert!(
                store.unfinished_uploads.load(Ordering::Relaxed) > 0,
                "one is on its way"
            );
        }
        drop(writer);
        let aborted = async {
            while store.unfinished_uploads.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, aborted)
            .await
            .expect("the uploads are aborted");
    }
}
