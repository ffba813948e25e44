//! The supervisor: keeps pipelines running, each apart from the others.

mod backoff;
mod keeper;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{LoadedPipeline, Project};
use crate::engine::status::{PipelineStatus, State, StatusBoard};

/// All pipelines of a daemon. Cheap to clone; clones share the pipelines.
#[derive(Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

struct Shared {
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Where sources run.
    io: Handle,
    /// Where SQL, checks and encoding run.
    compute: Handle,
}

struct Kept {
    fingerprint: String,
    board: StatusBoard,
    drain: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// A supervisor without pipelines. Sources run on `io`, all else on `compute`.
    pub fn new(io: Handle, compute: Handle) -> Self {
        Self {
            shared: Arc::new(Shared {
                kept: Mutex::default(),
                io,
                compute,
            }),
        }
    }

    /// Makes the running pipelines those of `project`: starts new ones, drains those that are
    /// gone, drains and starts anew those that changed, and leaves the rest alone.
    pub async fn apply(&self, project: &Project) {
        let leaving: Vec<(String, Kept)> = {
            let mut kept = self.lock();
            let gone: Vec<String> = kept
                .iter()
                .filter(|(name, kept)| {
                    project
                        .pipelines
                        .get(*name)
                        .is_none_or(|wanted| wanted.fingerprint != kept.fingerprint)
                        || kept.task.is_finished()
                })
                .map(|(name, _)| name.clone())
                .collect();
            gone.into_iter().filter_map(|name| kept.remove_entry(&name)).collect()
        };
        stop(leaving).await;
        for (name, pipeline) in &project.pipelines {
            if !self.lock().contains_key(name) {
                self.start(name, pipeline.clone());
            }
        }
    }

    fn start(&self, name: &str, pipeline: Arc<LoadedPipeline>) {
        let board = StatusBoard::new(name);
        let drain = CancellationToken::new();
        let fingerprint = pipeline.fingerprint.clone();
        let keeper = keeper::keep_running(pipeline, board.clone(), drain.clone(), self.shared.io.clone());
        let task = self.shared.compute.spawn(keeper);
        self.lock().insert(
            name.to_owned(),
            Kept {
                fingerprint,
                board,
                drain,
                task,
            },
        );
    }

    /// Drains every pipeline and waits until all have committed.
    pub async fn drain(&self) {
        let all: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        stop(all).await;
    }

    /// Waits until no pipeline runs any more: all came to an end or halted.
    pub async fn ended(&self) {
        while self.lock().values().any(|kept| !kept.task.is_finished()) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// The numbers of every pipeline, by name.
    pub fn status(&self) -> Vec<PipelineStatus> {
        self.lock().values().map(|kept| kept.board.read()).collect()
    }

    /// Whether every pipeline has started and none is failing.
    pub fn ready(&self) -> bool {
        self.lock()
            .values()
            .all(|kept| matches!(kept.board.read().state, State::Running | State::Finished))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Kept>> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drains pipelines side by side.
async fn stop(leaving: Vec<(String, Kept)>) {
    for (_, kept) in &leaving {
        kept.drain.cancel();
    }
    for (name, kept) in leaving {
        if let Err(failure) = kept.task.await {
            tracing::error!(pipeline = %name, error = %failure, "pipeline ended without an answer");
        }
    }
}
