//! Copies that are cut anywhere, while a writer changes, moves and deletes rows across their ranges.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use millstream_testkit::postgres::TestCluster;

use crate::dice::Dice;
use crate::target::{Running, Target, config, eventually, present, source, table};

/// How many random histories are run, and how many at a time.
const SEEDS: u64 = 200;
const LANES: u64 = 4;

/// A statement that changes, moves or removes rows of `name`, of which large values are left out
/// of the stream.
fn statement(dice: &mut Dice, name: &str) -> String {
    let id = dice.roll(200);
    match dice.roll(8) {
        0 => format!("DELETE FROM {name} WHERE id BETWEEN {id} AND {}", id + dice.roll(5)),
        1 | 2 => format!(
            "INSERT INTO {name} VALUES ({}, 0, 'new', repeat(md5('{id}'), {})) ON CONFLICT (id) DO UPDATE SET n = {name}.n + 1",
            dice.roll(250),
            100 + dice.roll(100)
        ),
        3 => format!(
            "UPDATE {name} SET id = {} WHERE id = {id} AND NOT EXISTS (SELECT FROM {name} WHERE id = {0})",
            300 + dice.roll(300)
        ),
        4 => format!(
            "UPDATE {name} SET body = repeat(md5('{}'), {}) WHERE id = {id}",
            dice.roll(999),
            1 + dice.roll(200)
        ),
        // Rows grow, so that they move to other blocks.
        5 => format!(
            "UPDATE {name} SET note = repeat('y', {}) WHERE id % 10 = {}",
            1 + dice.roll(900),
            dice.roll(10)
        ),
        _ => format!("UPDATE {name} SET n = n + 1 WHERE id BETWEEN {id} AND {}", id + 20),
    }
}

/// Writes `count` transactions.
async fn write(url: String, name: String, mut dice: Dice, count: u64) {
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..count {
        let statements: Vec<String> = (0..=dice.roll(3)).map(|_| statement(&mut dice, &name)).collect();
        let end = if dice.roll(10) == 0 { "ROLLBACK" } else { "COMMIT" };
        client
            .batch_execute(&format!("BEGIN; {}; {end}", statements.join("; ")))
            .await
            .unwrap();
        if dice.roll(20) == 0 {
            // The freed room is used again, by rows that come from elsewhere.
            client.batch_execute(&format!("VACUUM {name}")).await.unwrap();
        }
    }
    drop(client);
    connection.await.unwrap().unwrap();
}

/// Copies a table in several lives, each cut somewhere, and wants it to equal its source.
async fn history(cluster: &TestCluster, seed: u64) {
    let mut dice = Dice::new(seed);
    let name = format!("t{seed}");
    // Whole blocks are read at a time where no value lies outside of them, and a batch has room for one.
    let by_blocks = dice.roll(2) == 0;
    let storage = if by_blocks { "EXTENDED" } else { "EXTERNAL" };
    cluster
        .psql(&format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, n int, note text, body text); \
             ALTER TABLE {name} ALTER body SET STORAGE {storage}; \
             INSERT INTO {name} SELECT i, 0, repeat('x', i % 400), repeat(md5(i::text), CASE WHEN i % 3 = 0 THEN 100 ELSE 1 END) \
             FROM generate_series(1, 200) i; CREATE INDEX ON {name} (n); CREATE PUBLICATION p{seed} FOR TABLE {name}"
        ))
        .unwrap();
    let mut config = config(cluster, &[&name]);
    config["publication"] = format!("p{seed}").into();
    config["slot"] = format!("slot{seed}").into();
    config["batch"]["rows"] = (2 + dice.roll(20)).into();
    config["copy"] = serde_json::json!({"workers": 1 + dice.roll(4)});
    if dice.roll(4) == 0 {
        // A snapshot for each piece and session.
        config["batch"]["rows"] = 30.into();
        config["copy"]["snapshot_for"] = "1ms".into();
    }
    if by_blocks {
        config["batch"]["rows"] = 300.into();
        config["batch"]["bytes"] = (4000 + 4000 * dice.roll(10)).to_string().into();
    }
    let mut target = Target::of(&[&name]);
    let lives = dice.roll(4);
    for life in 0..lives {
        let mut run = Running::start(source(&config), target);
        let writer = write(
            cluster.url(),
            name.clone(),
            Dice::new(seed * 100 + life),
            15 + dice.roll(15),
        );
        let writer = tokio::spawn(writer);
        let enough = run.target.boundaries.len() + 1 + dice.roll(30) as usize;
        run.until(|target| target.boundaries.len() >= enough || target.is_copied())
            .await;
        target = run.stop().await;
        target.boundaries.clear();
        writer.await.unwrap();
        let count = dice.roll(10);
        write(cluster.url(), name.clone(), Dice::new(seed * 100 + 50 + life), count).await;
    }
    let mut run = Running::start(source(&config), target);
    let writer = tokio::spawn(write(cluster.url(), name.clone(), Dice::new(seed * 100 + 99), 20));
    run.until_copied().await;
    writer.await.unwrap();
    run.catch_up(cluster).await;
    let target = run.stop().await;
    let expected = present(cluster, &name, &["id", "n", "note", "body"]);
    assert!(
        target.folded(&name, "id") == expected,
        "seed {seed}: {lives} lives before the last"
    );
    let parts = target.tables[&table(&name)].checkpoint.iter();
    let parts: Vec<_> = parts
        .filter(|(partition, _)| partition.as_str().contains("/copy/"))
        .collect();
    assert_eq!(
        parts.len(),
        1,
        "seed {seed}: the parts of the copy are forgotten: {parts:?}"
    );
    // The server may still believe in the reader.
    let drop = format!("SELECT pg_drop_replication_slot('slot{seed}')");
    eventually("the slot is free", || cluster.psql(&drop).is_ok()).await;
    cluster
        .psql(&format!("DROP PUBLICATION p{seed}; DROP TABLE {name}"))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_cut_anywhere_makes_the_table_that_its_source_has() {
    let cluster = TestCluster::with_settings(&[("autovacuum", "off"), ("max_connections", "100")]).unwrap();
    let seeds = std::env::var("MILLSTREAM_SEED")
        .ok()
        .map(|seed| seed.parse::<u64>().unwrap());
    let lanes = (0..LANES).map(|lane| {
        let cluster = &cluster;
        async move {
            for seed in (lane..SEEDS)
                .step_by(LANES as usize)
                .filter(|seed| seeds.is_none_or(|only| only == *seed))
            {
                history(cluster, seed).await;
            }
        }
    });
    join_all(lanes).await;
}

/// How many places rows of a first copy have.
fn places(target: &Target, name: &str) -> usize {
    let copied = target.tables[&table(name)].rows.iter().filter(|row| row.op == "r");
    copied.map(|row| &row.position).collect::<BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_apart_by_blocks_where_few_may_stand_for_much() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE plain (id int PRIMARY KEY, note text); CREATE TABLE large (LIKE plain INCLUDING ALL); \
             ALTER TABLE large ALTER note SET STORAGE EXTERNAL; CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO plain SELECT i, repeat('x', 100) FROM generate_series(1, 10000) i; \
             INSERT INTO large SELECT * FROM plain; INSERT INTO large VALUES (0, repeat('x', 9000))",
        )
        .unwrap();
    let config = config(&cluster, &["plain", "large"]);
    let mut run = Running::start(source(&config), Target::of(&["plain", "large"]));
    run.until_copied().await;
    let target = run.stop().await;
    for name in ["plain", "large"] {
        assert_eq!(target.folded(name, "id"), present(&cluster, name, &["id", "note"]));
    }
    // Of over 150 blocks.
    assert!(places(&target, "plain") < 10, "{}", places(&target, "plain"));
    assert!(places(&target, "large") > 150, "{}", places(&target, "large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_cut_inside_a_block_goes_on_with_whole_ones() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO orders SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i",
        )
        .unwrap();
    let mut config = config(&cluster, &["orders"]);
    for sent in [1, 20] {
        config["slot"] = format!("slot_{sent}").into();
        config["batch"] = serde_json::json!({"rows": 7});
        let mut run = Running::start(source(&config), Target::of(&["orders"]));
        run.until(|target| target.boundaries.len() > sent).await;
        let target = run.kill();
        let inside = target.tables[&table("orders")].checkpoint.iter();
        let inside = inside.filter(|(_, position)| position.ordered().is_some_and(|place| place.contains('+')));
        assert_ne!(inside.count(), 0, "it is inside of a block");
        config["batch"] = serde_json::json!({});
        let mut run = Running::start(source(&config), target);
        run.until_copied().await;
        let target = run.stop().await;
        assert_eq!(
            target.folded("orders", "id"),
            present(&cluster, "orders", &["id", "note"])
        );
        assert_eq!(target.tables[&table("orders")].rows.len(), 5000, "none was read again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_copy_of_a_table_without_a_key_begins_anew() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE events (n int, note text); ALTER TABLE events REPLICA IDENTITY FULL; \
             INSERT INTO events SELECT i, repeat('x', 500) FROM generate_series(1, 2000) i; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let mut config = config(&cluster, &["events"]);
    config["batch"]["rows"] = 50.into();
    let mut run = Running::start(source(&config), Target::of(&["events"]));
    run.until(|target| target.tables[&table("events")].rows.len() > 500)
        .await;
    cluster.psql("INSERT INTO events VALUES (-1, 'while it runs')").unwrap();
    let mut target = run.stop().await;
    assert!(target.tables[&table("events")].rows.len() < 2000, "it was cut");
    target.boundaries.clear();
    cluster
        .psql("INSERT INTO events VALUES (-2, 'while it does not')")
        .unwrap();
    let mut run = Running::start(source(&config), target);
    run.until_copied().await;
    cluster.psql("INSERT INTO events VALUES (-3, 'afterwards')").unwrap();
    run.catch_up(&cluster).await;
    let mut rows = run.stop().await.tables.remove(&table("events")).unwrap().rows;
    rows.sort_by(|a, b| (&a.position, a.ordinal).cmp(&(&b.position, b.ordinal)));
    let emptied = rows
        .iter()
        .rposition(|row| row.op == "t")
        .expect("what was there is thrown away");
    let mut found: Vec<i32> = rows[emptied + 1..]
        .iter()
        .map(|row| row.cells["n"].parse().unwrap())
        .collect();
    found.sort_unstable();
    let expected: Vec<i32> = (-3..=-1).chain(1..=2000).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_that_joins_later_has_each_row_once() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE events (n int); \
             ALTER TABLE events REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    // The stream that goes on behind what `orders` holds has these, and so has the copy.
    cluster
        .psql("INSERT INTO events SELECT generate_series(1, 20)")
        .unwrap();
    target.tables.insert(table("events"), crate::target::Held::default());
    let mut run = Running::start(source(&config(&cluster, &["orders", "events"])), target);
    run.catch_up(&cluster).await;
    let mut rows = run.stop().await.tables.remove(&table("events")).unwrap().rows;
    rows.sort_by(|a, b| (&a.position, a.ordinal).cmp(&(&b.position, b.ordinal)));
    let begin = rows
        .iter()
        .rposition(|row| row.op == "t")
        .map_or(0, |emptied| emptied + 1);
    let mut found: Vec<i32> = rows[begin..]
        .iter()
        .map(|row| row.cells["n"].parse().unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, (1..=20).collect::<Vec<i32>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_table_is_copied() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE empty (id int PRIMARY KEY, note text); \
             CREATE TABLE huge (id int PRIMARY KEY, note text); \
             INSERT INTO huge SELECT i, repeat(md5(i::text), 200000) FROM generate_series(1, 3) i; \
             CREATE TABLE parts (id int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
             CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100); \
             CREATE TABLE parts_high (note text, id int NOT NULL) PARTITION BY HASH (id); \
             CREATE TABLE parts_high_0 PARTITION OF parts_high FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
             CREATE TABLE parts_high_1 PARTITION OF parts_high FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
             ALTER TABLE parts ATTACH PARTITION parts_high FOR VALUES FROM (100) TO (300); \
             INSERT INTO parts SELECT i, 'p' || i FROM generate_series(0, 299) i; \
             CREATE TABLE parent (id int PRIMARY KEY, note text); CREATE TABLE child () INHERITS (parent); \
             ALTER TABLE child ADD PRIMARY KEY (id); INSERT INTO parent VALUES (1, 'parent'); INSERT INTO child VALUES (2, 'child'); \
             CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)",
        )
        .unwrap();
    let names = ["empty", "huge", "parts", "parent", "child"];
    let mut config = config(&cluster, &names);
    config["batch"]["rows"] = 10.into();
    let mut run = Running::start(source(&config), Target::of(&names));
    run.until_copied().await;
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    for name in names {
        let only = if name == "parts" {
            name.to_owned()
        } else {
            format!("ONLY {name}")
        };
        assert!(
            target.folded(name, "id") == present(&cluster, &only, &["id", "note"]),
            "{name}"
        );
    }

    // A role that may read a partitioned table need not be allowed to read its partitions.
    cluster
        .psql("CREATE ROLE reader LOGIN REPLICATION PASSWORD 'r'; GRANT SELECT ON parts TO reader; SELECT pg_drop_replication_slot('millstream_t_shop')")
        .unwrap();
    let mut config = crate::target::config(&cluster, &["parts"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    config["batch"]["rows"] = 10.into();
    let mut run = Running::start(source(&config), Target::of(&["parts"]));
    run.until_copied().await;
    let target = run.stop().await;
    assert!(target.folded("parts", "id") == present(&cluster, "parts", &["id", "note"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_keeps_to_its_rate_while_the_stream_goes_on() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE live (id int PRIMARY KEY, note text); \
             CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO orders SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i",
        )
        .unwrap();
    let mut config = config(&cluster, &["orders", "live"]);
    config["batch"]["rows"] = 100.into();
    config["copy"] = serde_json::json!({"rate": "1MiB"});
    let started = std::time::Instant::now();
    let mut run = Running::start(source(&config), Target::of(&["orders", "live"]));
    run.until(|target| !target.tables[&table("orders")].rows.is_empty())
        .await;
    cluster.psql("INSERT INTO live VALUES (1, 'now')").unwrap();
    let live = |target: &Target| target.tables[&table("live")].rows.iter().any(|row| row.op == "c");
    run.until(live).await;
    assert!(!run.target.is_copied(), "the stream does not wait for the copy");
    run.until_copied().await;
    assert!(
        started.elapsed() > Duration::from_millis(2500),
        "3 MB at 1 MiB/s: {:?}",
        started.elapsed()
    );
    run.stop().await;
}
