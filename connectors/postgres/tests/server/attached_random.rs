//! Partitions that come and go at random, while the source is cut anywhere.

use std::time::Duration;

use millstream_testkit::postgres::TestCluster;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::target::{Running, Target, client, config, present, source};

const SEEDS: u64 = 12;
/// Partitions, of ten rows each.
const PARTS: u64 = 8;
/// How long the source is waited for before it is cut.
const LIFE: Duration = Duration::from_millis(400);

/// A step of the writer on the partition `part` of `name`, which is there if `attached` says so.
fn step(dice: &mut Dice, name: &str, part: u64, attached: &mut [Option<bool>]) -> String {
    let (low, high) = (part * 10, part * 10 + 10);
    let own = format!("{name}_{part}");
    let rows = format!(
        "INSERT INTO {own} SELECT i, {} FROM generate_series({low}, {}) i ON CONFLICT DO NOTHING",
        dice.roll(100),
        low + dice.roll(10)
    );
    let attach = format!("ALTER TABLE {name} ATTACH PARTITION {own} FOR VALUES FROM ({low}) TO ({high})");
    let state = &mut attached[usize::try_from(part).unwrap()];
    match *state {
        None if dice.roll(4) == 0 => {
            *state = Some(true);
            format!("CREATE TABLE {own} PARTITION OF {name} FOR VALUES FROM ({low}) TO ({high}); {rows}")
        }
        None => {
            *state = Some(true);
            let (begin, commit) = if dice.roll(2) == 0 {
                ("BEGIN; ", "; COMMIT")
            } else {
                ("", "")
            };
            format!("{begin}CREATE TABLE {own} (id int PRIMARY KEY, n int); {rows}; {attach}{commit}")
        }
        Some(false) => {
            *state = Some(true);
            format!("{rows}; {attach}")
        }
        // The rows of one that goes would stay.
        Some(true) => match dice.roll(8) {
            0 => {
                *state = Some(false);
                format!("BEGIN; DELETE FROM {own}; ALTER TABLE {name} DETACH PARTITION {own}; COMMIT; {rows}")
            }
            1 => format!("DELETE FROM {name} WHERE id BETWEEN {low} AND {}", low + dice.roll(10)),
            2 => format!("UPDATE {name} SET id = id + 1 WHERE id = (SELECT max(id) FROM {own}) AND id < {high} - 1"),
            3 => rows,
            4 => format!("BEGIN; ALTER TABLE {name} DETACH PARTITION {own}; ROLLBACK"),
            _ => format!("UPDATE {name} SET n = n + 1 WHERE id BETWEEN {low} AND {high}"),
        },
    }
}

/// Reads a table in several lives, each killed somewhere, and wants it to equal its source.
async fn history(cluster: &TestCluster, seed: u64) {
    let mut dice = Dice::new(seed);
    let name = format!("t{seed}");
    cluster
        .psql(&format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, n int) PARTITION BY RANGE (id); \
             CREATE PUBLICATION p{seed} FOR TABLE {name} WITH (publish_via_partition_root = true)"
        ))
        .unwrap();
    let mut config = config(cluster, &[&name]);
    config["publication"] = format!("p{seed}").into();
    config["slot"] = format!("s{seed}").into();
    config["batch"]["rows"] = 5.into();
    config["governor"] = json!({"every": "30ms"});
    let writer = client(cluster).await;
    let mut attached = [None; PARTS as usize];
    let mut target = Target::of(&[&name]);
    for _ in 0..6 {
        let mut run = Running::start(source(&config), target);
        for _ in 0..=dice.roll(6) {
            let part = dice.roll(PARTS);
            let sql = step(&mut dice, &name, part, &mut attached);
            let life = LIFE * u32::try_from(dice.roll(100)).unwrap() / 100;
            // A command may wait for a copy's lock, and the copy for us.
            let written = async {
                writer.batch_execute(&sql).await.unwrap();
                sleep(life).await;
            };
            tokio::select! {
                () = written => {}
                () = run.until(|_| false) => unreachable!(),
            }
        }
        target = run.kill();
    }
    let mut run = Running::start(source(&config), target);
    let expected = present(cluster, &name, &["id", "n"]);
    let equal = timeout(
        Duration::from_secs(30),
        run.until(|target| target.folded(&name, "id") == expected),
    )
    .await;
    assert!(
        equal.is_ok(),
        "seed {seed}: {:?} is not {expected:?}",
        run.target.folded(&name, "id")
    );
    run.catch_up(cluster).await;
    assert_eq!(run.stop().await.folded(&name, "id"), expected, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_and_go_leave_no_row_out() {
    let cluster = TestCluster::with_settings(&[("max_replication_slots", "100"), ("max_wal_senders", "100")]).unwrap();
    // Version 14 goes on sending, or leaving out, a partition's changes as before it came or went.
    if !cluster.has("timely news of partitions", 15).unwrap() {
        return;
    }
    let seeds = std::env::var("MILLSTREAM_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(SEEDS) {
        history(&cluster, seed).await;
    }
}
