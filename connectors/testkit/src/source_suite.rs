//! The conformance suite of sources: what [`Source::run`] promises, on any source.
//!
//! That a source acknowledges nothing before it is durable cannot be seen from here; each
//! connector tests it against its own system.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use millstream_core::{
    Boundary, ByteBudget, Checkpoint, EventReceiver, PartitionId, Position, ResumePoints, Source, SourceContext,
    SourceEvent, TableId, event_channel,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::change_log::{ChangeRow, change_rows, fold_rows};

/// Longest silence of a source that has not sent all.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest time between a cancellation and the return of `run`.
const STOP: Duration = Duration::from_secs(5);
const WIDE: u64 = 64 << 20;

/// What the suite runs on: a source over data that does not change meanwhile.
#[async_trait]
pub trait SourceSubject: Send + Sync {
    /// A new source over the same data, not yet run. Called many times, never while another
    /// source of this subject runs.
    async fn source(&self) -> Box<dyn Source>;

    /// Whether a reader that has reached these positions has read all of the data.
    fn is_complete(&self, read: &Checkpoint) -> bool;

    /// How many rows the first read must bring, rejected ones included.
    fn rows(&self) -> usize;

    /// From how many boundaries at most to resume. Those between the first and the last are
    /// picked evenly; fewer make a slow server's suite shorter.
    fn resumes(&self) -> usize {
        usize::MAX
    }
}

/// Runs every check.
///
/// # Panics
/// At the first promise that the source breaks.
pub async fn run(subject: &dyn SourceSubject) {
    let tables = subject
        .source()
        .await
        .tables()
        .await
        .expect("tables() works on a sound source");
    assert!(!tables.is_empty(), "the subject must have a table");
    let whole = reads_everything_in_order(subject).await;
    resumes_exactly(subject, &whole).await;
    reads_the_same_under_a_tiny_budget(subject, &whole).await;
    stops_when_cancelled(subject).await;
}

/// What one run sent.
#[derive(Default)]
struct Reading {
    /// Rows and boundaries in the order of their coming.
    events: Vec<Event>,
    /// Every table's key, as its batches say; a table that sent none has none.
    keys: BTreeMap<TableId, Vec<String>>,
}

enum Event {
    Rows(TableId, Vec<ChangeRow>),
    Boundary(Boundary),
}

impl Reading {
    /// The rows after event `start`, by table, without those that `held` includes: the engine
    /// skips these in the same way.
    fn rows_from(&self, start: usize, held: &ResumePoints) -> BTreeMap<TableId, Vec<ChangeRow>> {
        let mut rows = BTreeMap::<_, Vec<_>>::new();
        for event in &self.events[start..] {
            let Event::Rows(table, changes) = event else { continue };
            let checkpoint = held.of(table);
            let is_new = |change: &&ChangeRow| {
                let partition = PartitionId::from(change.partition.as_str());
                !checkpoint.position(&partition).holds(&change.position)
            };
            rows.entry(table.clone())
                .or_default()
                .extend(changes.iter().filter(is_new).cloned());
        }
        rows
    }

    fn row_count(&self) -> usize {
        self.events
            .iter()
            .map(|event| {
                if let Event::Rows(_, rows) = event {
                    rows.len()
                } else {
                    0
                }
            })
            .sum()
    }
}

async fn reads_everything_in_order(subject: &dyn SourceSubject) -> Reading {
    let start = nothing_held(subject).await;
    let reading = read(subject, &start, WIDE, 64).await;
    assert_eq!(
        reading.row_count(),
        subject.rows(),
        "the first read must bring every row once"
    );
    let boundaries = reading
        .events
        .iter()
        .filter(|event| matches!(event, Event::Boundary(_)))
        .count();
    assert!(boundaries > 1, "the subject must have data for more than one boundary");
    assert_nothing_is_raised_over_rows_to_come(&reading);
    reading
}

/// A boundary that raises a partition tells the engine that the table holds it so far.
fn assert_nothing_is_raised_over_rows_to_come(reading: &Reading) {
    let mut raised: BTreeMap<(&TableId, &PartitionId), &Position> = BTreeMap::new();
    for event in &reading.events {
        match event {
            Event::Boundary(boundary) => {
                let raises = boundary
                    .raises
                    .iter()
                    .map(|(partition, position)| (partition, position));
                let of_table = boundary.table.iter();
                raised.extend(of_table.flat_map(|table| raises.clone().map(move |(p, to)| ((table, p), to))));
            }
            Event::Rows(table, rows) => {
                for row in rows {
                    let partition = PartitionId::from(row.partition.as_str());
                    if let Some(position) = raised.get(&(table, &partition)) {
                        assert!(
                            !position.holds(&row.position),
                            "{table}: a row at {} was raised over",
                            row.position
                        );
                    }
                }
            }
        }
    }
}

/// Reads again from every boundary and wants exactly what followed it.
async fn resumes_exactly(subject: &dyn SourceSubject, whole: &Reading) {
    let ends: Vec<_> = (0..whole.events.len())
        .filter(|i| matches!(whole.events[*i], Event::Boundary(_)))
        .collect();
    // Resuming after the last one brings nothing to wait for.
    let inner = &ends[..ends.len() - 1];
    let wanted = subject.resumes().clamp(1, inner.len());
    for pick in 0..wanted {
        let end = inner[pick * inner.len() / wanted];
        let held = held_after(&nothing_held(subject).await, &whole.events[..=end]);
        let again = read(subject, &held, WIDE, 64).await;
        compare(whole, end, &held, &again);
        skips_nothing_while_another_begins(subject, whole, end).await;
    }
}

/// A target table that joins later holds nothing. The one beside it, fed by the same source
/// table, still gets exactly what it lacks.
async fn skips_nothing_while_another_begins(subject: &dyn SourceSubject, whole: &Reading, end: usize) {
    let held = held_after(&nothing_held(subject).await, &whole.events[..=end]);
    let mut joined = held.clone();
    for table in held.tables() {
        joined.add(table.clone(), Checkpoint::default());
    }
    let again = read(subject, &joined, WIDE, 64).await;
    compare(whole, end, &held, &again);
    // Panics at a boundary that goes on from where the table does not stand.
    held_after(&held, &again.events);
}

/// `again` was read from what was held after event `end` of `whole`.
fn compare(whole: &Reading, end: usize, held: &ResumePoints, again: &Reading) {
    let rest = again.rows_from(0, held);
    let before = Reading {
        events: Vec::new(),
        keys: whole.keys.clone(),
    };
    let first_part = Reading {
        events: whole.events[..=end].iter().map(Event::copy).collect(),
        ..before
    };
    let first_part = first_part.rows_from(0, &ResumePoints::default());
    let copying = whole.events[end..]
        .iter()
        .any(|event| matches!(event, Event::Boundary(b) if b.table.is_some()));
    let expected = whole.rows_from(end + 1, held);
    for table in held.tables() {
        let empty = Vec::new();
        let rest = rest.get(table).unwrap_or(&empty);
        let first = first_part.get(table).unwrap_or(&empty);
        let mut seen = BTreeSet::new();
        for change in first.iter().chain(rest) {
            assert!(
                seen.insert(change.place()),
                "{table}: a change came again after the resume: {:?}",
                change.place()
            );
        }
        if !copying {
            let places = |rows: &[ChangeRow]| rows.iter().cloned().collect::<BTreeSet<_>>();
            let expected = expected.get(table).unwrap_or(&empty);
            assert_eq!(
                places(rest),
                places(expected),
                "{table}: a resume must bring exactly the rest"
            );
        }
        // An interrupted copy may be taken again as of a later position; the table must be the same.
        if let Some(key) = whole.keys.get(table).filter(|key| !key.is_empty()) {
            let both = first.iter().chain(rest).cloned().collect();
            let all = whole
                .rows_from(0, &ResumePoints::default())
                .remove(table)
                .unwrap_or_default();
            assert_eq!(
                fold_rows(key, both),
                fold_rows(key, all),
                "{table}: the resumed table differs"
            );
        }
    }
}

impl Event {
    fn copy(&self) -> Self {
        match self {
            Self::Rows(table, rows) => Self::Rows(table.clone(), rows.clone()),
            Self::Boundary(boundary) => Self::Boundary(boundary.clone()),
        }
    }
}

/// With room for one batch at a time and one event in the channel nothing is lost or stuck.
async fn reads_the_same_under_a_tiny_budget(subject: &dyn SourceSubject, whole: &Reading) {
    let start = nothing_held(subject).await;
    let reading = read(subject, &start, 1024, 1).await;
    assert_eq!(
        reading.row_count(),
        whole.row_count(),
        "a tiny budget must not change what is read"
    );
}

async fn stops_when_cancelled(subject: &dyn SourceSubject) {
    // While nobody takes its events, and every byte is in use.
    let start = nothing_held(subject).await;
    let mut run = Run::start(subject, &start, 1024, 1).await;
    let first = timeout(SILENCE, run.events.recv())
        .await
        .expect("a source sends its first event in time");
    run.stop("while its channel is full").await;
    drop(first);

    // While there is nothing left to read.
    let mut run = Run::start(subject, &start, WIDE, 64).await;
    let mut read = Checkpoint::default();
    while !subject.is_complete(&read) {
        match timeout(SILENCE, run.events.recv())
            .await
            .expect("a source sends all in time")
        {
            Some(SourceEvent::Boundary(boundary)) => reach(&mut read, &boundary),
            Some(_) => {}
            None => break,
        }
    }
    run.stop("while it is idle").await;
}

/// A running source.
struct Run {
    events: EventReceiver,
    cancel: CancellationToken,
    task: JoinSet<millstream_core::Result<()>>,
    _durable: watch::Sender<Checkpoint>,
}

impl Run {
    async fn start(subject: &dyn SourceSubject, resume: &ResumePoints, budget: u64, events: usize) -> Self {
        let source = subject.source().await;
        let (sender, receiver) = event_channel(ByteBudget::new(budget), events);
        let (durable, seen) = watch::channel(Checkpoint::default());
        let cancel = CancellationToken::new();
        let context = SourceContext::new(resume.clone(), sender, seen, cancel.clone());
        let mut task = JoinSet::new();
        task.spawn(source.run(context));
        Self {
            events: receiver,
            cancel,
            task,
            _durable: durable,
        }
    }

    async fn stop(mut self, when: &str) {
        self.cancel.cancel();
        let ended = timeout(STOP, self.task.join_next()).await;
        let ended = ended.unwrap_or_else(|_| panic!("a source cancelled {when} must return in {STOP:?}"));
        if let Some(result) = ended {
            let result = result.expect("a source does not panic");
            assert!(result.is_ok(), "a source cancelled {when} must return Ok: {result:?}");
        }
    }
}

/// Reads to the end, and checks order and boundaries on the way.
async fn read(subject: &dyn SourceSubject, resume: &ResumePoints, budget: u64, events: usize) -> Reading {
    let mut run = Run::start(subject, resume, budget, events).await;
    let mut reading = Reading::default();
    let mut order = OrderCheck::default();
    let mut reached = least_held(resume);
    while !subject.is_complete(&reached) {
        let event = timeout(SILENCE, run.events.recv()).await;
        match event.expect("a source that has not sent all must not fall silent") {
            Some(SourceEvent::Changes(batch)) => {
                let rows = change_rows(std::slice::from_ref(batch.rows()));
                order.rows(&batch.schema().id, &rows);
                reading
                    .keys
                    .insert(batch.schema().id.clone(), batch.schema().key.clone());
                reading.events.push(Event::Rows(batch.schema().id.clone(), rows));
            }
            Some(SourceEvent::Rejected { origin, rows }) => {
                // Under the quarantine's own name, since these rows are not the origin's.
                let name = format!("{}!rejected", origin.name);
                let table = TableId::new(&origin.source, origin.namespace.as_deref(), &name);
                let rows = change_rows(std::slice::from_ref(rows.rows()));
                order.rows(&table, &rows);
                // The time of rejection differs from run to run.
                let timeless = rows.into_iter().map(|mut row| {
                    row.cells.remove("quarantined_at");
                    row
                });
                reading.events.push(Event::Rows(table, timeless.collect()));
            }
            Some(SourceEvent::Boundary(boundary)) => {
                order.boundary(&boundary);
                reach(&mut reached, &boundary);
                reading.events.push(Event::Boundary(boundary));
            }
            Some(SourceEvent::TablesChanged) => panic!("nobody changed the tables"),
            None => {
                let ended = run
                    .task
                    .join_next()
                    .await
                    .expect("the source was started")
                    .expect("a source does not panic");
                panic!("the source ended before all was read: {ended:?}");
            }
        }
    }
    run.stop("after all was read").await;
    reading
}

/// Every row lies after its partition's last boundary and at most at the next, and a table's
/// rows of one partition ascend.
#[derive(Default)]
struct OrderCheck {
    last_boundary: BTreeMap<PartitionId, Position>,
    last_row: BTreeMap<(TableId, PartitionId), (String, i64)>,
    open: BTreeMap<PartitionId, BTreeSet<String>>,
}

impl OrderCheck {
    fn rows(&mut self, table: &TableId, rows: &[ChangeRow]) {
        for row in rows {
            let partition = PartitionId::from(row.partition.as_str());
            assert_eq!(
                partition.source(),
                &*table.source,
                "a partition's name begins with its source's"
            );
            if let Some(boundary) = self.last_boundary.get(&partition) {
                assert!(
                    !boundary.holds(&row.position),
                    "{table}: a row at {} after the boundary {boundary}",
                    row.position
                );
            }
            let place = (row.position.clone(), row.ordinal);
            if let Some(previous) = self.last_row.insert((table.clone(), partition.clone()), place.clone()) {
                assert!(
                    previous < place,
                    "{table}: {previous:?} came before {place:?} in {partition}"
                );
            }
            self.open.entry(partition).or_default().insert(row.position.clone());
        }
    }

    fn boundary(&mut self, boundary: &Boundary) {
        for position in self.open.remove(&boundary.partition).unwrap_or_default() {
            assert!(
                boundary.position.holds(&position),
                "a row of {} at {position} is not within the boundary {}",
                boundary.partition,
                boundary.position
            );
        }
        assert!(
            self.open.is_empty(),
            "rows of {:?} wait for another boundary at that of {}",
            self.open.keys(),
            boundary.partition
        );
        if let Some(last) = self
            .last_boundary
            .insert(boundary.partition.clone(), boundary.position.clone())
        {
            // Equal is a heartbeat.
            assert!(
                !matches!(last.partial_cmp(&boundary.position), Some(std::cmp::Ordering::Greater)),
                "{} went back from {last} to {}",
                boundary.partition,
                boundary.position
            );
        }
    }
}

/// Every table of the source, with nothing held.
async fn nothing_held(subject: &dyn SourceSubject) -> ResumePoints {
    let tables = subject
        .source()
        .await
        .tables()
        .await
        .expect("tables() works on a sound source");
    let tables = tables.iter();
    tables.map(|table| (table.id.clone(), Checkpoint::default())).collect()
}

/// What the engine would have committed for each table after these events.
fn held_after(start: &ResumePoints, events: &[Event]) -> ResumePoints {
    let hold = |table: &TableId| {
        let mut held = start.of(table);
        for event in events {
            let Event::Boundary(boundary) = event else { continue };
            if boundary.table.as_ref().is_none_or(|only| only == table) {
                take(&mut held, boundary);
            }
        }
        (table.clone(), held)
    };
    start.tables().map(hold).collect()
}

fn take(checkpoint: &mut Checkpoint, boundary: &Boundary) {
    let held = checkpoint.position(&boundary.partition);
    if *held >= boundary.position {
        return;
    }
    assert!(
        *held >= boundary.from,
        "a boundary of {} goes on from {}, and the table stands at {held}",
        boundary.partition,
        boundary.from
    );
    reach(checkpoint, boundary);
}

/// Moves to a boundary.
fn reach(checkpoint: &mut Checkpoint, boundary: &Boundary) {
    if !matches!(
        checkpoint.position(&boundary.partition).partial_cmp(&boundary.position),
        Some(std::cmp::Ordering::Greater)
    ) {
        checkpoint.set(boundary.partition.clone(), boundary.position.clone());
    }
    for (partition, position) in &boundary.raises {
        checkpoint.raise(partition, position);
    }
}

/// What a reader that resumes has read of each partition: the least over all tables that have
/// it. A partition of one table alone, such as its first copy, counts as that table has it.
fn least_held(resume: &ResumePoints) -> Checkpoint {
    let mut reached = Checkpoint::default();
    for (partition, position) in resume
        .tables()
        .map(|table| resume.of(table))
        .collect::<Vec<_>>()
        .iter()
        .flat_map(Checkpoint::iter)
    {
        let of_all = resume.least(partition);
        let position = if of_all == Position::Beginning && is_copy(partition) {
            position.clone()
        } else {
            of_all
        };
        reached.set(partition.clone(), position);
    }
    reached
}

fn is_copy(partition: &PartitionId) -> bool {
    partition.within_source().starts_with("copy/")
}
