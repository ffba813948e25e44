//! Partitions that are attached while their table is read.

use millstream_core::Source;
use millstream_testkit::postgres::TestCluster;

use crate::target::{Held, Running, Target, config, present, source, table};

const PARTS: &str = "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); \
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1);";

/// A table with rows becomes a partition, and an empty partition is made.
const ATTACH: &str = "CREATE TABLE parts_2 (id int PRIMARY KEY); INSERT INTO parts_2 VALUES (11), (12); \
    ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20); \
    CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30); \
    INSERT INTO parts VALUES (2), (13), (21);";

/// What `check` says of partitions.
async fn warnings(config: &serde_json::Value) -> Vec<String> {
    let findings = source(config).preflight().await.unwrap();
    let found = findings.into_iter().filter(|one| one.code == Some("PG0053"));
    found.map(|one| one.message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_came_with_a_partition_are_told_of_and_a_backfill_brings_them() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(PARTS).unwrap();
    cluster
        .psql("CREATE PUBLICATION p FOR TABLE parts WITH (publish_via_partition_root = true)")
        .unwrap();
    let config = config(&cluster, &["parts"]);
    let mut run = Running::start(source(&config), Target::of(&["parts"]));
    run.until_streaming(&cluster).await;
    assert_eq!(warnings(&config).await, [""; 0]);
    cluster.psql(ATTACH).unwrap();
    assert_eq!(
        warnings(&config).await,
        ["partition public.parts_2 was attached with the rows that it may have had"]
    );
    run.catch_up(&cluster).await;
    assert_eq!(run.target.folded("parts", "id").len(), 4, "1, 2, 13 and 21");
    run.ask("parts", Some("tableoid = 'parts_2'::regclass")).await.unwrap();
    run.until(|target| target.folded("parts", "id").len() == 6).await;
    let target = run.stop().await;
    assert_eq!(target.folded("parts", "id"), present(&cluster, "parts", &["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_a_table_of_its_own_is_copied_when_it_is_attached() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(PARTS).unwrap();
    cluster.psql("CREATE PUBLICATION p FOR TABLE parts").unwrap();
    let mut config = config(&cluster, &["parts_*"]);
    config["governor"] = serde_json::json!({"every": "100ms"});
    let mut run = Running::start(source(&config), Target::of(&["parts_1"]));
    run.until_streaming(&cluster).await;
    cluster.psql(ATTACH).unwrap();
    run.until(|target| target.tables_changed).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    for name in ["parts_2", "parts_3"] {
        target.tables.insert(table(name), Held::default());
    }
    let mut run = Running::start(source(&config), target);
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    for name in ["parts_1", "parts_2", "parts_3"] {
        assert_eq!(target.folded(name, "id"), present(&cluster, name, &["id"]), "{name}");
    }
}
