//! The governor against a real server, by the gauges that it sets.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use millstream_testkit::postgres::TestCluster;

use super::*;
use crate::config::PostgresConfig;
use crate::wire::ConnectOptions;

/// Gauges by name and labels other than `source`.
#[derive(Default)]
struct Shown(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Shown {
    fn of(&self, name: &str) -> f64 {
        let gauges = self.0.lock().unwrap();
        let gauge = &gauges[&format!("millstream_postgres_{name}")];
        f64::from_bits(gauge.load(Ordering::Relaxed))
    }
}

impl Recorder for Shown {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let labels = key.labels().filter(|label| label.key() != "source");
        let name = labels.fold(key.name().to_owned(), |name, label| format!("{name}/{}", label.value()));
        let gauge = self.0.lock().unwrap().entry(name).or_default().clone();
        Gauge::from_arc(gauge)
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn governor(url: &str, more: serde_json::Value) -> (Governor, Shown) {
    let mut config = serde_json::json!({"url": url, "publication": "p", "tables": ["t"], "slot": "watched"});
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let config: PostgresConfig = serde_json::from_value(config).unwrap();
    let settings = Settings::read("p", "s", &config).unwrap();
    let shown = Shown::default();
    let governor = metrics::with_local_recorder(&shown, || Governor::new(Arc::new(settings), "s"));
    (governor, shown)
}

fn with_slot() -> TestCluster {
    let cluster = TestCluster::with_settings(&[("max_prepared_transactions", "4")]).unwrap();
    cluster
        .psql("SELECT pg_create_logical_replication_slot('watched', 'pgoutput'); CREATE TABLE t (id int)")
        .unwrap();
    cluster
}

/// A role that may do no more than log in.
fn stranger(cluster: &TestCluster) -> String {
    cluster.psql("CREATE ROLE stranger LOGIN PASSWORD 's'").unwrap();
    cluster.url_as("stranger", "s", "postgres")
}

#[tokio::test]
async fn what_the_slot_holds_back_and_why_is_shown() {
    let cluster = with_slot();
    let (mut governor, shown) = governor(&cluster.url(), serde_json::json!({}));
    cluster
        .psql(
            "INSERT INTO t SELECT generate_series(1, 20000); BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x'",
        )
        .unwrap();
    let mut open = Connection::open(&governor.settings.connect, Session::Sql)
        .await
        .unwrap();
    open.query("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    cluster.psql("INSERT INTO t VALUES (3)").unwrap();
    governor.look().await;
    assert_eq!(shown.of("governor_up"), 1.0);
    for bytes in ["retained_wal_bytes", "unconfirmed_wal_bytes"] {
        assert!(shown.of(bytes) > 1e6, "{bytes}: {}", shown.of(bytes));
    }
    assert!(shown.of("retained_wal_bytes") >= shown.of("unconfirmed_wal_bytes"));
    assert_eq!(shown.of("safe_wal_bytes"), f64::INFINITY);
    assert_eq!(shown.of("slot_wal_status/reserved"), 1.0);
    assert_eq!(shown.of("slot_wal_status/lost"), 0.0);
    assert!(shown.of("oldest_transaction_xids") >= 2.0);
    assert!(shown.of("oldest_transaction_seconds") > 0.0);
    assert!(shown.of("oldest_prepared_xids") >= 3.0);
    assert!(shown.of("oldest_prepared_seconds") > 0.0);
    assert!(shown.of("slot_catalog_xmin_xids") >= 3.0);
    open.query("COMMIT").await.unwrap();
    cluster
        .psql("COMMIT PREPARED 'x'; SELECT pg_drop_replication_slot('watched')")
        .unwrap();
    governor.look().await;
    assert_eq!(shown.of("retained_wal_bytes"), 0.0);
    assert_eq!(shown.of("slot_wal_status/reserved"), 0.0, "there is no slot");
    assert_eq!(shown.of("oldest_prepared_seconds"), 0.0);
}

#[tokio::test]
async fn a_role_that_may_do_nothing_sees_all_but_the_age_of_others() {
    let cluster = with_slot();
    let (mut governor, shown) = governor(&stranger(&cluster), serde_json::json!({}));
    let options = ConnectOptions::parse(&cluster.url()).unwrap();
    let mut open = Connection::open(&options, Session::Sql).await.unwrap();
    open.query("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    cluster.psql("INSERT INTO t SELECT generate_series(1, 100)").unwrap();
    governor.look().await;
    assert!(shown.of("retained_wal_bytes") > 0.0);
    assert!(shown.of("oldest_transaction_xids") >= 1.0);
    assert!(shown.of("oldest_transaction_seconds").is_nan());
}

#[tokio::test]
async fn a_lost_slot_shows_its_reason() {
    let cluster = TestCluster::with_settings(&[
        ("max_slot_wal_keep_size", "1MB"),
        ("max_wal_size", "32MB"),
        ("min_wal_size", "32MB"),
        ("wal_keep_size", "0"),
    ])
    .unwrap();
    // From version 17 on a slot may be one that standbys keep a copy of.
    let says = cluster.major().unwrap() >= 17;
    let more = if says { ", failover => true" } else { "" };
    cluster
        .psql(&format!(
            "SELECT pg_create_logical_replication_slot('watched', 'pgoutput'{more})"
        ))
        .unwrap();
    let (mut governor, shown) = governor(&cluster.url(), serde_json::json!({}));
    governor.look().await;
    assert_eq!(shown.of("slot_failover"), f64::from(u8::from(says)));
    assert_eq!(shown.of("slot_synced"), 0.0);
    assert_eq!(shown.of("slot_inactive_seconds") > 0.0, says);
    let safe = shown.of("safe_wal_bytes");
    assert!(safe.is_finite() && safe > 0.0, "{safe}");
    for _ in 0..4 {
        cluster
            .psql("SELECT pg_switch_wal(); CREATE TABLE x (); DROP TABLE x; CHECKPOINT")
            .unwrap();
    }
    governor.look().await;
    assert_eq!(shown.of("slot_wal_status/lost"), 1.0);
    // Before version 17 the server does not say why.
    assert_eq!(shown.of("slot_invalidated/wal_removed"), f64::from(u8::from(says)));
    assert_eq!(shown.of("slot_invalidated/idle_timeout"), 0.0);
}

#[tokio::test]
async fn a_budget_is_watched_over_a_restart_of_the_server() {
    use millstream_testkit::postgres::Shutdown;

    let cluster = with_slot();
    let budget = serde_json::json!({"wal_budget": {"time": "50ms"}});
    let (mut governor, shown) = governor(&cluster.url(), budget);
    cluster
        .psql("SET synchronous_commit = on; INSERT INTO t SELECT generate_series(1, 100)")
        .unwrap();
    governor.look().await;
    assert_eq!(shown.of("wal_over_budget"), 0.0);
    tokio::time::sleep(Duration::from_millis(60)).await;
    governor.look().await;
    assert_eq!(shown.of("wal_over_budget"), 1.0);
    assert!(shown.of("unconfirmed_seconds") > 0.05);
    cluster.stop(Shutdown::Fast).unwrap();
    governor.look().await;
    assert_eq!(shown.of("governor_up"), 0.0);
    cluster.start().unwrap();
    cluster
        .psql("SELECT pg_replication_slot_advance('watched', pg_current_wal_lsn())")
        .unwrap();
    governor.look().await;
    assert_eq!((shown.of("governor_up"), shown.of("wal_over_budget")), (1.0, 0.0));
}

#[tokio::test]
async fn a_heartbeat_reaches_the_disk_and_needs_no_privilege() {
    let cluster = with_slot();
    let (mut governor, _shown) = governor(&stranger(&cluster), serde_json::json!({"heartbeat": {"every": "30s"}}));
    let flushed = || cluster.psql("SELECT pg_current_wal_flush_lsn()").unwrap();
    cluster.psql("CHECKPOINT").unwrap();
    let before = flushed();
    governor.beat().await;
    // The test's server commits asynchronously: its WAL writer comes a moment later.
    let written = timeout(Duration::from_secs(20), async {
        while flushed() == before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    written.await.expect("the log moves on");
}
