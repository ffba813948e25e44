//! Keeps one pipeline running.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use millstream_core::{Directive, Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::panics;
use super::patience::Patience;
use crate::config::LoadedPipeline;
use crate::engine::status::{LastError, State, StatusBoard};
use crate::engine::{self, Outcome};

/// Runs `pipeline` again and again until it is drained, comes to its end or halts. A panic in
/// it ends the run, not the daemon.
pub async fn keep_running(pipeline: Arc<LoadedPipeline>, board: StatusBoard, drain: CancellationToken, io: Handle) {
    let name = pipeline.config.pipeline.value.clone();
    let mut backoff = Backoff::new();
    loop {
        board.update(|status| status.state = State::Starting);
        let started = Instant::now();
        let error = match run_once(&pipeline, &board, &drain, &io).await {
            Ok(Outcome::TablesChanged) => {
                tracing::info!(pipeline = %name, "a source has other tables to read: the pipeline is planned anew");
                continue;
            }
            Ok(outcome) => {
                let state = if outcome == Outcome::Drained {
                    State::Stopped
                } else {
                    State::Finished
                };
                board.update(|status| status.state = state);
                tracing::info!(pipeline = %name, ?state, "pipeline ended");
                return;
            }
            Err(error) => error,
        };
        metrics::counter!("millstream_pipeline_failures_total", "pipeline" => name.clone(), "kind" => error.kind().name())
            .increment(1);
        // Nobody tries again what a drain could not commit.
        let halts = error.kind().directive() == Directive::Halt || drain.is_cancelled();
        board.update(|status| {
            status.last_error = Some(LastError::from(&error));
            status.state = if halts { State::Halted } else { State::BackingOff };
        });
        if halts {
            tracing::error!(pipeline = %name, error = %error.summary(), hint = error.hint_text(), "pipeline halted");
            return;
        }
        let pause = backoff.after(started.elapsed());
        tracing::warn!(pipeline = %name, error = %error.summary(), hint = error.hint_text(),
            pause_seconds = pause.as_secs_f64(), "pipeline failed and will start again");
        tokio::select! {
            () = drain.cancelled() => {
                board.update(|status| status.state = State::Stopped);
                return;
            }
            () = sleep(pause) => board.update(|status| status.restarts += 1),
        }
    }
}

/// One run, in a task of its own so that a panic stays inside it, and so that one that does not
/// stop when it is told to can be given up. That is like a crash: nothing committed is lost.
async fn run_once(
    pipeline: &Arc<LoadedPipeline>,
    board: &StatusBoard,
    drain: &CancellationToken,
    io: &Handle,
) -> Result<Outcome, Error> {
    let spec = pipeline.build()?;
    let mut promises: Vec<String> = spec.sinks.iter().map(|sink| sink.sink.delivery().to_string()).collect();
    promises.dedup();
    board.update(|status| status.delivery = promises.join(", "));
    let starting = || board.read().state == State::Starting;
    let mut task = JoinSet::new();
    let (run_board, run_drain, io) = (board.clone(), drain.clone(), io.clone());
    task.spawn(async move {
        let run = AssertUnwindSafe(engine::run(spec, run_board, run_drain, &io));
        run.catch_unwind().await.unwrap_or_else(|_| Err(panicked()))
    });
    tokio::select! {
        ended = task.join_next() => ended.and_then(Result::ok).unwrap_or_else(|| Err(panicked())),
        // Leaving drops the set, which aborts the task.
        () = Patience::OF_THE_DAEMON.ends(drain, starting) => if starting() {
            Ok(Outcome::Drained)
        } else {
            Err(Error::new(ErrorKind::Cancelled, "the pipeline did not stop in time and was given up")
                .code("EN0006")
                .hint("what it had not committed is read again at the next start; see why its commit took so long"))
        },
    }
}

fn panicked() -> Error {
    let error = Error::new(ErrorKind::Internal, "the pipeline panicked").code("EN0001");
    match panics::take_place() {
        Some(place) => error.with("at", place),
        None => error,
    }
}
