//! Tables that were renamed, and are read on under the name that the pipeline knows.

use millstream_testkit::postgres::TestCluster;
use serde_json::{Value, json};

use crate::target::{Running, Target, config, present, source, table};

const COLUMNS: [&str; 3] = ["id", "n", "body"];

pub fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, n int, body text); CREATE SCHEMA sales; \
             ALTER TABLE orders ALTER body SET STORAGE EXTERNAL; CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO orders SELECT i, 0, repeat(i::text, 3000) FROM generate_series(1, 5) i",
        )
        .unwrap();
    cluster
}

pub fn settings(cluster: &TestCluster, renamed: Option<&str>) -> Value {
    let mut config = config(cluster, &["orders"]);
    config["unchanged"] = "reread".into();
    if let Some(now) = renamed {
        config["renamed"] = json!({"orders": now});
    }
    config
}

/// The same, with a slot of its own for each value of `recopy`.
pub fn settings_for(cluster: &TestCluster, renamed: Option<&str>, recopy: &str) -> Value {
    let mut config = settings(cluster, renamed);
    config["recopy"] = recopy.into();
    config["slot"] = format!("slot_{recopy}").into();
    config
}

/// A run that has its first copy.
pub async fn streaming(cluster: &TestCluster, config: &Value) -> Running {
    let mut run = Running::start(source(config), Target::of(&["orders"]));
    run.until_streaming(cluster).await;
    run
}

pub fn operations(target: &Target, op: &str) -> usize {
    let rows = &target.tables[&table("orders")].rows;
    rows.iter().filter(|row| row.op == op).count()
}

/// The table under its present name, as the target's `orders` should be.
pub fn assert_equal(target: &Target, cluster: &TestCluster, now: &str) {
    // Of the query's name only the table's is used.
    cluster
        .psql(&format!("CREATE OR REPLACE VIEW seen AS SELECT id, n, body FROM {now}"))
        .unwrap();
    assert!(
        target.folded("orders", "id") == present(cluster, "seen", &COLUMNS),
        "{now}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_halts_and_goes_on_where_it_was_once_that_is_said() {
    let cluster = cluster();
    let mut run = Running::start(source(&settings(&cluster, None)), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let mut target = run.target.clone();
    cluster
        .psql(
            "UPDATE orders SET n = 1 WHERE id = 1; ALTER TABLE orders RENAME TO old; UPDATE old SET n = 2 WHERE id = 2",
        )
        .unwrap();
    let failure = run.failure().await;
    assert_eq!(failure.error_code(), Some("PG0032"), "{}", failure.summary());
    assert!(failure.hint_text().unwrap().contains("`renamed`"));
    target.crash();
    target.boundaries.clear();

    let said = settings(&cluster, Some("old"));
    let mut run = Running::start(source(&said), target);
    run.catch_up(&cluster).await;
    // Another table with the name that is free now is none of ours.
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, other text); INSERT INTO orders VALUES (1, 'another''s'); \
             UPDATE old SET n = 3 WHERE id = 3; DELETE FROM old WHERE id = 4",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    assert_equal(&target, &cluster, "old");
    // Nothing was copied again, and large values were read from it under its present name.
    assert_eq!((operations(&target, "r"), operations(&target, "t")), (5, 0));
    let read = |id: &str| {
        let changes = target.changes("orders").into_iter();
        let mut changes = changes.filter(|(_, cells, _)| cells["id"] == id);
        changes.find_map(|(_, cells, unchanged)| (unchanged == ["body"]).then(|| cells.get("body").map(String::len)))
    };
    assert_eq!(["1", "2", "3"].map(read), [Some(Some(3000)); 3]);

    let mut run = Running::start(source(&said), target);
    run.until_streaming(&cluster).await;
    run.ask("orders", Some("id < 3")).await.unwrap();
    run.until(|target| operations(target, "r") == 7).await;
    cluster.psql("INSERT INTO old VALUES (9, 9, 'new')").unwrap();
    run.catch_up(&cluster).await;
    assert_equal(&run.stop().await, &cluster, "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_said_beforehand_is_followed_without_a_halt() {
    let cluster = cluster();
    let said = settings(&cluster, Some("sales.orders_v2"));
    let mut run = Running::start(source(&said), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    cluster
        .psql(
            "UPDATE orders SET n = 1; BEGIN; ALTER TABLE orders SET SCHEMA sales; \
             ALTER TABLE sales.orders RENAME TO orders_v2; UPDATE sales.orders_v2 SET n = 2 WHERE id > 2; COMMIT; \
             INSERT INTO sales.orders_v2 VALUES (6, 6, 'six')",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    assert_equal(&target, &cluster, "sales.orders_v2");
    // A backlog has the old name still.
    let mut run = Running::start(source(&said), target);
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_equal(&target, &cluster, "sales.orders_v2");
    assert_eq!((operations(&target, "r"), operations(&target, "t")), (5, 0));

    // A target that begins anew copies it under its present name.
    let mut other = said.clone();
    other["slot"] = "another".into();
    let mut run = Running::start(source(&other), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    cluster.psql("DELETE FROM sales.orders_v2 WHERE id = 1").unwrap();
    run.catch_up(&cluster).await;
    assert_equal(&run.stop().await, &cluster, "sales.orders_v2");
}

/// What was written under the old name is read when the catalog has the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_under_the_old_name_is_read() {
    let cluster = cluster();
    let mut run = Running::start(source(&settings(&cluster, None)), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    cluster
        .psql(
            "UPDATE orders SET n = 7; ALTER TABLE orders RENAME TO old; UPDATE old SET n = 8 WHERE id = 1; \
             ALTER TABLE old ADD more int; UPDATE old SET n = 9 WHERE id = 2",
        )
        .unwrap();
    let mut run = Running::start(source(&settings(&cluster, Some("old"))), target);
    run.catch_up(&cluster).await;
    assert_equal(&run.stop().await, &cluster, "old");
}

/// The name is said before the table has it, and taken by another relation at once: in the backlog,
/// while nothing else tells of the rename.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_takes_the_old_name_is_not_taken_for_it() {
    let cluster = cluster();
    for recopy in ["replaced", "never"] {
        let said = settings_for(&cluster, Some("old"), recopy);
        let mut run = streaming(&cluster, &said).await;
        let copied = operations(&run.target, "r");
        cluster
            .psql(
                "ALTER TABLE orders RENAME TO old; CREATE TABLE orders (id int PRIMARY KEY, other text); \
                 INSERT INTO orders VALUES (1, 'another''s'); UPDATE old SET n = n + 1",
            )
            .unwrap();
        run.catch_up(&cluster).await;
        cluster
            .psql("UPDATE orders SET other = 'still'; UPDATE old SET n = n + 1")
            .unwrap();
        run.catch_up(&cluster).await;
        // There and back.
        cluster
            .psql("DROP TABLE orders; ALTER TABLE old RENAME TO orders; UPDATE orders SET n = n + 1 WHERE id = 1")
            .unwrap();
        run.catch_up(&cluster).await;
        let target = run.stop().await;
        assert_equal(&target, &cluster, "orders");
        assert_eq!((operations(&target, "r"), operations(&target, "t")), (copied, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_may_have_names_in_between_and_another_relation_under_the_present_one() {
    let cluster = cluster();
    cluster
        .psql("CREATE TABLE orders_v2 (id int PRIMARY KEY, n int, body text)")
        .unwrap();
    for recopy in ["replaced", "never"] {
        let mut config = settings_for(&cluster, None, recopy);
        let run = streaming(&cluster, &config).await;
        let copied = operations(&run.target, "r");
        let mut target = run.stop().await;
        target.boundaries.clear();
        cluster
            .psql(
                "INSERT INTO orders_v2 VALUES (1, 77, 'another''s'); UPDATE orders SET n = n + 1; \
                 ALTER TABLE orders RENAME TO orders_in_between; UPDATE orders_in_between SET n = n + 1 WHERE id = 2; \
                 ALTER TABLE orders_in_between SET SCHEMA sales; UPDATE sales.orders_in_between SET n = n + 1 WHERE id = 3; \
                 DROP TABLE orders_v2; ALTER TABLE sales.orders_in_between SET SCHEMA public; \
                 ALTER TABLE orders_in_between RENAME TO orders_v2; UPDATE orders_v2 SET n = n + 1; \
                 CREATE TABLE orders (id int PRIMARY KEY, other text); INSERT INTO orders VALUES (2, 'none of ours')",
            )
            .unwrap();
        config["renamed"] = serde_json::json!({"orders": "orders_v2"});
        let mut run = Running::start(source(&config), target);
        run.catch_up(&cluster).await;
        let target = run.stop().await;
        assert_equal(&target, &cluster, "orders_v2");
        assert_eq!((operations(&target, "r"), operations(&target, "t")), (copied, 0));
        cluster
            .psql(
                "DROP TABLE orders; ALTER TABLE orders_v2 RENAME TO orders; \
                 CREATE TABLE orders_v2 (id int PRIMARY KEY, n int, body text)",
            )
            .unwrap();
    }
}

/// The relation that the target was filled from is gone, and an unrelated one has its first name.
#[tokio::test(flavor = "multi_thread")]
async fn an_unrelated_table_under_the_first_name_is_never_copied_in_its_place() {
    let cluster = cluster();
    cluster.psql("ALTER TABLE orders RENAME TO orders_v2").unwrap();
    let said = settings(&cluster, Some("orders_v2"));
    let mut run = Running::start(source(&said), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, n int, body text); INSERT INTO orders VALUES (1, 1, 'foreign'); \
             ALTER TABLE orders_v2 RENAME TO orders_v3",
        )
        .unwrap();
    let failure = Running::start(source(&said), target.clone()).failure().await;
    assert_eq!(failure.error_code(), Some("PG0017"), "{}", failure.summary());
    assert!(failure.hint_text().unwrap().contains("renamed"));
    // One that is made under the next name beforehand is not it either.
    cluster
        .psql("DROP TABLE orders; ALTER TABLE orders_v3 RENAME TO orders")
        .unwrap();
    cluster
        .psql("CREATE TABLE orders_v2 (LIKE orders INCLUDING ALL)")
        .unwrap();
    let mut run = Running::start(source(&said), target);
    cluster
        .psql("UPDATE orders SET n = 12; INSERT INTO orders_v2 VALUES (70, 0, 'another''s')")
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_equal(&target, &cluster, "orders");
    assert_eq!(operations(&target, "t"), 0);
}
