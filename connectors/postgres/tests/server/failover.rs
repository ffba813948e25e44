//! Another server than before: promoted, parted, restored, adopted, or a standby.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_core::{ErrorKind, PartitionId, Position};
use millstream_testkit::postgres::{PASSWORD, Shutdown, TestCluster, newer_binaries, say_skipped};

use crate::target::{Running, Target, check, config, eventually, present, source, table};

const SLOT: &str = "millstream_t_shop";

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    prepare(&cluster);
    cluster
}

fn prepare(cluster: &TestCluster) {
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE PUBLICATION p FOR TABLE orders; \
             INSERT INTO orders SELECT i, i FROM generate_series(1, 100) i",
        )
        .unwrap();
}

fn write(cluster: &TestCluster, from: u32) {
    let rows = format!("INSERT INTO orders SELECT i, 0 FROM generate_series({from}, {from} + 99) i");
    let script =
        format!("{rows}; UPDATE orders SET amount = amount + 1 WHERE id % 7 = 0; DELETE FROM orders WHERE id = {from}");
    cluster.psql(&script).unwrap();
}

fn assert_equal(target: &Target, cluster: &TestCluster) {
    assert_eq!(
        target.folded("orders", "id"),
        present(cluster, "orders", &["id", "amount"])
    );
}

/// Whether the servers are new enough; says so where they are not.
fn has(cluster: &TestCluster, version: u32) -> bool {
    let has = cluster.version().unwrap() >= version;
    if !has {
        say_skipped(&format!("the server is older than {}", version / 10_000)).unwrap();
    }
    has
}

/// What the target remembers of its server: the number of the server, and what it is called.
fn remembered(target: &Target) -> (u64, String) {
    let partition = PartitionId::new("shop", "system");
    match target.tables[&table("orders")].checkpoint.position(&partition) {
        Position::Token { number, token } => (*number, token.to_string()),
        other => panic!("{other:?}"),
    }
}

async fn replayed(primary: &TestCluster, standby: &TestCluster) {
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()").unwrap();
    let query = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
    eventually("the standby has it all", || standby.psql(&query).unwrap() == "t").await;
}

/// Goes on until the slot has confirmed the end of the log.
async fn drain(run: &mut Running, cluster: &TestCluster) {
    let drained = "SELECT pg_current_wal_lsn() = confirmed_flush_lsn FROM pg_replication_slots";
    for _ in 0..100 {
        if cluster.psql(drained).unwrap() == "t" {
            return;
        }
        let boundaries = run.target.boundaries.len();
        let next = run.until(|target| target.boundaries.len() > boundaries);
        // None may be left to come.
        let _ = tokio::time::timeout(Duration::from_millis(500), next).await;
    }
    panic!("the slot stays behind");
}

/// The code with which a run from `target` on is refused.
async fn refusal(config: &serde_json::Value, target: &Target) -> &'static str {
    let mut target = target.clone();
    target.boundaries.clear();
    let failure = Running::start(source(config), target).failure().await;
    assert!(failure.hint_text().is_some(), "{}", failure.summary());
    assert!(
        matches!(failure.kind(), ErrorKind::PositionLost | ErrorKind::Unsupported),
        "{}",
        failure.summary()
    );
    failure.error_code().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_goes_on_at_the_promoted_standby() {
    let primary = cluster();
    if !has(&primary, 170_000) {
        return;
    }
    let Some(standby) = primary.standby(&[("sync_replication_slots", "on")]).unwrap() else {
        return;
    };
    primary
        .psql("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
        .unwrap();
    primary.psql("SELECT pg_reload_conf()").unwrap();
    let guarded = "SHOW synchronized_standby_slots";
    eventually("the setting is read", || primary.psql(guarded).unwrap() == "standby").await;
    let mut config = config(&primary, &["orders"]);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", standby.port(), primary.port());
    config["url"] = format!("postgres://postgres:{PASSWORD}@{hosts}/postgres?target_session_attrs=primary").into();
    config["failover"] = true.into();
    assert_eq!(check(&config).await, []);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&primary).await;
    // The copy of the slot is complete once the primary's has moved past where it was begun.
    let synced =
        format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND synced AND NOT temporary");
    let mut from = 1000;
    while standby.psql(&synced).unwrap() != "1" {
        assert!(from < 20_000, "the slot is not copied");
        write(&primary, from);
        primary.psql("CHECKPOINT").unwrap();
        run.catch_up(&primary).await;
        from += 100;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (mut target, at_primary) = (run.target.clone(), remembered(&run.target));
    write(&primary, 30_000);
    replayed(&primary, &standby).await;
    primary.stop(Shutdown::Immediate).unwrap();
    assert_eq!(run.failure().await.kind(), ErrorKind::Unavailable);
    standby.promote().unwrap();
    write(&standby, 40_000);
    target.boundaries.clear();
    target.crash();
    let mut run = Running::start(source(&config), target);
    run.catch_up(&standby).await;
    let target = run.stop().await;
    assert_equal(&target, &standby);
    assert_eq!(
        target.changes("orders").iter().filter(|change| change.0 == "r").count(),
        0
    );
    let at_standby = remembered(&target);
    assert_eq!(at_standby.0, at_primary.0 + 1);
    assert_ne!(at_standby.1, at_primary.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_parted_before_what_the_target_holds_is_refused() {
    let primary = cluster();
    let Some(standby) = primary.standby(&[]).unwrap() else {
        return;
    };
    let mut run = Running::start(source(&config(&primary, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&primary).await;
    replayed(&primary, &standby).await;
    // It misses what comes now, as a server that is restored to this moment does.
    standby.stop(Shutdown::Fast).unwrap();
    let before = run.stop().await;
    let mut resumed = before.clone();
    resumed.boundaries.clear();
    let mut run = Running::start(source(&config(&primary, &["orders"])), resumed);
    write(&primary, 1000);
    run.catch_up(&primary).await;
    let after = run.stop().await;
    primary.stop(Shutdown::Fast).unwrap();
    standby.start().unwrap();
    standby.promote().unwrap();
    let slot = format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')");
    standby.psql(&slot).unwrap();
    // Its log is soon longer than what is held.
    standby.psql("SELECT pg_switch_wal()").unwrap();
    write(&standby, 5000);
    assert_eq!(refusal(&config(&standby, &["orders"]), &after).await, "PG0047");
    // What it has in common is not refused for its timeline, but for what the new slot lacks.
    assert_eq!(refusal(&config(&standby, &["orders"]), &before).await, "PG0025");
    primary.start().unwrap();
    let mut run = Running::start(source(&config(&primary, &["orders"])), {
        let mut target = after;
        target.boundaries.clear();
        target
    });
    run.catch_up(&primary).await;
    assert_equal(&run.stop().await, &primary);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_refused_unless_it_is_adopted() {
    let old = cluster();
    let mut run = Running::start(source(&config(&old, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&old).await;
    write(&old, 1000);
    run.catch_up(&old).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    // Made alike, the table has the same OID; what is in it came over in some other way.
    let new = cluster();
    write(&new, 1000);
    assert_equal(&target, &new);
    while new.psql("SELECT pg_current_wal_lsn() - '0/0' > 80000000").unwrap() == "f" {
        new.psql("CREATE TABLE x (); DROP TABLE x; SELECT pg_switch_wal()")
            .unwrap();
    }
    new.psql(&format!(
        "SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"
    ))
    .unwrap();
    let mut config = config(&new, &["orders"]);
    assert_eq!(refusal(&config, &target).await, "PG0046");
    let system = |cluster: &TestCluster| {
        cluster
            .psql("SELECT system_identifier FROM pg_control_system()")
            .unwrap()
    };
    config["adopt"] = system(&old).into();
    assert_eq!(refusal(&config, &target).await, "PG0046");
    config["adopt"] = system(&new).into();
    write(&new, 2000);
    let mut run = Running::start(source(&config), target);
    run.catch_up(&new).await;
    write(&new, 3000);
    run.catch_up(&new).await;
    let mut target = run.stop().await;
    assert_equal(&target, &new);
    assert_eq!(remembered(&target).0, 2);
    // From now on it is the server, whatever the configuration says.
    config.as_object_mut().unwrap().remove("adopt");
    write(&new, 4000);
    target.boundaries.clear();
    let mut run = Running::start(source(&config), target);
    run.catch_up(&new).await;
    assert_equal(&run.stop().await, &new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_goes_on_after_a_drained_upgrade() {
    let Some(newer) = newer_binaries() else {
        return say_skipped("MILLSTREAM_PG_NEW_BIN names no newer server").unwrap();
    };
    let old = cluster();
    let mut run = Running::start(source(&config(&old, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&old).await;
    write(&old, 1000);
    run.catch_up(&old).await;
    drain(&mut run, &old).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    let before = old.version().unwrap();
    let new = old.upgraded(&newer).unwrap();
    assert!(new.version().unwrap() / 10_000 > before / 10_000);
    // From version 17 on pg_upgrade brings the slot along.
    let slot = format!(
        "SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput') \
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{SLOT}')"
    );
    new.psql(&slot).unwrap();
    write(&new, 2000);
    let mut config = config(&new, &["orders"]);
    assert_eq!(refusal(&config, &target).await, "PG0046");
    config["adopt"] = new
        .psql("SELECT system_identifier FROM pg_control_system()")
        .unwrap()
        .into();
    let mut run = Running::start(source(&config), target);
    run.catch_up(&new).await;
    write(&new, 3000);
    run.catch_up(&new).await;
    assert_equal(&run.stop().await, &new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_read_from_as_a_primary_is() {
    let primary = cluster();
    let Some(standby) = primary.standby(&[]).unwrap() else {
        return;
    };
    let standby = Arc::new(standby);
    let config = config(&standby, &["orders"]);
    replayed(&primary, &standby).await;
    if !has(&primary, 160_000) {
        let findings = check(&config).await;
        assert!(
            findings.iter().any(|finding| finding.code == Some("PG0048")),
            "{findings:?}"
        );
        assert_eq!(refusal(&config, &Target::of(&["orders"])).await, "PG0048");
        return;
    }
    assert_eq!(check(&config).await, []);
    let primary = Arc::new(primary);
    // A slot of a standby is made when the primary says which transactions run.
    let streaming = Arc::new(AtomicBool::new(false));
    let (server, done) = (primary.clone(), streaming.clone());
    let snapshots = tokio::task::spawn_blocking(move || {
        while !done.load(Ordering::Relaxed) {
            server.psql("SELECT pg_log_standby_snapshot()").unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until(|target| !target.boundaries.is_empty()).await;
    streaming.store(true, Ordering::Relaxed);
    snapshots.await.unwrap();
    write(&primary, 1000);
    run.catch_up(&primary).await;
    let mut target = run.stop().await;
    assert_equal(&target, &primary);
    write(&primary, 2000);
    target.boundaries.clear();
    let mut run = Running::start(source(&config), target);
    run.catch_up(&primary).await;
    // It goes on when the standby becomes the primary.
    primary.stop(Shutdown::Fast).unwrap();
    standby.promote().unwrap();
    write(&standby, 3000);
    let mut target = run.target.clone();
    drop(run);
    target.boundaries.clear();
    target.crash();
    let mut run = Running::start(source(&config), target);
    run.catch_up(&standby).await;
    assert_equal(&run.stop().await, &standby);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_standbys_know_is_refused_where_there_is_no_such_thing() {
    let cluster = cluster();
    let mut config = config(&cluster, &["orders"]);
    config["failover"] = true.into();
    let codes: Vec<_> = check(&config).await.iter().filter_map(|f| f.code).collect();
    if cluster.version().unwrap() < 170_000 {
        assert_eq!(codes, ["PG0048"]);
        assert_eq!(refusal(&config, &Target::of(&["orders"])).await, "PG0048");
        return;
    }
    // There is no standby that could hold the stream back.
    assert_eq!(codes, ["PG0051"]);
    // One that is there already becomes one.
    cluster
        .psql(&format!(
            "SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"
        ))
        .unwrap();
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    run.stop().await;
    let failover = format!("SELECT failover FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
    assert_eq!(cluster.psql(&failover).unwrap(), "t");
}
