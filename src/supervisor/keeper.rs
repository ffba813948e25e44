//! Keeps one pipeline running.

use std::sync::Arc;

use millstream_core::{Directive, Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
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
        let halts = error.kind().directive() == Directive::Halt;
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

/// One run, in a task of its own so that a panic stays inside it.
async fn run_once(
    pipeline: &Arc<LoadedPipeline>,
    board: &StatusBoard,
    drain: &CancellationToken,
    io: &Handle,
) -> Result<Outcome, Error> {
    let spec = pipeline.build()?;
    let promises: Vec<String> = spec.sinks.iter().map(|sink| sink.sink.delivery().to_string()).collect();
    board.update(|status| status.delivery = promises.join(", "));
    let (board, drain, io) = (board.clone(), drain.clone(), io.clone());
    let run = tokio::spawn(async move { engine::run(spec, board, drain, &io).await });
    run.await.unwrap_or_else(|failure| {
        Err(Error::new(ErrorKind::Internal, "the pipeline panicked")
            .code("EN0001")
            .caused_by(failure))
    })
}
