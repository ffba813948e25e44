//! Tables that are changed, swapped and made again at random, while the source is cut anywhere.

use std::time::Duration;

use futures::future::join_all;
use millstream_testkit::postgres::TestCluster;
use serde_json::json;
use tokio::time::timeout;

use crate::dice::Dice;
use crate::replaced::{settled, since_emptied};
use crate::target::{Running, Target, config, eventually, present, source, table};

/// How many random histories are run, and how many at a time.
const SEEDS: u64 = 20;
const LANES: u64 = 4;
/// How long the source is waited for before it is cut.
const LIFE: Duration = Duration::from_secs(2);

/// A step of the writer. The table is `name`; beside it there is one to swap it with, `spare`.
fn step(dice: &mut Dice, name: &str) -> String {
    let (id, spare) = (dice.roll(150), format!("spare_{name}"));
    let swap = format!(
        "ALTER TABLE {name} RENAME TO away_{name}; ALTER TABLE {spare} RENAME TO {name}; ALTER TABLE away_{name} RENAME TO {spare}"
    );
    match dice.roll(14) {
        0 => swap,
        1 => format!("{swap}; UPDATE {name} SET n = n + 1 WHERE id < {id}; UPDATE {spare} SET n = -1 WHERE id < 40"),
        2 => format!(
            "DROP TABLE {name}; CREATE TABLE {name} (id int PRIMARY KEY, n int, note text); \
             INSERT INTO {name} SELECT i, {id}, repeat('z', i) FROM generate_series(1, {id}) i"
        ),
        3 => format!("TRUNCATE {name}; INSERT INTO {name} VALUES ({id}, 1, 'after')"),
        4 | 5 => format!("UPDATE {spare} SET n = n + 1 WHERE id BETWEEN {id} AND {}", id + 30),
        6 => format!("DELETE FROM {name} WHERE id BETWEEN {id} AND {}", id + dice.roll(9)),
        7 => format!(
            "UPDATE {name} SET id = {} WHERE id = {id} AND NOT EXISTS (SELECT FROM {name} WHERE id = {0})",
            300 + id
        ),
        8 | 9 => format!(
            "INSERT INTO {name} VALUES ({}, 0, 'new') ON CONFLICT (id) DO UPDATE SET n = {name}.n + 1",
            dice.roll(200)
        ),
        _ => format!("UPDATE {name} SET n = n + 1 WHERE id BETWEEN {id} AND {}", id + 20),
    }
}

/// Writes `count` transactions.
async fn write(url: String, name: String, mut dice: Dice, count: u64) {
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..count {
        let steps: Vec<String> = (0..=dice.roll(2)).map(|_| step(&mut dice, &name)).collect();
        let end = if dice.roll(8) == 0 { "ROLLBACK" } else { "COMMIT" };
        let script = format!("BEGIN; {}; {end}", steps.join("; "));
        client.batch_execute(&script).await.unwrap();
    }
    drop(client);
    connection.await.unwrap().unwrap();
}

/// Reads a table in several lives, each killed somewhere, and wants it to equal its source.
async fn history(cluster: &TestCluster, seed: u64) {
    let mut dice = Dice::new(seed);
    let name = format!("t{seed}");
    let create = |name: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, n int, note text); \
             INSERT INTO {name} SELECT i, 0, repeat('x', i % 300) FROM generate_series(1, 120) i"
        )
    };
    cluster
        .psql(&format!(
            "{}; {}; CREATE PUBLICATION p{seed} FOR ALL TABLES",
            create(&name),
            create(&format!("spare_{name}"))
        ))
        .unwrap();
    let mut config = config(cluster, &[&name]);
    config["publication"] = format!("p{seed}").into();
    config["slot"] = format!("slot{seed}").into();
    config["batch"]["rows"] = (5 + dice.roll(40)).into();
    config["copy"] = json!({"workers": 1 + dice.roll(3)});
    config["governor"] = json!({"every": if dice.roll(2) == 0 { "50ms" } else { "1h" }});
    config["lost_slot"] = "recopy".into();
    let mut target = Target::of(&[&name]);
    let lives = 1 + dice.roll(5);
    for life in 0..lives {
        let mut run = Running::start(source(&config), target);
        let writer = write(cluster.url(), name.clone(), Dice::new(seed * 100 + life), dice.roll(15));
        let writer = tokio::spawn(writer);
        let enough = run.target.boundaries.len() + dice.roll(20) as usize;
        let whole =
            |target: &Target| target.boundaries.len() >= enough || target.is_copied() && enough.is_multiple_of(3);
        // It may be that so much does not happen in this life.
        let _ = timeout(LIFE, run.until_or_anew(whole)).await;
        target = run.kill();
        writer.await.unwrap();
        write(
            cluster.url(),
            name.clone(),
            Dice::new(seed * 100 + 50 + life),
            dice.roll(4),
        )
        .await;
        if dice.roll(6) == 0 {
            let drop = format!("SELECT pg_drop_replication_slot('slot{seed}')");
            let gone = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'slot{seed}'");
            eventually("the slot is free", || {
                cluster.psql(&drop).is_ok() || cluster.psql(&gone).unwrap() == "0"
            })
            .await;
        }
    }
    eprintln!("seed {seed}: {lives} lives");
    target = settled(cluster, &config, target, &[&name]).await;
    // A change of relations that came to light at the very end is settled by now.
    target = settled(cluster, &config, target, &[&name]).await;
    let found = since_emptied(&target.tables[&table(&name)].rows, "id");
    assert!(
        found == present(cluster, &name, &["id", "n", "note"]),
        "seed {seed}: {lives} lives before the last"
    );
    let drop = format!("SELECT pg_drop_replication_slot('slot{seed}')");
    eventually("the slot is free", || cluster.psql(&drop).is_ok()).await;
    cluster
        .psql(&format!("DROP PUBLICATION p{seed}; DROP TABLE {name}, spare_{name}"))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_replaced_at_random_is_the_one_that_its_source_has() {
    let cluster = TestCluster::with_settings(&[("autovacuum", "off"), ("max_connections", "100")]).unwrap();
    let only = std::env::var("MILLSTREAM_SEED")
        .ok()
        .map(|seed| seed.parse::<u64>().unwrap());
    let seeds = std::env::var("MILLSTREAM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let lanes = (0..LANES).map(|lane| {
        let cluster = &cluster;
        async move {
            let mine = (lane..seeds).step_by(LANES as usize);
            for seed in mine.filter(|seed| only.is_none_or(|only| only == *seed)) {
                history(cluster, seed).await;
            }
        }
    });
    join_all(lanes).await;
}
