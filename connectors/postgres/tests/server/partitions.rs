//! Partitions that are attached while their table is read.

use millstream_testkit::postgres::TestCluster;

use crate::target::{Held, Running, Target, config, present, source, table};

const PARTS: &str = "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); \
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1);";

/// A table with rows becomes a partition, and an empty partition is made.
const ATTACH: &str = "CREATE TABLE parts_2 (id int PRIMARY KEY); INSERT INTO parts_2 VALUES (11), (12); \
    ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20); \
    CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30); \
    INSERT INTO parts VALUES (2), (13), (21);";

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
