//! Random transactions in two sources, written while the pipeline dies at each named failpoint
//! again and again: the target equals the fold of the logs.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use fail::FailScenario;
use millstream::engine::{FAILPOINTS, Outcome, PipelineSpec};
use millstream_core::{ErrorKind, Source};
use millstream_testkit::change_log::{Cells, ChangeRow, FoldedTable, change_rows};
use millstream_testkit::memory_log::{Change, MemoryLog, MemoryRow, transactions};
use millstream_testkit::memory_sink::{self, MemoryStore};
use millstream_testkit::memory_source::{MemorySource, MemorySourceOptions};
use proptest::prelude::*;
use proptest::test_runner::Config;
use tokio::runtime::Runtime;

use super::{eager, model, run, spec};

/// The tables of the source `log`; `u` is never truncated.
const TABLES: [&str; 3] = ["a", "b", "u"];
/// The target tables.
const TARGETS: [&str; 6] = ["a", "b", "u", "b_even", "b_checked", "both"];

/// Two logs, and what reads them.
struct World {
    log: Arc<MemoryLog>,
    other: Arc<MemoryLog>,
    store: MemoryStore,
    options: MemorySourceOptions,
}

impl World {
    fn new(options: MemorySourceOptions) -> Self {
        Self {
            log: MemoryLog::new("log", &TABLES),
            other: MemoryLog::new("other", &["v"]),
            store: MemoryStore::default(),
            options,
        }
    }

    fn spec(&self) -> PipelineSpec {
        let source = |log: &Arc<MemoryLog>| -> Box<dyn Source> {
            Box::new(MemorySource::new(log.clone(), self.options.clone()))
        };
        let models = [
            model(
                "b_even",
                "SELECT id, value * 2 AS doubled FROM log.b WHERE value % 2 = 0",
                &["id"],
                "",
            ),
            model(
                "b_checked",
                "SELECT id, value FROM log.b",
                &["id"],
                "- {accepted_range: {column: value, max: 0}, then: quarantine}",
            ),
            model(
                "both",
                "SELECT 'u' AS origin, id, value FROM log.u UNION ALL SELECT 'v', id, value FROM other.v",
                &["origin", "id"],
                "",
            ),
        ];
        spec(
            vec![source(&self.log), source(&self.other)],
            models,
            &self.store,
            &TARGETS,
            eager(),
        )
    }

    /// The rows of a target table, each change once.
    fn rows(&self, table: &str) -> Vec<ChangeRow> {
        let rows = change_rows(&self.store.table(table).rows);
        let places: HashSet<_> = rows.iter().map(ChangeRow::place).collect();
        assert_eq!(places.len(), rows.len(), "a change was committed twice in {table}");
        rows
    }

    /// No source was told that something is durable which a table does not hold.
    fn assert_acknowledged_is_durable(&self) {
        for (log, tables) in [(&self.log, &TARGETS[..]), (&self.other, &["both"][..])] {
            let held = tables.iter().map(|table| {
                let stored = self.store.table(table).checkpoint;
                let position = stored.position(&log.partition()).ordered().map(str::to_owned);
                position.map_or(0, |text| text.parse::<u64>().unwrap())
            });
            let least = held.min().unwrap_or_default();
            assert!(log.acknowledged() <= least, "{} of {least}", log.acknowledged());
        }
    }
}

/// A crash point and how many times it is passed before the crash.
fn crash() -> impl Strategy<Value = (&'static str, usize)> {
    let points: Vec<&str> = FAILPOINTS.iter().chain(&memory_sink::FAILPOINTS).copied().collect();
    (proptest::sample::select(points), 0usize..6)
}

fn is_truncation_of(table: usize) -> impl Fn(&Change) -> bool {
    move |change| matches!(change, Change::Truncate(of) if *of == table)
}

proptest! {
    #![proptest_config(Config { cases: 200, ..Config::default() })]

    #[test]
    fn the_target_equals_the_fold_of_the_logs_after_any_crash(
        committed in transactions(TABLES.len(), 30),
        elsewhere in transactions(1, 12),
        poison in proptest::collection::vec(0usize..30, 0..4),
        crashes in proptest::collection::vec(crash(), 0..4),
        batch_rows in 1usize..9,
        transactions_per_boundary in 1u64..5,
        copy_chunk in proptest::option::of(1usize..5),
    ) {
        let scenario = FailScenario::setup();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options =
            MemorySourceOptions { batch_rows, transactions_per_boundary, copy_chunk, ends: true, fail_at: None };
        let world = World::new(options);
        let count = committed.len();
        let poisoned: HashSet<usize> = poison.iter().map(|at| at % count).collect();
        let committed = committed.into_iter().enumerate().map(|(number, mut changes)| {
            changes.retain(|change| !is_truncation_of(2)(change));
            if poisoned.contains(&number) {
                changes.push(Change::Poison(0, b"\xff not a row".to_vec()));
            }
            changes
        });
        let elsewhere = elsewhere.into_iter().map(|mut changes| {
            changes.retain(|change| !is_truncation_of(0)(change));
            changes
        });
        // Each life finds more in the logs than the one before it.
        let lives = crashes.len() + 1;
        let (mut committed, mut elsewhere): (Vec<_>, Vec<_>) = (committed.collect(), elsewhere.collect());
        for (life, crash) in crashes.iter().map(Some).chain([None]).enumerate() {
            let share = |left: usize| left.div_ceil(lives - life);
            for changes in committed.drain(..share(committed.len())).collect::<Vec<_>>() {
                world.log.commit(changes);
            }
            for changes in elsewhere.drain(..share(elsewhere.len())).collect::<Vec<_>>() {
                world.other.commit(changes);
            }
            if let Some((point, passes)) = crash {
                fail::cfg(*point, &format!("{passes}*off->1*return->off")).unwrap();
            }
            match run(&runtime, world.spec()) {
                Ok(outcome) => prop_assert_eq!(outcome, Outcome::Finished),
                Err(error) => {
                    prop_assert!(crash.is_some(), "{}", error.summary());
                    prop_assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.summary());
                }
            }
            if let Some((point, _)) = crash {
                fail::remove(*point);
            }
            world.assert_acknowledged_is_durable();
        }
        scenario.teardown();

        for (index, table) in TABLES.iter().enumerate() {
            prop_assert_eq!(world.store.fold(table), world.log.expected(index), "table {}", table);
            world.rows(table);
        }
        let even = |cells: &Cells| cells.get("value").is_some_and(|value| value.parse::<i64>().unwrap() % 2 == 0);
        let doubled = world.log.expected(1).into_iter().filter(|(_, cells)| even(cells)).map(|(key, mut cells)| {
            cells.remove("label");
            let value: i64 = cells.remove("value").unwrap().parse().unwrap();
            cells.insert("doubled".to_owned(), (value * 2).to_string());
            (key, cells)
        });
        prop_assert_eq!(world.store.fold("b_even"), doubled.collect());
        prop_assert_eq!(world.store.fold("both"), both(&world));
        if copy_chunk.is_none() {
            // With a first copy the log before it is not read, and with it some of the poison.
            let kept = change_rows(&world.store.table("a").quarantine);
            prop_assert_eq!(kept.len(), poisoned.len(), "each poisoned change is in quarantine once");
        }
        assert_each_row_passed_or_is_in_quarantine(&world, copy_chunk.is_some());
    }
}

/// What the union of a table of each source must hold.
fn both(world: &World) -> FoldedTable {
    let of = |origin: &str, rows: FoldedTable| {
        let origin = ("origin".to_owned(), origin.to_owned());
        let named = rows.into_iter().map(move |(mut key, mut cells)| {
            key.extend([origin.clone()]);
            cells.extend([origin.clone()]);
            cells.remove("label");
            (key, cells)
        });
        named.collect::<Vec<_>>()
    };
    let (here, there) = (of("u", world.log.expected(2)), of("v", world.other.expected(0)));
    here.into_iter().chain(there).collect()
}

/// Rows of `b` whose value is above zero are in quarantine, all others in the table, none in both.
fn assert_each_row_passed_or_is_in_quarantine(world: &World, copied: bool) {
    let place = |row: &ChangeRow| (row.partition.clone(), row.position.clone(), row.ordinal);
    let fails = |cells: &BTreeMap<String, String>| cells.get("value").is_some_and(|v| v.parse::<i64>().unwrap() > 0);
    let passed = world.rows("b_checked");
    assert!(passed.iter().all(|row| !fails(&row.cells)));
    let rejected: BTreeMap<_, _> = change_rows(&world.store.table("b_checked").quarantine)
        .iter()
        .map(|row| {
            let raw = hex::decode(&row.cells["raw"]).unwrap();
            (place(row), serde_json::from_slice::<serde_json::Value>(&raw).unwrap())
        })
        .collect();
    assert_eq!(
        rejected.len(),
        change_rows(&world.store.table("b_checked").quarantine).len()
    );
    assert!(rejected.values().all(|row| row["value"].as_i64().unwrap() > 0));
    let places: HashSet<_> = passed.iter().map(place).chain(rejected.keys().cloned()).collect();
    assert_eq!(places.len(), passed.len() + rejected.len(), "a row is in both");
    if !copied {
        assert_eq!(places, world.rows("b").iter().map(place).collect());
    }
    for cells in world.log.expected(1).values().filter(|cells| fails(cells)) {
        let is_it = |row: &serde_json::Value| {
            ["id", "value"]
                .iter()
                .all(|name| row[name].as_i64() == cells[*name].parse().ok())
        };
        assert!(rejected.values().any(is_it), "a rejected row is nowhere: {cells:?}");
    }
}

#[test]
fn every_failpoint_is_reached_and_fails_the_epoch() {
    let _scenario = FailScenario::setup();
    let runtime = Runtime::new().unwrap();
    for point in FAILPOINTS.iter().chain(&memory_sink::FAILPOINTS) {
        let world = World::new(MemorySourceOptions {
            ends: true,
            ..MemorySourceOptions::default()
        });
        world.log.commit(vec![Change::Create(0, row(1, 1))]);
        fail::cfg(*point, "1*return->off").unwrap();
        let error = run(&runtime, world.spec()).expect_err(point);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{point}");
        fail::remove(*point);
    }
}

fn row(id: i64, value: i64) -> MemoryRow {
    MemoryRow {
        id,
        value: Some(value),
        label: None,
    }
}

#[test]
fn the_source_is_told_only_what_is_durable() {
    let _scenario = FailScenario::setup();
    let runtime = Runtime::new().unwrap();
    let world = World::new(MemorySourceOptions {
        ends: true,
        ..MemorySourceOptions::default()
    });
    world.log.commit(vec![Change::Create(0, row(1, 1))]);
    fail::cfg("memory::before-commit", "return").unwrap();
    assert!(run(&runtime, world.spec()).is_err());
    assert_eq!(world.log.acknowledged(), 0);
    fail::remove("memory::before-commit");
    run(&runtime, world.spec()).unwrap();
    assert_eq!(world.store.fold("a").len(), 1);
}
