//! The reading loop, on a thread of its own because librdkafka's calls block.
//!
//! Messages are gathered into rounds as they are polled, and handed to the async side, which
//! has them decoded, over a channel of one round. While that channel is full librdkafka fetches ahead up to
//! its own buffer and then stops, so memory stays flat.

use std::time::{Duration, Instant};

use millstream_core::config::Text;
use millstream_core::{Checkpoint, Error, ErrorKind, PartitionId, Result, ResumePoints};
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, denied_topic};
use crate::codes;
use crate::config::KafkaConfig;
use crate::gathered::Item;
use crate::layout::Layout;
use crate::offsets::{self, Held, Loss, Lost, decide};
use crate::partition::{Partition, Partitions, position_lost, tie_announcements};

/// One round, in its order.
pub type Round = Vec<Item>;

/// What the loop works with.
pub struct Reader {
    /// The pipeline's name, for metrics.
    pub pipeline: String,
    /// The source's name.
    pub source: String,
    /// The source's configuration.
    pub config: KafkaConfig,
    /// The tables to read, each a topic.
    pub layouts: Vec<Layout>,
    /// Where to resume.
    pub resume: ResumePoints,
    /// Where rounds go.
    pub rounds: mpsc::Sender<Round>,
    /// Fires when reading is to stop.
    pub cancel: CancellationToken,
    /// For waiting on the channel.
    pub runtime: Handle,
}

/// How long one poll waits, and so how late a cancellation may be seen.
const POLL: Duration = Duration::from_millis(50);
/// After so many messages the clock is looked at.
const MESSAGES_BETWEEN_LOOKS: usize = 64;
/// A round that waits this long for the pipeline pauses fetching, so that librdkafka's
/// reports can be taken meanwhile without taking messages.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long after a pause reports are not trusted to describe what was fetched since.
const DISTRUST: Duration = Duration::from_secs(10);
/// A topic that looks missing is looked at this often before it counts as gone.
const LOOKS: u32 = if cfg!(test) { 3 } else { 6 };
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

impl Reader {
    /// Reads until it is cancelled, or nobody takes its rounds.
    pub fn run(self, group: &str) -> Result<()> {
        let client = Client::new(&self.config, group)?;
        let mut run = Run {
            reader: self,
            client,
            partitions: Partitions::default(),
            rows: 0,
            bytes: 0,
            since: None,
            trust_reports_from: Instant::now(),
            check_topics: false,
        };
        if run.start()? { run.read() } else { Ok(()) }
    }
}

struct Run {
    reader: Reader,
    client: Client,
    partitions: Partitions,
    /// Messages and bytes in the round, and when its first message came.
    rows: usize,
    bytes: u64,
    since: Option<Instant>,
    trust_reports_from: Instant,
    check_topics: bool,
}

impl Run {
    /// Assigns every partition; `false` if cancelled meanwhile.
    fn start(&mut self) -> Result<bool> {
        let mut assignment = TopicPartitionList::new();
        let (mut first_loss, mut losses) = (None, 0);
        for layout in self.reader.layouts.clone() {
            let read_before = held_partitions(&self.reader, &layout).max();
            let leads = self.look_at(&layout.topic, read_before.map_or(0, |last| last + 1))?;
            for (number, leads) in (0..).zip(leads) {
                if self.reader.cancel.is_cancelled() {
                    return Ok(false);
                }
                let held = self.held(&layout, number)?;
                // All tables know its place, so that it can be picked up later.
                if !leads && held.iter().all(|held| held.offset.is_some()) {
                    tracing::warn!(
                        topic = layout.topic,
                        partition = number,
                        "a kafka partition has no leader"
                    );
                    continue;
                }
                match self.locate(&layout, number, &held) {
                    Ok(partition) => self.add(&mut assignment, partition)?,
                    Err(error) if error.kind() == ErrorKind::PositionLost => {
                        losses += 1;
                        first_loss.get_or_insert(error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(error) = first_loss {
            return Err(if losses > 1 {
                error.with("partitions_lost", losses)
            } else {
                error
            });
        }
        self.client
            .consumer
            .assign(&assignment)
            .map_err(|error| request_failed("assign partitions", &error))?;
        self.flush().map(|open| open && !self.reader.cancel.is_cancelled())
    }

    /// What each target table of a topic holds of a partition.
    fn held(&self, layout: &Layout, number: i32) -> Result<Vec<Held>> {
        let Reader { source, resume, .. } = &self.reader;
        let id = partition_id(source, layout, number);
        let of_table = |checkpoint: &Checkpoint| {
            let offset = offsets::offset(checkpoint.position(&id)).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "a committed position is not an offset of a topic")
                    .code(codes::NOT_AN_OFFSET)
                    .with("partition", &id)
                    .hint("the name of the source may have belonged to another kind of source before")
                    .caused_by(error)
            })?;
            let topic = checkpoint.iter().any(|(id, _)| number_of(id, source, layout).is_some());
            Ok(Held { offset, topic })
        };
        resume.holdings(&layout.schema.id).map(of_table).collect()
    }

    /// Decides where a partition is read from.
    fn locate(&self, layout: &Layout, number: i32, held: &[Held]) -> Result<Partition> {
        let marks = self.client.watermarks(&layout.topic, number)?;
        let start = decide(held, self.reader.config.start, marks)
            .map_err(|lost| position_lost(&layout.topic, number, lost, marks))?;
        let id = partition_id(&self.reader.source, layout, number);
        Ok(Partition::new(id, layout.clone(), number, start))
    }

    fn add(&mut self, assignment: &mut TopicPartitionList, partition: Partition) -> Result<()> {
        assignment
            .add_partition_offset(partition.topic(), partition.number, Offset::Offset(partition.next))
            .map_err(|error| request_failed("assign partitions", &error))?;
        self.partitions.add(partition);
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut discovered = Instant::now();
        while !self.reader.cancel.is_cancelled() {
            if !self.gather()? || !self.flush()? {
                return Ok(());
            }
            self.take_reports();
            if let Some(error) = self.client.refused() {
                return Err(error);
            }
            if self.client.down_for() >= self.reader.config.unavailable_after.0 {
                return Err(self.client.unreachable());
            }
            if self.check_topics || discovered.elapsed() >= self.reader.config.discover_every.0 {
                self.discover()?;
                self.check_topics = false;
                discovered = Instant::now();
            }
        }
        Ok(())
    }

    /// Polls until the round is full, has waited long enough, or nothing came for a while;
    /// `false` if cancelled.
    fn gather(&mut self) -> Result<bool> {
        let batch = self.reader.config.batch;
        let now = chrono::Utc::now().timestamp_micros();
        let mut wait = POLL;
        loop {
            let reports = self.client.reports();
            // While messages wait, the time and a cancellation need not be looked at for each.
            let at_once = if self.rows.is_multiple_of(MESSAGES_BETWEEN_LOOKS) {
                None
            } else {
                self.client.consumer.poll(Duration::ZERO)
            };
            let came_at_once = at_once.is_some();
            match at_once.or_else(|| self.client.consumer.poll(wait)) {
                Some(Ok(message)) => {
                    self.rows += 1;
                    match self.partitions.get_mut(message.topic(), message.partition()) {
                        Some(partition) => self.bytes += partition.push(&message, now)?,
                        None => {
                            return Err(Error::new(
                                ErrorKind::Internal,
                                "a message came from a partition that is not read",
                            )
                            .with("topic", message.topic())
                            .with("partition", message.partition()));
                        }
                    }
                }
                Some(Err(error)) => {
                    self.judge(&error)?;
                    // The loop around looks at what was reported.
                    break;
                }
                None => {
                    // A report is taken before messages that came earlier: then nothing is said of them.
                    if reports == self.client.reports() {
                        self.partitions.iter_mut().for_each(Partition::pass_over_gap);
                    }
                    if self.rows == 0 {
                        break;
                    }
                }
            }
            if self.rows == 0 {
                break;
            }
            if self.rows >= batch.rows || self.bytes >= batch.bytes.0 {
                break;
            }
            if came_at_once {
                continue;
            }
            let since = *self.since.get_or_insert_with(Instant::now);
            wait = batch.linger.0.saturating_sub(since.elapsed()).min(POLL);
            if wait.is_zero() {
                break;
            }
            if self.reader.cancel.is_cancelled() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands over the round; `false` if nobody takes it any more.
    fn flush(&mut self) -> Result<bool> {
        let mut round = Round::new();
        for partition in self.partitions.iter_mut() {
            partition.drain(&mut round);
        }
        tie_announcements(&mut round);
        (self.rows, self.bytes, self.since) = (0, 0, None);
        if round.is_empty() {
            Ok(true)
        } else {
            self.hand_over(round)
        }
    }

    fn hand_over(&mut self, round: Round) -> Result<bool> {
        let rounds = self.reader.rounds.clone();
        let mut paused = None;
        loop {
            let patience = if paused.is_some() { POLL } else { PATIENCE };
            let reserved = self.reader.runtime.block_on(async {
                tokio::select! {
                    () = self.reader.cancel.cancelled() => None,
                    permit = tokio::time::timeout(patience, rounds.reserve()) => Some(permit),
                }
            });
            match reserved {
                None | Some(Ok(Err(_))) => return Ok(false),
                Some(Ok(Ok(permit))) => {
                    permit.send(round);
                    break;
                }
                Some(Err(_)) => {
                    if paused.is_none() {
                        paused = Some(self.pause()?);
                    }
                    self.serve_while_paused()?;
                }
            }
        }
        if let Some(assignment) = paused {
            self.client
                .consumer
                .resume(&assignment)
                .map_err(|error| request_failed("resume partitions", &error))?;
            self.trust_reports_from = Instant::now() + DISTRUST;
            self.partitions.iter_mut().for_each(Partition::forget_reports);
        }
        Ok(true)
    }

    fn pause(&self) -> Result<TopicPartitionList> {
        #[cfg(test)]
        PAUSED.lock().unwrap().insert(self.reader.config.brokers.to_string());
        let mut assignment = TopicPartitionList::new();
        for partition in self.partitions.iter() {
            assignment.add_partition(partition.topic(), partition.number);
        }
        self.client
            .consumer
            .pause(&assignment)
            .map_err(|error| request_failed("pause partitions", &error))?;
        Ok(assignment)
    }

    /// Takes what librdkafka reports, so that it does not pile up. A message that was on its way
    /// when fetching was paused goes into the next round.
    fn serve_while_paused(&mut self) -> Result<()> {
        self.trust_reports_from = Instant::now() + DISTRUST;
        while let Some(polled) = self.client.consumer.poll(Duration::ZERO) {
            match polled {
                Ok(message) => {
                    let now = chrono::Utc::now().timestamp_micros();
                    self.rows += 1;
                    if let Some(partition) = self.partitions.get_mut(message.topic(), message.partition()) {
                        self.bytes += partition.push(&message, now)?;
                    }
                }
                Err(error) => self.judge(&error)?,
            }
        }
        Ok(())
    }

    fn take_reports(&mut self) {
        let Some(reports) = self.client.take_report() else {
            return;
        };
        let trusted = Instant::now() >= self.trust_reports_from;
        for report in reports {
            let Some(partition) = self.partitions.get_mut(&report.topic, report.partition) else {
                continue;
            };
            if report.end >= 0 {
                metrics::gauge!(
                    "millstream_kafka_lag_messages",
                    "pipeline" => self.reader.pipeline.clone(),
                    "source" => self.reader.source.clone(),
                    "topic" => report.topic.to_string(),
                    "partition" => report.partition.to_string()
                )
                .set((report.end - partition.next).max(0) as f64);
            }
            if trusted {
                partition.note(&report);
            }
        }
    }

    /// Decides what an error between messages means. What librdkafka mends by itself is let pass.
    fn judge(&mut self, error: &KafkaError) -> Result<()> {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            return Err(Error::new(ErrorKind::Internal, "librdkafka gave up").with("error", code));
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => Err(self.find_loss()?),
            // Reported for a partition, so that it is on no connection's record.
            Some(Code::TopicAuthorizationFailed) => Err(denied_read(&self.reader.config.topics)),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                self.check_topics = true;
                Ok(())
            }
            Some(
                code @ (Code::BadMessage
                | Code::BadCompression
                | Code::InvalidMessage
                | Code::InvalidMessageSize
                | Code::MessageSizeTooLarge
                | Code::InvalidRecord
                | Code::UnsupportedCompressionType
                | Code::NotImplemented),
            ) => Err(Error::new(ErrorKind::Corrupt, "a batch of the log cannot be read")
                .code(codes::UNREADABLE)
                .with("error", code)
                .hint("the broker's log is damaged, or uses a format or size that this client does not admit")),
            _ => {
                tracing::debug!(%error, "kafka consumer error, librdkafka goes on");
                // The loop judges refusals and the state of connections.
                Ok(())
            }
        }
    }

    /// Which partition lost what was to be read next.
    fn find_loss(&self) -> Result<Error> {
        for partition in self.partitions.iter() {
            let marks = self.client.watermarks(partition.topic(), partition.number)?;
            let next = partition.next;
            if let Some(loss) = Loss::of(next, marks) {
                return Ok(position_lost(
                    partition.topic(),
                    partition.number,
                    Lost { next, loss },
                    marks,
                ));
            }
        }
        // The log ends before the next offset, or its leaders' history does not lead there, and has
        // grown since: to go on from the same offset would pass over what was written anew.
        Ok(Error::new(
            ErrorKind::PositionLost,
            "a broker refused an offset that its log has by now",
        )
        .code(codes::POSITION_LOST)
        .hint(
            "the log was truncated or the topic created anew, and has grown since: find out which; if neither \
                     is so, restart the pipeline, which goes on from the committed positions",
        ))
    }

    /// Picks up partitions that were added or have a leader again, and notices those that are gone.
    fn discover(&mut self) -> Result<()> {
        for layout in self.reader.layouts.clone() {
            let known = self.partitions.count(&layout.topic);
            let leads = match self.look_at(&layout.topic, known) {
                Ok(leads) => leads,
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(
                        topic = layout.topic,
                        error = error.summary(),
                        "cannot look for new partitions"
                    );
                    continue;
                }
                Err(error) if error.error_code() == Some(codes::NO_TOPIC) => {
                    return Err(topic_gone(&layout.topic).caused_by(error));
                }
                Err(error) => return Err(error),
            };
            let mut added = TopicPartitionList::new();
            for (number, leads) in (0..).zip(leads) {
                if !leads || self.partitions.contains(&layout.topic, number) {
                    continue;
                }
                let mut held = self.held(&layout, number)?;
                if known > 0 && held.iter().all(|held| held.offset.is_none()) {
                    // It was added while the others were read, which `resume` may not tell yet.
                    held.iter_mut().for_each(|held| held.topic = true);
                }
                match self.locate(&layout, number, &held) {
                    Ok(partition) => self.add(&mut added, partition)?,
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        tracing::warn!(
                            topic = layout.topic,
                            partition = number,
                            error = error.summary(),
                            "cannot read a new partition yet"
                        );
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            if added.count() > 0 {
                self.client
                    .consumer
                    .incremental_assign(&added)
                    .map_err(|error| request_failed("assign new partitions", &error))?;
                tracing::info!(topic = layout.topic, partitions = added.count(), "new kafka partitions");
            }
        }
        Ok(())
    }

    /// Whether each partition of a topic has a leader. A topic or its last partitions may look
    /// missing for a moment, while metadata spreads over the brokers: fewer than `known`
    /// partitions are looked at again.
    fn look_at(&self, topic: &str, known: i32) -> Result<Vec<bool>> {
        let mut looks = 1;
        loop {
            let looked = self.client.partitions_of(topic);
            let passing = match &looked {
                Ok(leads) => (leads.len() as i32) < known,
                Err(error) => error.error_code() == Some(codes::NO_TOPIC),
            };
            if passing && looks < LOOKS && !self.reader.cancel.is_cancelled() {
                looks += 1;
                std::thread::sleep(BETWEEN_LOOKS);
                continue;
            }
            return match looked {
                Ok(leads) if passing => Err(partitions_gone(topic, known - 1, leads.len())),
                other => other,
            };
        }
    }
}

fn partition_id(source: &str, layout: &Layout, number: i32) -> PartitionId {
    PartitionId::new(source, format_args!("{}/{number}", layout.topic))
}

/// The number of a partition of the topic of `layout`; `None` for any other.
fn number_of(id: &PartitionId, source: &str, layout: &Layout) -> Option<i32> {
    let within = id.within_source().strip_prefix(&layout.topic)?;
    let number = within.strip_prefix('/')?.parse().ok()?;
    (id.source() == source).then_some(number)
}

/// The partitions of a topic of which a target table holds a position.
fn held_partitions<'a>(reader: &'a Reader, layout: &'a Layout) -> impl Iterator<Item = i32> + 'a {
    let held = reader.resume.holdings(&layout.schema.id);
    held.flat_map(Checkpoint::iter)
        .filter_map(|(id, _)| number_of(id, &reader.source, layout))
}

fn denied_read(topics: &[Text]) -> Error {
    let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
    denied_topic(&topics.join(", "))
}

fn topic_gone(topic: &str) -> Error {
    Error::new(ErrorKind::PositionLost, "a topic that was being read is gone")
        .code(codes::TOPIC_GONE)
        .with("topic", topic)
        .hint("if it was deleted on purpose, take it out of `topics`")
}

fn partitions_gone(topic: &str, last: i32, count: usize) -> Error {
    Error::new(ErrorKind::PositionLost, "a topic has fewer partitions than were read")
        .code(codes::TOPIC_GONE)
        .with("topic", topic)
        .with("partition_read", last)
        .with("partitions_now", count)
        .hint("the topic was deleted and created anew; to read it as it is now, drop the table's state in the target")
}

fn request_failed(what: &str, error: &KafkaError) -> Error {
    Error::new(ErrorKind::Internal, format!("librdkafka cannot {what}")).with("error", error)
}

#[cfg(test)]
static PAUSED: std::sync::Mutex<std::collections::BTreeSet<String>> =
    std::sync::Mutex::new(std::collections::BTreeSet::new());

/// Whether a reader of these brokers, which each test has for itself, has paused.
#[cfg(test)]
pub fn has_paused(brokers: &str) -> bool {
    PAUSED.lock().unwrap().contains(brokers)
}

#[cfg(test)]
mod tests;
