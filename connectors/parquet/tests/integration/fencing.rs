//! Two writers of one table.

use millstream_core::ErrorKind;
use millstream_core::config::Size;
use millstream_parquet::Compression;
use millstream_testkit::change_log::change_rows;
use object_store::ObjectStoreExt;

use crate::lake::{Lake, advance, checkpoint, commit, commit_orders, incompressible_orders, orders, some_orders};

#[tokio::test]
async fn a_second_writer_fences_the_first_for_good() {
    let lake = Lake::in_folder().await;
    let mut first = lake.open(&orders()).await.unwrap();
    commit_orders(&mut first, 0, 2).await.unwrap();
    first.write(some_orders(2, 2)).await.unwrap();
    let mut second = lake.open(&orders()).await.unwrap();
    assert_eq!(second.checkpoint(), first.checkpoint());
    let error = commit(&mut first, 2, 4).await.unwrap_err();
    assert_eq!((error.kind(), error.error_code()), (ErrorKind::Fenced, Some("PQ0015")));
    commit_orders(&mut second, 2, 3).await.unwrap();
    // Though the second has gone on by two records, the first never finds a free number.
    let error = commit_orders(&mut first, 2, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    commit_orders(&mut second, 5, 1).await.unwrap();
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 6);
    let records = lake.records("orders").await;
    assert_eq!(
        records.iter().map(|record| record.version).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    assert_eq!(
        records.iter().map(|record| record.generation).collect::<Vec<_>>(),
        [1, 1, 2, 2, 2]
    );
}

/// A pipeline that took this for an outage would start again, and fence the one that has taken over.
#[tokio::test]
async fn a_writer_whose_upload_is_swept_away_knows_that_it_is_fenced() {
    let mut lake = Lake::in_folder().await;
    lake.config.compression = Compression::None;
    lake.config.buffer = Size(8 << 20);
    let mut first = lake.open(&orders()).await.unwrap();
    let is_uploading = || {
        let data = lake.folder().unwrap().join("orders/data");
        std::fs::read_dir(data).is_ok_and(|files| files.count() > 0)
    };
    let mut written = 0;
    while !is_uploading() {
        assert!(written < 2_000_000, "nothing is uploaded before the commit");
        first.write(incompressible_orders(written, 20_000)).await.unwrap();
        written += 20_000;
    }
    let mut second = lake.open(&orders()).await.unwrap();
    assert!(!is_uploading(), "the second sweeps");
    let error = first.prepare(advance(0, written)).await.unwrap_err();
    assert_eq!((error.kind(), error.error_code()), (ErrorKind::Fenced, Some("PQ0015")));
    commit_orders(&mut second, 0, 2).await.unwrap();
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 2);
}

/// Many open at once: each takes a number of its own, and one of them is left to write.
#[tokio::test]
async fn of_writers_that_open_together_one_may_commit() {
    let lake = Lake::in_folder().await;
    let orders = orders();
    let opened = futures::future::join_all((0..4).map(|_| lake.open(&orders))).await;
    let mut committed = 0;
    for writer in opened {
        let mut writer = writer.unwrap();
        match commit_orders(&mut writer, 0, 1).await {
            Ok(_) => committed += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced),
        }
    }
    assert_eq!(committed, 1);
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 1);
    let generations: Vec<_> = lake
        .records("orders")
        .await
        .iter()
        .map(|record| record.generation)
        .collect();
    assert_eq!(generations, [1, 2, 3, 4, 4]);
}

#[tokio::test]
async fn the_newest_of_many_commits_is_found_whatever_the_hint_says() {
    let lake = Lake::in_memory().await;
    let mut writer = lake.open(&orders()).await.unwrap();
    for order in 0..102 {
        assert_eq!(
            lake.objects("orders", "_commits").await.contains("_commits/_last.json"),
            order >= 99
        );
        commit_orders(&mut writer, order, 1).await.unwrap();
    }
    assert_eq!(
        lake.content("orders", "_commits/_last.json").await,
        r#"{"version":100}"#
    );
    // As it was left, of a record that is not there, and of another's making.
    for hint in [None, Some(r#"{"version":999}"#), Some("?")] {
        if let Some(hint) = hint {
            let path = lake.path("orders", "_commits/_last.json");
            lake.store.put(&path, hint.into()).await.unwrap();
        }
        let opened = lake.open(&orders()).await.unwrap();
        assert_eq!(*opened.checkpoint(), checkpoint(102), "{hint:?}");
    }
}
