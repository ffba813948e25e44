//! What a slot holds back while its pipeline runs.

use std::time::Duration;

use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, eventually, source};

const MEGABYTE: u64 = 1 << 20;

/// Bytes of the log that the slot holds back.
fn retained(cluster: &TestCluster) -> u64 {
    let bytes = cluster
        .psql("SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots")
        .unwrap();
    bytes.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_holds_nothing_back_while_another_one_writes() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t; CREATE DATABASE busy")
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["t"])), Target::of(&["t"]));
    run.until_streaming(&cluster).await;
    cluster
        .psql_in(
            "busy",
            "CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)",
        )
        .unwrap();
    assert!(retained(&cluster) > 10 * MEGABYTE, "{}", retained(&cluster));
    // Tells decoding which transactions run, as the server does by itself every 15 seconds.
    cluster.psql_in("busy", "CHECKPOINT").unwrap();
    run.until(|_| retained(&cluster) < MEGABYTE).await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_moves_the_slot_of_a_server_where_nobody_writes() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        .unwrap();
    let confirmed = || {
        cluster
            .psql("SELECT confirmed_flush_lsn FROM pg_replication_slots")
            .unwrap()
    };
    let mut config = config(&cluster, &["t"]);
    let mut run = Running::start(source(&config), Target::of(&["t"]));
    run.until_streaming(&cluster).await;
    // The server itself writes now and then, as to log which transactions run.
    let written = || cluster.psql("SELECT pg_current_wal_insert_lsn()").unwrap();
    let mut quiet = false;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (settled, end) = (confirmed(), written());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stays = confirmed() == settled;
        quiet = written() == end;
        if quiet {
            assert!(stays, "it moves without heartbeats, and without a log that does");
            break;
        }
    }
    assert!(quiet, "the server never left its log alone for a second");
    let mut target = run.stop().await;
    target.boundaries.clear();
    config["heartbeat"] = serde_json::json!({"every": "50ms"});
    let mut run = Running::start(source(&config), target);
    for _ in 0..3 {
        let before = confirmed();
        run.until(|_| confirmed() != before).await;
    }
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_governor_has_a_session_of_its_own_which_the_stream_does_not_need() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        .unwrap();
    let mut config = config(&cluster, &["t"]);
    config["governor"] = serde_json::json!({"every": "20ms"});
    let mut run = Running::start(source(&config), Target::of(&["t"]));
    run.until_streaming(&cluster).await;
    let sessions = "FROM pg_stat_activity WHERE application_name = 'millstream' AND query LIKE '%pg_prepared_xacts%'";
    let session = || cluster.psql(&format!("SELECT pid {sessions}")).unwrap();
    eventually("it looks", || !session().is_empty()).await;
    let first = session();
    cluster.psql(&format!("SELECT pg_terminate_backend({first})")).unwrap();
    eventually("it looks again", || !["", first.as_str()].contains(&session().as_str())).await;
    cluster.psql("INSERT INTO t VALUES (1)").unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("t", "id").len(), 1);
    eventually("it leaves", || session().is_empty()).await;
}
