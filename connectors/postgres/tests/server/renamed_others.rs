//! Other relations that have a name of a table that was renamed.

use millstream_testkit::postgres::TestCluster;
use serde_json::{Value, json};

use crate::renamed::{assert_equal, cluster, operations, settings, settings_for, streaming};
use crate::replaced::settled;
use crate::target::{Running, Target, client, eventually, source};

/// A source whose slot is made once `writer` has ended its transaction.
async fn waiting(cluster: &TestCluster, said: &Value, writer: &tokio_postgres::Client) -> Running {
    writer
        .batch_execute("BEGIN; INSERT INTO other VALUES (1)")
        .await
        .unwrap();
    let run = Running::start(source(said), Target::of(&["orders"]));
    eventually("the slot waits", || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
        cluster.psql(waits).unwrap() == "1"
    })
    .await;
    run
}

/// The table has a third name, and another one changes under the first: nothing is owed for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_nowhere_owes_no_copy_for_another_under_its_first_name() {
    let cluster = cluster();
    for recopy in ["replaced", "never"] {
        let mut said = settings_for(&cluster, Some("orders_v2"), recopy);
        let mut run = streaming(&cluster, &said).await;
        let copied = operations(&run.target, "r");
        cluster
            .psql(
                "UPDATE orders SET n = n + 1; ALTER TABLE orders RENAME TO orders_v3; \
                 CREATE TABLE orders (id int PRIMARY KEY, other text); INSERT INTO orders VALUES (1, 'another''s'); \
                 UPDATE orders_v3 SET n = n + 1 WHERE id > 1",
            )
            .unwrap();
        let failure = run.try_catch_up(&cluster).await.unwrap_err();
        assert_eq!(failure.error_code(), Some("PG0032"), "{recopy}: {}", failure.summary());
        assert!(failure.to_string().contains("public.orders_v3"), "{failure}");
        assert!(failure.hint_text().unwrap().contains("`renamed`"), "{recopy}");
        let target = run.kill();
        let failure = Running::start(source(&said), target.clone()).failure().await;
        assert_eq!(failure.error_code(), Some("PG0017"), "{}", failure.summary());

        said["renamed"] = json!({"orders": "orders_v3"});
        let mut run = Running::start(source(&said), target);
        run.catch_up(&cluster).await;
        let target = run.stop().await;
        assert_equal(&target, &cluster, "orders_v3");
        assert_eq!((operations(&target, "r"), operations(&target, "t")), (copied, 0));
        cluster
            .psql("DROP TABLE orders; DROP VIEW seen; ALTER TABLE orders_v3 RENAME TO orders")
            .unwrap();
    }
}

/// What has the old name now cannot be copied: the pipeline halts, and nothing is owed.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_or_an_unpublished_table_under_the_old_name_is_no_replacement() {
    let cluster = cluster();
    cluster
        .psql("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE orders")
        .unwrap();
    for (slot, replacement, drop) in [
        ("a", "CREATE VIEW orders AS SELECT * FROM orders_v2", "DROP VIEW orders"),
        (
            "b",
            "CREATE TABLE orders (LIKE orders_v2 INCLUDING ALL)",
            "DROP TABLE orders",
        ),
    ] {
        let mut config = settings(&cluster, None);
        config["slot"] = slot.into();
        config["governor"] = json!({"every": "1h"});
        let mut run = Running::start(source(&config), Target::of(&["orders"]));
        run.until_streaming(&cluster).await;
        let copied = operations(&run.target, "r");
        cluster
            .psql(&format!(
                "ALTER TABLE orders RENAME TO orders_v2; {replacement}; UPDATE orders_v2 SET n = n + 1"
            ))
            .unwrap();
        let failure = run.try_catch_up(&cluster).await.unwrap_err();
        assert_eq!(
            failure.error_code(),
            Some("PG0032"),
            "{replacement}: {}",
            failure.summary()
        );
        let target = run.kill();

        config["renamed"] = json!({"orders": "orders_v2"});
        let mut run = Running::start(source(&config), target);
        run.catch_up(&cluster).await;
        let target = run.stop().await;
        assert_equal(&target, &cluster, "orders_v2");
        assert_eq!((operations(&target, "r"), operations(&target, "t")), (copied, 0));
        cluster
            .psql(&format!(
                "DROP VIEW seen; {drop}; ALTER TABLE orders_v2 RENAME TO orders"
            ))
            .unwrap();
    }
}

/// What has its first name is not in its place as long as another one is said to be its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_is_missed_under_the_name_that_was_said() {
    let cluster = cluster();
    for recopy in ["replaced", "never"] {
        let mut said = settings_for(&cluster, Some("orders_v2"), recopy);
        let mut run = streaming(&cluster, &said).await;
        cluster
            .psql(
                "CREATE TABLE next (LIKE orders INCLUDING ALL); DROP TABLE orders; ALTER TABLE next RENAME TO orders; \
                 INSERT INTO orders VALUES (1, 1, 'another''s')",
            )
            .unwrap();
        let failure = run.try_catch_up(&cluster).await.unwrap_err();
        assert_eq!(failure.error_code(), Some("PG0017"), "{recopy}: {}", failure.summary());
        assert!(failure.hint_text().unwrap().contains("`public.orders_v2`"), "{recopy}");
        let target = run.kill();

        // It is once no other name is said.
        said.as_object_mut().unwrap().remove("renamed");
        said["recopy"] = "replaced".into();
        let target = settled(&cluster, &said, target, &["orders"]).await;
        assert_equal(&target, &cluster, "orders");
        assert_eq!(operations(&target, "t"), 1);
        cluster.psql("DROP VIEW seen").unwrap();
    }
}

/// One that was none of ours under the first name is in the place of the table under the present one.
#[tokio::test(flavor = "multi_thread")]
async fn a_relation_that_was_another_may_replace_the_table_later() {
    let cluster = cluster();
    let mut said = settings(&cluster, Some("old"));
    said["recopy"] = "never".into();
    said["governor"] = json!({"every": "1h"});
    let mut run = Running::start(source(&said), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    cluster
        .psql(
            "ALTER TABLE orders RENAME TO old; CREATE TABLE orders (id int PRIMARY KEY, other text); \
             INSERT INTO orders VALUES (1, 'another''s')",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    cluster
        .psql("DROP TABLE old; ALTER TABLE orders RENAME TO old; INSERT INTO old VALUES (2, 'in its place')")
        .unwrap();
    let failure = run.try_catch_up(&cluster).await.unwrap_err();
    assert_eq!(failure.error_code(), Some("PG0034"), "{}", failure.summary());
    let target = run.kill();
    said["recopy"] = "replaced".into();
    let mut run = Running::start(source(&said), target);
    run.until(|target| operations(target, "t") == 1 && target.folded("orders", "id").len() == 2)
        .await;
    run.stop().await;
}

/// The names move between the first look and the locks, with and without another table in the old place.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_behind_its_snapshot_is_the_one_that_is_copied() {
    for then in ["ALTER TABLE next RENAME TO orders", "SELECT 1"] {
        let cluster = cluster();
        cluster
            .psql(
                "CREATE TABLE next (LIKE orders INCLUDING ALL); INSERT INTO next VALUES (77, 7, 'another''s'); \
                 CREATE TABLE other (id int)",
            )
            .unwrap();
        let writer = client(&cluster).await;
        let mut run = waiting(&cluster, &settings(&cluster, Some("orders_old")), &writer).await;
        cluster
            .psql(&format!("ALTER TABLE orders RENAME TO orders_old; {then}"))
            .unwrap();
        writer.batch_execute("COMMIT").await.unwrap();
        run.until_streaming(&cluster).await;
        cluster.psql("UPDATE orders_old SET n = n + 1 WHERE id = 1").unwrap();
        run.catch_up(&cluster).await;
        let target = run.stop().await;
        assert_equal(&target, &cluster, "orders_old");
        assert_eq!((operations(&target, "r"), operations(&target, "t")), (5, 0), "{then}");
    }
}

/// The one that was planned to be copied is none of ours once another one was copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_replaced_behind_its_snapshot_is_the_one_that_was_copied() {
    let cluster = cluster();
    cluster
        .psql(
            "CREATE TABLE next (LIKE orders INCLUDING ALL); INSERT INTO next VALUES (77, 7, 'copied'); \
             CREATE TABLE other (id int)",
        )
        .unwrap();
    let writer = client(&cluster).await;
    let mut run = waiting(&cluster, &settings(&cluster, Some("orders_v2")), &writer).await;
    cluster
        .psql("ALTER TABLE orders RENAME TO elsewhere; ALTER TABLE next RENAME TO orders_v2")
        .unwrap();
    writer.batch_execute("COMMIT").await.unwrap();
    run.until_streaming(&cluster).await;
    cluster
        .psql(
            "ALTER TABLE elsewhere RENAME TO orders; ALTER TABLE orders_v2 RENAME TO between; \
             UPDATE between SET n = n + 1; ALTER TABLE between RENAME TO orders_v2",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert!(!target.tables_changed);
    assert_equal(&target, &cluster, "orders_v2");
    assert_eq!((operations(&target, "r"), operations(&target, "t")), (1, 0));
}
