//! Random histories with values that are left out and read again: the fold is the table, whether
//! it trusts what was read again or what it has.

use millstream_testkit::change_log::{ChangeRow, fold_rows};
use millstream_testkit::postgres::TestCluster;
use tokio_postgres::{Client, NoTls};

use crate::target::{Running, Target, present, source, table};
use crate::toast::reread;

const TRANSACTIONS: usize = 150;
const KEYS: u64 = 8;

/// Marsaglia's xorshift: the same steps for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// A change of few keys, so that rows move to keys that others had.
    fn statement(&mut self, step: usize) -> String {
        let (key, other) = (self.below(KEYS), self.below(KEYS));
        let length = 2500 + self.below(3000);
        match self.below(12) {
            0..=1 => format!(
                "INSERT INTO notes VALUES ({key}, {step}, repeat('{}', {length})) ON CONFLICT DO NOTHING",
                step % 10
            ),
            2..=5 => format!("UPDATE notes SET n = {step} WHERE id = {key}"),
            6..=8 => format!(
                "UPDATE notes SET id = {other}, n = {step} WHERE id = {key} AND NOT EXISTS (SELECT FROM notes WHERE id = {other})"
            ),
            9 => format!(
                "UPDATE notes SET body = repeat('{}', {length}) WHERE id = {key}",
                step % 10
            ),
            10 => format!("UPDATE notes SET body = NULL WHERE id = {key}"),
            _ => format!("DELETE FROM notes WHERE id = {key}"),
        }
    }

    fn transaction(&mut self, step: usize) -> String {
        let mut sql = "BEGIN;".to_owned();
        for _ in 0..=self.below(5) {
            match self.below(6) {
                0 => {
                    let (undone, kept) = (self.statement(step), self.below(2) == 0);
                    let end = if kept { "RELEASE s" } else { "ROLLBACK TO s" };
                    sql = format!("{sql} SAVEPOINT s; {undone}; {end};");
                }
                _ => sql = format!("{sql} {};", self.statement(step)),
            }
        }
        sql + " COMMIT"
    }
}

async fn fold(seed: u64) {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE notes (id int PRIMARY KEY, n int, body text); \
             ALTER TABLE notes ALTER body SET STORAGE EXTERNAL; CREATE PUBLICATION p FOR TABLE notes; \
             INSERT INTO notes SELECT i, 0, repeat(i::text, 3000) FROM generate_series(0, 5) i",
        )
        .unwrap();
    let mut config = reread(&cluster, &["notes"]);
    config["batch"]["rows"] = 7.into();
    let mut run = Running::start(source(&config), Target::of(&["notes"]));
    run.until_streaming(&cluster).await;
    let (client, connection): (Client, _) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut random = Random(seed);
    for step in 1..=TRANSACTIONS {
        client.batch_execute(&random.transaction(step)).await.unwrap();
        if random.below(30) == 0 {
            // Now and then the source is close behind, and mostly far.
            run.catch_up(&cluster).await;
        }
    }
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let expected = present(&cluster, "notes", &["id", "n", "body"]);
    assert_eq!(
        target.folded("notes", "id"),
        expected,
        "seed {seed}: a fold that keeps what it has"
    );
    let mut rows = target.tables[&table("notes")].rows.clone();
    let values = |row: &&ChangeRow| row.unchanged.iter().any(|name| row.cells.contains_key(name));
    assert!(
        rows.iter().filter(values).count() > 20,
        "seed {seed}: values that were read again"
    );
    for row in &mut rows {
        row.unchanged.retain(|name| !row.cells.contains_key(name));
    }
    assert_eq!(
        fold_rows(&["id".to_owned()], rows),
        expected,
        "seed {seed}: a fold that takes what was read again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fold_of_a_random_history_is_the_table() {
    for seed in [3, 5] {
        fold(seed * 0x9E37_79B9).await;
    }
}
