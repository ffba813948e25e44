//! Partitions that are attached with rows of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream_core::Position;
use millstream_testkit::postgres::TestCluster;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::target::{Held, Running, Target, check, config, eventually, present, source, table};

const PARTS: &str = "CREATE TABLE parts (id int PRIMARY KEY, note text) PARTITION BY RANGE (id); \
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1, 'first');";

/// A table with rows becomes a partition.
const ATTACH: &str = "CREATE TABLE parts_2 (id int PRIMARY KEY, note text); INSERT INTO parts_2 VALUES (11, 'a'), (12, 'b'); \
    ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20);";

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(PARTS).unwrap();
    cluster
        .psql("CREATE PUBLICATION p FOR TABLE parts WITH (publish_via_partition_root = true)")
        .unwrap();
    cluster
}

fn settings(cluster: &TestCluster) -> Value {
    let mut config = config(cluster, &["parts"]);
    config["governor"] = json!({"every": "50ms"});
    config
}

async fn streaming(cluster: &TestCluster, config: &Value) -> Running {
    let mut run = Running::start(source(config), Target::of(&["parts"]));
    run.until_streaming(cluster).await;
    run
}

async fn until_equal(run: &mut Running, cluster: &TestCluster) {
    let expected = present(cluster, "parts", &["id", "note"]);
    run.until(|target| target.folded("parts", "id") == expected).await;
}

/// Has changes told until the target remembers that it is owed copies of so many partitions.
async fn until_owed(run: &mut Running, cluster: &TestCluster, partitions: usize) {
    let owed = |target: &Target| {
        let held = &target.tables[&table("parts")].checkpoint;
        let told = held
            .iter()
            .find(|(partition, _)| partition.within_source() == "attached/public.parts");
        told.map_or(0, |(_, position)| match position {
            Position::Token { token, .. } => token.split(';').next().unwrap().matches('@').count(),
            other => panic!("{other:?}"),
        })
    };
    for id in 2..10 {
        cluster.psql(&format!("INSERT INTO parts VALUES ({id}, 'n')")).unwrap();
        run.catch_up(cluster).await;
        if owed(&run.target) == partitions {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{} are owed", owed(&run.target));
}

/// How many rows came by copies.
fn copied(target: &Target) -> usize {
    let rows = &target.tables[&table("parts")].rows;
    rows.iter().filter(|row| row.op == "r").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_came_with_a_partition_are_copied_and_no_others() {
    let cluster = cluster();
    let mut run = streaming(&cluster, &settings(&cluster)).await;
    assert_eq!(copied(&run.target), 1);
    cluster.psql(ATTACH).unwrap();
    cluster
        .psql(
            "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30); \
             INSERT INTO parts VALUES (2, 'n'), (13, 'n'), (21, 'n'); UPDATE parts SET note = 'u' WHERE id = 12",
        )
        .unwrap();
    until_equal(&mut run, &cluster).await;
    // Made, filled and attached in one transaction, with partitions of its own; another is empty.
    for (range, deep) in [
        ("30) TO (40", ""),
        (
            "40) TO (60",
            " PARTITION BY RANGE (id); CREATE TABLE deep PARTITION OF made_40 DEFAULT",
        ),
    ] {
        let from = &range[..2];
        cluster
            .psql(&format!(
                "BEGIN; CREATE TABLE made_{from} (id int NOT NULL, note text){deep}; \
                 INSERT INTO made_{from} VALUES ({from}, 'made'); \
                 ALTER TABLE parts ATTACH PARTITION made_{from} FOR VALUES FROM ({range}); \
                 INSERT INTO parts VALUES ({from} + 1, 'more'); COMMIT"
            ))
            .unwrap();
    }
    cluster
        .psql(
            "BEGIN; CREATE TABLE parts_6 PARTITION OF parts FOR VALUES FROM (60) TO (70); \
             INSERT INTO parts VALUES (60, 'n'), (61, 'n'); COMMIT",
        )
        .unwrap();
    until_equal(&mut run, &cluster).await;
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("parts", "id"),
        present(&cluster, "parts", &["id", "note"])
    );
    let rows = &target.tables[&table("parts")].rows;
    let again: Vec<&str> = rows
        .iter()
        .filter(|row| row.op == "r")
        .map(|row| row.cells["id"].as_str())
        .collect();
    assert!(
        ["11", "12", "30", "40"].iter().all(|id| again.contains(id)),
        "{again:?}"
    );
    assert!(
        ["2", "21", "60", "61"].iter().all(|id| !again.contains(id)),
        "{again:?}"
    );
    assert_eq!(again.iter().filter(|id| **id == "1").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_attached_while_nobody_looks_is_found_later() {
    let cluster = cluster();
    let config = settings(&cluster);
    let target = streaming(&cluster, &config).await.kill();
    cluster.psql(ATTACH).unwrap();
    cluster.psql("INSERT INTO parts VALUES (2, 'n')").unwrap();
    let mut run = Running::start(source(&config), target);
    until_equal(&mut run, &cluster).await;
    let before = copied(&run.target);
    // Not once more after a restart.
    run.catch_up(&cluster).await;
    let mut run = Running::start(source(&config), run.kill());
    cluster.psql("INSERT INTO parts VALUES (3, 'n')").unwrap();
    until_equal(&mut run, &cluster).await;
    run.catch_up(&cluster).await;
    assert_eq!(copied(&run.stop().await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_read_the_table_alone_reads_what_came_to_it() {
    let cluster = cluster();
    cluster
        .psql("CREATE ROLE reader LOGIN REPLICATION PASSWORD 'r'; GRANT SELECT ON parts TO reader")
        .unwrap();
    let mut config = settings(&cluster);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    let mut run = streaming(&cluster, &config).await;
    cluster.psql(ATTACH).unwrap();
    until_equal(&mut run, &cluster).await;
    cluster
        .psql(
            "BEGIN; CREATE TABLE made (LIKE parts); INSERT INTO made VALUES (35, 'made'); \
             ALTER TABLE parts ATTACH PARTITION made DEFAULT; COMMIT",
        )
        .unwrap();
    until_equal(&mut run, &cluster).await;
    assert_eq!(copied(&run.stop().await), 4);
}

/// Rows without a key cannot be told apart: all are copied, in the place of what the target has.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_copied_whole() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE parts (id int, note text) PARTITION BY RANGE (id); \
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1, 'a'), (1, 'a'); \
             CREATE PUBLICATION p FOR TABLE parts WITH (publish_via_partition_root = true)",
        )
        .unwrap();
    let mut run = streaming(&cluster, &settings(&cluster)).await;
    cluster
        .psql(
            "CREATE TABLE parts_2 (id int, note text); INSERT INTO parts_2 VALUES (11, 'b'), (11, 'b'); \
             ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20); INSERT INTO parts VALUES (11, 'b')",
        )
        .unwrap();
    let ids = |target: &Target| {
        let mut rows: Vec<_> = target.tables[&table("parts")].rows.iter().collect();
        rows.sort_by(|a, b| (&a.position, a.ordinal).cmp(&(&b.position, b.ordinal)));
        let begin = rows.iter().rposition(|row| row.op == "t").map_or(0, |at| at + 1);
        let mut ids: Vec<String> = rows[begin..].iter().map(|row| row.cells["id"].clone()).collect();
        ids.sort();
        ids
    };
    run.until(|target| ids(target) == ["1", "1", "11", "11", "11"]).await;
    run.catch_up(&cluster).await;
    assert_eq!(ids(&run.stop().await).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_recopy_it_is_told_and_a_backfill_brings_the_rows() {
    let cluster = cluster();
    // Version 14 goes on sending, or leaving out, a partition's changes as before it came or went.
    if !cluster.has("timely news of partitions", 15).unwrap() {
        return;
    }
    let mut config = settings(&cluster);
    config["recopy"] = "never".into();
    let warnings = || async {
        let findings = check(&config).await;
        let found = findings.into_iter().filter(|one| one.code == Some("PG0053"));
        found.map(|one| one.message).collect::<Vec<_>>()
    };
    let mut run = streaming(&cluster, &config).await;
    assert_eq!(warnings().await, [""; 0]);
    cluster.psql(ATTACH).unwrap();
    assert_eq!(
        warnings().await,
        ["partition public.parts_2 was attached with the rows that it may have had"]
    );
    cluster.psql("INSERT INTO parts VALUES (13, 'n')").unwrap();
    run.catch_up(&cluster).await;
    sleep(Duration::from_millis(300)).await;
    run.catch_up(&cluster).await;
    assert_eq!(run.target.folded("parts", "id").len(), 2, "1 and 13");
    run.ask("parts", Some("tableoid = 'parts_2'::regclass")).await.unwrap();
    until_equal(&mut run, &cluster).await;
    run.stop().await;

    config["recopy"] = "replaced".into();
    let findings = check(&config).await;
    assert!(
        findings.iter().all(|one| one.code != Some("PG0053")),
        "it is copied by itself"
    );
}

/// Another is attached while the first one's copy waits, and nothing that is owed is lost by a crash.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_is_copied_after_a_crash() {
    let cluster = cluster();
    let mut config = settings(&cluster);
    config["copy"] = json!({"rate": "64KiB"});
    config["batch"]["rows"] = 10.into();
    let mut run = streaming(&cluster, &config).await;
    // Its copy takes its time.
    cluster
        .psql(
            "CREATE TABLE wide (id int PRIMARY KEY, note text); \
             INSERT INTO wide SELECT i, repeat('w', 2000) FROM generate_series(100, 199) i; \
             ALTER TABLE parts ATTACH PARTITION wide FOR VALUES FROM (100) TO (200)",
        )
        .unwrap();
    run.until(|target| copied(target) > 1).await;
    cluster.psql(ATTACH).unwrap();
    until_owed(&mut run, &cluster, 2).await;
    let target = run.kill();
    assert!(
        !target
            .folded("parts", "id")
            .keys()
            .any(|key| key.values().any(|id| id == "11"))
    );
    config["copy"] = json!({});
    eventually("the slot is free", || {
        cluster
            .psql("SELECT count(*) FROM pg_replication_slots WHERE active")
            .unwrap()
            == "0"
    })
    .await;
    let mut run = Running::start(source(&config), target);
    until_equal(&mut run, &cluster).await;
    run.stop().await;
}

/// What a look shows after an attachment was not undone, and of one that has no rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_detachment_that_was_rolled_back_and_an_empty_partition_change_nothing() {
    let cluster = cluster();
    let mut config = settings(&cluster);
    let target = streaming(&cluster, &config).await.kill();
    cluster
        .psql(
            "BEGIN; CREATE TABLE made (id int NOT NULL, note text); INSERT INTO made VALUES (30, 'made'); \
             ALTER TABLE parts ATTACH PARTITION made FOR VALUES FROM (30) TO (40); COMMIT",
        )
        .unwrap();
    cluster
        .psql("BEGIN; ALTER TABLE parts DETACH PARTITION made; ROLLBACK")
        .unwrap();
    cluster
        .psql("CREATE TABLE empty (id int NOT NULL, note text); ALTER TABLE parts ATTACH PARTITION empty DEFAULT")
        .unwrap();
    let mut run = Running::start(source(&config), target);
    until_equal(&mut run, &cluster).await;
    assert_eq!(copied(&run.target), 2);
    cluster.psql("INSERT INTO parts VALUES (99, 'n')").unwrap();
    until_equal(&mut run, &cluster).await;
    assert_eq!(copied(&run.target), 2);
    config["recopy"] = "never".into();
    run.stop().await;
}

/// One target table holds the table, another joins: the partition came to both.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_target_tables_gets_the_rows() {
    let cluster = cluster();
    let config = settings(&cluster);
    let mut target = streaming(&cluster, &config).await.kill();
    cluster.psql(ATTACH).unwrap();
    target.twins.insert(table("parts"), Held::default());
    let mut run = Running::start(source(&config), target);
    let ids = |held: &Held| {
        let ids = held.rows.iter().map(|row| row.cells["id"].clone());
        ids.collect::<BTreeSet<_>>()
    };
    let all = ["1", "11", "12"].map(str::to_owned).into();
    run.until(|target| ids(&target.tables[&table("parts")]) == all && ids(&target.twins[&table("parts")]) == all)
        .await;
    run.stop().await;
}

/// A copy that goes on after a restart keeps its turn before the next one.
#[tokio::test]
async fn a_copy_that_was_begun_ends_before_another_begins() {
    let cluster = cluster();
    let mut config = settings(&cluster);
    config["copy"] = json!({"rate": "64KiB"});
    config["batch"]["rows"] = 10.into();
    cluster
        .psql(
            "CREATE TABLE wide PARTITION OF parts FOR VALUES FROM (100) TO (200); \
             INSERT INTO wide SELECT i, repeat('w', 2000) FROM generate_series(100, 199) i",
        )
        .unwrap();
    let mut fast = config.clone();
    fast["copy"] = json!({});
    let target = streaming(&cluster, &fast).await.kill();
    let mut run = Running::start(source(&config), target);
    run.ask("parts", None).await.unwrap();
    let before = copied(&run.target);
    run.until(|target| copied(target) > before + 15).await;
    cluster.psql(ATTACH).unwrap();
    until_owed(&mut run, &cluster, 1).await;
    // The one that was asked for is cut twice, and its rows come all the same.
    let mut target = run.kill();
    for _ in 0..2 {
        let mut run = Running::start(source(&config), target);
        let before = copied(&run.target);
        run.until(|target| copied(target) > before + 15).await;
        target = run.kill();
    }
    let mut run = Running::start(source(&fast), target);
    let often = |target: &Target, id: &str| {
        let rows = &target.tables[&table("parts")].rows;
        rows.iter().filter(|row| row.op == "r" && row.cells["id"] == id).count()
    };
    run.until(|target| often(target, "199") == 2 && often(target, "11") >= 1)
        .await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_detached_partition_stay_and_its_later_changes_do_not_come() {
    let cluster = cluster();
    // Version 14 goes on sending, or leaving out, a partition's changes as before it came or went.
    if !cluster.has("timely news of partitions", 15).unwrap() {
        return;
    }
    let mut run = streaming(&cluster, &settings(&cluster)).await;
    cluster
        .psql(
            "INSERT INTO parts VALUES (2, 'kept'); ALTER TABLE parts DETACH PARTITION parts_1; \
             INSERT INTO parts_1 VALUES (3, 'not ours'); DELETE FROM parts_1 WHERE id = 1; \
             CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30); INSERT INTO parts VALUES (21, 'n')",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let ids = target.folded("parts", "id").into_values().map(|row| row["id"].clone());
    assert_eq!(ids.collect::<BTreeSet<_>>(), ["1", "2", "21"].map(str::to_owned).into());
}
