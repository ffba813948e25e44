//! What a slot holds back while its pipeline runs.

use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, source};

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
