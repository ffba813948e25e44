//! Changes of columns that an event trigger tells in the log.

use millstream_core::{Severity, Source};
use millstream_testkit::postgres::TestCluster;
use serde_json::Value;

use crate::schema_changes::{HISTORY, ORDERS, after_a_pause, changes, expected, keys};
use crate::target::{Running, Target, client, config, source};

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
    cluster.psql("ALTER EVENT TRIGGER millstream_ddl ENABLE").unwrap();
    assert_eq!(found(&config).await, lacks, "not for those who replicate");
    cluster
        .psql("ALTER EVENT TRIGGER millstream_ddl ENABLE ALWAYS")
        .unwrap();
    assert_eq!(found(&config).await, [(Severity::Info, None)]);
    cluster
        .psql(
            "CREATE OR REPLACE FUNCTION millstream.tell_ddl() \
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

/// Each row follows its description at once, in one transaction, and the catalog has yet another key
/// by the time that they are read.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_within_a_transaction_is_told_before_its_rows() {
    let cluster = TestCluster::new().unwrap();
    install(&cluster).await;
    let key = |column: &str, row: &str| {
        format!(
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ADD PRIMARY KEY ({column}); \
             INSERT INTO orders VALUES {row}"
        )
    };
    let history = format!(
        "ALTER TABLE orders ADD n int, ADD m int; INSERT INTO orders VALUES ('a', 1, 1, 1); \
         BEGIN; {}; {}; COMMIT; BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; INSERT INTO orders VALUES ('e', 5, 5, 5); COMMIT; \
         BEGIN ISOLATION LEVEL REPEATABLE READ; ALTER TABLE orders ADD later int; INSERT INTO orders VALUES ('g', 7, 7, 7); \
         COMMIT; ANALYZE orders; INSERT INTO orders VALUES ('h', 8, 8, 8); \
         ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ADD PRIMARY KEY (id)",
        key("n", "('b', 2, 2, 2)"),
        key("m", "('c', 3, 3, 3)"),
        key("note", "('d', 4, 4, 4)"),
        key("id", "('f', 6, 6, 6)"),
    );
    let mut run = after_a_pause(&cluster, &settings(&cluster), &history).await;
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let notes: Vec<char> = changes(&target)
        .iter()
        .map(|change| change.rsplit_once("note=").unwrap().1.chars().next().unwrap())
        .collect();
    assert_eq!(notes, ['a', 'b', 'c', 'd', 'e', 'g', 'h']);
    // The last is told only that something changed, and that is what the catalog says of it.
    assert_eq!(keys(&target)[..4], ["id", "n", "m", "note"]);
}

/// In a transaction that the server could send before it commits, with changes that are rolled back to a
/// savepoint after they were decoded.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_and_rolled_back_is_not_believed() {
    let cluster = TestCluster::with_settings(&[("logical_decoding_work_mem", "64kB")]).unwrap();
    install(&cluster).await;
    cluster.psql(ORDERS).unwrap();
    let config = settings(&cluster);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let client = client(&cluster).await;
    let fill = |from: u32| {
        format!("INSERT INTO orders SELECT i, i, repeat('x', 100) FROM generate_series({from}, {from} + 2999) i")
    };
    let said = format!(
        "BEGIN; {}; SAVEPOINT s; ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ADD PRIMARY KEY (amount); {}",
        fill(1),
        fill(3001)
    );
    client.batch_execute(&said).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    client
        .batch_execute(
            "ROLLBACK TO s; INSERT INTO orders VALUES (-5, 7, 'still'); ALTER TABLE orders DROP amount; \
             ALTER TABLE orders RENAME id TO number; UPDATE orders SET number = -1 WHERE number = 1; COMMIT; \
             DELETE FROM orders WHERE number > 2",
        )
        .await
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let found = changes(&target);
    assert_eq!(found.len(), 3001 + 2 + 2998);
    assert!(
        found[3001].starts_with("d note=xx") && found[3001].ends_with("number=1"),
        "{}",
        found[3001]
    );
    assert!(found[3002].ends_with("number=-1"), "{}", found[3002]);
    assert_eq!(keys(&target), ["id", "number"]);
}

/// A transaction that described the table before another one changed it, and commits later.
#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_was_overtaken_does_not_count() {
    let cluster = TestCluster::new().unwrap();
    install(&cluster).await;
    cluster
        .psql(&format!(
            "{ORDERS} CREATE INDEX amounts ON orders (amount); ALTER TABLE orders ALTER note SET STATISTICS 10"
        ))
        .unwrap();
    let config = settings(&cluster);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    let client = client(&cluster).await;
    client
        .batch_execute("BEGIN; ALTER INDEX amounts RENAME TO sums")
        .await
        .unwrap();
    cluster
        .psql(
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ADD PRIMARY KEY (amount); \
             INSERT INTO orders VALUES (1, 2, 'a')",
        )
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    cluster
        .psql(
            "ANALYZE orders; INSERT INTO orders VALUES (1, 3, 'b'); ALTER TABLE orders DROP CONSTRAINT orders_pkey; \
             ALTER TABLE orders ADD PRIMARY KEY (note)",
        )
        .unwrap();
    let mut run = Running::start(source(&config), target);
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(changes(&target).len(), 2);
    assert_eq!(keys(&target), ["amount"]);
}

/// Columns go with a type that they have, and a key with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_dropped_with_something_else_is_missed() {
    let cluster = TestCluster::new().unwrap();
    install(&cluster).await;
    cluster
        .psql(
            "CREATE TYPE mood AS ENUM ('fine'); CREATE TABLE orders (id int, m mood, note text, PRIMARY KEY (id, m)); \
             ALTER TABLE orders REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let mut run = Running::start(source(&settings(&cluster)), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    cluster
        .psql(
            "ALTER TABLE orders ALTER note SET STATISTICS 10; INSERT INTO orders VALUES (1, 'fine', 'a'); \
             DROP TYPE mood CASCADE; INSERT INTO orders VALUES (1, 'b')",
        )
        .unwrap();
    let failure = run.try_catch_up(&cluster).await.unwrap_err();
    assert_eq!(failure.error_code(), Some("PG0033"), "{}", failure.summary());
}

/// Who may make schemas in the database made ours, before a superuser ran what is printed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_leaves_nobody_else_a_hold_on_it() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    cluster
        .psql("CREATE ROLE mallory; GRANT CREATE ON DATABASE postgres TO mallory")
        .unwrap();
    cluster
        .psql(
            "SET ROLE mallory; CREATE SCHEMA millstream; CREATE FUNCTION millstream.tell_ddl() RETURNS event_trigger \
             LANGUAGE plpgsql AS 'BEGIN END'",
        )
        .unwrap();
    install(&cluster).await;
    let config = settings(&cluster);
    assert_eq!(found(&config).await, [(Severity::Info, None)]);
    for theft in [
        "CREATE OR REPLACE FUNCTION millstream.tell_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "DROP FUNCTION millstream.tell_ddl() CASCADE",
        "ALTER SCHEMA millstream RENAME TO mine",
    ] {
        let refused = cluster
            .psql(&format!("SET ROLE mallory; {theft}"))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("must be owner") || refused.contains("permission denied"),
            "{refused}"
        );
    }
    cluster
        .psql("ALTER FUNCTION millstream.tell_ddl() OWNER TO mallory")
        .unwrap();
    assert_eq!(
        found(&config).await,
        [(Severity::Info, None), (Severity::Error, Some("PG0055"))]
    );
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
