//! Checks as the engine carries them out.

use std::sync::Arc;
use std::time::Duration;

use fail::FailScenario;
use millstream::engine::Outcome;
use millstream::engine::epoch::CommitPolicy;
use millstream::engine::status::StatusBoard;
use millstream_core::{ErrorKind, Result, Source};
use millstream_testkit::change_log::change_rows;
use millstream_testkit::memory_log::{Change, MemoryLog, MemoryRow};
use millstream_testkit::memory_sink::MemoryStore;
use millstream_testkit::memory_source::{MemorySource, MemorySourceOptions};
use tokio::runtime::Runtime;

use super::{eager, model, patient, run, run_on, spec};

const SQL: &str = "SELECT id, value FROM log.a";

fn create(table: usize, id: i64, value: Option<i64>) -> Vec<Change> {
    let row = MemoryRow { id, value, label: None };
    vec![Change::Create(table, row)]
}

struct World {
    log: Arc<MemoryLog>,
    store: MemoryStore,
    runtime: Runtime,
    commit: CommitPolicy,
    ends: bool,
    _scenario: FailScenario<'static>,
}

impl World {
    fn new() -> Self {
        Self {
            _scenario: FailScenario::setup(),
            log: MemoryLog::new("log", &["a", "b"]),
            store: MemoryStore::default(),
            runtime: Runtime::new().unwrap(),
            commit: patient(),
            ends: true,
        }
    }

    /// Publishes the model `m` with these checks beside `tables`.
    fn run(&self, checks: &str, tables: &[&str]) -> Result<Outcome> {
        let options = MemorySourceOptions {
            ends: self.ends,
            ..MemorySourceOptions::default()
        };
        let source: Box<dyn Source> = Box::new(MemorySource::new(self.log.clone(), options));
        let models = [model("m", SQL, &["id"], checks)];
        run(
            &self.runtime,
            spec(vec![source], models, &self.store, tables, self.commit),
        )
    }

    fn count(&self, table: &str) -> (usize, usize) {
        let stored = self.store.table(table);
        (change_rows(&stored.rows).len(), change_rows(&stored.quarantine).len())
    }
}

#[test]
fn a_row_that_must_not_be_halts_before_anything_of_its_epoch_is_visible() {
    let world = World::new();
    world.log.commit(create(0, 1, Some(1)));
    world.log.commit(create(1, 1, Some(1)));
    world.log.commit(create(0, 2, None));
    let error = world.run("- {not_null: value, then: fail}", &["m", "b"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckFailed, "{}", error.summary());
    assert_eq!((world.count("m"), world.count("b")), ((0, 0), (0, 0)));
    assert!(world.store.table("m").checkpoint.is_empty());
    assert_eq!(world.log.acknowledged(), 0);
}

#[test]
fn an_epoch_whose_rows_are_all_held_back_is_judged_and_committed_like_any_other() {
    let mut world = World::new();
    // Due by the number of rows, however long they have waited.
    world.commit = CommitPolicy { rows: 4, ..patient() };
    for id in 0..4 {
        world.log.commit(create(0, id, Some(id + 1)));
    }
    let checks = "- {accepted_range: {column: value, max: 0}, then: quarantine}";
    assert_eq!(world.run(checks, &["m"]).unwrap(), Outcome::Finished);
    assert_eq!(world.count("m"), (0, 4));
    drop(world);

    let world = World::new();
    world.log.commit(create(0, 1, Some(1)));
    let strict = "- {accepted_range: {column: value, max: 0}, then: quarantine, error_if: '>0'}";
    assert_eq!(world.run(strict, &["m"]).unwrap_err().kind(), ErrorKind::CheckFailed);
    assert_eq!(world.count("m"), (0, 0));
}

#[test]
fn a_model_that_is_added_later_keeps_what_it_rejects() {
    let world = World::new();
    world.log.commit(create(0, 1, Some(1)));
    world.log.commit(vec![Change::Poison(0, b"x".to_vec())]);
    let checks = "- {accepted_range: {column: value, max: 0}, then: quarantine}";
    world.run("", &["a"]).unwrap();
    assert_eq!(world.count("a"), (1, 1));
    world.run(checks, &["a", "m"]).unwrap();
    assert_eq!((world.count("a"), world.count("m")), ((1, 1), (0, 2)));
}

#[test]
fn an_idle_table_turns_stale_while_another_is_busy() {
    let mut world = World::new();
    world.ends = false;
    world.commit = eager();
    let log = world.log.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut id = 0;
        while stopped
            .recv_timeout(Duration::from_millis(1))
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            log.commit(create(1, id, None));
            id += 1;
        }
    });
    let error = world
        .run("- {freshness: {max_age: 1s}, then: fail}", &["m", "b"])
        .unwrap_err();
    drop(stop);
    writer.join().unwrap();
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::CheckFailed, Some("CK0103"))
    );
    assert!(world.count("b").0 > 100, "the other table was busy");
}

#[test]
fn a_warning_counts_once_in_each_sink() {
    let world = World::new();
    world.log.commit(create(0, 1, None));
    let options = MemorySourceOptions {
        ends: true,
        ..MemorySourceOptions::default()
    };
    let source: Box<dyn Source> = Box::new(MemorySource::new(world.log.clone(), options));
    let models = [model("m", SQL, &["id"], "- {not_null: value, then: warn}")];
    let mut both = spec(vec![source], models, &world.store, &["m"], patient());
    let mut other = spec(Vec::new(), [], &MemoryStore::default(), &["m"], patient());
    other.sinks[0].name = "other".to_owned();
    both.sinks.append(&mut other.sinks);
    let board = StatusBoard::new("memory");
    run_on(&world.runtime, both, board.clone()).unwrap();
    let tables = board.read().tables;
    let warnings: Vec<_> = tables
        .iter()
        .map(|(name, table)| (&**name, table.rows, table.warnings))
        .collect();
    assert_eq!(warnings, [("other.m", 1, 1), ("store.m", 1, 1)]);
}

#[test]
fn sinks_keep_their_own_intervals() {
    let world = World::new();
    let source = || -> Vec<Box<dyn Source>> {
        let options = MemorySourceOptions {
            ends: true,
            transactions_per_boundary: 1,
            ..MemorySourceOptions::default()
        };
        vec![Box::new(MemorySource::new(world.log.clone(), options))]
    };
    for id in 0..40 {
        world.log.commit(create(0, id, None));
    }
    let slow = MemoryStore::default();
    let mut both = spec(
        source(),
        [],
        &world.store,
        &["a"],
        CommitPolicy { rows: 4, ..patient() },
    );
    both.sinks.extend(spec(Vec::new(), [], &slow, &["a"], patient()).sinks);
    run(&world.runtime, both).unwrap();
    assert_eq!((world.store.table("a").version, slow.table("a").version), (10, 1));
    assert_eq!(world.store.fold("a"), slow.fold("a"));
}
