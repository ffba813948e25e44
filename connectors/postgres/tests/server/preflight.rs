//! Every problem is found at once, and its statement mends it.

use std::io::{Read, Write};

use millstream_core::{ErrorKind, Finding, Severity, Source};
use millstream_postgres::wire::{ConnectOptions, Connection, Session};
use millstream_testkit::postgres::{Shutdown, TestCluster};

use crate::target::{Running, Target, check, config, eventually, source};

async fn look(config: &serde_json::Value) -> Vec<Finding> {
    check(config).await
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
    let found = look(&config(&cluster, &["t"])).await;
    assert_eq!(codes(&found), ["PG0022"]);
    // From version 17 on the server says why.
    let says = cluster.major().unwrap() >= 17;
    assert_eq!(found[0].message.contains("wal_removed"), says, "{}", found[0].message);
    let target = crate::target::Target::of(&["t"]);
    let failure = crate::target::Running::start(source(&config(&cluster, &["t"])), target)
        .failure()
        .await;
    assert_eq!(failure.error_code(), Some("PG0022"), "{}", failure.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_are_taken_are_found_before_and_at_the_start() {
    let cluster = TestCluster::with_settings(&[("max_wal_senders", "1")]).unwrap();
    cluster
        .psql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        .unwrap();
    let config = config(&cluster, &["t"]);
    let options = ConnectOptions::parse(&cluster.url()).unwrap();
    let taken = Connection::open(&options, Session::Replication).await.unwrap();
    let findings = look(&config).await;
    assert_eq!(codes(&findings), ["PG0019"]);
    assert!(
        findings[0].sql.as_ref().unwrap().contains("max_wal_senders"),
        "{findings:?}"
    );
    let failure = Running::start(source(&config), Target::of(&["t"])).failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::Unavailable, Some("PG0019")),
        "{}",
        failure.summary()
    );
    taken.close().await;
    let senders = "SELECT count(*) FROM pg_stat_replication";
    eventually("the sender is free", || cluster.psql(senders).unwrap() == "0").await;
    assert_eq!(look(&config).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_slot_is_a_warning() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        .unwrap();
    let config = config(&cluster, &["t"]);
    let mut run = Running::start(source(&config), Target::of(&["t"]));
    run.until_streaming(&cluster).await;
    let findings = look(&config).await;
    assert_eq!(codes(&findings), ["PG0020"]);
    assert_eq!(findings[0].severity, Severity::Warning);
    cluster.psql(findings[0].sql.as_ref().unwrap()).unwrap();
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_replication_is_told_so_by_a_run_too() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t; \
             CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT SELECT ON t TO reader",
        )
        .unwrap();
    let mut config = config(&cluster, &["t"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    assert_eq!(codes(&look(&config).await), ["PG0012"]);
    let failure = Running::start(source(&config), Target::of(&["t"])).failure().await;
    assert_eq!(failure.error_code(), Some("PG0012"), "{}", failure.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_what_identifies_a_row() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); \
             CREATE TABLE covered (note text, id int, PRIMARY KEY (id) INCLUDE (note)); \
             CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    // PostgreSQL would refuse an UPDATE on it.
    let late = look(&config(&cluster, &["late"])).await;
    assert_eq!(codes(&late), ["PG0018"]);
    assert!(
        cluster
            .psql("INSERT INTO late VALUES (1); UPDATE late SET id = 2")
            .is_err()
    );
    let covered = config(&cluster, &["covered"]);
    assert_eq!(look(&covered).await, []);
    assert_eq!(source(&covered).tables().await.unwrap()[0].key, ["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // AuthenticationOk, ParameterStatus, ReadyForQuery.
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        socket.read_exact(&mut length).unwrap();
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        socket.read_exact(&mut rest).unwrap();
        let greeting = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0013.9\0Z\0\0\0\x05I";
        socket.write_all(greeting).unwrap();
        // Until it hangs up.
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let url = format!("postgres://me@127.0.0.1:{port}/shop?sslmode=disable");
    let config = serde_json::json!({"url": url, "publication": "p", "tables": ["t"]});
    let findings = look(&config).await;
    assert_eq!(codes(&findings), ["PG0010"]);
    assert!(findings[0].message.contains("13.9"), "{findings:?}");
    server.join().unwrap();
}

/// Statements name a table as the database does, and not as the pipeline.
#[tokio::test(flavor = "multi_thread")]
async fn what_mends_a_renamed_table_has_its_present_name() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE ROLE reader LOGIN REPLICATION PASSWORD 'r'; CREATE SCHEMA sales; \
             CREATE TABLE sales.orders_v2 (id int PRIMARY KEY, note text); CREATE TABLE lines (id int PRIMARY KEY)",
        )
        .unwrap();
    let mut config = config(&cluster, &["orders", "lines", "nowhere"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    config["renamed"] = serde_json::json!({"orders": "sales.orders_v2", "lines": "sales.lines_v2"});
    let findings = look(&config).await;
    let create =
        "CREATE PUBLICATION \"p\" FOR TABLE \"sales\".\"orders_v2\", \"public\".\"lines\", \"public\".\"nowhere\";";
    let said = |sql: &str| findings.iter().any(|finding| finding.sql.as_deref() == Some(sql));
    assert!(said(create), "{findings:?}");
    assert!(said("GRANT USAGE ON SCHEMA \"sales\" TO \"reader\";"), "{findings:?}");
    let missing = findings.iter().find(|finding| finding.code == Some("PG0017")).unwrap();
    assert!(missing.hint.as_deref().unwrap().contains("`renamed`"));

    if !cluster.has("column lists", 15).unwrap() {
        return;
    }
    config["tables"] = serde_json::json!(["orders", "lines"]);
    cluster
        .psql("CREATE PUBLICATION p FOR TABLE sales.orders_v2 (note), lines")
        .unwrap();
    let findings = look(&config).await;
    assert_eq!(codes(&findings), ["PG0013", "PG0013", "PG0013", "PG0063"]);
    for sql in findings.iter().filter_map(|finding| finding.sql.as_ref()) {
        cluster.psql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    // What the list has now and had not before is granted by the next look.
    let left = look(&config).await;
    assert_eq!(codes(&left), ["PG0013"]);
    cluster.psql(left[0].sql.as_ref().unwrap()).unwrap();
    assert!(codes(&look(&config).await).is_empty());
}
