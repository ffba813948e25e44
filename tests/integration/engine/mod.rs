//! The engine on sources and sinks in memory.

mod checks;
mod property;
mod scripted;
mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream::engine::epoch::CommitPolicy;
use millstream::engine::status::StatusBoard;
use millstream::engine::{self, ModelDefinition, Outcome, PipelineSpec, SinkSpec};
use millstream_core::{Result, Source};
use millstream_sql::ModelSpec;
use millstream_testkit::memory_sink::{MemorySink, MemoryStore};
use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// Commits often, so that a short log has many epochs.
fn eager() -> CommitPolicy {
    CommitPolicy {
        every: Duration::from_millis(1),
        rows: 7,
        bytes: 1 << 20,
        idle_every: Duration::from_millis(1),
    }
}

/// Commits at the end alone.
fn patient() -> CommitPolicy {
    let hour = Duration::from_secs(3600);
    CommitPolicy {
        every: hour,
        rows: u64::MAX,
        bytes: u64::MAX,
        idle_every: hour,
    }
}

/// A model called `name` with the checks that `checks` lists in YAML.
fn model(name: &str, sql: &str, key: &[&str], checks: &str) -> (String, ModelDefinition) {
    let checks = if checks.is_empty() {
        Vec::new()
    } else {
        serde_saphyr::from_str(checks).expect("the checks are well-formed")
    };
    let model = ModelSpec {
        name: name.to_owned(),
        sql: sql.to_owned(),
        file: None,
        key: key.iter().map(|column| (*column).to_owned()).collect(),
    };
    (name.to_owned(), ModelDefinition { model, checks })
}

/// A pipeline that publishes `tables` in `store`.
fn spec(
    sources: Vec<Box<dyn Source>>,
    models: impl IntoIterator<Item = (String, ModelDefinition)>,
    store: &MemoryStore,
    tables: &[&str],
    commit: CommitPolicy,
) -> PipelineSpec {
    PipelineSpec {
        name: "memory".to_owned(),
        sources,
        models: models.into_iter().collect::<BTreeMap<_, _>>(),
        sinks: vec![SinkSpec {
            name: "store".to_owned(),
            sink: Arc::new(MemorySink::new(store.clone())),
            tables: Some(tables.iter().map(|table| (*table).to_owned()).collect()),
            commit,
        }],
        memory: 1 << 20,
    }
}

/// Runs `spec` until its sources end or it fails, within half a minute.
fn run(runtime: &Runtime, spec: PipelineSpec) -> Result<Outcome> {
    run_on(runtime, spec, StatusBoard::new("memory"))
}

/// The same, with its numbers on `board`.
fn run_on(runtime: &Runtime, spec: PipelineSpec, board: StatusBoard) -> Result<Outcome> {
    runtime.block_on(async {
        let io = Handle::current();
        let run = engine::run(spec, board, CancellationToken::new(), &io);
        tokio::time::timeout(Duration::from_secs(30), run)
            .await
            .expect("a run on memory connectors ends in time")
    })
}
