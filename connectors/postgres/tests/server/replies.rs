//! Replies to the server do not wait for the engine.

use std::time::Duration;

use millstream_core::ByteBudget;
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, present, source};

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_answered_while_the_engine_takes_nothing() {
    let cluster = TestCluster::with_settings(&[("wal_sender_timeout", "2s")]).unwrap();
    cluster
        .psql("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR ALL TABLES")
        .unwrap();
    let mut small = config(&cluster, &["orders"]);
    small["batch"]["rows"] = 100.into();
    let mut run = Running::with_budget(source(&small), Target::of(&["orders"]), ByteBudget::new(64 * 1024));
    run.until_copied().await;
    cluster
        .psql("INSERT INTO orders SELECT i, repeat('x', 200) FROM generate_series(1, 100000) i")
        .unwrap();
    let sender = || cluster.psql("SELECT pid FROM pg_stat_replication").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = sender();
    assert!(!before.is_empty());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(sender(), before, "the server gave us up");
    run.until(|target| {
        target
            .boundaries
            .last()
            .is_some_and(|boundary| boundary.committed_at.is_some())
    })
    .await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "note"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_survives_a_short_timeout() {
    let cluster = TestCluster::with_settings(&[("wal_sender_timeout", "1s")]).unwrap();
    cluster
        .psql("CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION p FOR ALL TABLES")
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.catch_up(&cluster).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.psql("INSERT INTO orders VALUES (1)").unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("orders", "id").len(), 1);
}
