//! Columns that change between changes, read at once and long after.

use millstream_core::{ErrorKind, Severity, Source};
use millstream_testkit::change_log::Cells;
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, source};

/// Each statement that changes columns, with one that changes a row behind it, and what that
/// change is. The whole row is the identity, so that the stream does not tell the key.
pub const HISTORY: [(&str, &str, &str); 10] = [
    ("", "INSERT INTO orders VALUES (1, 10, 'a')", "c id=1 amount=10 note=a"),
    (
        "ALTER TABLE orders ADD more int DEFAULT 7",
        "INSERT INTO orders VALUES (2, 20, 'b')",
        "c id=2 amount=20 note=b more=7",
    ),
    (
        "ALTER TABLE orders RENAME amount TO total",
        "UPDATE orders SET total = 21 WHERE id = 2",
        "u id=2 total=21 note=b more=7",
    ),
    (
        "ALTER TABLE orders RENAME id TO number",
        "UPDATE orders SET total = 11 WHERE number = 1",
        "u number=1 total=11 note=a more=7",
    ),
    (
        "ALTER TABLE orders ALTER total TYPE bigint",
        "UPDATE orders SET total = 5000000000 WHERE number = 1",
        "u number=1 total=5000000000 note=a more=7",
    ),
    (
        "ALTER TABLE orders ALTER note SET NOT NULL, ALTER note SET DEFAULT 'z'",
        "INSERT INTO orders (number) VALUES (3)",
        "c number=3 note=z more=7",
    ),
    (
        "ALTER TABLE orders DROP more",
        "DELETE FROM orders WHERE number = 2",
        "d number=2 total=21 note=b",
    ),
    (
        "ALTER TABLE orders DROP total, ADD total text",
        "INSERT INTO orders VALUES (4, 'n', 't')",
        "c number=4 note=n total=t",
    ),
    (
        "BEGIN; ALTER TABLE orders RENAME note TO x; ALTER TABLE orders RENAME total TO note; \
         ALTER TABLE orders RENAME x TO total; COMMIT",
        "UPDATE orders SET note = 'new' WHERE number = 4",
        "u number=4 total=n note=new",
    ),
    (
        "BEGIN; ALTER TABLE orders ADD gone int; INSERT INTO orders VALUES (9, 'x', 'x', 9); ROLLBACK; \
         ALTER TABLE orders ADD stays int",
        "INSERT INTO orders VALUES (5, 'p', 'q', 1)",
        "c number=5 total=p note=q stays=1",
    ),
];

pub const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, amount int, note text); \
    ALTER TABLE orders REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR ALL TABLES;";

/// The changes of `orders` as [`HISTORY`] writes them.
pub fn changes(target: &Target) -> Vec<String> {
    let written = |(op, cells, unchanged): (String, Cells, Vec<String>)| {
        assert!(unchanged.is_empty());
        let cells: Vec<String> = cells.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (op, cells)
    };
    let sorted = |(op, mut cells): (String, Vec<String>)| {
        cells.sort();
        format!("{op} {}", cells.join(" "))
    };
    target.changes("orders").into_iter().map(written).map(sorted).collect()
}

pub fn expected() -> Vec<String> {
    let sorted = |change: &str| {
        let (op, cells) = change.split_once(' ').unwrap();
        let mut cells: Vec<&str> = cells.split(' ').collect();
        cells.sort_unstable();
        format!("{op} {}", cells.join(" "))
    };
    HISTORY.iter().map(|(_, _, change)| sorted(change)).collect()
}

/// The keys that the table had, one after the other.
pub fn keys(target: &Target) -> Vec<String> {
    let mut keys: Vec<String> = target.batches.iter().map(|(schema, _)| schema.key.join(",")).collect();
    keys.dedup();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_columns_is_read_in_order_while_the_source_runs() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    for (ddl, dml, _) in HISTORY {
        cluster.psql(&format!("{ddl}; {dml}")).unwrap();
        run.catch_up(&cluster).await;
    }
    let target = run.stop().await;
    assert_eq!(changes(&target), expected());
    assert_eq!(keys(&target), ["id", "number"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_columns_is_read_in_order_long_after() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let config = config(&cluster, &["orders"]);
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

/// What a source finds in a history that was written while it was stopped.
pub async fn after_a_pause(cluster: &TestCluster, config: &serde_json::Value, history: &str) -> Running {
    cluster
        .psql(
            "CREATE TABLE orders (note text, id int PRIMARY KEY); ALTER TABLE orders REPLICA IDENTITY FULL; \
             CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let mut run = Running::start(source(config), Target::of(&["orders"]));
    run.until_streaming(cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    cluster.psql(history).unwrap();
    Running::start(source(config), target)
}

/// The last column is renamed, which by its place may as well be another one.
const RENAMED_KEY: &str = "INSERT INTO orders VALUES ('a', 1); ALTER TABLE orders RENAME id TO number; \
    UPDATE orders SET number = 2; ALTER TABLE orders RENAME number TO code; UPDATE orders SET note = 'b'";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_renamed_is_known_by_its_number() {
    let cluster = TestCluster::new().unwrap();
    let config = config(&cluster, &["orders"]);
    let mut run = after_a_pause(&cluster, &config, RENAMED_KEY).await;
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    // A change of key is a delete and a create, which only who knows the key can tell.
    let found = changes(&target);
    assert_eq!(
        found,
        [
            "c id=1 note=a",
            "d note=a number=1",
            "c note=a number=2",
            "u code=2 note=b"
        ]
    );
    assert_eq!(keys(&target), ["id", "number", "code"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_alone_does_not_tell_a_renamed_key() {
    let cluster = TestCluster::new().unwrap();
    let mut config = config(&cluster, &["orders"]);
    config["schema_changes"] = "stream".into();
    let failure = after_a_pause(&cluster, &config, RENAMED_KEY).await.failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::SchemaChange, Some("PG0033")),
        "{}",
        failure.summary()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_how_changes_of_columns_are_followed() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let mut config = config(&cluster, &["orders"]);
    for mode in ["catalog", "stream"] {
        config["schema_changes"] = mode.into();
        let findings = source(&config).preflight().await.unwrap();
        let found: Vec<_> = findings
            .iter()
            .map(|one| (one.severity, one.subject.as_str()))
            .collect();
        assert_eq!(found, [(Severity::Info, "schema_changes")]);
        assert!(findings[0].message.starts_with(&format!("`{mode}`: ")), "{findings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_certain_is_not_guessed() {
    let cluster = TestCluster::new().unwrap();
    let config = config(&cluster, &["orders"]);
    let history = "INSERT INTO orders VALUES ('a', 1); ALTER TABLE orders DROP id; \
        ALTER TABLE orders ADD number int NOT NULL DEFAULT 5; ALTER TABLE orders ADD PRIMARY KEY (number); \
        UPDATE orders SET note = 'b'";
    let failure = after_a_pause(&cluster, &config, history).await.failure().await;
    assert_eq!(failure.error_code(), Some("PG0033"), "{}", failure.summary());
    assert!(failure.hint_text().is_some());
}
