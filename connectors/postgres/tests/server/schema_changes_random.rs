//! Random changes of a table's columns and rows, written while the source is stopped and while it
//! runs. What it reads must equal what a model says that knows the history.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use millstream_testkit::change_log::Cells;
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, source};
use crate::trigger;

const PHASES: u64 = 4;
const STEPS: u64 = 25;
/// Few, so that they are used again for other columns.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const KEY_NAMES: [&str; 3] = ["k0", "k1", "k2"];

/// Marsaglia's xorshift: the same steps for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// The table as its history made it, and the changes that the source has to tell.
struct Model {
    key: &'static str,
    /// The name and type of each column beside the key, by its place.
    columns: Vec<(&'static str, &'static str)>,
    /// The values of each row, by its key and the column's place.
    rows: BTreeMap<usize, Vec<Option<usize>>>,
    next: usize,
    /// Operation, cells and the key's name.
    changes: Vec<(String, Cells, String)>,
}

impl Model {
    fn cells(&self, key: usize) -> Cells {
        let values = self.columns.iter().zip(&self.rows[&key]);
        let known = values.filter_map(|((name, _), value)| Some(((*name).to_owned(), (*value)?.to_string())));
        known.chain([(self.key.to_owned(), key.to_string())]).collect()
    }

    fn tell(&mut self, op: &str, key: usize) {
        let cells = self.cells(key);
        self.changes.push((op.to_owned(), cells, self.key.to_owned()));
    }

    fn free_name(&self, random: &mut Random) -> Option<&'static str> {
        let free: Vec<_> = NAMES
            .iter()
            .filter(|name| self.columns.iter().all(|(used, _)| used != *name))
            .collect();
        (!free.is_empty()).then(|| *free[random.below(free.len())])
    }

    /// Makes a random change. Returns its statement.
    fn step(&mut self, random: &mut Random) -> String {
        let (choice, column) = (random.below(16), random.below(self.columns.len().max(1)));
        let any_row = |model: &Self, random: &mut Random| {
            let keys: Vec<usize> = model.rows.keys().copied().collect();
            (!keys.is_empty()).then(|| keys[random.below(keys.len())])
        };
        match choice {
            0 | 1 => {
                let Some(name) = self.free_name(random) else {
                    return String::new();
                };
                let declared = ["int", "text", "bigint"][random.below(3)];
                let default = (random.below(2) == 0).then(|| random.below(100));
                self.columns.push((name, declared));
                self.rows.values_mut().for_each(|row| row.push(default));
                let default = default.map_or(String::new(), |value| format!(" DEFAULT '{value}'"));
                format!("ALTER TABLE t ADD {name} {declared}{default}; ALTER TABLE t ALTER {name} DROP DEFAULT;")
            }
            2 if !self.columns.is_empty() => {
                let (name, _) = self.columns.remove(column);
                self.rows.values_mut().for_each(|row| {
                    row.remove(column);
                });
                format!("ALTER TABLE t DROP {name};")
            }
            3 if !self.columns.is_empty() => {
                let Some(name) = self.free_name(random) else {
                    return String::new();
                };
                let before = std::mem::replace(&mut self.columns[column].0, name);
                format!("ALTER TABLE t RENAME {before} TO {name};")
            }
            4 if self.columns.len() > 1 => {
                let other = (column + 1) % self.columns.len();
                let (one, two) = (self.columns[column].0, self.columns[other].0);
                (self.columns[column].0, self.columns[other].0) = (two, one);
                format!(
                    "ALTER TABLE t RENAME {one} TO x; ALTER TABLE t RENAME {two} TO {one}; ALTER TABLE t RENAME x TO {two};"
                )
            }
            5 => {
                let name = KEY_NAMES[random.below(KEY_NAMES.len())];
                let before = std::mem::replace(&mut self.key, name);
                if before == name {
                    return "ANALYZE t;".to_owned();
                }
                format!("ALTER TABLE t RENAME {before} TO {name};")
            }
            6 if !self.columns.is_empty() => {
                // Digits stay what they are in any of the types, as long as they are few.
                let declared = ["int", "text", "bigint"][random.below(3)];
                let name = self.columns[column].0;
                self.columns[column].1 = declared;
                format!("ALTER TABLE t ALTER {name} TYPE {declared} USING {name}::text::{declared};")
            }
            7 | 8 => {
                let Some(key) = any_row(self, random) else {
                    return String::new();
                };
                self.tell("d", key);
                self.rows.remove(&key);
                format!("DELETE FROM t WHERE {} = {key};", self.key)
            }
            9 | 10 if !self.columns.is_empty() => {
                let Some(key) = any_row(self, random) else {
                    return String::new();
                };
                let value = random.below(1000);
                self.rows.get_mut(&key).unwrap()[column] = Some(value);
                self.tell("u", key);
                format!(
                    "UPDATE t SET {} = '{value}' WHERE {} = {key};",
                    self.columns[column].0, self.key
                )
            }
            11 => {
                let Some(key) = any_row(self, random) else {
                    return String::new();
                };
                self.tell("d", key);
                let row = self.rows.remove(&key).unwrap();
                self.next += 1;
                let next = self.next;
                self.rows.insert(next, row);
                self.tell("c", next);
                format!("UPDATE t SET {0} = {next} WHERE {0} = {key};", self.key)
            }
            _ => {
                self.next += 1;
                let key = self.next;
                let row: Vec<Option<usize>> = (0..self.columns.len())
                    .map(|_| (random.below(4) > 0).then(|| random.below(1000)))
                    .collect();
                let mut names = self.key.to_owned();
                let mut values = key.to_string();
                for ((name, _), value) in self.columns.iter().zip(&row) {
                    let value = value.map_or("NULL".to_owned(), |value| format!("'{value}'"));
                    write!(names, ", {name}").unwrap();
                    write!(values, ", {value}").unwrap();
                }
                self.rows.insert(key, row);
                self.tell("c", key);
                format!("INSERT INTO t ({names}) VALUES ({values});")
            }
        }
    }
}

async fn compare(seed: u64, is_told: bool) {
    let cluster = TestCluster::new().unwrap();
    if is_told {
        trigger::install(&cluster).await;
    }
    cluster
        .psql(
            "CREATE TABLE t (k0 int PRIMARY KEY, a int, b text); ALTER TABLE t REPLICA IDENTITY FULL; \
             CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let mut config = config(&cluster, &["t"]);
    if is_told {
        config["schema_changes"] = "trigger".into();
    }
    let mut random = Random(seed);
    let mut model = Model {
        key: "k0",
        columns: vec![("a", "int"), ("b", "text")],
        rows: BTreeMap::new(),
        next: 0,
        changes: Vec::new(),
    };
    let mut run = Running::start(source(&config), Target::of(&["t"]));
    run.until_streaming(&cluster).await;
    for phase in 0..PHASES {
        let mut script = String::new();
        for _ in 0..STEPS {
            let statements = model.step(&mut random);
            let transaction = random.below(3) == 0;
            script.push_str(if transaction && !statements.starts_with("ANALYZE") {
                "BEGIN;"
            } else {
                ""
            });
            script.push_str(&statements);
            script.push_str(if transaction && !statements.starts_with("ANALYZE") {
                "COMMIT;"
            } else {
                ""
            });
            if phase % 2 == 1 && random.below(8) == 0 {
                // The catalog is never far ahead then.
                cluster.psql(&std::mem::take(&mut script)).unwrap();
                run.catch_up(&cluster).await;
            }
        }
        if phase % 2 == 0 {
            let mut target = run.stop().await;
            target.boundaries.clear();
            cluster.psql(&script).unwrap();
            run = Running::start(source(&config), target);
        } else {
            cluster.psql(&script).unwrap();
        }
        run.catch_up(&cluster).await;
    }
    let target = run.stop().await;
    let found = target.changes("t");
    for (index, ((op, cells, _), (wanted_op, wanted, _))) in found.iter().zip(&model.changes).enumerate() {
        assert_eq!((op, cells), (wanted_op, wanted), "change {index} of seed {seed}");
    }
    assert_eq!(found.len(), model.changes.len(), "seed {seed}");
    // Batches end where columns change: each has one key.
    let streamed: Vec<String> = target
        .batches
        .iter()
        .flat_map(|(schema, rows)| std::iter::repeat_n(schema.key.join(","), *rows))
        .collect();
    let wanted: Vec<String> = model.changes.into_iter().map(|(_, _, key)| key).collect();
    assert_eq!(streamed, wanted, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_changes_of_columns_and_rows_are_read_as_they_were_written() {
    let seeds = std::env::var("MILLSTREAM_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(2);
    for seed in 1..=seeds {
        for is_told in [false, true] {
            compare(seed * 0x9E37_79B9, is_told).await;
        }
    }
}
