//! The reading loop, on a thread of its own because librdkafka's calls block.
//!
//! Messages are decoded as they are polled, gathered into rounds, and handed to the async
//! side over a channel of one round. While that channel is full librdkafka fetches ahead up to
//! its own buffer and then stops, so memory stays flat.

use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, PartitionId, Result, ResumePoints, SourceEvent};
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, no_topic};
use crate::codes;
use crate::config::KafkaConfig;
use crate::layout::Layout;
use crate::offsets::{self, Loss, StartAt, decide};
use crate::partition::{Partition, Partitions, position_lost};

/// The events of one round, in their order.
pub type Round = Vec<SourceEvent>;

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
/// A round that waits this long for the pipeline pauses fetching, so that librdkafka's
/// reports can be taken meanwhile without taking messages.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long after a pause reports are not trusted to describe what was fetched since.
const DISTRUST: Duration = Duration::from_secs(10);
/// A topic that looks missing is looked at this often before it counts as gone.
const LOOKS: u32 = 3;

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
            let checkpoint = self.reader.resume.of(&layout.schema.id);
            let count = self.client.partitions_of(&layout.topic)?;
            let prefix = format!("{}/", layout.topic);
            let read_before = |id: &PartitionId| {
                let number = id
                    .within_source()
                    .strip_prefix(&prefix)
                    .and_then(|number| number.parse::<i32>().ok());
                number.filter(|_| id.source() == self.reader.source)
            };
            let before: Vec<i32> = checkpoint.iter().filter_map(|(id, _)| read_before(id)).collect();
            if let Some(gone) = before.iter().find(|number| **number >= count) {
                return Err(partitions_gone(&layout.topic, *gone, count));
            }
            for number in 0..count {
                if self.reader.cancel.is_cancelled() {
                    return Ok(false);
                }
                let id = PartitionId::new(&self.reader.source, format_args!("{}/{number}", layout.topic));
                let committed = offsets::offset(checkpoint.position(&id)).map_err(|error| {
                    Error::new(ErrorKind::Corrupt, "a committed position is not an offset of a topic")
                        .code(codes::NOT_AN_OFFSET)
                        .with("partition", &id)
                        .hint("the name of the source may have belonged to another kind of source before")
                        .caused_by(error)
                })?;
                let marks = self.client.watermarks(&layout.topic, number)?;
                let (next, announce) = match decide(committed, !before.is_empty(), self.reader.config.start, marks) {
                    StartAt::Offset(next) => (next, false),
                    StartAt::Announced(next) => (next, true),
                    StartAt::Lost(loss) => {
                        losses += 1;
                        let next = committed.unwrap_or(-1) + 1;
                        first_loss.get_or_insert_with(|| position_lost(&layout.topic, number, next, marks, loss));
                        continue;
                    }
                };
                assign(&mut assignment, &layout.topic, number, Offset::Offset(next))?;
                let mut partition = Partition::new(id, layout.clone(), number, committed, next);
                if announce {
                    partition.announce();
                }
                self.partitions.add(partition);
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
            match self.client.consumer.poll(wait) {
                Some(Ok(message)) => {
                    self.bytes += (message.payload_len() + message.key_len()) as u64;
                    self.rows += 1;
                    match self.partitions.get_mut(message.topic(), message.partition()) {
                        Some(partition) => partition.push(&message, now)?,
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
                    self.partitions.iter_mut().for_each(Partition::pass_over_gap);
                    if self.rows == 0 {
                        break;
                    }
                }
            }
            if self.rows == 0 {
                break;
            }
            let since = *self.since.get_or_insert_with(Instant::now);
            wait = batch.linger.0.saturating_sub(since.elapsed()).min(POLL);
            if self.rows >= batch.rows || self.bytes >= batch.bytes.0 || wait.is_zero() {
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
        let mut events = Round::new();
        let (pipeline, source) = (self.reader.pipeline.clone(), self.reader.source.clone());
        for partition in self.partitions.iter_mut() {
            let drained = partition.drain(&mut events)?;
            for (name, count) in [
                ("millstream_source_rows_total", drained.rows),
                ("millstream_source_rejected_rows_total", drained.rejected),
            ] {
                if count > 0 {
                    let table = partition.table().within_source();
                    metrics::counter!(name, "pipeline" => pipeline.clone(), "source" => source.clone(), "table" => table)
                        .increment(count);
                }
            }
        }
        (self.rows, self.bytes, self.since) = (0, 0, None);
        if events.is_empty() {
            Ok(true)
        } else {
            self.hand_over(events)
        }
    }

    fn hand_over(&mut self, events: Round) -> Result<bool> {
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
                    permit.send(events);
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
                        partition.push(&message, now)?;
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
            let loss = match partition.next {
                next if next < marks.low => Loss::Expired {
                    count: marks.low - next,
                },
                next if next > marks.high => Loss::Beyond {
                    count: next - marks.high,
                },
                _ => continue,
            };
            return Ok(position_lost(
                partition.topic(),
                partition.number,
                partition.next,
                marks,
                loss,
            ));
        }
        Ok(Error::new(
            ErrorKind::Unavailable,
            "a broker reports an offset out of range that is within it now",
        )
        .code(codes::UNREACHABLE)
        .hint("a partition's leader is changing; the pipeline restarts from its committed positions"))
    }

    /// Picks up partitions that were added, and notices those that are gone.
    fn discover(&mut self) -> Result<()> {
        for layout in self.reader.layouts.clone() {
            let count = match self.count_of(&layout.topic) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(
                        topic = layout.topic,
                        error = error.summary(),
                        "cannot look for new partitions"
                    );
                    continue;
                }
                Err(error) => return Err(error),
            };
            let known = self.partitions.count(&layout.topic);
            if count < known {
                return Err(partitions_gone(&layout.topic, known - 1, count));
            }
            if count == known {
                continue;
            }
            let mut added = TopicPartitionList::new();
            for number in known..count {
                let low = self.client.watermarks(&layout.topic, number)?.low;
                assign(&mut added, &layout.topic, number, Offset::Offset(low))?;
                let id = PartitionId::new(&self.reader.source, format_args!("{}/{number}", layout.topic));
                self.partitions
                    .add(Partition::new(id, layout.clone(), number, None, low));
            }
            self.client
                .consumer
                .incremental_assign(&added)
                .map_err(|error| request_failed("assign new partitions", &error))?;
            tracing::info!(topic = layout.topic, from = known, to = count, "new kafka partitions");
        }
        Ok(())
    }

    /// The number of partitions of a topic that is being read. A topic may look missing for a
    /// moment while its metadata spreads over the brokers.
    fn count_of(&self, topic: &str) -> Result<i32> {
        let mut looks = 1;
        loop {
            match self.client.partitions_of(topic) {
                Err(error) if error.error_code() == Some(codes::NO_TOPIC) => {
                    if looks == LOOKS || self.reader.cancel.is_cancelled() {
                        return Err(topic_gone(topic).caused_by(no_topic(topic)));
                    }
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(500));
                }
                other => return other,
            }
        }
    }
}

fn topic_gone(topic: &str) -> Error {
    Error::new(ErrorKind::PositionLost, "a topic that was being read is gone")
        .code(codes::TOPIC_GONE)
        .with("topic", topic)
        .hint("if it was deleted on purpose, take it out of `topics`")
}

fn partitions_gone(topic: &str, last: i32, count: i32) -> Error {
    Error::new(ErrorKind::PositionLost, "a topic has fewer partitions than were read")
        .code(codes::TOPIC_GONE)
        .with("topic", topic)
        .with("partition_read", last)
        .with("partitions_now", count)
        .hint("the topic was deleted and created anew; to read it as it is now, drop the table's state in the target")
}

fn assign(list: &mut TopicPartitionList, topic: &str, partition: i32, offset: Offset) -> Result<()> {
    list.add_partition_offset(topic, partition, offset)
        .map_err(|error| request_failed("assign partitions", &error))
}

fn request_failed(what: &str, error: &KafkaError) -> Error {
    Error::new(ErrorKind::Internal, format!("librdkafka cannot {what}")).with("error", error)
}

#[cfg(test)]
mod tests;
