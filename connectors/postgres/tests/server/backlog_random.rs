//! A backlog that is filled and read in many lives, each of which ends somewhere.

use std::time::Duration;

use futures::future::join_all;
use millstream_testkit::postgres::TestCluster;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::target::{Running, Target, attend, config, eventually, present, source};

const SEEDS: u64 = 20;
const LANES: u64 = 4;

/// Some transactions: small ones, some of which change columns and roll back in part, and at times a larger one.
fn script(dice: &mut Dice, name: &str, columns: &mut u64) -> String {
    let mut script = String::new();
    for _ in 0..=dice.roll(12) {
        let id = dice.roll(200);
        script.push_str(&match dice.roll(12) {
            0 => {
                *columns += 1;
                format!("ALTER TABLE {name} ADD COLUMN c{columns} numeric DEFAULT 1.50;", columns = *columns)
            }
            1 => format!(
                "BEGIN; UPDATE {name} SET note = repeat(md5(random()::text), {}) WHERE id % 3 = 0; SAVEPOINT s; \
                 DELETE FROM {name}; ROLLBACK TO s; DELETE FROM {name} WHERE id = {id}; COMMIT;",
                1 + dice.roll(200)
            ),
            2 => format!("TRUNCATE {name};"),
            3..=5 => format!("DELETE FROM {name} WHERE id = {id};"),
            _ => format!(
                "INSERT INTO {name} (id, note) VALUES ({id}, 'n{}') ON CONFLICT (id) DO UPDATE SET note = excluded.note;",
                dice.roll(1000)
            ),
        });
    }
    script
}

/// Reads a table in several lives, and wants it to equal its source.
async fn history(cluster: &TestCluster, seed: u64) {
    let mut dice = Dice::new(seed);
    let (name, folder) = (format!("t{seed}"), tempfile::tempdir().unwrap());
    cluster
        .psql(&format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, note text); INSERT INTO {name} SELECT i, 'first' FROM \
             generate_series(1, 50) i; CREATE PUBLICATION p{seed} FOR TABLE {name}"
        ))
        .unwrap();
    let mut config = config(cluster, &[&name]);
    config["publication"] = format!("p{seed}").into();
    config["slot"] = format!("slot{seed}").into();
    config["batch"]["rows"] = (1 + dice.roll(40)).into();
    config["governor"] = json!({"every": "10ms"});
    config["wal_budget"] =
        json!({"time": "1ms", "backlog": {"folder": folder.path().to_str().unwrap(), "size": "16MiB"}});
    let mut run = Running::start(source(&config), Target::of(&[&name]));
    run.until_copied().await;
    let mut target = run.kill();
    let (mut columns, mut from_backlog) = (0, 0);
    for _life in 0..2 + dice.roll(6) {
        // The target is away.
        let attendant = (dice.roll(2) == 0).then(|| attend(source(&config)));
        cluster.psql(&script(&mut dice, &name, &mut columns)).unwrap();
        sleep(Duration::from_millis(dice.roll(400))).await;
        // Whether the process ends with it.
        let attendant = attendant.filter(|_| dice.roll(2) == 0);
        let mut run = Running::start(source(&config), target);
        run.is_durable = dice.roll(2) == 0;
        for _ in 0..dice.roll(3) {
            cluster.psql(&script(&mut dice, &name, &mut columns)).unwrap();
            let enough = run.target.boundaries.len() + dice.roll(4) as usize;
            // It may be that so much does not happen.
            let reached = run.until(|target| target.boundaries.len() >= enough);
            let _ = timeout(Duration::from_millis(dice.roll(300)), reached).await;
        }
        let entries = std::fs::read_dir(folder.path().join("millstream_t_shop"));
        from_backlog += u32::from(entries.is_ok_and(|entries| entries.count() > 1));
        target = run.kill();
        drop(attendant);
    }
    let mut run = Running::start(source(&config), target);
    run.catch_up(cluster).await;
    // Both ways are gone once more.
    cluster.psql(&script(&mut dice, &name, &mut columns)).unwrap();
    run.catch_up(cluster).await;
    let target = run.stop().await;
    let all: Vec<String> = (1..=columns).map(|index| format!("c{index}")).collect();
    let all: Vec<&str> = ["id", "note"]
        .into_iter()
        .chain(all.iter().map(String::as_str))
        .collect();
    let held = target.folded(&name, "id");
    let expected = present(cluster, &name, &all);
    // What older rows have in columns that came later, the stream does not tell.
    let told = |rows: &millstream_testkit::change_log::FoldedTable| -> Vec<_> {
        let named =
            |cells: &millstream_testkit::change_log::Cells| (cells.get("id").cloned(), cells.get("note").cloned());
        rows.values().map(named).collect()
    };
    assert!(told(&held) == told(&expected), "seed {seed}: {held:?} {expected:?}");
    eprintln!("seed {seed}: a backlog in {from_backlog} lives");
    let drop = format!("SELECT pg_drop_replication_slot('slot{seed}')");
    eventually("the slot is free", || cluster.psql(&drop).is_ok()).await;
    cluster
        .psql(&format!("DROP PUBLICATION p{seed}; DROP TABLE {name}"))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_from_a_backlog_at_random_is_what_the_server_would_have_sent() {
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
