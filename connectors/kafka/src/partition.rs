//! A partition that is being read.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_core::{Boundary, Error, ErrorKind, PartitionId, Position, Result, SourceEvent, TableId};
use rdkafka::Message;

use crate::client::PartitionReport;
use crate::codes;
use crate::gathered::{Gathered, Item, Origin, Room, micros};
use crate::layout::Layout;
use crate::offsets::{self, Loss, Lost, StartAt, Watermarks};

/// A partition and the messages that were read from it since the last boundary.
///
/// Each has messages of its own, because a boundary concerns one partition: what is sent before
/// it must not hold rows of another.
pub struct Partition {
    /// The partition's number.
    pub number: i32,
    /// The offset to read next.
    pub next: i64,
    origin: Arc<Origin>,
    /// The position of the last boundary.
    announced: Position,
    /// The offset of the last message that came; -1 before the first.
    received: i64,
    committed_at: Option<i64>,
    /// Messages since the last boundary.
    gathered: Option<Gathered>,
    /// What the messages before took.
    room: Room,
    /// The boundary that is still to be sent: all offsets below `next`.
    due: bool,
    /// The offset that reading begins with, until the target was told of it.
    unannounced: Option<i64>,
    /// The end of the log in the last report, if everything up to it was fetched.
    fetched_to: Option<i64>,
    /// Confirmed by a second report.
    passed_to: Option<i64>,
}

impl Partition {
    /// A partition to be read from `start` on. Where a target table holds nothing of it, the next
    /// round tells where it stands, though no message came.
    pub fn new(id: PartitionId, layout: Layout, number: i32, start: StartAt) -> Self {
        let unknown = start.from.is_none();
        Self {
            number,
            next: start.next,
            origin: Arc::new(Origin { id, number, layout }),
            announced: start.from.map_or(Position::Beginning, offsets::position),
            received: -1,
            committed_at: None,
            gathered: None,
            room: Room::default(),
            due: unknown,
            unannounced: unknown.then_some(start.next),
            fetched_to: None,
            passed_to: None,
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

    /// Takes a message; `now` is in microseconds since the Unix epoch. Returns the bytes of its
    /// key, headers and payload.
    pub fn push(&mut self, message: &impl Message, now: i64) -> Result<u64> {
        let offset = message.offset();
        if offset <= self.received {
            tracing::debug!(partition = %self.origin.id, offset, "kafka message came twice");
            return Ok(0);
        }
        if offset < self.next {
            return Err(Error::new(
                ErrorKind::Internal,
                "a message came from before the offset that was asked for",
            )
            .with("partition", &self.origin.id)
            .with("offset", offset)
            .with("asked_for", self.next));
        }
        let gathered = self
            .gathered
            .get_or_insert_with(|| Gathered::new(self.origin.clone(), now, self.room));
        let bytes = gathered.take(message);
        self.committed_at = micros(message);
        (self.received, self.next) = (offset, offset + 1);
        (self.fetched_to, self.passed_to) = (None, None);
        self.due = true;
        Ok(bytes)
    }

    /// Notes what librdkafka reports. Two reports with the same end, all of it fetched, mean
    /// that what lies between the last message and the end holds no message: transaction
    /// markers, rows of aborted transactions, or what compaction removed.
    ///
    /// Only a partition that is being fetched counts: the report of any other is old.
    pub fn note(&mut self, report: &PartitionReport) {
        if !report.active {
            return self.forget_reports();
        }
        let ahead = (report.next > self.next && report.next >= report.end && report.end >= 0).then_some(report.next);
        self.passed_to = ahead.filter(|_| ahead == self.fetched_to);
        self.fetched_to = ahead;
    }

    /// Forgets reports: fetching was interrupted, and what was fetched may be dropped.
    pub fn forget_reports(&mut self) {
        (self.fetched_to, self.passed_to) = (None, None);
    }

    /// Passes over offsets that hold no message. Call it when there is no message to poll,
    /// which means that everything fetched before the second report has come.
    pub fn pass_over_gap(&mut self) {
        if let Some(end) = self.passed_to.take() {
            self.next = end;
            self.due = true;
        }
    }

    /// What the round has of it: where reading begins, if the target does not know, then its
    /// messages, and the boundary after them.
    pub fn drain(&mut self, round: &mut Vec<Item>) {
        if !self.due {
            return;
        }
        self.due = false;
        if let Some(start) = self.unannounced.take() {
            let announcement = self.boundary(start - 1, true);
            round.push(Item::Event(announcement));
        }
        if let Some(gathered) = self.gathered.take() {
            self.room = gathered.room();
            round.push(Item::Messages(gathered));
        }
        if self.announced != offsets::position(self.next - 1) {
            let boundary = self.boundary(self.next - 1, false);
            round.push(Item::Event(boundary));
        }
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
pub fn tie_announcements(round: &mut [Item]) {
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
    /// Where the last message belonged: messages come in runs of one partition.
    last: usize,
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
        let same = self
            .all
            .get(self.last)
            .is_some_and(|p| p.number == number && p.topic() == topic);
        if !same {
            self.last = *self.by_name.get(topic)?.get(&number)?;
        }
        self.all.get_mut(self.last)
    }

    /// Whether a partition is being read.
    pub fn contains(&self, topic: &str, number: i32) -> bool {
        self.by_name
            .get(topic)
            .is_some_and(|numbers| numbers.contains_key(&number))
    }

    /// How many partitions of `topic` are being read.
    pub fn count(&self, topic: &str) -> i32 {
        self.by_name.get(topic).map_or(0, |numbers| numbers.len() as i32)
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.all.iter_mut()
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

    fn partition() -> Partition {
        partition_from(0, Some(4))
    }

    /// Partition `number`, read from offset 5 on.
    fn partition_from(number: i32, from: Option<i64>) -> Partition {
        let config: KafkaConfig = serde_saphyr::from_str("brokers: b\ntopics: [t]\ndecode: bytes").unwrap();
        let layout = Layout::new("s", "t", &config, Vec::new());
        let id = PartitionId::new("s", format_args!("t/{number}"));
        Partition::new(id, layout, number, StartAt { next: 5, from })
    }

    /// Messages that came in the round of the announcement are not yet held by anybody.
    #[test]
    fn an_announcement_tells_where_reading_begins_whatever_came_meanwhile() {
        let mut events = Vec::new();
        for number in 0..2 {
            let mut partition = partition_from(number, None);
            partition.next = 9;
            partition.drain(&mut events);
        }
        tie_announcements(&mut events);
        let told: Vec<_> = events
            .into_iter()
            .map(|item| match item {
                Item::Event(SourceEvent::Boundary(boundary)) => (boundary.position, boundary.urgent, boundary.raises),
                _ => panic!("no message came"),
            })
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

    fn report(next: i64, end: i64, active: bool) -> PartitionReport {
        PartitionReport {
            topic: "t".into(),
            partition: 0,
            end,
            next,
            active,
        }
    }

    /// Where the partition stands after these reports, with nothing to poll after each.
    fn stands_after(reports: &[PartitionReport]) -> i64 {
        let mut partition = partition();
        for report in reports {
            partition.note(report);
            partition.pass_over_gap();
        }
        partition.next
    }

    #[test]
    fn a_gap_is_passed_once_two_reports_of_a_partition_that_is_fetched_agree() {
        let fetched = report(9, 9, true);
        assert_eq!(stands_after(std::slice::from_ref(&fetched)), 5);
        assert_eq!(stands_after(&[fetched.clone(), fetched.clone()]), 9);
        assert_eq!(
            stands_after(&[fetched.clone(), report(9, 12, true), fetched.clone()]),
            5
        );
        // Old, from before a pause or a change of leader.
        let old = report(9, 9, false);
        assert_eq!(stands_after(&[old.clone(), old.clone()]), 5);
        assert_eq!(stands_after(&[fetched.clone(), old, fetched]), 5);
    }

    #[test]
    fn a_boundary_after_a_gap_tells_of_no_change() {
        let mut partition = partition();
        partition.committed_at = Some(7);
        let mut boundary_at = |next: i64| {
            (partition.next, partition.due) = (next, true);
            let mut events = Vec::new();
            partition.drain(&mut events);
            match events.pop() {
                Some(Item::Event(SourceEvent::Boundary(boundary))) => boundary,
                _ => panic!("a boundary is last"),
            }
        };
        let first = boundary_at(7);
        assert_eq!((first.from, first.committed_at), (offsets::position(4), Some(7)));
        let gap = boundary_at(9);
        assert_eq!((gap.from, gap.committed_at), (offsets::position(6), None));
    }
}
