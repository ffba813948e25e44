//! A partition that is being read.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_core::{Boundary, Error, ErrorKind, PartitionId, Position, Result, SourceEvent, TableId};

use crate::client::Leader;
use crate::codes;
use crate::config::Batch;
use crate::gathered::{Gathered, Item, Origin, micros};
use crate::layout::Layout;
use crate::offsets::{self, Loss, Lost, StartAt, Watermarks};
use crate::wire::{Cursor, Part, RecordBatch};

/// A partition, and the batches that came of it and were not passed on yet.
///
/// Each has batches of its own, because a boundary concerns one partition: what is sent before
/// it must not hold rows of another.
pub struct Partition {
    /// The partition's number.
    pub number: i32,
    /// The offset behind all that came.
    pub next: i64,
    /// The offset behind the last message that a reader may see, as the broker said last.
    pub end: Option<i64>,
    /// By whom it is read.
    pub reader: ReadBy,
    /// The epoch of the leader that appended what came last; -1 before the first.
    epoch: i32,
    origin: Arc<Origin>,
    /// The position of the last boundary.
    announced: Position,
    /// The offset behind all that was passed on.
    passed_on: i64,
    committed_at: Option<i64>,
    waiting: VecDeque<RecordBatch>,
    /// Whether there is something to pass on: batches, or offsets that hold no message.
    due: bool,
    /// The offset that reading begins with, until the target was told of it.
    unannounced: Option<i64>,
}

/// By whom a partition is read, and for how long nothing was heard of it.
#[derive(Debug)]
pub struct ReadBy {
    leader: Option<Leader>,
    silent_since: Option<Instant>,
}

impl ReadBy {
    fn nobody() -> Self {
        Self {
            leader: None,
            silent_since: Some(Instant::now()),
        }
    }

    /// Whoever reads it.
    pub fn leader(&self) -> Option<Leader> {
        self.leader
    }

    /// It is read by this one from now on.
    pub fn assign(&mut self, leader: Leader) {
        self.leader = Some(leader);
    }

    /// Nobody reads it any more.
    pub fn turn_out(&mut self) {
        self.leader = None;
        self.silent_since.get_or_insert_with(Instant::now);
    }

    /// Nothing could be heard of it meanwhile.
    pub fn excuse(&mut self) {
        self.silent_since = self.silent_since.map(|_| Instant::now());
    }

    fn answered(&mut self) {
        self.silent_since = None;
    }

    /// For how long it could not be read; nothing if it could when it was asked for last.
    pub fn silent_for(&self) -> Duration {
        self.silent_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Partition {
    /// A partition to be read from `start` on. Where a target table holds nothing of it, the next
    /// round tells where it stands, though no message came.
    pub fn new(id: PartitionId, layout: Layout, number: i32, start: StartAt) -> Self {
        let unknown = start.from.is_none();
        Self {
            number,
            next: start.next,
            end: None,
            reader: ReadBy::nobody(),
            epoch: -1,
            origin: Arc::new(Origin { id, number, layout }),
            announced: start.from.map_or(Position::Beginning, offsets::position),
            passed_on: start.next,
            committed_at: None,
            waiting: VecDeque::new(),
            due: unknown,
            unannounced: unknown.then_some(start.next),
        }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.origin.layout.topic
    }

    /// The table that the topic is.
    pub fn table(&self) -> &TableId {
        &self.origin.layout.schema.id
    }

    /// Where `leader` is to read on.
    pub fn cursor(&self, leader: Leader) -> Cursor {
        Cursor {
            epoch: self.epoch,
            leader_epoch: leader.epoch,
            ..Cursor::new(self.topic(), self.number, self.next)
        }
    }

    /// It is read on without the epoch of what came last.
    pub fn forget_epoch(&mut self) {
        self.epoch = -1;
    }

    /// Whether there is something to pass on.
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// Takes what came.
    ///
    /// # Errors
    /// `Internal` if it is not what comes next.
    pub fn take(&mut self, part: Part) -> Result<()> {
        self.end = Some(part.end);
        self.reader.answered();
        let follows = part.batches.first().is_none_or(|batch| batch.last >= self.next);
        if part.next < self.next || !follows {
            return Err(Error::new(ErrorKind::Internal, "a partition is read twice")
                .with("partition", &self.origin.id)
                .with("offset", part.next)
                .with("asked_for", self.next));
        }
        self.due |= part.next > self.next;
        self.next = part.next;
        self.epoch = part.epoch;
        self.waiting.extend(part.batches);
        Ok(())
    }

    /// What the round has of it: where reading begins, if the target does not know, then batches of no more
    /// than `room` messages and one batch more, and the boundary after them. Returns how many messages
    /// and bytes these are.
    fn drain(&mut self, round: &mut Vec<Item>, room: usize, limits: Batch, now: i64) -> (usize, u64) {
        if !self.due {
            return (0, 0);
        }
        if let Some(start) = self.unannounced.take() {
            let announcement = self.boundary(start - 1, true);
            round.push(Item::Event(announcement));
        }
        let (mut rows, mut bytes) = (0, 0);
        let mut batches = Vec::new();
        while rows < room
            && let Some(batch) = self.waiting.pop_front()
        {
            rows += batch.records;
            bytes += batch.size() as u64;
            batches.push(batch);
        }
        let reached = match batches.last() {
            // All that came was passed on, with the offsets behind it that hold no message.
            _ if self.waiting.is_empty() => self.next,
            Some(last) => last.last + 1,
            None => return (0, 0),
        };
        self.due = !self.waiting.is_empty();
        if let Some(last) = batches.last() {
            self.committed_at = micros(Some(last.max_timestamp));
            let from = self.passed_on;
            round.push(Item::Messages(Gathered {
                origin: self.origin.clone(),
                now,
                from,
                batches,
                limits,
            }));
        }
        self.passed_on = reached;
        if self.announced != offsets::position(reached - 1) {
            let boundary = self.boundary(reached - 1, false);
            round.push(Item::Event(boundary));
        }
        (rows, bytes)
    }

    /// The boundary after `offset`.
    fn boundary(&mut self, offset: i64, urgent: bool) -> SourceEvent {
        let position = offsets::position(offset);
        SourceEvent::Boundary(Boundary {
            partition: self.origin.id.clone(),
            from: std::mem::replace(&mut self.announced, position.clone()),
            position,
            table: Some(self.table().clone()),
            raises: Vec::new(),
            // Once: a boundary after a gap tells of no change, and neither does an announcement.
            committed_at: if urgent { None } else { self.committed_at.take() },
            urgent,
        })
    }
}

/// Lets the first announcement of each table raise the others. A commit holds whole boundaries, and
/// a table that has read one partition of a topic is owed every other from its first message on:
/// so the first commit must know them all.
fn tie_announcements(round: &mut [Item]) {
    let announced = |item: &Item| match item {
        Item::Event(SourceEvent::Boundary(boundary)) if boundary.urgent => boundary
            .table
            .clone()
            .map(|table| (table, (boundary.partition.clone(), boundary.position.clone()))),
        _ => None,
    };
    let mut of_table: HashMap<TableId, Vec<(PartitionId, Position)>> = HashMap::new();
    for (table, place) in round.iter().filter_map(announced) {
        of_table.entry(table).or_default().push(place);
    }
    for item in round {
        let Item::Event(SourceEvent::Boundary(boundary)) = item else {
            continue;
        };
        let places = boundary.table.as_ref().filter(|_| boundary.urgent);
        if let Some(places) = places.and_then(|table| of_table.remove(table)) {
            boundary.raises = places
                .into_iter()
                .filter(|(partition, _)| *partition != boundary.partition)
                .collect();
        }
    }
}

/// The partitions that are being read, found by topic and number.
#[derive(Default)]
pub struct Partitions {
    all: Vec<Partition>,
    by_name: HashMap<String, HashMap<i32, usize>>,
    /// With which the next round begins.
    first: usize,
}

impl Partitions {
    /// Adds a partition.
    pub fn add(&mut self, partition: Partition) {
        let topic = self.by_name.entry(partition.topic().to_owned()).or_default();
        topic.insert(partition.number, self.all.len());
        self.all.push(partition);
    }

    /// The partition of that topic and number.
    pub fn get_mut(&mut self, topic: &str, number: i32) -> Option<&mut Partition> {
        let at = *self.by_name.get(topic)?.get(&number)?;
        self.all.get_mut(at)
    }

    /// The number behind the highest of those of `topic` that are being read.
    pub fn count(&self, topic: &str) -> i32 {
        let numbers = self.by_name.get(topic).and_then(|numbers| numbers.keys().max());
        numbers.map_or(0, |last| last + 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The one that was added after `at` others.
    pub fn at(&mut self, at: usize) -> &mut Partition {
        &mut self.all[at]
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.all.iter_mut()
    }

    /// A round of no more than `limits` messages and one batch more. Partitions come one after the other, not all with a
    /// part of it, so that a batch of rows is large however many they are; the next round begins where this one ends.
    /// Returns with it how many messages and bytes it has.
    pub fn round(&mut self, limits: Batch, now: i64) -> (Vec<Item>, usize, u64) {
        let (mut round, mut rows, mut bytes) = (Vec::new(), 0, 0);
        let (first, count) = (self.first, self.all.len());
        let mut next = None;
        for at in (first..count).chain(0..first) {
            let room = limits.rows.saturating_sub(rows);
            let (own_rows, own_bytes) = self.all[at].drain(&mut round, room, limits, now);
            (rows, bytes) = (rows + own_rows, bytes + own_bytes);
            if rows >= limits.rows {
                next.get_or_insert((at + 1) % count);
            }
        }
        self.first = next.unwrap_or(first);
        tie_announcements(&mut round);
        (round, rows, bytes)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.all.iter()
    }
}

/// The error of a partition that lost what was to be read next.
pub fn position_lost(topic: &str, partition: i32, Lost { next, loss }: Lost, marks: Watermarks) -> Error {
    let (message, count, hint) = match loss {
        Loss::Expired { count } => (
            "a topic no longer holds what follows the committed offset",
            count,
            "retention removed messages before they were read: raise the topic's retention; to go on without them, \
             drop the table's state in the target on purpose, which reads the topic anew",
        ),
        Loss::Beyond { count } => (
            "the committed offset lies beyond the end of the topic",
            count,
            "the topic was deleted and created anew, or its log was truncated: find out which; to read the topic as \
             it is now, drop the table's state in the target on purpose",
        ),
    };
    let lost = if matches!(loss, Loss::Expired { .. }) {
        "offsets_lost"
    } else {
        "offsets_beyond_end"
    };
    Error::new(ErrorKind::PositionLost, message)
        .code(codes::POSITION_LOST)
        .with("topic", topic)
        .with("partition", partition)
        .with("committed_offset", next - 1)
        .with("earliest_offset", marks.low)
        .with("end_offset", marks.high)
        .with(lost, count)
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KafkaConfig;
    use crate::wire::testing::{log, record};

    /// Partition `number`, read from offset 5 on.
    fn partition(number: i32, from: Option<i64>) -> Partition {
        let config: KafkaConfig = serde_saphyr::from_str("brokers: b\ntopics: [t]\ndecode: bytes").unwrap();
        let layout = Layout::new("s", "t", &config, Vec::new());
        let id = PartitionId::new("s", format_args!("t/{number}"));
        Partition::new(id, layout, number, StartAt { next: 5, from })
    }

    /// Batches of these many records each, from `first` on, and offsets without messages up to `next`.
    fn part(first: i64, batches: &[i64], next: i64) -> Part {
        let mut begin = first;
        let batches = batches.iter().map(|count| {
            let records: Vec<_> = (begin..begin + count).map(|offset| record(offset, "v")).collect();
            begin += count;
            RecordBatch::take(&mut log(&records)).unwrap().unwrap()
        });
        Part {
            topic: "t".into(),
            number: 0,
            batches: batches.collect(),
            next,
            epoch: 4,
            end: next,
        }
    }

    fn drained(partition: &mut Partition, room: usize) -> (Vec<Item>, usize) {
        let mut round = Vec::new();
        let (rows, _) = partition.drain(&mut round, room, Batch::default(), 9);
        (round, rows)
    }

    fn boundary(item: Item) -> Boundary {
        match item {
            Item::Event(SourceEvent::Boundary(boundary)) => boundary,
            _ => panic!("a boundary is last"),
        }
    }

    /// Messages that came in the round of the announcement are not yet held by anybody.
    #[test]
    fn an_announcement_tells_where_reading_begins_whatever_came_meanwhile() {
        let mut events = Vec::new();
        for number in 0..2 {
            let mut partition = partition(number, None);
            partition.take(part(5, &[], 9)).unwrap();
            events.append(&mut drained(&mut partition, 0).0);
        }
        tie_announcements(&mut events);
        let told: Vec<_> = events
            .into_iter()
            .map(boundary)
            .map(|boundary| (boundary.position, boundary.urgent, boundary.raises))
            .collect();
        let (begins, read) = (offsets::position(4), offsets::position(8));
        let other = vec![(PartitionId::new("s", "t/1"), begins.clone())];
        assert_eq!(
            told,
            [
                (begins.clone(), true, other),
                (read.clone(), false, Vec::new()),
                (begins, true, Vec::new()),
                (read, false, Vec::new()),
            ]
        );
    }

    #[test]
    fn what_came_is_passed_on_in_parts_and_what_holds_no_message_with_the_last() {
        let mut partition = partition(0, Some(4));
        assert!(drained(&mut partition, 10).0.is_empty());
        partition.take(part(5, &[2, 3, 1], 20)).unwrap();
        let mut passed = Vec::new();
        for room in [0, 4, 4] {
            let (round, rows) = drained(&mut partition, room);
            let last = round.into_iter().last().map(boundary);
            passed.push((rows, last.map(|last| (last.from, last.position, last.committed_at))));
        }
        let at = offsets::position;
        assert_eq!(
            passed,
            [
                (0, None),
                // A batch is never parted: of two more there was no room for three.
                (5, Some((at(4), at(9), Some(1_009_000)))),
                (1, Some((at(9), at(19), Some(1_010_000)))),
            ]
        );
        assert!(!partition.is_due());
    }

    #[test]
    fn a_boundary_after_a_gap_tells_of_no_change() {
        let mut partition = partition(0, Some(4));
        partition.take(part(5, &[2], 7)).unwrap();
        let last = |partition: &mut Partition| boundary(drained(partition, 10).0.pop().unwrap());
        assert_eq!(last(&mut partition).committed_at, Some(1_006_000));
        partition.take(part(7, &[], 9)).unwrap();
        let gap = last(&mut partition);
        assert_eq!((gap.from, gap.committed_at), (offsets::position(6), None));
    }

    #[test]
    fn what_came_before_is_not_taken_again() {
        let mut partition = partition(0, Some(4));
        partition.take(part(5, &[2], 7)).unwrap();
        let error = partition.take(part(5, &[2], 7)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}
