//! Changes of columns that an event trigger tells in the log.

use millstream_core::{Severity, Source};
use millstream_testkit::postgres::TestCluster;
use serde_json::Value;

use crate::schema_changes::{HISTORY, ORDERS, after_a_pause, changes, expected, keys};
use crate::target::{Running, Target, config, source};

/// A source of `orders` that reads what the trigger tells.
fn settings(cluster: &TestCluster) -> Value {
    let mut config = config(cluster, &["orders"]);
    config["schema_changes"] = "trigger".into();
    config
}

/// Runs what `setup` prints for the trigger, as it is printed.
pub async fn install(cluster: &TestCluster) {
    let setup = source(&settings(cluster)).setup().await;
    let mut statements = setup.statements.into_iter().filter_map(|statement| statement.sql);
    let sql = statements.find(|sql| sql.contains("EVENT TRIGGER")).unwrap();
    // It may be run again.
    cluster.psql(&format!("{sql}\n{sql}")).unwrap();
}

/// Severity and code of what `check` says of the way in which columns are followed.
async fn found(config: &Value) -> Vec<(Severity, Option<&'static str>)> {
    let findings = source(config).preflight().await.unwrap();
    let ours = findings.iter().filter(|one| one.subject == "schema_changes");
    ours.map(|one| (one.severity, one.code)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_whether_the_trigger_is_there() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let config = settings(&cluster);
    let lacks = [(Severity::Info, None), (Severity::Error, Some("PG0055"))];
    assert_eq!(found(&config).await, lacks);
    install(&cluster).await;
    assert_eq!(found(&config).await, [(Severity::Info, None)]);
    cluster.psql("ALTER EVENT TRIGGER millstream_ddl DISABLE").unwrap();
    assert_eq!(found(&config).await, lacks);
    cluster
        .psql(
            "ALTER EVENT TRIGGER millstream_ddl ENABLE; CREATE OR REPLACE FUNCTION millstream.tell_ddl() \
             RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        )
        .unwrap();
    assert_eq!(found(&config).await, lacks, "of another version");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_columns_is_read_long_after_as_it_was_told() {
    let cluster = TestCluster::new().unwrap();
    install(&cluster).await;
    cluster.psql(ORDERS).unwrap();
    let config = settings(&cluster);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    for (ddl, dml, _) in HISTORY {
        cluster.psql(&format!("{ddl}; {dml}")).unwrap();
    }
    let mut run = Running::start(source(&config), target);
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(changes(&target), expected());
    assert_eq!(keys(&target), ["id", "number"]);
}

/// A key column that is dropped and another made since: which is which the catalog cannot tell later
/// (`a_key_that_is_not_certain_is_not_guessed`).
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_catalog_does_not_know_any_more_is_told() {
    let cluster = TestCluster::new().unwrap();
    install(&cluster).await;
    // What comes before the first that is told is looked up in the catalog.
    let history = "ALTER TABLE orders ALTER note SET STATISTICS 10; INSERT INTO orders VALUES ('a', 1); ALTER TABLE orders DROP id; \
        ALTER TABLE orders ADD number int NOT NULL DEFAULT 5; ALTER TABLE orders ADD PRIMARY KEY (number); \
        UPDATE orders SET note = 'b'; ALTER TABLE orders DROP CONSTRAINT orders_pkey; \
        ALTER TABLE orders ADD code int NOT NULL DEFAULT 9; ALTER TABLE orders ADD PRIMARY KEY (code); \
        UPDATE orders SET code = 10; ALTER TABLE orders DROP code; ALTER TABLE orders ADD PRIMARY KEY (number); \
        UPDATE orders SET note = 'c'";
    let mut run = after_a_pause(&cluster, &settings(&cluster), history).await;
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        changes(&target),
        [
            "c id=1 note=a",
            "u note=b number=5",
            "d code=9 note=b number=5",
            "c code=10 note=b number=5",
            "u note=c number=5",
        ]
    );
    assert_eq!(keys(&target), ["id", "number", "code", "number"]);
}

/// In a transaction that is sent before it commits, with changes that are rolled back to a savepoint.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_and_rolled_back_is_not_believed() {
    let cluster = TestCluster::with_settings(&[("logical_decoding_work_mem", "64kB")]).unwrap();
    install(&cluster).await;
    cluster.psql(ORDERS).unwrap();
    let config = settings(&cluster);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let big = "INSERT INTO orders SELECT i, i, repeat('x', 100) FROM generate_series(1, 3000) i";
    cluster
        .psql(&format!(
            "BEGIN; {big}; SAVEPOINT s; ALTER TABLE orders RENAME id TO gone; ROLLBACK TO s; \
             ALTER TABLE orders DROP amount; ALTER TABLE orders RENAME id TO number; \
             UPDATE orders SET number = -1 WHERE number = 1; COMMIT; DELETE FROM orders WHERE number > 2"
        ))
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let found = changes(&target);
    assert_eq!(found.len(), 3000 + 2 + 2998);
    assert!(
        found[3000].starts_with("d note=xx") && found[3000].ends_with("number=1"),
        "{}",
        found[3000]
    );
    assert!(found[3001].ends_with("number=-1"), "{}", found[3001]);
    assert_eq!(keys(&target), ["id", "number"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_a_table_can_whatever_becomes_of_the_trigger() {
    let cluster = TestCluster::new().unwrap();
    install(&cluster).await;
    cluster
        .psql(
            "CREATE ROLE dev LOGIN; CREATE SCHEMA dev AUTHORIZATION dev; REVOKE ALL ON SCHEMA public FROM PUBLIC; \
             GRANT CREATE ON DATABASE postgres TO dev",
        )
        .unwrap();
    let change = "SET ROLE dev; CREATE TABLE dev.t (id int PRIMARY KEY); ALTER TABLE dev.t ADD n int; \
        CREATE TEMP TABLE x (id int); CREATE INDEX ON dev.t (n); ALTER TABLE dev.t RENAME n TO m; \
        CREATE TABLE dev.p (id int) PARTITION BY RANGE (id); CREATE TABLE dev.p1 PARTITION OF dev.p DEFAULT; \
        ALTER TABLE dev.p ADD n int; ALTER SCHEMA dev RENAME TO dev2; ALTER SCHEMA dev2 RENAME TO dev; \
        DROP TABLE dev.t, dev.p";
    cluster.psql(change).unwrap();
    // What the function needs is gone: a warning is all there is.
    cluster
        .psql(
            "CREATE FUNCTION dev.pg_event_trigger_ddl_commands() RETURNS TABLE (classid oid, objid oid) \
             LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$; \
             ALTER FUNCTION millstream.tell_ddl() SET search_path = dev, pg_catalog",
        )
        .unwrap();
    cluster.psql(change).unwrap();
}
