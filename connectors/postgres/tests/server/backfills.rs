//! Copies that are asked for while the stream runs.

use millstream_core::{ErrorKind, PartitionId};
use millstream_testkit::change_log::ChangeRow;
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, present, source, table};

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int, note text); CREATE TABLE log (n int); \
             ALTER TABLE log REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO orders SELECT i, i % 7, repeat('x', 300) FROM generate_series(1, 2000) i; INSERT INTO log VALUES (1), (2)",
        )
        .unwrap();
    cluster
}

async fn started(cluster: &TestCluster) -> Running {
    let mut config = config(cluster, &["orders", "log"]);
    config["batch"]["rows"] = 50.into();
    let mut run = Running::start(source(&config), Target::of(&["orders", "log"]));
    run.until_streaming(cluster).await;
    run
}

/// Whether the last backfill of a table has ended.
fn is_done(target: &Target, name: &str) -> bool {
    let held = &target.tables[&table(name)].checkpoint;
    let partition = PartitionId::new("shop", format!("backfill/public.{name}"));
    held.position(&partition)
        .ordered()
        .is_some_and(|place| place.ends_with("~~"))
}

fn backfilled(target: &Target, name: &str) -> Vec<ChangeRow> {
    let rows = target.tables[&table(name)].rows.iter();
    rows.filter(|row| row.partition.contains("/backfill/") && row.op == "r")
        .cloned()
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_or_a_part_of_it_is_copied_again_while_the_stream_runs() {
    let cluster = cluster();
    let mut run = started(&cluster).await;
    run.ask("orders", None).await.unwrap();
    cluster
        .psql("UPDATE orders SET amount = 100 WHERE id <= 10; DELETE FROM orders WHERE id = 11")
        .unwrap();
    run.until(|target| is_done(target, "orders")).await;
    let whole = backfilled(&run.target, "orders").len();
    assert!((1999..=2000).contains(&whole), "{whole}");

    let of_backfill = run.target.boundaries.iter();
    let of_backfill = of_backfill.filter(|boundary| boundary.partition.within_source().starts_with("backfill/"));
    let urgent: Vec<bool> = of_backfill.map(|boundary| boundary.urgent).collect();
    let (first, last) = (urgent.first().unwrap(), urgent.last().unwrap());
    assert!(
        *first && *last && urgent.iter().filter(|urgent| **urgent).count() == 2,
        "{urgent:?}"
    );

    let condition = "amount = 3 AND note <> ')' -- the rest is a comment";
    run.ask("shop.public.orders", Some(condition)).await.unwrap();
    run.until(|target| backfilled(target, "orders").len() > whole && is_done(target, "orders"))
        .await;
    let expected = cluster.psql("SELECT count(*) FROM orders WHERE amount = 3").unwrap();
    assert_eq!((backfilled(&run.target, "orders").len() - whole).to_string(), expected);
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount", "note"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_cut_goes_on_after_the_restart() {
    let cluster = cluster();
    let mut run = started(&cluster).await;
    run.ask("orders", Some("id > 100")).await.unwrap();
    run.until(|target| backfilled(target, "orders").len() >= 300).await;
    let mut target = run.stop().await;
    assert!(!is_done(&target, "orders"));
    let before = backfilled(&target, "orders").len();
    target.boundaries.clear();
    cluster
        .psql("UPDATE orders SET amount = 200 WHERE id % 50 = 0")
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders", "log"])), target);
    run.until(|target| is_done(target, "orders")).await;
    run.catch_up(&cluster).await;
    let rows = backfilled(&run.target, "orders");
    assert!(
        rows.iter().all(|row| row.cells["id"].parse::<u32>().unwrap() > 100),
        "the condition is remembered"
    );
    let after = rows.len() - before;
    assert!(
        after >= 1900 - before && after < 1900,
        "{before} rows were kept, {after} read after the restart"
    );
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount", "note"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_again_is_refused_and_the_stream_goes_on() {
    let cluster = cluster();
    let mut run = started(&cluster).await;
    let mut codes = Vec::new();
    for (name, condition) in [
        ("nothing", None),
        ("orders", Some("amout = 3")),
        ("orders", Some("true); DELETE FROM orders; SELECT (true")),
        ("orders", Some("false) OR (true")),
        ("orders", Some("true, true")),
        ("orders", Some(" ")),
        ("log", Some("n = 1")),
    ] {
        let refused = loop {
            let refused = run.ask(name, condition).await.unwrap_err();
            // The request before is answered a moment before it is done with.
            if !refused.summary().contains("already") {
                break refused;
            }
        };
        assert_eq!(refused.kind(), ErrorKind::Config, "{}", refused.summary());
        assert!(refused.hint_text().is_some());
        codes.push(refused.error_code().unwrap());
    }
    assert_eq!(
        codes,
        ["PG0070", "PG0027", "PG0027", "PG0027", "PG0027", "PG0070", "PG0070"]
    );
    // Found by the server only when it runs.
    cluster.psql("CREATE SEQUENCE counter").unwrap();
    for condition in ["1 / (id - 1500) < 1", "nextval('counter') > 0"] {
        while let Err(refused) = run.ask("orders", Some(condition)).await {
            assert!(refused.summary().contains("already"), "{}", refused.summary());
        }
        run.until(|target| is_done(target, "orders")).await;
    }
    assert!(backfilled(&run.target, "orders").len() < 2000);
    while let Err(refused) = run.ask("orders", Some("id = 7")).await {
        assert!(refused.summary().contains("already"), "{}", refused.summary());
    }
    cluster
        .psql("INSERT INTO orders VALUES (5000, 1, 'still read')")
        .unwrap();
    run.catch_up(&cluster).await;
    run.until(|target| is_done(target, "orders")).await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount", "note"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_emptied_and_copied_again() {
    let cluster = cluster();
    let mut run = started(&cluster).await;
    run.ask("shop.log", None).await.unwrap();
    run.until(|target| is_done(target, "log")).await;
    cluster.psql("INSERT INTO log VALUES (3)").unwrap();
    run.catch_up(&cluster).await;
    let mut rows = run.stop().await.tables.remove(&table("log")).unwrap().rows;
    rows.sort_by(|a, b| (&a.position, a.ordinal).cmp(&(&b.position, b.ordinal)));
    let emptied = rows.iter().rposition(|row| row.op == "t").expect("it was emptied");
    let left: Vec<&str> = rows[emptied + 1..].iter().map(|row| row.cells["n"].as_str()).collect();
    assert_eq!(left, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_read_in_their_order_whatever_index_there_is() {
    let cluster = cluster();
    // The index has the rows from the end of the table to its start.
    cluster
        .psql("TRUNCATE orders; INSERT INTO orders SELECT 5000 - i, i, 'x' FROM generate_series(1, 4999) i; ANALYZE orders")
        .unwrap();
    let mut run = started(&cluster).await;
    let before = run.target.tables[&table("orders")].rows.len();
    run.ask("orders", Some("id < 400")).await.unwrap();
    run.until(|target| is_done(target, "orders")).await;
    assert_eq!(backfilled(&run.target, "orders").len(), 399);
    assert_eq!(before, 4999);
    run.stop().await;
}
