//! Slots that are lost, and the changes with them.

use millstream_testkit::postgres::{Shutdown, TestCluster};
use serde_json::Value;

use crate::replaced::{settled, since_emptied};
use crate::target::{Held, Running, Target, config, eventually, present, source, table, wal};

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE TABLE lines (id int PRIMARY KEY, amount int); \
             INSERT INTO orders SELECT i, i FROM generate_series(1, 300) i; \
             INSERT INTO lines SELECT i, i FROM generate_series(1, 100) i; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    cluster
}

fn settings(cluster: &TestCluster) -> Value {
    let mut config = config(cluster, &["orders", "lines"]);
    config["batch"]["rows"] = 50.into();
    config["lost_slot"] = "recopy".into();
    config
}

const NAMES: [&str; 2] = ["orders", "lines"];
/// What nobody will ever be told of.
const CHANGES: &str =
    "DELETE FROM orders WHERE id < 20; UPDATE orders SET amount = 0 WHERE id > 290; INSERT INTO lines VALUES (500, 1)";
const DROP: &str = "SELECT pg_drop_replication_slot('millstream_t_shop')";

async fn drop_slot(cluster: &TestCluster) {
    eventually("the slot is free", || cluster.psql(DROP).is_ok()).await;
}

#[track_caller]
fn assert_equal(target: &Target, cluster: &TestCluster) {
    for name in NAMES {
        let holders = [target.tables.get(&table(name)), target.twins.get(&table(name))];
        for held in holders.into_iter().flatten() {
            assert_eq!(
                since_emptied(&held.rows, "id"),
                present(cluster, name, &["id", "amount"]),
                "{name}"
            );
        }
    }
}

fn truncations(target: &Target) -> [usize; 2] {
    NAMES.map(|name| {
        target.tables[&table(name)]
            .rows
            .iter()
            .filter(|row| row.op == "t")
            .count()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_gone_is_made_again_and_its_tables_copied_anew() {
    let cluster = cluster();
    let config = settings(&cluster);
    let target = settled(&cluster, &config, Target::of(&NAMES), &NAMES).await;
    drop_slot(&cluster).await;
    cluster.psql(CHANGES).unwrap();
    let mut halting = config.clone();
    halting["lost_slot"] = "halt".into();
    let failure = Running::start(source(&halting), target.clone()).failure().await;
    assert_eq!(failure.error_code(), Some("PG0024"));
    let target = settled(&cluster, &config, target, &NAMES).await;
    assert_equal(&target, &cluster);
    assert_eq!(truncations(&target), [1, 1]);
    cluster
        .psql("INSERT INTO orders VALUES (1000, 1); DELETE FROM lines WHERE id = 1")
        .unwrap();
    let target = settled(&cluster, &config, target, &NAMES).await;
    assert_equal(&target, &cluster);
    assert_eq!(truncations(&target), [1, 1], "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_gave_up_is_replaced() {
    let cluster = TestCluster::with_settings(&[
        ("max_slot_wal_keep_size", "1MB"),
        ("min_wal_size", "32MB"),
        ("max_wal_size", "48MB"),
        ("wal_keep_size", "0"),
    ])
    .unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE TABLE lines (id int PRIMARY KEY, amount int); \
             INSERT INTO orders SELECT i, i FROM generate_series(1, 300) i; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let config = settings(&cluster);
    let target = settled(&cluster, &config, Target::of(&NAMES), &NAMES).await;
    cluster.psql(CHANGES).unwrap();
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'millstream_t_shop'";
    eventually("the slot is lost", || {
        cluster.psql("SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS filler (n int); INSERT INTO filler VALUES (1); CHECKPOINT").unwrap();
        cluster.psql(status).unwrap() == "lost"
    })
    .await;
    let mut halting = config.clone();
    halting["lost_slot"] = "halt".into();
    let failure = Running::start(source(&halting), target.clone()).failure().await;
    assert_eq!(failure.error_code(), Some("PG0022"));
    let target = settled(&cluster, &config, target, &NAMES).await;
    assert_equal(&target, &cluster);
    assert_ne!(cluster.psql(status).unwrap(), "lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tables_that_the_slot_is_ahead_of_are_copied_anew() {
    let cluster = cluster();
    let config = settings(&cluster);
    let mut target = settled(&cluster, &config, Target::of(&NAMES), &NAMES).await;
    let restored: Held = target.tables[&table("orders")].clone();
    cluster.psql(CHANGES).unwrap();
    target = settled(&cluster, &config, target, &NAMES).await;
    // What is held need not have been confirmed before the stop.
    let held = target.tables[&table("lines")].checkpoint.position(&wal()).clone();
    let (high, low) = held.ordered().expect("a place in the log").split_at(8);
    let advance = format!("SELECT pg_replication_slot_advance('millstream_t_shop', '{high}/{low}'::pg_lsn + 1)");
    eventually("the slot is free", || cluster.psql(&advance).is_ok()).await;
    // As when one table of the target was restored to an earlier state.
    target.tables.insert(table("orders"), restored);
    let mut halting = config.clone();
    halting["lost_slot"] = "halt".into();
    let failure = Running::start(source(&halting), target.clone()).failure().await;
    assert_eq!(failure.error_code(), Some("PG0025"));
    let target = settled(&cluster, &config, target, &NAMES).await;
    assert_equal(&target, &cluster);
    assert_eq!(truncations(&target), [1, 0]);
}

/// Every place at which it can be cut: with the new slot made and nothing told, and behind each boundary.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_boundary_after_the_loss_ends_right() {
    let cluster = cluster();
    let config = settings(&cluster);
    let filled = settled(&cluster, &config, Target::of(&NAMES), &NAMES).await;
    drop_slot(&cluster).await;
    cluster.psql(CHANGES).unwrap();
    for boundaries in 0..14 {
        let mut run = Running::start(source(&config), filled.clone());
        run.until_or_anew(|target| target.boundaries.len() >= boundaries).await;
        let target = run.kill();
        cluster
            .psql(&format!(
                "INSERT INTO orders VALUES ({}, 1); DELETE FROM lines WHERE id = {boundaries}",
                1000 + boundaries
            ))
            .unwrap();
        if boundaries % 3 == 2 {
            // And lost once more.
            drop_slot(&cluster).await;
            cluster
                .psql(&format!("UPDATE orders SET amount = -1 WHERE id = 100 + {boundaries}"))
                .unwrap();
        }
        if boundaries % 4 == 3 {
            cluster.restart(Shutdown::Immediate).unwrap();
        }
        let target = settled(&cluster, &config, target, &NAMES).await;
        assert_equal(&target, &cluster);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_that_had_not_ended_is_begun_again() {
    let cluster = cluster();
    let config = settings(&cluster);
    for rows in [0, 60] {
        let mut run = Running::start(source(&config), Target::of(&NAMES));
        run.until(|target| !target.boundaries.is_empty() && target.tables[&table("orders")].rows.len() >= rows)
            .await;
        cluster.psql("INSERT INTO orders VALUES (90000, 1)").unwrap();
        run.until(|target| target.tables[&table("orders")].rows.iter().any(|row| row.op == "c") || target.is_copied())
            .await;
        let target = run.kill();
        drop_slot(&cluster).await;
        cluster.psql("DELETE FROM orders WHERE id >= 90000 OR id < 10").unwrap();
        let target = settled(&cluster, &config, target, &NAMES).await;
        assert_equal(&target, &cluster);
        drop_slot(&cluster).await;
    }
}
