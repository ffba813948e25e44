//! Carrying out a commit: prepare, epoch checks, publish, acknowledge.

use std::time::Duration;

use fail::fail_point;
use futures::future::join_all;
use millstream_core::{Error, ErrorKind, Prepared, Result};
use tokio::time::{Instant, timeout};

use super::output::{Gathered, Output};
use super::resume;
use super::run::Running;
use super::status::StatusBoard;

/// The named crash points of a commit, in the order in which an epoch passes them.
pub const FAILPOINTS: &[&str] = &[
    "engine::before-prepare",
    "engine::after-prepare",
    "engine::between-commits",
    "engine::before-acknowledge",
];

/// How long discarding an epoch may take. What is left then is an orphan, which the next open sweeps.
const ABORT_PATIENCE: Duration = Duration::from_secs(10);

/// Which tables a commit concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Those of sinks whose commit is due, and of these the ones that a commit is owed for.
    Due,
    /// All whose position has moved.
    Everything,
}

impl Running {
    /// Commits the epoch, then lets the sources acknowledge. Everything received ends at a boundary.
    pub(super) async fn commit(&mut self, extent: Extent) -> Result<()> {
        let started = Instant::now();
        fail_point!("engine::before-prepare", crash);
        let due: Vec<bool> = (0..self.sinks.len())
            .map(|sink| extent == Extent::Everything || self.is_due(sink))
            .collect();
        let sinks = &self.sinks;
        let prepared = self.outputs.iter_mut().map(|output| {
            let idle_every = sinks[output.sink].commit.idle_every;
            let idle_too =
                extent == Extent::Everything || output.idle_since().is_some_and(|since| since.elapsed() >= idle_every);
            let due = due[output.sink];
            async move { if due { output.prepare(idle_too).await } else { Ok(None) } }
        });
        let prepared = join_all(prepared).await.into_iter().collect::<Result<Vec<_>>>()?;
        fail_point!("engine::after-prepare", crash);
        self.check_epoch(&prepared)?;
        self.publish(prepared).await?;
        fail_point!("engine::before-acknowledge", crash);
        self.acknowledge();
        self.urgent = None;
        metrics::histogram!("millstream_commit_duration_seconds", "pipeline" => self.pipeline.clone())
            .record(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs the checks that speak of a whole epoch, for the tables that commit one; if one
    /// fails, nothing of it becomes visible in any table.
    fn check_epoch(&mut self, prepared: &[Option<Prepared>]) -> Result<()> {
        let mut failed = None;
        let committing = (0..self.outputs.len()).filter(|index| prepared[*index].is_some());
        for index in committing {
            let outcome = self.outputs[index].judge_epoch();
            self.report(index, &outcome.reports);
            failed = failed.or(outcome.failed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Publishes each table atomically, side by side. One that fails does not interrupt the
    /// others, whose outcome would not be known.
    async fn publish(&mut self, prepared: Vec<Option<Prepared>>) -> Result<()> {
        let (pipeline, board, sinks) = (&self.pipeline, &self.board, &self.sinks);
        let commits = self.outputs.iter_mut().zip(prepared).filter_map(|(output, prepared)| {
            let sink = &sinks[output.sink].name;
            Some(publish_one(output, prepared?, pipeline, sink, board))
        });
        join_all(commits).await.into_iter().collect::<Result<()>>()?;
        if let Some(newest) = self.newest_commit.take() {
            let lag = (chrono::Utc::now().timestamp_micros() - newest).max(0) as f64 / 1e6;
            metrics::gauge!("millstream_commit_lag_seconds", "pipeline" => self.pipeline.clone()).set(lag);
            self.board.update(|status| status.lag_seconds = Some(lag));
        }
        Ok(())
    }

    fn acknowledge(&self) {
        for inlet in self.inlets.iter() {
            let holdings = self.outputs.iter().map(Output::holding);
            inlet.acknowledge(resume::durable(&inlet.name, holdings));
        }
    }

    /// Discards what was not committed. A failure to clean up only leaves orphans, which the
    /// next open sweeps.
    pub(super) async fn abort(&mut self) {
        let aborts = self.outputs.iter_mut().map(|output| async {
            let outcome = output.abort().await;
            (&output.name, outcome)
        });
        let Ok(outcomes) = timeout(ABORT_PATIENCE, join_all(aborts)).await else {
            tracing::warn!(pipeline = %self.pipeline, "discarding uncommitted rows takes too long; the next start removes them");
            return;
        };
        for (table, outcome) in outcomes {
            if let Err(error) = outcome {
                tracing::warn!(pipeline = %self.pipeline, %table, error = %error.summary(), "cannot discard uncommitted rows");
            }
        }
    }
}

async fn publish_one(
    output: &mut Output,
    prepared: Prepared,
    pipeline: &str,
    sink: &str,
    board: &StatusBoard,
) -> Result<()> {
    let (receipt, gathered) = output.commit(prepared).await?;
    fail_point!("engine::between-commits", crash);
    let count = |name: &'static str, rows: u64| {
        metrics::counter!(name, "pipeline" => pipeline.to_owned(), "sink" => sink.to_owned(), "table" => output.name.clone())
            .increment(rows);
    };
    count("millstream_committed_rows_total", receipt.rows);
    count("millstream_quarantined_rows_total", receipt.quarantined);
    if receipt.quarantined > 0 {
        tracing::warn!(pipeline, sink, table = %output.name, rows = receipt.quarantined, "rows quarantined");
    }
    board.update(|status| {
        let Gathered { dropped, filtered, .. } = gathered;
        status.commits += 1;
        let table = status.tables.entry(output.label.clone()).or_default();
        table.rows += receipt.rows;
        table.quarantined += receipt.quarantined;
        table.dropped += dropped;
        table.filtered += filtered;
        table.pending = 0;
        table.version = receipt.version;
        table.positions = output.checkpoint().clone();
    });
    tracing::debug!(pipeline, sink, table = %output.name, version = receipt.version, rows = receipt.rows, files = receipt.files, "committed");
    Ok(())
}

/// What a tripped failpoint does: `return(kill)` ends the process as `kill -9` does, `return`
/// fails the epoch.
#[allow(dead_code, reason = "a build without failpoints trips none")]
fn crash<T>(argument: Option<String>) -> Result<T> {
    if argument.as_deref() == Some("kill") {
        let own = std::process::id().to_string();
        while std::process::Command::new("kill").args(["-9", &own]).status().is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "a failpoint was tripped"))
}
