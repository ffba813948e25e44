//! First copies hold what the stream will not send, all of it, and nothing else.

use std::time::Duration;

use millstream_core::{ByteBudget, ErrorKind, Source};
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, check, client, config, eventually, present, source};

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_column_is_in_neither_copy_nor_stream() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int, twice int GENERATED ALWAYS AS (amount * 2) STORED); \
             CREATE PUBLICATION p FOR ALL TABLES; INSERT INTO orders VALUES (1, 1), (2, 2)",
        )
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    cluster.psql("UPDATE orders SET amount = 3 WHERE id = 1").unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount"])
    );
    for (schema, _) in &target.batches {
        assert!(schema.columns.column_with_name("twice").is_none(), "{schema:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_policy_hides_are_not_left_out_in_silence() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1), (2), (3); \
             CREATE ROLE reader LOGIN REPLICATION PASSWORD 'r'; GRANT SELECT ON orders TO reader; \
             ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON orders USING (id = 1); \
             CREATE PUBLICATION p FOR ALL TABLES;",
        )
        .unwrap();
    let mut config = config(&cluster, &["orders"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    let failure = Running::start(source(&config), Target::of(&["orders"])).failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::Denied, Some("PG0036")),
        "{}",
        failure.summary()
    );
    let findings = check(&config).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].code, Some("PG0036"));
    cluster.psql(findings[0].sql.as_ref().unwrap()).unwrap();
    assert_eq!(check(&config).await, []);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("orders", "id").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_rewritten_behind_its_snapshot_is_copied_whole() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE TABLE other (id int); \
             INSERT INTO orders SELECT i, i FROM generate_series(1, 100) i; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let waits = |lock: &'static str| {
        let cluster = &cluster;
        async move {
            let query = format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND {lock}");
            eventually(lock, || cluster.psql(&query).unwrap() == "1").await;
        }
    };
    let (first, second, third) = (client(&cluster).await, client(&cluster).await, client(&cluster).await);
    // The slot waits for transactions in two phases. What begins after the second has begun may
    // still run when the snapshot is taken.
    first
        .batch_execute("BEGIN; INSERT INTO other VALUES (1)")
        .await
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    waits("locktype = 'transactionid'").await;
    let before = cluster
        .psql("SELECT transactionid FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        .unwrap();
    second
        .batch_execute("BEGIN; INSERT INTO orders VALUES (1000, 0)")
        .await
        .unwrap();
    first.batch_execute("COMMIT").await.unwrap();
    let query = format!(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid' \
         AND transactionid::text <> '{before}'"
    );
    eventually("the second phase", || cluster.psql(&query).unwrap() == "1").await;
    let rewrite = tokio::spawn(async move {
        let rewritten = third
            .batch_execute("BEGIN; ALTER TABLE orders ALTER amount TYPE bigint")
            .await;
        rewritten.map(|()| third)
    });
    waits("mode = 'AccessExclusiveLock'").await;
    second.batch_execute("COMMIT").await.unwrap();
    let third = rewrite.await.unwrap().unwrap();
    waits("mode = 'AccessShareLock'").await;
    third.batch_execute("COMMIT").await.unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount"])
    );
    let slots = cluster.psql("SELECT slot_name FROM pg_replication_slots").unwrap();
    assert_eq!(slots, "millstream_t_shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_takes_long_to_make_loses_no_session() {
    let cluster = TestCluster::with_settings(&[("idle_session_timeout", "1s")]).unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE TABLE other (id int); \
             INSERT INTO orders SELECT i, i FROM generate_series(1, 100) i; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let writer = client(&cluster).await;
    writer
        .batch_execute("BEGIN; INSERT INTO other VALUES (1)")
        .await
        .unwrap();
    let mut planned = source(&config(&cluster, &["orders"]));
    planned.tables().await.unwrap();
    let mut run = Running::start(planned, Target::of(&["orders"]));
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
    eventually("the slot waits", || cluster.psql(waits).unwrap() == "1").await;
    // The server ends each session of ours that idles meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    writer.batch_execute("COMMIT").await.unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(
        run.stop().await.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_lost_between_plan_and_run_is_made_up_for() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1); CREATE PUBLICATION p FOR ALL TABLES")
        .unwrap();
    let mut planned = source(&config(&cluster, &["orders"]));
    planned.tables().await.unwrap();
    let lost = cluster
        .psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'millstream'")
        .unwrap();
    assert_eq!(lost, "1");
    let mut run = Running::start(planned, Target::of(&["orders"]));
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("orders", "id").len(), 1);
}

/// Starts a first copy of 20,000 rows in small pieces; with the configuration that it has.
fn long_copy(cluster: &TestCluster) -> (Running, serde_json::Value) {
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO orders SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i",
        )
        .unwrap();
    let mut small = config(cluster, &["orders"]);
    small["batch"]["rows"] = 100.into();
    let run = Running::with_budget(source(&small), Target::of(&["orders"]), ByteBudget::new(64 * 1024));
    (run, small)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_copy_leaves_no_session_idle() {
    let cluster = TestCluster::with_settings(&[("idle_session_timeout", "1s")]).unwrap();
    let (mut run, _) = long_copy(&cluster);
    eventually("the copy runs", || {
        let copies =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND application_name = 'millstream'";
        cluster.psql(copies).unwrap() != "0"
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("orders", "id").len(), 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_slot_and_copy_is_made_up_for() {
    let cluster = TestCluster::new().unwrap();
    let (run, small) = long_copy(&cluster);
    eventually("the slot exists", || {
        cluster.psql("SELECT count(*) FROM pg_replication_slots").unwrap() == "1"
    })
    .await;
    drop(run);
    cluster
        .psql("DELETE FROM orders WHERE id % 2 = 0; UPDATE orders SET note = 'y' WHERE id < 100")
        .unwrap();
    let mut run = Running::start(source(&small), Target::of(&["orders"]));
    run.until_copied().await;
    cluster.psql("INSERT INTO orders VALUES (2, 'again')").unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "note"])
    );
    let slots = cluster.psql("SELECT slot_name FROM pg_replication_slots").unwrap();
    assert_eq!(slots, "millstream_t_shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_not_utf8_halts_with_its_own_error() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE DATABASE odd TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        .unwrap();
    cluster
        .psql_in(
            "odd",
            "CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO orders VALUES (1, 'plain')",
        )
        .unwrap();
    let mut config = config(&cluster, &["orders"]);
    config["url"] = cluster
        .url_as("postgres", millstream_testkit::postgres::PASSWORD, "odd")
        .into();
    let findings = check(&config).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].code, Some("PG0037"));
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_copied().await;
    cluster
        .psql_in("odd", "INSERT INTO orders VALUES (2, E'caf\\xe9 ')")
        .unwrap();
    let in_stream = run.failure().await;
    let in_copy = {
        cluster
            .psql_in("odd", "SELECT pg_drop_replication_slot('millstream_t_shop')")
            .unwrap();
        Running::start(source(&config), Target::of(&["orders"])).failure().await
    };
    for failure in [in_stream, in_copy] {
        let found = (failure.kind(), failure.error_code());
        assert_eq!(found, (ErrorKind::Unsupported, Some("PG0037")), "{}", failure.summary());
        assert!(!failure.summary().contains("e9"), "a value is shown");
    }
}
