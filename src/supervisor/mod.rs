//! The supervisor: keeps pipelines running, each apart from the others.

mod backoff;
mod keeper;
pub mod panics;
mod patience;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::join_all;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::config::{LoadedPipeline, Project};
use crate::engine::desks::Desks;
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

/// A pipeline that was started. It stays here until it has ended, so that it is seen to stop.
#[derive(Clone)]
struct Kept {
    fingerprint: String,
    board: StatusBoard,
    drain: CancellationToken,
    /// Fires when its task has ended, in whatever way.
    ended: CancellationToken,
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
    /// gone, drains and starts anew those that changed or ended, and leaves the rest alone. No
    /// pipeline waits for another; this returns when all are done.
    ///
    /// Cancel safe: a pipeline that drains goes on draining, and is not started anew.
    pub async fn apply(&self, project: &Project) {
        let present = self.lock().clone();
        let fresh = project
            .pipelines
            .iter()
            .filter(|(name, _)| !present.contains_key(*name));
        for (name, pipeline) in fresh {
            self.start(name, pipeline);
        }
        let changes = present.iter().filter_map(|(name, kept)| {
            let wanted = project.pipelines.get(name);
            let same = wanted.is_some_and(|wanted| wanted.fingerprint == kept.fingerprint);
            (!same || kept.ended.is_cancelled()).then(|| self.replace(name, kept, wanted))
        });
        join_all(changes).await;
    }

    async fn replace(&self, name: &str, kept: &Kept, wanted: Option<&Arc<LoadedPipeline>>) {
        kept.drain.cancel();
        kept.ended.cancelled().await;
        match wanted {
            Some(pipeline) => self.start(name, pipeline),
            None => drop(self.lock().remove(name)),
        }
    }

    fn start(&self, name: &str, pipeline: &Arc<LoadedPipeline>) {
        let kept = Kept {
            fingerprint: pipeline.fingerprint.clone(),
            board: StatusBoard::new(name),
            drain: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let ended = kept.ended.clone().drop_guard();
        let keeper = keeper::keep_running(
            pipeline.clone(),
            kept.board.clone(),
            kept.drain.clone(),
            self.shared.io.clone(),
        );
        self.attend(pipeline, kept.drain.clone());
        self.lock().insert(name.to_owned(), kept);
        self.shared.compute.spawn(async move {
            let _ended = ended;
            keeper.await;
        });
    }

    /// Has the pipeline's systems attended until it is drained, also once it has halted: what it does
    /// not read piles up there.
    fn attend(&self, pipeline: &LoadedPipeline, drain: CancellationToken) {
        // Of settings that contradict each other the pipeline itself tells.
        for source in pipeline.build_sources().filter_map(|(_, source)| source.ok()) {
            let drained = drain.clone();
            self.shared.io.spawn(async move {
                let attending = AssertUnwindSafe(source.attend()).catch_unwind();
                if let Some(Err(_)) = drained.run_until_cancelled_owned(attending).await {
                    let at = panics::take_place().unwrap_or_default();
                    tracing::error!(
                        at,
                        "what attends to a source panicked: its slot is not looked after until a reload"
                    );
                }
            });
        }
    }

    /// Drains every pipeline and waits until all have committed. Returns the names of those that
    /// did not come to a good end: they had halted, or failed to commit what they held.
    pub async fn drain(&self) -> Vec<String> {
        let all: Vec<Kept> = self.lock().values().cloned().collect();
        for kept in &all {
            kept.drain.cancel();
        }
        join_all(all.iter().map(|kept| kept.ended.cancelled())).await;
        let statuses = self.status().into_iter();
        let failed = statuses.filter(|status| !matches!(status.state, State::Stopped | State::Finished));
        failed.map(|status| status.pipeline).collect()
    }

    /// The numbers of every pipeline, by name.
    pub fn status(&self) -> Vec<PipelineStatus> {
        self.lock().values().map(|kept| kept.board.read()).collect()
    }

    /// Where copies are asked of the pipeline `name`; `None` if there is none.
    pub fn desks(&self, name: &str) -> Option<Desks> {
        self.lock().get(name).map(|kept| kept.board.desks())
    }

    /// Whether every pipeline has started, and none is failing or being stopped.
    pub fn ready(&self) -> bool {
        self.lock().values().all(|kept| {
            !kept.drain.is_cancelled() && matches!(kept.board.read().state, State::Running | State::Finished)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Kept>> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
