//! Every problem is found at once, and its statement mends it.

use millstream_core::{Finding, Severity, Source};
use millstream_testkit::postgres::{Shutdown, TestCluster};

use crate::target::{config, source};

async fn look(config: &serde_json::Value) -> Vec<Finding> {
    source(config).preflight().await.unwrap()
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    let mut codes: Vec<_> = findings.iter().filter_map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn all_problems_are_found_at_once_and_their_sql_mends_them() {
    let cluster = TestCluster::with_settings(&[("wal_level", "replica")]).unwrap();
    cluster
        .psql(
            "CREATE ROLE reader LOGIN PASSWORD 'r'; CREATE SCHEMA sales; \
             CREATE TABLE sales.orders (id int PRIMARY KEY); CREATE TABLE keyless (a int); \
             CREATE TABLE uncovered (id int PRIMARY KEY, __op text); \
             CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); \
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);",
        )
        .unwrap();
    let mut config = config(&cluster, &["sales.orders", "keyless", "uncovered", "parts", "nowhere"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    let findings = look(&config).await;
    assert_eq!(
        codes(&findings),
        [
            "PG0011", "PG0012", "PG0013", "PG0013", "PG0013", "PG0013", "PG0013", "PG0014", "PG0017", "PG0030"
        ]
    );
    let before = cluster.psql("SELECT count(*) FROM pg_replication_slots").unwrap();
    assert_eq!(before, "0", "a preflight has no side effects");
    cluster
        .psql(
            "CREATE PUBLICATION p FOR TABLE sales.orders, keyless, parts WITH (publish = 'insert, update'); \
               ALTER TABLE uncovered RENAME __op TO op",
        )
        .unwrap();
    for finding in findings.iter().filter(|finding| finding.code != Some("PG0014")) {
        if let Some(sql) = &finding.sql {
            cluster.psql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
    cluster
        .psql("ALTER SYSTEM RESET wal_level; ALTER SYSTEM SET wal_level = 'logical'")
        .unwrap();
    cluster.restart(Shutdown::Fast).unwrap();
    let findings = look(&config).await;
    assert_eq!(codes(&findings), ["PG0015", "PG0016", "PG0017", "PG0018", "PG0023"]);
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    assert_eq!(
        warnings.filter_map(|finding| finding.code).collect::<Vec<_>>(),
        ["PG0016"]
    );
    for finding in &findings {
        if let Some(sql) = &finding.sql {
            cluster.psql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
    config["tables"] = serde_json::json!(["sales.orders", "keyless", "uncovered", "parts"]);
    assert_eq!(look(&config).await, []);
    assert_eq!(source(&config).tables().await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_and_senders_are_looked_at() {
    let cluster = TestCluster::with_settings(&[("max_replication_slots", "1")]).unwrap();
    cluster
        .psql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t; CREATE DATABASE other")
        .unwrap();
    let config = config(&cluster, &["t"]);
    let physical = "SELECT pg_create_physical_replication_slot";
    cluster.psql(&format!("{physical}('someone')")).unwrap();
    assert_eq!(codes(&look(&config).await), ["PG0019"]);
    cluster
        .psql(&format!(
            "SELECT pg_drop_replication_slot('someone'); {physical}('millstream_t_shop')"
        ))
        .unwrap();
    assert_eq!(codes(&look(&config).await), ["PG0021"]);
    cluster
        .psql("SELECT pg_drop_replication_slot('millstream_t_shop')")
        .unwrap();
    let logical = "SELECT pg_create_logical_replication_slot('millstream_t_shop', 'pgoutput')";
    cluster.psql_in("other", logical).unwrap();
    let findings = look(&config).await;
    assert_eq!(codes(&findings), ["PG0021"]);
    cluster.psql_in("other", findings[0].sql.as_ref().unwrap()).unwrap();
    cluster.psql(logical).unwrap();
    assert_eq!(look(&config).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_log_was_removed_is_lost() {
    let cluster = TestCluster::with_settings(&[
        ("max_slot_wal_keep_size", "1MB"),
        ("max_wal_size", "32MB"),
        ("min_wal_size", "32MB"),
        ("wal_keep_size", "0"),
    ])
    .unwrap();
    cluster
        .psql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        .unwrap();
    cluster
        .psql("SELECT pg_create_logical_replication_slot('millstream_t_shop', 'pgoutput')")
        .unwrap();
    for _ in 0..4 {
        cluster
            .psql("SELECT pg_switch_wal(); CREATE TABLE x (); DROP TABLE x; CHECKPOINT")
            .unwrap();
    }
    assert_eq!(codes(&look(&config(&cluster, &["t"])).await), ["PG0022"]);
    let target = crate::target::Target::of(&["t"]);
    let failure = crate::target::Running::start(source(&config(&cluster, &["t"])), target)
        .failure()
        .await;
    assert_eq!(failure.error_code(), Some("PG0022"), "{}", failure.summary());
}
