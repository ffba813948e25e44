//! The engine on memory connectors: random transactions, a crash at each named failpoint, and
//! the target equals the fold of the source's log.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fail::FailScenario;
use millstream::engine::epoch::CommitPolicy;
use millstream::engine::status::StatusBoard;
use millstream::engine::{self, FAILPOINTS, ModelDefinition, Outcome, PipelineSpec, SinkSpec};
use millstream_core::ErrorKind;
use millstream_sql::ModelSpec;
use millstream_testkit::change_log::change_rows;
use millstream_testkit::memory_log::{Change, MemoryLog, transactions};
use millstream_testkit::memory_sink::{self, MemorySink, MemoryStore};
use millstream_testkit::memory_source::{MemorySource, MemorySourceOptions};
use proptest::prelude::*;
use proptest::test_runner::Config;
use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;

const TABLES: [&str; 2] = ["a", "b"];

/// Commits often, so that a short log has many epochs.
fn eager() -> CommitPolicy {
    CommitPolicy {
        every: Duration::from_millis(1),
        rows: 7,
        bytes: 1 << 20,
        idle_every: Duration::from_millis(1),
    }
}

fn spec(log: &Arc<MemoryLog>, store: &MemoryStore, options: &MemorySourceOptions) -> PipelineSpec {
    let filtered = ModelSpec {
        name: "b_even".to_owned(),
        sql: "SELECT id, value * 2 AS doubled FROM log.b".to_owned(),
        file: None,
        key: vec!["id".to_owned()],
    };
    PipelineSpec {
        name: "property".to_owned(),
        sources: vec![Box::new(MemorySource::new(log.clone(), options.clone()))],
        models: BTreeMap::from([(
            "b_even".to_owned(),
            ModelDefinition {
                model: filtered,
                checks: Vec::new(),
            },
        )]),
        sinks: vec![SinkSpec {
            name: "store".to_owned(),
            sink: Arc::new(MemorySink::new(store.clone())),
            tables: Some(vec!["a".to_owned(), "b".to_owned(), "b_even".to_owned()]),
            commit: eager(),
        }],
        memory: 1 << 20,
    }
}

fn run_once(runtime: &Runtime, spec: PipelineSpec) -> millstream_core::Result<Outcome> {
    runtime.block_on(async {
        let io = Handle::current();
        let run = engine::run(spec, StatusBoard::new("property"), CancellationToken::new(), &io);
        tokio::time::timeout(Duration::from_secs(30), run)
            .await
            .expect("a run on memory connectors ends in time")
    })
}

/// A crash point and how many times it is passed before the crash.
fn crash() -> impl Strategy<Value = (&'static str, usize)> {
    let points: Vec<&str> = FAILPOINTS.iter().chain(&memory_sink::FAILPOINTS).copied().collect();
    (proptest::sample::select(points), 0usize..4)
}

fn assert_each_row_once(store: &MemoryStore, table: &str) -> Result<(), TestCaseError> {
    let rows = change_rows(&store.table(table).rows);
    let places: HashSet<_> = rows
        .iter()
        .map(|row| (row.partition.clone(), row.position.clone(), row.ordinal))
        .collect();
    prop_assert_eq!(places.len(), rows.len(), "a change was committed twice in {}", table);
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 200, ..Config::default() })]

    #[test]
    fn the_target_equals_the_fold_of_the_log_after_any_crash(
        committed in transactions(TABLES.len(), 30),
        poison in proptest::collection::vec(0usize..30, 0..4),
        crashes in proptest::collection::vec(crash(), 0..4),
        batch_rows in 1usize..9,
        transactions_per_boundary in 1u64..5,
        copy_chunk in proptest::option::of(1usize..5),
    ) {
        let scenario = FailScenario::setup();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let log = MemoryLog::new("log", &TABLES);
        let (store, count) = (MemoryStore::default(), committed.len());
        let poisoned: HashSet<usize> = poison.iter().map(|at| at % count).collect();
        for (number, mut changes) in committed.into_iter().enumerate() {
            if poisoned.contains(&number) {
                changes.push(Change::Poison(0, b"\xff not a row".to_vec()));
            }
            log.commit(changes);
        }
        let options =
            MemorySourceOptions { batch_rows, transactions_per_boundary, copy_chunk, ends: true, fail_at: None };

        for (point, passes) in &crashes {
            fail::cfg(*point, &format!("{passes}*off->1*return->off")).unwrap();
            match run_once(&runtime, spec(&log, &store, &options)) {
                Ok(outcome) => prop_assert_eq!(outcome, Outcome::Finished),
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.summary()),
            }
            fail::remove(*point);
        }
        prop_assert_eq!(run_once(&runtime, spec(&log, &store, &options)).unwrap(), Outcome::Finished);
        scenario.teardown();

        for (index, table) in TABLES.iter().enumerate() {
            prop_assert_eq!(store.fold(table), log.expected(index), "table {}", table);
            assert_each_row_once(&store, table)?;
        }
        let doubled = log.expected(1).into_iter().map(|(key, mut cells)| {
            cells.remove("label");
            if let Some(value) = cells.remove("value") {
                let value: i64 = value.parse().unwrap();
                cells.insert("doubled".to_owned(), (value * 2).to_string());
            }
            (key, cells)
        });
        prop_assert_eq!(store.fold("b_even"), doubled.collect());
        if copy_chunk.is_none() {
            // With a first copy the log before it is not read, and with it some of the poison.
            let kept = change_rows(&store.table("a").quarantine);
            prop_assert_eq!(kept.len(), poisoned.len(), "each poisoned change is in quarantine once");
        }
        prop_assert!(log.acknowledged() <= log.len());
    }
}

#[test]
fn the_source_is_told_only_what_is_durable() {
    let _scenario = FailScenario::setup();
    let runtime = Runtime::new().unwrap();
    let log = MemoryLog::new("log", &TABLES);
    let row = millstream_testkit::memory_log::MemoryRow {
        id: 1,
        value: None,
        label: None,
    };
    log.commit(vec![Change::Create(0, row)]);
    let store = MemoryStore::default();
    fail::cfg("memory::before-commit", "return").unwrap();
    let options = MemorySourceOptions {
        ends: true,
        ..MemorySourceOptions::default()
    };
    assert!(run_once(&runtime, spec(&log, &store, &options)).is_err());
    assert_eq!(log.acknowledged(), 0);
    fail::remove("memory::before-commit");
    run_once(&runtime, spec(&log, &store, &options)).unwrap();
    assert_eq!(store.fold("a").len(), 1);
}
