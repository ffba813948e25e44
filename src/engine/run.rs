//! Runs one pipeline from its committed positions until it is drained, ends or fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use millstream_core::{
    Boundary, ByteBudget, ChangeBatch, Result, Severity, SinkTable, SourceEvent, TableId, TableSchema, event_channel,
};
use millstream_sql::checks::{CheckReport, Scope};
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::commit::Extent;
use super::desks::OpenDesks;
use super::epoch::Gathered;
use super::inlet::{Inlet, Inlets};
use super::output::Output;
use super::plan::{self, PipelineSpec, PlannedTable, SinkSpec};
use super::resume;
use super::status::{State, StatusBoard};

/// How a pipeline ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Drained and committed, as asked.
    Drained,
    /// Every source came to its end, and everything is committed.
    Finished,
    /// A source has other tables to read: what arrived is committed, and the pipeline is to be
    /// started anew.
    TablesChanged,
}

/// How many events may wait in a source's channel beside the bound in bytes.
const EVENTS_IN_FLIGHT: usize = 256;

/// How long a drain waits for a running transaction to end before it gives the transaction up;
/// it is read again at the next start.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long an urgent boundary waits for another of its kind: a source announces all partitions of a topic in a row.
const URGENT_QUIET: Duration = Duration::from_millis(5);

/// How long the first of them waits at most.
const URGENT_AT_MOST: Duration = Duration::from_millis(50);

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
    let mut running = tokio::select! {
        biased;
        () = drain.cancelled() => return Ok(Outcome::Drained),
        started = start(spec, board, &cancel, io) => started?,
    };
    let ended = running.until_end(&drain).await;
    drop(running.desks.take());
    cancel.cancel();
    if ended.is_err() {
        running.abort().await;
    }
    running.inlets.stopped().await;
    ended
}

/// A started pipeline.
pub(super) struct Running {
    pub(super) pipeline: String,
    pub(super) inlets: Inlets,
    pub(super) outputs: Vec<Output>,
    /// Which outputs rows of a source table come to, by their index.
    fed: HashMap<TableId, Vec<usize>>,
    pub(super) sinks: Vec<SinkSpec>,
    pub(super) board: StatusBoard,
    /// When the source committed the newest change of this epoch, in µs since the Unix epoch.
    pub(super) newest_commit: Option<i64>,
    /// Boundaries that ask to be committed at once.
    pub(super) urgent: Option<Urgent>,
    /// Whether a source has other tables to read.
    tables_changed: bool,
    /// Where copies are asked for, as long as the pipeline runs.
    desks: Option<OpenDesks>,
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
    let holdings = || outputs.iter().map(Output::holding);
    let inlets = spec.sources.into_iter().filter_map(|source| {
        let name = source.name().to_owned();
        let points = resume::resume_points(&name, holdings());
        if points.tables().next().is_none() {
            tracing::warn!(pipeline = %spec.name, source = %name, "no table of this source is used: it is not read");
            return None;
        }
        let durable = resume::durable(&name, holdings());
        let channel = event_channel(ByteBudget::new(spec.memory), EVENTS_IN_FLIGHT);
        let inlet = Inlet::start(source, points, durable, channel, cancel.child_token(), io);
        Some(inlet)
    });
    let inlets = Inlets::new(inlets.collect());
    let desks = board.desks().open(inlets.desks());
    let mut fed: HashMap<TableId, Vec<usize>> = HashMap::new();
    for (index, output) in outputs.iter().enumerate() {
        for input in &output.inputs {
            fed.entry(input.clone()).or_default().push(index);
        }
    }
    let running = Running {
        pipeline: spec.name,
        inlets,
        outputs,
        fed,
        sinks: spec.sinks,
        board,
        newest_commit: None,
        urgent: None,
        tables_changed: false,
        desks: Some(desks),
    };
    running.board.update(|status| {
        status.state = State::Running;
        for output in &running.outputs {
            let table = status.tables.entry(output.label.clone()).or_default();
            table.pending = 0;
            table.positions = output.checkpoint().clone();
        }
    });
    tracing::info!(pipeline = %running.pipeline, tables = running.outputs.len(), "pipeline running");
    Ok(running)
}

/// Opens every table.
async fn open_outputs(sinks: &[SinkSpec], planned: Vec<PlannedTable>) -> Result<Vec<Output>> {
    let mut holders: BTreeMap<String, usize> = BTreeMap::new();
    for table in &planned {
        *holders.entry(table.name.clone()).or_default() += 1;
    }
    let holders = &holders;
    let tables = planned.into_iter().map(|planned| async move {
        let PlannedTable {
            sink,
            name,
            inputs,
            stage,
        } = planned;
        let table = SinkTable {
            name: name.clone(),
            schema: stage.schema.clone(),
        };
        let writer = sinks[sink].sink.open(table).await?;
        let label = if holders[&name] == 1 {
            name.clone()
        } else {
            format!("{}.{name}", sinks[sink].name)
        };
        Output::new(sink, (name, label), inputs, stage, writer)
    });
    try_join_all(tables).await
}

impl Running {
    async fn until_end(&mut self, drain: &CancellationToken) -> Result<Outcome> {
        let mut give_up_at: Option<Instant> = None;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let draining = give_up_at.is_some();
            let cut = draining || self.wants_cut();
            if cut && self.inlets.at_boundary() {
                let everything = draining || self.tables_changed || self.urgent.is_some();
                self.commit(if everything { Extent::Everything } else { Extent::Due })
                    .await?;
                if draining {
                    return Ok(Outcome::Drained);
                }
                if self.tables_changed {
                    return Ok(Outcome::TablesChanged);
                }
            }
            if give_up_at.is_some_and(|at| at <= Instant::now()) {
                tracing::info!(pipeline = %self.pipeline, "drain gives up a transaction that does not end; it will be read again");
                self.abort().await;
                return Ok(Outcome::Drained);
            }
            // Where a cut is due, what it waits for is an event: a boundary.
            let cut_in = self.time_to_cut().filter(|_| !cut);
            let at_boundary = self.inlets.at_boundary();
            tokio::select! {
                biased;
                () = drain.cancelled(), if !draining => give_up_at = Some(Instant::now() + DRAIN_PATIENCE),
                // Before the events: one busy table must not keep another's timers from being looked at.
                _ = ticks.tick() => self.on_tick()?,
                event = self.inlets.next_event(cut) => match event? {
                    Some(event) => self.on_event(event, at_boundary).await?,
                    None if cut => {}
                    None => {
                        self.commit(Extent::Everything).await?;
                        return Ok(Outcome::Finished);
                    }
                },
                () = sleep(cut_in.unwrap_or_default()), if cut_in.is_some() => {}
            }
        }
    }

    /// `at_boundary` says whether all that came before the event was complete.
    async fn on_event(&mut self, event: SourceEvent, at_boundary: bool) -> Result<()> {
        match event {
            SourceEvent::Changes(batch) => self.on_changes(&batch, at_boundary).await,
            SourceEvent::Rejected { origin, rows } => self.on_rejected(&origin, &rows).await,
            SourceEvent::Boundary(boundary) => self.on_boundary(&boundary),
            SourceEvent::TablesChanged => {
                self.tables_changed = true;
                Ok(())
            }
        }
    }

    async fn on_changes(&mut self, batch: &ChangeBatch, at_boundary: bool) -> Result<()> {
        let schema = batch.schema();
        self.count_in(&schema.id, batch.num_rows());
        let fed = self.fed_by(&schema.id);
        if let Err(error) = self.follow(&fed, batch).await {
            if at_boundary {
                // What came before the change still fits, and would not after a restart.
                self.commit(Extent::Everything).await?;
            }
            return Err(error);
        }
        for index in fed {
            let reports = self.outputs[index].take(batch).await?;
            self.report(index, &reports);
        }
        Ok(())
    }

    /// The outputs that rows of `table` come to, by their index.
    fn fed_by(&self, table: &TableId) -> Vec<usize> {
        self.fed.get(table).cloned().unwrap_or_default()
    }

    /// Plans these outputs anew where the table's columns have changed.
    async fn follow(&mut self, outputs: &[usize], batch: &ChangeBatch) -> Result<()> {
        for &index in outputs {
            self.outputs[index].follow(batch).await?;
        }
        Ok(())
    }

    /// Rows that a source could not decode go to the quarantine of every table that they would
    /// have fed.
    async fn on_rejected(&mut self, origin: &TableId, rows: &ChangeBatch) -> Result<()> {
        self.count_in(origin, rows.num_rows());
        for index in self.fed_by(origin) {
            self.outputs[index].take_rejected(origin, rows).await?;
        }
        Ok(())
    }

    fn on_boundary(&mut self, boundary: &Boundary) -> Result<()> {
        for output in &mut self.outputs {
            output.advance(boundary)?;
        }
        self.newest_commit = self.newest_commit.max(boundary.committed_at);
        // All partitions may have come with the announcement of one, and a commit cuts the files of every table.
        if boundary.urgent && self.outputs.iter().any(Output::has_moved) {
            self.urgent = Some(Urgent::after(self.urgent, Instant::now()));
        }
        Ok(())
    }

    fn count_in(&self, table: &TableId, rows: usize) {
        metrics::counter!("millstream_received_rows_total", "pipeline" => self.pipeline.clone(), "table" => table.to_string())
            .increment(rows as u64);
        self.board.update(|status| status.rows_in += rows as u64);
    }

    /// Counts what failed checks of the output with this index, and tells operators of verdicts
    /// on epochs and of timers: a line for every batch would drown them.
    pub(super) fn report(&self, output: usize, reports: &[CheckReport]) {
        let output = &self.outputs[output];
        let sink = &self.sinks[output.sink].name;
        for report in reports {
            let scope = match report.scope {
                Scope::Batch => "batch",
                Scope::Epoch => "epoch",
                Scope::Timer => "timer",
            };
            if report.severity == Severity::Info {
                tracing::info!(pipeline = %self.pipeline, %sink, table = %report.table, check = %report.check, "{}", report.message);
                continue;
            }
            let failed = if report.scope == Scope::Batch {
                report.failing
            } else {
                1
            };
            metrics::counter!("millstream_check_failures_total", "pipeline" => self.pipeline.clone(), "sink" => sink.clone(),
                "table" => report.table.clone(), "check" => report.check.clone(), "scope" => scope)
            .increment(failed);
            if report.scope == Scope::Batch {
                continue;
            }
            tracing::warn!(pipeline = %self.pipeline, %sink, table = %report.table, check = %report.check,
                failing = report.failing, rows = report.rows, "{}", report.message);
            self.board
                .update(|status| status.tables.entry(output.label.clone()).or_default().warnings += 1);
        }
    }

    /// Looks at timers: an idle source must trip a freshness check too.
    fn on_tick(&mut self) -> Result<()> {
        let now = chrono::Utc::now().timestamp_micros();
        let mut failed = None;
        for index in 0..self.outputs.len() {
            let reports = self.outputs[index].on_timer(now);
            self.report(index, &reports);
            failed = failed.or_else(|| reports.iter().find_map(CheckReport::as_failure));
        }
        let copies = self.inlets.copies();
        self.board.update(|status| {
            status.copies = copies;
            for output in &self.outputs {
                status.tables.entry(output.label.clone()).or_default().pending = output.gathered.rows;
            }
        });
        failed.map_or(Ok(()), Err)
    }

    /// What gathered for one sink.
    fn gathered(&self, sink: usize) -> Gathered {
        // For every event, over all tables: so no clock is read for each, and no checkpoint compared.
        let mut all = Gathered::default();
        let (mut since, mut idle_since) = (None, None);
        for output in self.outputs.iter().filter(|output| output.sink == sink) {
            all.rows += output.gathered.owed();
            all.bytes += output.gathered.bytes;
            since = since.into_iter().chain(output.since()).min();
            idle_since = idle_since.into_iter().chain(output.idle_since()).min();
        }
        all.age = since.map_or(Duration::ZERO, |since| since.elapsed());
        all.idle = idle_since.map(|since| since.elapsed());
        all
    }

    /// Whether the sink's tables are to be committed at the next boundary.
    pub(super) fn is_due(&self, sink: usize) -> bool {
        self.sinks[sink].commit.wants_cut(&self.gathered(sink))
    }

    fn wants_cut(&self) -> bool {
        let urgent = self
            .urgent
            .is_some_and(|urgent| urgent.time_left(Instant::now()).is_zero());
        urgent || self.tables_changed || (0..self.sinks.len()).any(|sink| self.is_due(sink))
    }

    fn time_to_cut(&self) -> Option<Duration> {
        self.sinks
            .iter()
            .enumerate()
            .filter_map(|(index, sink)| sink.commit.time_left(&self.gathered(index)))
            .chain(self.urgent.map(|urgent| urgent.time_left(Instant::now())))
            .min()
    }
}

/// When the first and the last urgent boundary came that no commit has followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Urgent {
    first: Instant,
    last: Instant,
}

impl Urgent {
    /// With one more, which comes `now`.
    fn after(before: Option<Self>, now: Instant) -> Self {
        let first = before.map_or(now, |before| before.first);
        Self { first, last: now }
    }

    /// How long until the commit is due.
    fn time_left(self, now: Instant) -> Duration {
        let due = (self.last + URGENT_QUIET).min(self.first + URGENT_AT_MOST);
        due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_boundaries_wait_for_each_other_but_not_for_long() {
        let start = Instant::now();
        let one = Urgent::after(None, start);
        assert_eq!(one.time_left(start), URGENT_QUIET);
        assert!(one.time_left(start + URGENT_QUIET).is_zero());
        let next = start + URGENT_QUIET / 2;
        let two = Urgent::after(Some(one), next);
        assert_eq!(two.time_left(next), URGENT_QUIET);
        let late = Urgent::after(Some(two), start + URGENT_AT_MOST - Duration::from_millis(1));
        assert!(late.time_left(start + URGENT_AT_MOST).is_zero());
    }
}
