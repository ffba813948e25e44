//! A target that is away while its slot is over budget: the log is taken off the server, and read
//! from the disk.

use std::fs;
use std::path::Path;

use millstream_core::ErrorKind;
use millstream_testkit::postgres::{Shutdown, TestCluster};
use tempfile::TempDir;

use crate::replaced;
use crate::target::{Running, Target, attend, config, eventually, present, source, table};

const MEGABYTE: u64 = 1 << 20;

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, note text, amount int DEFAULT 7); \
             INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 100) i; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    cluster
}

/// A configuration that takes the log off the server as soon as it holds back a megabyte.
fn with_backlog(cluster: &TestCluster, folder: &Path, size: &str) -> serde_json::Value {
    let mut config = config(cluster, &["orders"]);
    config["governor"] = serde_json::json!({"every": "50ms"});
    config["wal_budget"] = serde_json::json!({
        "bytes": "1MiB", "backlog": {"folder": folder.to_str().unwrap(), "size": size},
    });
    config
}

/// Some 11 MB of the log.
fn write(cluster: &TestCluster, from: u32) {
    cluster
        .psql(&format!(
            "INSERT INTO orders SELECT i, repeat(md5(i::text), 30) FROM generate_series({from}, {from} + 9999) i; \
             UPDATE orders SET note = 'changed' WHERE id % 10 = 0; DELETE FROM orders WHERE id % 7 = 3; \
             CHECKPOINT"
        ))
        .unwrap();
}

/// Bytes of the log that the server could not remove.
fn unconfirmed(cluster: &TestCluster) -> u64 {
    let bytes = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots";
    cluster.psql(bytes).unwrap().parse().unwrap()
}

/// The backlog's segments.
fn segments(folder: &TempDir) -> usize {
    let entries = fs::read_dir(folder.path().join("millstream_t_shop")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".wal")).count()
}

/// Waits until nobody has the backlog, nor reads the slot.
async fn released(cluster: &TestCluster, folder: &TempDir) {
    let lock = || fs::File::open(folder.path().join("millstream_t_shop").join("lock")).unwrap();
    let reader = "SELECT count(active_pid) FROM pg_replication_slots";
    eventually("it is left alone", || {
        lock().try_lock().is_ok() && cluster.psql(reader).unwrap() == "0"
    })
    .await;
}

/// A target with the first copy, and the source stopped.
async fn filled(cluster: &TestCluster, config: &serde_json::Value) -> Target {
    let mut run = Running::start(source(config), Target::of(&["orders"]));
    run.until_streaming(cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    target
}

/// Reads on until the target has all, and the log is read from the server.
async fn settled(cluster: &TestCluster, config: &serde_json::Value, target: Target, folder: &TempDir) -> Target {
    let mut run = Running::start(source(config), target);
    run.catch_up(cluster).await;
    for id in 0.. {
        cluster
            .psql(&format!("INSERT INTO orders VALUES (-{id}, 'more')"))
            .unwrap();
        run.catch_up(cluster).await;
        if segments(folder) == 0 {
            break;
        }
        assert!(id < 200, "the backlog stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    run.stop().await
}

fn assert_equal(cluster: &TestCluster, target: &Target) {
    let found = target.folded("orders", "id");
    assert!(
        found == present(cluster, "orders", &["id", "note", "amount"]),
        "{} rows",
        found.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_does_not_fill_the_servers_disk() {
    let (cluster, folder) = (cluster(), tempfile::tempdir().unwrap());
    let config = with_backlog(&cluster, folder.path(), "1GiB");
    let target = filled(&cluster, &config).await;
    let attendant = attend(source(&config));
    for round in 1..4 {
        write(&cluster, round * 10_000);
        eventually("the log is taken off", || unconfirmed(&cluster) < MEGABYTE).await;
    }
    assert!(segments(&folder) > 0);
    // The daemon and the server start again, and the target is still away.
    drop(attendant);
    released(&cluster, &folder).await;
    cluster.restart(Shutdown::Immediate).unwrap();
    write(&cluster, 50_000);
    let attendant = attend(source(&config));
    eventually("the log is taken off again", || unconfirmed(&cluster) < MEGABYTE).await;
    drop(attendant);
    let target = settled(&cluster, &config, target, &folder).await;
    assert_equal(&cluster, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_runs_leaves_the_slot_and_comes_back() {
    let (cluster, folder) = (cluster(), tempfile::tempdir().unwrap());
    let config = with_backlog(&cluster, folder.path(), "1GiB");
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    run.is_durable = false;
    write(&cluster, 10_000);
    // In the midst of a transaction.
    run.until(|target| target.batches.iter().map(|(_, rows)| rows).sum::<usize>() > 2_000)
        .await;
    eventually("the log is taken off", || unconfirmed(&cluster) < MEGABYTE).await;
    assert!(segments(&folder) > 0);
    run.catch_up(&cluster).await;
    write(&cluster, 20_000);
    run.catch_up(&cluster).await;
    run.is_durable = true;
    let mut target = run.stop().await;
    target.boundaries.clear();
    let target = settled(&cluster, &config, target, &folder).await;
    assert_equal(&cluster, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_leaves_the_rest_on_the_server() {
    let (cluster, folder) = (cluster(), tempfile::tempdir().unwrap());
    let config = with_backlog(&cluster, folder.path(), "16MiB");
    let target = filled(&cluster, &config).await;
    let attendant = attend(source(&config));
    for round in 1..6 {
        write(&cluster, round * 10_000);
    }
    eventually("it is full", || segments(&folder) >= 2).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(unconfirmed(&cluster) > 4 * MEGABYTE, "{}", unconfirmed(&cluster));
    let target = settled(&cluster, &config, target, &folder).await;
    drop(attendant);
    assert_equal(&cluster, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_is_lost_is_a_slot_that_is_ahead() {
    let (cluster, folder) = (cluster(), tempfile::tempdir().unwrap());
    let mut config = with_backlog(&cluster, folder.path(), "1GiB");
    let target = filled(&cluster, &config).await;
    let attendant = attend(source(&config));
    write(&cluster, 10_000);
    eventually("the log is taken off", || unconfirmed(&cluster) < MEGABYTE).await;
    drop(attendant);
    released(&cluster, &folder).await;
    fs::remove_dir_all(folder.path().join("millstream_t_shop")).unwrap();
    let failure = Running::start(source(&config), target.clone()).failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::PositionLost, Some("PG0025")),
        "{}",
        failure.summary()
    );
    config["lost_slot"] = "recopy".into();
    let held = replaced::settled(&cluster, &config, target, &["orders"]).await;
    let rows = replaced::since_emptied(&held.tables[&table("orders")].rows, "id");
    assert!(rows == present(&cluster, "orders", &["id", "note", "amount"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_another_server_is_not_read() {
    let (cluster, folder) = (cluster(), tempfile::tempdir().unwrap());
    let config = with_backlog(&cluster, folder.path(), "1GiB");
    let target = filled(&cluster, &config).await;
    let attendant = attend(source(&config));
    write(&cluster, 10_000);
    eventually("the log is taken off", || unconfirmed(&cluster) < MEGABYTE).await;
    drop(attendant);
    released(&cluster, &folder).await;
    let file = folder.path().join("millstream_t_shop").join("server");
    let server = fs::read_to_string(&file).unwrap();
    let (_, rest) = server.split_once(':').unwrap();
    fs::write(&file, format!("77:{rest}")).unwrap();
    let failure = Running::start(source(&config), target.clone()).failure().await;
    assert_eq!(failure.error_code(), Some("PG0025"), "{}", failure.summary());
    // It was not given up for that.
    released(&cluster, &folder).await;
    fs::write(&file, server).unwrap();
    let target = settled(&cluster, &config, target, &folder).await;
    assert_equal(&cluster, &target);
}
