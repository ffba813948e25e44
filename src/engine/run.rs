//! Runs one pipeline from its committed positions until it is drained, ends or fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fail::fail_point;
use futures::future::try_join_all;
use millstream_core::{
    ByteBudget, ChangeBatch, Error, ErrorKind, Prepared, Result, SinkTable, SourceEvent, TableId, TableSchema,
    event_channel, quarantine,
};
use millstream_sql::checks::{CheckReport, Scope};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::epoch::Gathered;
use super::inlet::{Inlet, Inlets};
use super::output::Output;
use super::plan::{self, PipelineSpec, PlannedTable, SinkSpec};
use super::resume;
use super::status::{State, StatusBoard};

/// The named crash points of a commit, in the order in which an epoch passes them.
pub const FAILPOINTS: &[&str] = &[
    "engine::before-prepare",
    "engine::after-prepare",
    "engine::between-commits",
    "engine::before-acknowledge",
];

/// How a pipeline ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Drained and committed, as asked.
    Drained,
    /// Every source came to its end, and everything is committed.
    Finished,
}

/// How many events may wait in a source's channel beside the bound in bytes.
const EVENTS_IN_FLIGHT: usize = 256;

/// How long a drain waits for a running transaction to end before it gives the transaction up;
/// it is read again at the next start.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How often timers are looked at: freshness, drains.
const TICK: Duration = Duration::from_secs(1);

/// Runs `spec` until `drain` fires (then commits what is complete), all sources end, or an
/// error. Sources run on the runtime `io`, everything else where this is awaited, so that
/// CPU-heavy SQL and encoding never delay a keepalive.
///
/// Cancel safe in the sense of a crash: dropping it loses nothing that was committed, and the
/// next run resumes from there.
pub async fn run(spec: PipelineSpec, board: StatusBoard, drain: CancellationToken, io: &Handle) -> Result<Outcome> {
    let cancel = CancellationToken::new();
    let _stop_sources_on_any_exit = cancel.clone().drop_guard();
    let mut running = start(spec, board, &cancel, io).await?;
    let ended = running.until_end(&drain).await;
    cancel.cancel();
    running.inlets.stopped().await;
    ended
}

/// A started pipeline.
struct Running {
    pipeline: String,
    inlets: Inlets,
    /// The quarantine tables first: they commit before the tables whose rows they hold, so
    /// that a replay meets either both or neither.
    outputs: Vec<Output>,
    sinks: Vec<SinkSpec>,
    board: StatusBoard,
    /// When the first row since the last commit arrived.
    gathering_since: Option<Instant>,
    /// When the source committed the newest change of this epoch, in µs since the Unix epoch.
    newest_commit: Option<i64>,
}

async fn start(mut spec: PipelineSpec, board: StatusBoard, cancel: &CancellationToken, io: &Handle) -> Result<Running> {
    let mut schemas: Vec<Arc<TableSchema>> = Vec::new();
    for source in &mut spec.sources {
        schemas.extend(source.tables().await?);
    }
    let planned = plan::plan(&spec.models, &spec.sinks, &schemas)
        .await
        .map_err(|mut faults| {
            let others = faults.len() - 1;
            let first = faults.swap_remove(0).error;
            if others == 0 {
                first
            } else {
                first
                    .with("further_faults", others)
                    .hint("`millstream check` lists all of them")
            }
        })?;
    let outputs = open_outputs(&spec.sinks, planned).await?;
    let data = || outputs.iter().filter(|output| !output.is_quarantine());
    let inlets = spec.sources.into_iter().map(|source| {
        let name = source.name().to_owned();
        let points = resume::resume_points(&name, data().map(Output::holding));
        let durable = resume::durable(&name, data().map(Output::holding));
        let channel = event_channel(ByteBudget::new(spec.memory), EVENTS_IN_FLIGHT);
        Inlet::start(source, points, durable, channel, cancel.child_token(), io)
    });
    let inlets = Inlets::new(inlets.collect());
    let running = Running {
        pipeline: spec.name,
        inlets,
        outputs,
        sinks: spec.sinks,
        board,
        gathering_since: None,
        newest_commit: None,
    };
    running.board.update(|status| {
        status.state = State::Running;
        for output in &running.outputs {
            let table = status.tables.entry(output.name.clone()).or_default();
            table.pending = 0;
            table.positions = output.checkpoint().clone();
        }
    });
    tracing::info!(pipeline = %running.pipeline, tables = running.outputs.len(), "pipeline running");
    Ok(running)
}

/// Opens every table, and a quarantine table for each sink, which comes first.
async fn open_outputs(sinks: &[SinkSpec], planned: Vec<PlannedTable>) -> Result<Vec<Output>> {
    let quarantines = sinks.iter().enumerate().map(|(index, spec)| {
        let inputs: BTreeSet<TableId> = planned
            .iter()
            .filter(|table| table.sink == index)
            .flat_map(|table| table.inputs.clone())
            .collect();
        async move {
            let table = SinkTable {
                name: quarantine::TABLE.to_owned(),
                schema: quarantine::schema(),
            };
            let writer = spec.sink.open(table).await?;
            Ok::<_, Error>(Output::new(
                index,
                quarantine::TABLE.to_owned(),
                inputs.into_iter().collect(),
                None,
                writer,
            ))
        }
    });
    let mut outputs = try_join_all(quarantines).await?;
    let tables = planned.into_iter().map(
        |PlannedTable {
             sink,
             name,
             inputs,
             stage,
         }| async move {
            let table = SinkTable {
                name: name.clone(),
                schema: stage.schema.clone(),
            };
            let writer = sinks[sink].sink.open(table).await?;
            Ok::<_, Error>(Output::new(sink, name, inputs, Some(stage), writer))
        },
    );
    outputs.extend(try_join_all(tables).await?);
    Ok(outputs)
}

impl Running {
    async fn until_end(&mut self, drain: &CancellationToken) -> Result<Outcome> {
        let mut give_up_at: Option<Instant> = None;
        loop {
            let draining = give_up_at.is_some();
            let cut = draining || self.wants_cut();
            if cut && self.inlets.at_boundary() {
                self.commit(draining).await?;
                if draining {
                    return Ok(Outcome::Drained);
                }
            }
            if give_up_at.is_some_and(|at| at <= Instant::now()) {
                tracing::info!(pipeline = %self.pipeline, "drain gives up a transaction that does not end; it will be read again");
                self.abort().await;
                return Ok(Outcome::Drained);
            }
            let wait = self.time_to_cut().unwrap_or(TICK).min(TICK);
            tokio::select! {
                biased;
                () = drain.cancelled(), if !draining => give_up_at = Some(Instant::now() + DRAIN_PATIENCE),
                event = self.inlets.next_event(cut) => match event? {
                    Some(event) => self.on_event(event).await?,
                    None if cut => {}
                    None => {
                        self.commit(true).await?;
                        return Ok(Outcome::Finished);
                    }
                },
                () = sleep(wait) => self.on_tick()?,
            }
        }
    }

    async fn on_event(&mut self, event: SourceEvent) -> Result<()> {
        match event {
            SourceEvent::Changes(batch) => self.on_changes(&batch).await,
            SourceEvent::Rejected { origin, rows } => self.on_rejected(&origin, &rows).await,
            SourceEvent::Boundary(boundary) => {
                for output in &mut self.outputs {
                    output.advance(&boundary);
                }
                self.newest_commit = self.newest_commit.max(boundary.committed_at);
                Ok(())
            }
        }
    }

    async fn on_changes(&mut self, batch: &ChangeBatch) -> Result<()> {
        self.count_in(&batch.schema().id, batch.num_rows());
        for index in 0..self.outputs.len() {
            let output = &mut self.outputs[index];
            if output.is_quarantine() || !output.inputs.contains(&batch.schema().id) {
                continue;
            }
            let taken = output.take(batch).await?;
            let (sink, name) = (output.sink, output.name.clone());
            self.report(&taken.reports);
            for rejected in &taken.rejected {
                self.quarantine(sink, &name, rejected).await?;
            }
        }
        self.gathering_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Rows that a source could not decode go to the quarantine of every sink that the table feeds.
    async fn on_rejected(&mut self, origin: &TableId, rows: &ChangeBatch) -> Result<()> {
        self.count_in(origin, rows.num_rows());
        let fed: BTreeSet<usize> = self
            .outputs
            .iter()
            .filter(|output| !output.is_quarantine() && output.inputs.contains(origin))
            .map(|output| output.sink)
            .collect();
        for sink in fed {
            self.quarantine(sink, &origin.name, rows).await?;
        }
        self.gathering_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    async fn quarantine(&mut self, sink: usize, table: &str, rows: &ChangeBatch) -> Result<()> {
        let count = rows.num_rows() as u64;
        metrics::counter!("millstream_quarantined_rows_total", "pipeline" => self.pipeline.clone(), "table" => table.to_owned())
            .increment(count);
        tracing::warn!(pipeline = %self.pipeline, table, rows = count, "rows quarantined");
        for output in self
            .outputs
            .iter_mut()
            .filter(|output| output.is_quarantine() && output.sink == sink)
        {
            output.take(rows).await?;
        }
        Ok(())
    }

    fn count_in(&self, table: &TableId, rows: usize) {
        metrics::counter!("millstream_received_rows_total", "pipeline" => self.pipeline.clone(), "table" => table.to_string())
            .increment(rows as u64);
        self.board.update(|status| status.rows_in += rows as u64);
    }

    /// Counts failing rows by batch, and tells operators of verdicts on epochs and of timers:
    /// a line for every batch would drown them.
    fn report(&self, reports: &[CheckReport]) {
        for report in reports {
            if report.scope == Scope::Batch {
                metrics::counter!("millstream_check_failures_total",
                    "pipeline" => self.pipeline.clone(), "table" => report.table.clone(), "check" => report.check.clone())
                .increment(report.failing);
                continue;
            }
            tracing::warn!(pipeline = %self.pipeline, table = %report.table, check = %report.check,
                failing = report.failing, rows = report.rows, "{}", report.message);
            let name = report.table.rsplit('.').next().unwrap_or(&report.table).to_owned();
            self.board
                .update(|status| status.tables.entry(name).or_default().warnings += 1);
        }
    }

    /// Looks at timers: an idle source must trip a freshness check too.
    fn on_tick(&mut self) -> Result<()> {
        let now = chrono::Utc::now().timestamp_micros();
        let stages = self.outputs.iter_mut().filter_map(|output| output.stage.as_mut());
        let reports: Vec<_> = stages.flat_map(|stage| stage.checks.on_timer(now)).collect();
        self.report(&reports);
        self.show_pending();
        reports.iter().find_map(CheckReport::as_failure).map_or(Ok(()), Err)
    }

    fn show_pending(&self) {
        self.board.update(|status| {
            for output in &self.outputs {
                status.tables.entry(output.name.clone()).or_default().pending = output.gathered.rows;
            }
        });
    }

    /// What gathered for one sink.
    fn gathered(&self, sink: usize) -> Gathered {
        let outputs = || self.outputs.iter().filter(|output| output.sink == sink);
        Gathered {
            rows: outputs().map(|output| output.gathered.rows).sum(),
            bytes: outputs().map(|output| output.gathered.bytes).sum(),
            age: self.gathering_since.map(|since| since.elapsed()).unwrap_or_default(),
            idle: outputs().filter_map(Output::idle).max(),
        }
    }

    fn wants_cut(&self) -> bool {
        self.sinks
            .iter()
            .enumerate()
            .any(|(index, sink)| sink.commit.wants_cut(&self.gathered(index)))
    }

    fn time_to_cut(&self) -> Option<Duration> {
        self.sinks
            .iter()
            .enumerate()
            .filter_map(|(index, sink)| sink.commit.time_left(&self.gathered(index)))
            .min()
    }

    /// Commits the epoch: prepare, epoch checks, publish, then let the sources acknowledge.
    /// `everything` records the positions of idle tables too.
    async fn commit(&mut self, everything: bool) -> Result<()> {
        let started = Instant::now();
        fail_point!("engine::before-prepare", crash);
        let sinks = &self.sinks;
        let prepared = try_join_all(self.outputs.iter_mut().map(|output| {
            let idle_every = sinks[output.sink].commit.idle_every;
            let idle_too = everything || output.idle().is_some_and(|idle| idle >= idle_every);
            output.prepare(idle_too)
        }))
        .await?;
        fail_point!("engine::after-prepare", crash);
        let committing: Vec<bool> = prepared.iter().map(Option::is_some).collect();
        self.check_epoch(&committing).await?;
        self.publish(prepared).await?;
        fail_point!("engine::before-acknowledge", crash);
        self.acknowledge();
        self.gathering_since = None;
        metrics::histogram!("millstream_commit_duration_seconds", "pipeline" => self.pipeline.clone())
            .record(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs the checks that speak of a whole epoch, for the tables that commit one; if one
    /// fails, nothing of it becomes visible in any table.
    async fn check_epoch(&mut self, committing: &[bool]) -> Result<()> {
        let mut failed = None;
        let mut reports = Vec::new();
        let outputs = self.outputs.iter_mut().zip(committing).filter(|(_, commits)| **commits);
        for stage in outputs.filter_map(|(output, _)| output.stage.as_mut()) {
            let outcome = stage.checks.on_epoch_end();
            reports.extend(outcome.reports);
            failed = failed.or(outcome.failed);
        }
        self.report(&reports);
        match failed {
            None => Ok(()),
            Some(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Publishes each table atomically: quarantine tables first, then the others side by side.
    async fn publish(&mut self, prepared: Vec<Option<Prepared>>) -> Result<()> {
        let quarantines = self.outputs.iter().filter(|output| output.is_quarantine()).count();
        let mut prepared = prepared.into_iter();
        for output in &mut self.outputs[..quarantines] {
            commit_one(output, prepared.next().flatten(), &self.pipeline, &self.board).await?;
        }
        fail_point!("engine::between-commits", crash);
        let (pipeline, board) = (&self.pipeline, &self.board);
        try_join_all(
            self.outputs[quarantines..]
                .iter_mut()
                .zip(prepared)
                .map(|(output, prepared)| commit_one(output, prepared, pipeline, board)),
        )
        .await?;
        let newest = self.newest_commit.take();
        let now = chrono::Utc::now().timestamp_micros();
        let lag = newest.map(|at| (now - at).max(0) as f64 / 1e6);
        if let Some(lag) = lag {
            metrics::gauge!("millstream_commit_lag_seconds", "pipeline" => self.pipeline.clone()).set(lag);
            self.board.update(|status| status.lag_seconds = Some(lag));
        }
        Ok(())
    }

    fn acknowledge(&self) {
        for inlet in self.inlets.iter() {
            let data = self.outputs.iter().filter(|output| !output.is_quarantine());
            inlet.acknowledge(resume::durable(&inlet.name, data.map(Output::holding)));
        }
    }

    /// Discards the epoch. A failure to clean up only leaves orphans, which the next open sweeps.
    async fn abort(&mut self) {
        for output in &mut self.outputs {
            if let Err(error) = output.abort().await {
                tracing::warn!(pipeline = %self.pipeline, table = %output.name, error = %error.summary(), "cannot discard uncommitted rows");
            }
        }
    }
}

async fn commit_one(
    output: &mut Output,
    prepared: Option<Prepared>,
    pipeline: &str,
    board: &StatusBoard,
) -> Result<()> {
    let Some(prepared) = prepared else {
        let numbers = output.reset();
        // Rows that were all filtered, dropped or quarantined still count, though no commit is owed.
        board.update(|status| add(status.tables.entry(output.name.clone()).or_default(), &numbers));
        return Ok(());
    };
    let receipt = output.commit(prepared).await?;
    let numbers = output.reset();
    metrics::counter!("millstream_committed_rows_total", "pipeline" => pipeline.to_owned(), "table" => output.name.clone())
        .increment(receipt.rows);
    board.update(|status| {
        status.commits += 1;
        let table = status.tables.entry(output.name.clone()).or_default();
        add(table, &numbers);
        table.rows += receipt.rows;
        table.pending = 0;
        table.version = receipt.version;
        table.positions = output.checkpoint().clone();
    });
    tracing::debug!(pipeline, table = %output.name, version = receipt.version, rows = receipt.rows, files = receipt.files, "committed");
    Ok(())
}

fn add(table: &mut super::status::TableStatus, numbers: &super::output::Gathered) {
    table.quarantined += numbers.quarantined;
    table.dropped += numbers.dropped;
    table.filtered += numbers.filtered;
}

/// What a tripped failpoint does: `return(kill)` ends the process as `kill -9` does, `return`
/// fails the epoch.
fn crash<T>(argument: Option<String>) -> Result<T> {
    if argument.as_deref() == Some("kill") {
        let own = std::process::id().to_string();
        while std::process::Command::new("kill").args(["-9", &own]).status().is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "a failpoint was tripped"))
}
