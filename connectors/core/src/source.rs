//! Sources: what reads changes from a system.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    BackfillRequests, ByteBudget, ChangeBatch, Checkpoint, CopyBoard, Error, ErrorKind, Finding, PartitionId, Position,
    Result, TableId, TableSchema, backfill_desk,
};

/// A system that changes are read from.
///
/// Life cycle: built from its configuration without I/O; then any number of
/// [`preflight`](Self::preflight) and [`tables`](Self::tables); then one [`run`](Self::run). A pipeline
/// that fails is started again with another source of the same configuration; one more
/// [attends](Self::attend) all the while.
#[async_trait]
pub trait Source: Send {
    /// The source's name in the pipeline: the first segment of its partition names.
    fn name(&self) -> &str;

    /// Everything that would stop this source from working, all at once, without side effects.
    /// Only a fault of the preflight itself is an `Err`; being unable to connect is a finding.
    async fn preflight(&mut self) -> Result<Vec<Finding>>;

    /// The tables that this source will read, with their present columns, without side effects.
    async fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>>;

    /// Reads from `context.resume` on and sends what it reads to `context.events`, until the
    /// source ends, fails or `context.cancel` fires.
    ///
    /// Obligations, checked by the conformance suite:
    /// - Events of a partition are sent in its order, and so are a table's rows in them; every row's
    ///   position is after the position of the partition in the last boundary, and at most that of the next.
    /// - At a boundary nothing that was sent of any partition waits for another boundary.
    /// - A table whose resume checkpoint lacks its first copy gets one. Its rows are `r`, each at
    ///   the place in the log that it was read as of, and so stand among the table's changes in
    ///   the order of positions: they may be sent after changes with later positions, never
    ///   before ones with earlier.
    /// - Acknowledges to the system no position that `context.durable` does not include, nor a disk
    ///   of its own where it keeps what it read.
    /// - Goes on answering the system's keepalives while `context.events` is full.
    /// - Returns soon after `context.cancel` fires, with `Ok`.
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()>;

    /// Does what is to be done about the system for as long as the pipeline is kept: while it runs, and
    /// while it waits to be started again since its target is away. Returns early where there is
    /// nothing to do; a fault of it is no fault of the pipeline.
    ///
    /// Is dropped when the pipeline is drained.
    async fn attend(self: Box<Self>) {}
}

/// What a running source works with.
#[derive(Debug)]
pub struct SourceContext {
    /// Where to resume, for each table that the pipeline uses.
    pub resume: ResumePoints,
    /// Where events go.
    pub events: EventSender,
    /// The least checkpoint over all of the pipeline's tables that is durable in the target.
    /// The source may acknowledge it to its system.
    pub durable: watch::Receiver<Checkpoint>,
    /// Fires when the source is to stop.
    pub cancel: CancellationToken,
    /// Where the source tells how far its copies are.
    pub copies: CopyBoard,
    /// Requests to copy tables again.
    pub backfills: BackfillRequests,
}

impl SourceContext {
    /// A context whose copies nobody looks at, and in which nobody asks for a backfill.
    pub fn new(
        resume: ResumePoints,
        events: EventSender,
        durable: watch::Receiver<Checkpoint>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            resume,
            events,
            durable,
            cancel,
            copies: CopyBoard::default(),
            backfills: backfill_desk().1,
        }
    }
}

/// Where to resume: for each source table that the pipeline uses, what each of the target
/// tables fed by it holds.
#[derive(Debug, Clone, Default)]
pub struct ResumePoints(BTreeMap<TableId, Vec<Checkpoint>>);

impl ResumePoints {
    /// Adds what one target table fed by `table` holds.
    pub fn add(&mut self, table: TableId, held: Checkpoint) {
        self.0.entry(table).or_default().push(held);
    }

    /// The source tables that the pipeline uses.
    pub fn tables(&self) -> impl Iterator<Item = &TableId> {
        self.0.keys()
    }

    /// Whether the pipeline uses `table`.
    pub fn contains(&self, table: &TableId) -> bool {
        self.0.contains_key(table)
    }

    /// What each target table fed by `table` holds.
    pub fn holdings(&self, table: &TableId) -> impl Iterator<Item = &Checkpoint> {
        self.0.get(table).into_iter().flatten()
    }

    /// The least of what the target tables fed by `table` hold: where it is to be read from.
    /// Without the end of a first copy it asks for one. Empty for a table that is not used.
    pub fn of(&self, table: &TableId) -> Checkpoint {
        let holdings = self.0.get(table).into_iter().flatten().cloned();
        holdings.reduce(|least, held| least.least(&held)).unwrap_or_default()
    }

    /// The least position of `partition` among those target tables of `table` that hold one at
    /// all; `None` if none does. What follows it is still owed to somebody, even where another
    /// target table is new and would be content with less.
    pub fn least_held(&self, table: &TableId, partition: &PartitionId) -> Option<&Position> {
        let holdings = self.0.get(table).into_iter().flatten();
        let positions = holdings.map(|held| held.position(partition));
        positions
            .filter(|position| **position != Position::Beginning)
            .reduce(|least, position| if position < least { position } else { least })
    }

    /// What every table holds of `partition`: the least position; `Beginning` if one lacks it
    /// or two cannot be compared.
    pub fn least(&self, partition: &PartitionId) -> Position {
        let all = self.0.values().flatten().cloned();
        let least = all.reduce(|least, held| least.least(&held)).unwrap_or_default();
        least.position(partition).clone()
    }
}

impl FromIterator<(TableId, Checkpoint)> for ResumePoints {
    fn from_iter<I: IntoIterator<Item = (TableId, Checkpoint)>>(holdings: I) -> Self {
        let mut points = Self::default();
        for (table, held) in holdings {
            points.add(table, held);
        }
        points
    }
}

/// What a source sends.
#[derive(Debug)]
pub enum SourceEvent {
    /// Changes of one table, in order. They belong to the boundary that follows.
    Changes(ChangeBatch),
    /// Rows that could not be decoded: a batch of [`quarantine::schema`](crate::quarantine::schema).
    /// `origin` is the table they would have been changes of.
    Rejected {
        /// The table that the rows were meant for.
        origin: TableId,
        /// The rows, with their raw bytes and the reason.
        rows: ChangeBatch,
    },
    /// Everything sent so far is complete: the stream may be cut here.
    Boundary(Boundary),
    /// The source would read other tables if it were started now. The pipeline commits what it
    /// has, and is planned and started anew at once.
    TablesChanged,
}

/// A place at which the stream may be cut: the end of a transaction, an offset, the end of a
/// first copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// The partition that was read.
    pub partition: PartitionId,
    /// Reading went on after this position: that of the partition's last boundary, or where the
    /// source resumed. A table that stands before it lacks rows, and the pipeline halts.
    pub from: Position,
    /// It is now complete up to and including this position.
    pub position: Position,
    /// The only table concerned; `None` if all tables of the source are. A copy names its table.
    pub table: Option<TableId>,
    /// Positions of other partitions that a table which takes this boundary is raised to: the
    /// beginning of a copy raises the table's WAL position to where the stream stands. A table that
    /// already holds `position` ignores them together with the boundary. Never past rows that are
    /// still to be sent. A target table with several inputs records a raise for that input alone,
    /// under `<partition>@<table>`.
    pub raises: Vec<(PartitionId, Position)>,
    /// When the source committed the last change before this boundary, in microseconds since
    /// the Unix epoch; for lag.
    pub committed_at: Option<i64>,
    /// Whether all that came so far is to be committed at once, whatever the sinks' settings and
    /// though no rows came with it: a restart before that would choose another place to read from,
    /// or nothing will come that a commit should wait for.
    pub urgent: bool,
}

/// The sending end of a pipeline's event channel, bounded by bytes.
#[derive(Debug, Clone)]
pub struct EventSender {
    events: mpsc::Sender<SourceEvent>,
    budget: ByteBudget,
}

/// The receiving end of a pipeline's event channel.
pub type EventReceiver = mpsc::Receiver<SourceEvent>;

/// A channel whose batches together hold at most `budget` bytes until they are dropped.
/// `events` bounds their number, boundaries included.
pub fn event_channel(budget: ByteBudget, events: usize) -> (EventSender, EventReceiver) {
    let (sender, receiver) = mpsc::channel(events);
    (EventSender { events: sender, budget }, receiver)
}

impl EventSender {
    /// Sends an event, after waiting for its bytes. The permit rides in the batch.
    ///
    /// Not cancel safe: a dropped call drops the event. A source that must serve a socket
    /// meanwhile keeps the future and polls it beside the socket.
    ///
    /// # Errors
    /// `Cancelled` if the receiver is gone, which means that the pipeline is stopping.
    pub async fn send(&self, mut event: SourceEvent) -> Result<()> {
        if let SourceEvent::Changes(batch) | SourceEvent::Rejected { rows: batch, .. } = &mut event {
            batch.hold(self.budget.acquire(batch.bytes()).await);
        }
        self.events
            .send(event)
            .await
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the pipeline no longer takes events"))
    }
}
