//! Copies of tables, beside the stream.
//!
//! Several sessions read ranges of blocks ([`ranges`]) under one snapshot, in pieces that each end
//! at a boundary: what was committed of them stays, whatever happens. After a restart, or when a
//! snapshot was kept for long enough, the rest is read under another one, and stands among the
//! changes of the log at the place that it was read as of ([`place`]).

mod job;
mod pace;
mod piece;
mod place;
mod purpose;
mod ranges;
mod reader;
mod statement;
mod stride;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use millstream_core::{Boundary, CopyBoard, Error, ErrorKind, Position, Result, SourceEvent, TableId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub(super) use self::job::Begun;
use self::job::TableJob;
pub(super) use self::pace::Pace;
pub(super) use self::purpose::{Purpose, Rows};
use self::ranges::Range;
use self::reader::{Round, Task};
pub(super) use self::statement::selects;
use super::kept::{Kept, Sessions};
use super::snapshot::{Entrance, Snapshot};
use crate::catalog;
use crate::config::Settings;
use crate::decode::Lsn;
use crate::fault;
use crate::owed::Why;
use crate::wire::{Connection, Session};

/// What a copier tells the stream.
pub(super) enum Message {
    /// A snapshot was taken of these tables: it includes every commit up to this one, and the
    /// target is given all of them as of then.
    Snapshot {
        held: Lsn,
        /// Every transaction before this one had ended by then.
        horizon: u64,
        tables: Vec<TableId>,
    },
    /// Rows, with the boundary that ends them.
    Piece(Vec<SourceEvent>),
}

/// A table to be copied.
pub(super) struct Wanted {
    pub(super) table: TableId,
    /// The relation that the stream takes for it.
    pub(super) oid: u32,
    pub(super) purpose: Purpose,
    /// What was read of it before.
    pub(super) begun: Begun,
    /// Whether the target was told to forget what it had of it.
    pub(super) emptied: bool,
    /// Where the answer goes, if somebody waits for one: whether the copy begins.
    pub(super) answer: Option<oneshot::Sender<Result<()>>>,
}

/// Copies tables, beside the stream that its messages go to.
pub(super) struct Copier {
    pub(super) settings: Arc<Settings>,
    /// How many sessions may read at the same time.
    pub(super) workers: u32,
    pub(super) wanted: Vec<Wanted>,
    /// The first snapshot, where the stream begins with it.
    pub(super) first: Option<Snapshot>,
    pub(super) board: CopyBoard,
    pub(super) pace: Arc<Pace>,
    pub(super) messages: mpsc::Sender<Message>,
    /// Up to where the stream was handed on.
    pub(super) settled: watch::Receiver<Lsn>,
}

/// What is to be read under one snapshot.
#[derive(Default)]
struct Plan {
    jobs: Vec<Arc<TableJob>>,
    queue: VecDeque<(Arc<TableJob>, Task)>,
    /// What the target is told before the first row.
    first_events: Vec<SourceEvent>,
    /// Whether what is left may be read under another one.
    may_change_snapshot: bool,
    /// Bytes of a block, the same for all tables.
    block_bytes: u64,
}

impl Plan {
    fn add(&mut self, job: Arc<TableJob>, ranges: Vec<Range>) {
        if ranges.is_empty() {
            self.queue.push_back((job.clone(), Task::End));
        }
        let ranges = ranges.into_iter().map(|range| (job.clone(), Task::Read(range)));
        self.queue.extend(ranges);
        self.jobs.push(job);
    }
}

impl Copier {
    /// Copies what the target lacks of its tables.
    ///
    /// Dropping it ends it: the server rolls the snapshots' transactions back.
    ///
    /// After an error it can be run again, or given up.
    pub(super) async fn run(&mut self) -> Result<()> {
        while !self.wanted.is_empty() {
            let first = self.first.take();
            let stream_begins_here = first.is_some();
            let snapshot = match first {
                Some(snapshot) => snapshot,
                None => self.snapshot().await?,
            };
            for job in self.copy_under(snapshot, stream_begins_here).await? {
                if job.is_finished() {
                    self.wanted.retain(|wanted| wanted.table != job.table.id);
                } else if let Some(wanted) = self.wanted.iter_mut().find(|wanted| wanted.table == job.table.id) {
                    wanted.begun = job.begun();
                }
            }
        }
        Ok(())
    }

    /// Takes a snapshot, once the stream has come near to the end of the log: rows of a snapshot
    /// wait until the stream has reached it, and it would be kept for nothing.
    async fn snapshot(&mut self) -> Result<Snapshot> {
        let mut sql = super::connect(&self.settings).await?;
        let failed = |error| fault::explain(error, "cannot read the catalog", &self.settings.connect);
        let end = catalog::read_log_end(&mut sql).await.map_err(failed)?;
        sql.close().await;
        if let Some(end) = end {
            let near = Lsn(end.0.saturating_sub(1));
            let reached = self.settled.wait_for(|lsn| *lsn >= near).await;
            reached.map_err(|_| Error::new(ErrorKind::Cancelled, "the source is stopping"))?;
        }
        let wanted: Vec<TableId> = self.wanted.iter().map(|wanted| wanted.table.clone()).collect();
        let taken = async {
            let mut sql = super::connect(&self.settings).await?;
            let tables = super::read_tables(&self.settings, &mut sql, &wanted).await?;
            let sessions = Sessions {
                sql: Kept::of(sql, Session::Sql),
                replication: None,
            };
            let (snapshot, left) = Snapshot::of(&self.settings, sessions, tables, false).await?;
            left.sql.close().await;
            Ok(snapshot)
        };
        taken.await.map_err(|error| passing(error, &self.settings))
    }

    /// Reads as much as there is time for under `snapshot`.
    async fn copy_under(&mut self, mut snapshot: Snapshot, stream_begins_here: bool) -> Result<Vec<Arc<TableJob>>> {
        let held = snapshot.held();
        let given = self.wanted.iter();
        let given = given.filter(|wanted| wanted.purpose.supersedes(&wanted.table, &wanted.begun.held));
        self.tell(Message::Snapshot {
            held,
            horizon: snapshot.horizon,
            tables: given.map(|wanted| wanted.table.clone()).collect(),
        })
        .await?;
        let plan = self.plan(&mut snapshot, stream_begins_here).await?;
        if self.wanted.iter().any(|wanted| wanted.purpose.empties()) {
            // Whoever follows the rows as they arrive sees the table emptied behind what came before.
            let reached = self.settled.wait_for(|lsn| *lsn >= held).await;
            reached.map_err(|_| Error::new(ErrorKind::Cancelled, "the source is stopping"))?;
        }
        for answer in self.wanted.iter_mut().filter_map(|wanted| wanted.answer.take()) {
            // Who asked may have gone.
            let _ = answer.send(Ok(()));
        }
        let workers = plan.queue.len().min(self.workers as usize).max(1);
        let until = plan
            .may_change_snapshot
            .then(|| Instant::now() + self.settings.copy.snapshot_for.0);
        let first = plan.jobs.iter().filter(|job| matches!(job.purpose, Purpose::First));
        let round = Arc::new(Round {
            settings: self.settings.clone(),
            held,
            queue: Mutex::new(plan.queue),
            unfinished: Mutex::new(first.count()),
            until,
            block_bytes: plan.block_bytes,
            pace: self.pace.clone(),
            board: self.board.clone(),
            messages: self.messages.clone(),
            settled: self.settled.clone(),
        });
        for events in pieces(plan.first_events) {
            self.tell(Message::Piece(events)).await?;
        }
        self.read(snapshot, workers, &round).await?;
        Ok(plan.jobs)
    }

    /// Plans what is to be read of each table under `snapshot`.
    async fn plan(&mut self, snapshot: &mut Snapshot, stream_begins_here: bool) -> Result<Plan> {
        let settings = self.settings.clone();
        let failed = |error| fault::explain(error, "the copy failed", &settings.connect);
        let held = snapshot.held();
        let mut plan = Plan {
            may_change_snapshot: true,
            ..Plan::default()
        };
        for table in std::mem::take(&mut snapshot.tables) {
            let Some(wanted) = self.wanted.iter_mut().find(|wanted| wanted.table == table.id) else {
                continue;
            };
            if wanted.oid != table.oid {
                return Err(replaced_meanwhile(&table.id));
            }
            // A list is given whole in any case.
            let partitions = wanted.purpose.partitions().filter(|_| table.has_key());
            let (files, block_bytes) = catalog::read_files(&mut snapshot.sql, &table, partitions)
                .await
                .map_err(failed)?;
            let may_leave_out = catalog::may_leave_out(&mut snapshot.sql, &table)
                .await
                .map_err(failed)?;
            let as_of = (held, snapshot.horizon);
            let files = (files.as_slice(), may_leave_out);
            let purpose = &wanted.purpose;
            let (job, ranges) =
                TableJob::plan(&settings, table, &snapshot.types, purpose, as_of, files, &wanted.begun)?;
            plan.may_change_snapshot &= job.is_keyed() && files.0.iter().all(|file| file.addressable);
            // Under the snapshot that the stream begins with there is nothing that came before. Under any
            // other the target may have changes that the copy holds again.
            let is_anew = purpose.empties() && !job.has_begun();
            if is_anew || !job.is_keyed() && !stream_begins_here {
                plan.first_events.extend(job.emptied()?);
                wanted.emptied = true;
            } else if matches!(purpose, Purpose::Backfill { .. }) && !job.has_begun() {
                plan.first_events.push(job.beginning());
            }
            let (bytes, total) = (job.blocks_read * block_bytes, job.blocks * block_bytes);
            self.board.start(&job.table.id, job.purpose.kind(), bytes, total);
            tracing::info!(table = %job.table.id, kind = ?job.purpose.kind(), as_of = %held, ranges = ranges.len(), bytes_read = bytes, bytes = total, "copying");
            plan.block_bytes = block_bytes;
            plan.add(Arc::new(job), ranges);
        }
        Ok(plan)
    }

    /// Has up to so many `workers` read what the `round` has to do.
    async fn read(&mut self, snapshot: Snapshot, workers: usize, round: &Arc<Round>) -> Result<()> {
        let Snapshot { sql, entrance, .. } = snapshot;
        let mut readers: JoinSet<Result<Option<Connection>>> = JoinSet::new();
        let first = round.clone().work(sql);
        readers.spawn(async move { first.await.map(Some) });
        // Each takes its time to come, in which the first reads.
        for _ in 1..workers {
            readers.spawn(come_and_work(self.settings.clone(), entrance.clone(), round.clone()));
        }
        // The locks of the snapshot belong to one of the sessions: none is closed before all are done.
        let (mut idle, mut are_fewer) = (Vec::with_capacity(workers), false);
        let mut progress = Instant::now();
        loop {
            tokio::select! {
                ended = readers.join_next() => match ended {
                    None => break,
                    Some(Ok(session)) => match session? {
                        Some(session) => idle.push(session),
                        None if are_fewer => {}
                        None => {
                            are_fewer = true;
                            tracing::info!("copying with fewer sessions");
                        }
                    },
                    Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                },
                () = sleep(PROGRESS_EVERY) => {}
            }
            if progress.elapsed() >= PROGRESS_EVERY {
                progress = Instant::now();
                self.tell_progress();
            }
        }
        for session in idle {
            // It was read only: nothing depends on how it ends.
            session.close().await;
        }
        Ok(())
    }

    /// Ends a copy that was asked for and that would fail again, so that it is not begun anew by
    /// the next start.
    ///
    /// # Errors
    /// `reason`, where the target has given up what it had for it.
    pub(super) async fn give_up(&mut self, reason: Error) -> Result<()> {
        for wanted in std::mem::take(&mut self.wanted) {
            let is_asked = matches!(wanted.purpose, Purpose::Backfill { why: Why::Asked, .. });
            if wanted.emptied || !is_asked {
                return Err(reason);
            }
            tracing::error!(table = %wanted.table, reason = %reason.summary(), "the backfill is given up");
            let held = *self.settled.borrow();
            let boundary = Boundary {
                partition: wanted.purpose.partition(&wanted.table),
                from: Position::Beginning,
                position: wanted.purpose.end(held),
                table: Some(wanted.table.clone()),
                raises: Vec::new(),
                committed_at: None,
                urgent: true,
            };
            self.board.give_up(&wanted.table);
            self.tell(Message::Piece(vec![SourceEvent::Boundary(boundary)])).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, message: Message) -> Result<()> {
        let told = self.messages.send(message).await;
        told.map_err(|_| Error::new(ErrorKind::Cancelled, "the source is stopping"))
    }

    /// Tells operators how far copies are.
    fn tell_progress(&self) {
        for (table, copy) in self.board.read() {
            if copy.finished {
                continue;
            }
            let percent = (copy.ratio * 100.0).floor();
            tracing::info!(%table, percent, rows = copy.rows, bytes = copy.bytes, of = copy.total_bytes, seconds_left = copy.seconds_left, "copying");
        }
    }
}

/// Has another session work in the snapshot of `entrance`. `None` if it does not come into it, or has nothing to
/// do: the first session needs no other.
async fn come_and_work(settings: Arc<Settings>, entrance: Entrance, round: Arc<Round>) -> Result<Option<Connection>> {
    if round.is_all_taken() {
        return Ok(None);
    }
    match entrance.join(&settings).await {
        Ok(Some(session)) => round.work(session).await.map(Some),
        Ok(None) => {
            tracing::debug!("a lock on a table is waited for");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, "a further session cannot take part in the copy");
            Ok(None)
        }
    }
}

/// Events, cut behind each boundary.
fn pieces(events: Vec<SourceEvent>) -> Vec<Vec<SourceEvent>> {
    let mut pieces: Vec<Vec<SourceEvent>> = vec![Vec::new()];
    for event in events {
        let ends = matches!(event, SourceEvent::Boundary(_));
        pieces.last_mut().expect("there is one at least").push(event);
        if ends {
            pieces.push(Vec::new());
        }
    }
    pieces.pop();
    pieces
}

const NO_SNAPSHOT: &str = "no snapshot can be taken for a copy now";

/// The same error, as one that may pass: slots become free again, and a table that a pattern
/// selected and that is gone is not selected at the next start.
fn passing(error: Error, settings: &Settings) -> Error {
    match error.error_code() {
        Some(code @ "PG0019") => Error::new(ErrorKind::Unavailable, NO_SNAPSHOT)
            .code(code)
            .caused_by(error),
        Some(code @ ("PG0015" | "PG0017")) if !settings.selection.patterns.is_empty() => {
            Error::new(ErrorKind::Unavailable, NO_SNAPSHOT)
                .code(code)
                .caused_by(error)
        }
        _ => error,
    }
}

fn replaced_meanwhile(table: &TableId) -> Error {
    Error::new(ErrorKind::Unavailable, "the table was replaced while its copy began")
        .code("PG0038")
        .with("table", table)
}

/// How often the log tells how far copies are.
const PROGRESS_EVERY: std::time::Duration = std::time::Duration::from_secs(10);
