//! The reading loop: who is read from, what came of each partition, and the rounds that are passed on.
//!
//! A [`Fetcher`] for each broker sends what came; the loop cuts it into rounds and hands them to whoever decodes
//! them, over a channel of one round. While that is full nothing more is taken, and the fetchers stop: so memory stays
//! flat.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use millstream_core::config::Text;
use millstream_core::{Checkpoint, Error, ErrorKind, PartitionId, Result, ResumePoints};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, denied_topic, unreadable};
use crate::codes;
use crate::config::KafkaConfig;
use crate::fetcher::{Came, Fetcher};
use crate::gathered::Item;
use crate::layout::Layout;
use crate::offsets::{self, Held, Loss, Lost, decide};
use crate::partition::{Partition, Partitions, position_lost, tie_announcements};
use crate::wire::{Cursor, Stop, WireFault};

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
}

/// A topic that looks missing is looked at this often before it counts as gone.
const LOOKS: u32 = if cfg!(test) { 3 } else { 6 };
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Partitions that nobody reads are looked after again after this time, which doubles up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How often lags are told, and the time is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Bytes of an answer at most. A larger one spares nothing any more.
const MOST_ANSWER: usize = 8 << 20;
/// And at least, where the buffer is small or the brokers are many.
const LEAST_ANSWER: usize = 64 << 10;
/// Bytes of a partition in an answer, where no batch is larger: Kafka's own default.
const MOST_OF_PARTITION: usize = 1 << 20;

impl Reader {
    /// Reads until it is cancelled, or nobody takes its rounds. May be dropped at any time.
    pub async fn run(self) -> Result<()> {
        let client = Client::new(&self.config)?;
        let cancel = self.cancel.clone();
        let mut run = Run::new(self, client);
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            outcome = run.run() => outcome,
        }
    }
}

struct Run {
    reader: Reader,
    client: Client,
    partitions: Partitions,
    /// Whoever reads from a broker, by its number.
    fetchers: HashMap<i32, mpsc::UnboundedSender<Cursor>>,
    /// Their tasks, which end with this.
    tasks: JoinSet<()>,
    came: (mpsc::Sender<Came>, mpsc::Receiver<Came>),
    /// Partitions that nobody reads now.
    homeless: Vec<Cursor>,
    /// How long to wait before they are looked after again.
    pause: Duration,
    /// When to look after them, for new partitions, and at the time.
    next_look: Instant,
    discovered: Instant,
    check_topics: bool,
    /// When a broker answered last, and what went wrong since.
    answered: Instant,
    fault: Option<WireFault>,
    /// Messages and bytes that came and were not passed on, and since when there is something to pass on.
    rows: usize,
    bytes: u64,
    since: Option<Instant>,
}

impl Run {
    fn new(reader: Reader, client: Client) -> Self {
        let now = Instant::now();
        Self {
            reader,
            client,
            partitions: Partitions::default(),
            fetchers: HashMap::new(),
            tasks: JoinSet::new(),
            came: mpsc::channel(1),
            homeless: Vec::new(),
            pause: FIRST_PAUSE,
            next_look: now + TICK,
            discovered: now,
            check_topics: false,
            answered: now,
            fault: None,
            rows: 0,
            bytes: 0,
            since: None,
        }
    }

    async fn run(&mut self) -> Result<()> {
        self.start().await?;
        // Where reading begins is told at once.
        let round = self.round();
        if !round.is_empty() && self.reader.rounds.send(round).await.is_err() {
            return Ok(());
        }
        self.read().await
    }

    /// Finds out where every partition is read from, and by whom.
    async fn start(&mut self) -> Result<()> {
        let (mut first_loss, mut losses) = (None, 0);
        for layout in self.reader.layouts.clone() {
            let read_before = held_partitions(&self.reader, &layout).max();
            let known = read_before.map_or(0, |last| last + 1);
            let leaders = self.look_at(&layout.topic, known).await?;
            let mut wanted = Vec::new();
            for (number, leader) in (0..).zip(leaders) {
                let held = self.held(&layout, number)?;
                // All tables know its place, so that it can be picked up later.
                if leader.is_none() && held.iter().all(|held| held.offset.is_some()) {
                    tracing::warn!(
                        topic = layout.topic,
                        partition = number,
                        "a kafka partition has no leader"
                    );
                    continue;
                }
                wanted.push((number, held));
            }
            for located in self.locate(&layout, &wanted).await? {
                match located {
                    Ok(partition) => self.add(partition),
                    Err(error) => {
                        losses += 1;
                        first_loss.get_or_insert(error);
                    }
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
        self.client.lose_patience();
        self.answered = Instant::now();
        self.house().await
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

    /// Decides where partitions are read from: each, or what it lost.
    async fn locate(&mut self, layout: &Layout, wanted: &[(i32, Vec<Held>)]) -> Result<Vec<Result<Partition>>> {
        let numbers: Vec<i32> = wanted.iter().map(|(number, _)| *number).collect();
        let marks = self.client.watermarks(&layout.topic, &numbers).await?;
        let located = wanted.iter().filter_map(|(number, held)| {
            let marks = *marks.get(number)?;
            let start = decide(held, self.reader.config.start, marks);
            Some(match start {
                Ok(start) => {
                    let id = partition_id(&self.reader.source, layout, *number);
                    Ok(Partition::new(id, layout.clone(), *number, start))
                }
                Err(lost) => Err(position_lost(&layout.topic, *number, lost, marks)),
            })
        });
        Ok(located.collect())
    }

    fn add(&mut self, partition: Partition) {
        self.homeless.push(partition.cursor());
        if partition.is_due() {
            self.since.get_or_insert_with(Instant::now);
        }
        self.partitions.add(partition);
    }

    async fn read(&mut self) -> Result<()> {
        let rounds = self.reader.rounds.clone();
        let batch = self.reader.config.batch;
        loop {
            let full = self.rows >= batch.rows || self.bytes >= batch.bytes.0;
            let lingers_until = self.since.map(|since| since + batch.linger.0);
            let ready = full || lingers_until.is_some_and(|until| Instant::now() >= until);
            let waited = sleep_until(lingers_until.unwrap_or(self.next_look).into());
            tokio::select! {
                biased;
                permit = rounds.reserve(), if ready => match permit {
                    Ok(permit) => permit.send(self.round()),
                    Err(_) => return Ok(()),
                },
                () = sleep_until(self.next_look.into()) => self.look().await?,
                came = self.came.1.recv(), if !full => match came {
                    Some(came) => self.take(came).await?,
                    None => return Ok(()),
                },
                () = waited, if !ready && lingers_until.is_some() => {}
            }
        }
    }

    /// Takes what came of a broker.
    async fn take(&mut self, came: Came) -> Result<()> {
        match came {
            Came::Answer { parts, stopped } => {
                self.answered = Instant::now();
                for part in parts {
                    let Some(partition) = self.partitions.get_mut(&part.topic, part.number) else {
                        continue;
                    };
                    for batch in &part.batches {
                        self.rows += batch.records;
                        self.bytes += batch.size() as u64;
                    }
                    partition.take(part)?;
                    if partition.is_due() {
                        self.since.get_or_insert_with(Instant::now);
                    }
                }
                for (cursor, stop) in stopped {
                    self.judge(&cursor, stop).await?;
                    self.turn_out([cursor]);
                }
                Ok(())
            }
            Came::Gone { broker, cursors, fault } => {
                self.fetchers.remove(&broker);
                if fault.is_refusal() {
                    return Err(self.client.explain(&fault));
                }
                tracing::debug!(broker, %fault, "a kafka broker is gone");
                self.fault = Some(fault);
                self.turn_out(cursors);
                Ok(())
            }
        }
    }

    /// What the next round has. Partitions come one after the other, not all with a part of it: so a batch of rows is
    /// large, however many they are.
    fn round(&mut self) -> Round {
        let limits = self.reader.config.batch;
        let now = chrono::Utc::now().timestamp_micros();
        let mut round = Round::new();
        let mut room = limits.rows;
        for partition in self.partitions.in_turn() {
            let (rows, bytes) = partition.drain(&mut round, room, limits, now);
            room = room.saturating_sub(rows);
            self.rows -= rows;
            self.bytes -= bytes;
        }
        tie_announcements(&mut round);
        if !self.partitions.iter().any(Partition::is_due) {
            self.since = None;
        }
        round
    }

    /// Decides what it means that a partition is not read on. What passes by itself is let pass.
    async fn judge(&mut self, cursor: &Cursor, stop: Stop) -> Result<()> {
        let topic = &*cursor.topic;
        match stop {
            Stop::Diverged | Stop::Error(ResponseError::OffsetOutOfRange) => Err(self.find_loss(cursor).await?),
            Stop::Error(ResponseError::TopicAuthorizationFailed) => Err(denied_read(&self.reader.config.topics)),
            Stop::Error(ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId) => {
                self.check_topics = true;
                Ok(())
            }
            Stop::Error(
                error @ (ResponseError::CorruptMessage
                | ResponseError::UnsupportedCompressionType
                | ResponseError::UnsupportedForMessageFormat
                | ResponseError::MessageTooLarge
                | ResponseError::InvalidRecord),
            ) => Err(unreadable(topic, cursor.number).with("error", error)),
            Stop::Damaged(damaged) => Err(unreadable(topic, cursor.number)
                .with("offset", cursor.next)
                .caused_by(damaged)),
            Stop::Error(error) => {
                tracing::debug!(topic, partition = cursor.number, %error, "a kafka partition is not read on");
                Ok(())
            }
        }
    }

    /// What a partition lost of what was to be read next.
    async fn find_loss(&mut self, cursor: &Cursor) -> Result<Error> {
        let (topic, number, next) = (&*cursor.topic, cursor.number, cursor.next);
        let marks = self.client.watermarks(topic, &[number]).await?;
        if let Some((marks, loss)) = marks
            .get(&number)
            .and_then(|marks| Some((*marks, Loss::of(next, *marks)?)))
        {
            return Ok(position_lost(topic, number, Lost { next, loss }, marks));
        }
        // The log ends before the next offset, or its leaders' history does not lead there, and has
        // grown since: to go on from the same offset would pass over what was written anew.
        Ok(Error::new(
            ErrorKind::PositionLost,
            "a broker refused an offset that its log has by now",
        )
        .code(codes::POSITION_LOST)
        .with("topic", topic)
        .with("partition", number)
        .hint(
            "the log was truncated or the topic created anew, and has grown since: find out which; if neither \
                     is so, restart the pipeline, which goes on from the committed positions",
        ))
    }

    /// Nobody reads these for now.
    fn turn_out(&mut self, cursors: impl IntoIterator<Item = Cursor>) {
        self.homeless.extend(cursors);
        self.next_look = self.next_look.min(Instant::now() + self.pause);
    }

    /// Looks after partitions that nobody reads, for those that are new or gone, and at the time.
    async fn look(&mut self) -> Result<()> {
        self.tell_lags();
        if self.check_topics || self.discovered.elapsed() >= self.reader.config.discover_every.0 {
            self.discover().await?;
            self.check_topics = false;
            self.discovered = Instant::now();
        }
        self.house().await?;
        let answered = self.answered.max(self.client.answered());
        if answered.elapsed() >= self.reader.config.unavailable_after.0 {
            let error = self.client.unreachable();
            return Err(match &self.fault {
                Some(fault) => error.caused_by(fault.to_string()),
                None => error,
            });
        }
        if self.homeless.is_empty() {
            self.pause = FIRST_PAUSE;
            self.next_look = Instant::now() + TICK;
        } else {
            self.pause = (self.pause * 2).min(LAST_PAUSE);
            self.next_look = Instant::now() + self.pause;
        }
        Ok(())
    }

    /// Has partitions that nobody reads read by those who lead them.
    async fn house(&mut self) -> Result<()> {
        let mut left = Vec::new();
        let mut of_topic: HashMap<_, Vec<Cursor>> = HashMap::new();
        for cursor in std::mem::take(&mut self.homeless) {
            of_topic.entry(cursor.topic.clone()).or_default().push(cursor);
        }
        for (topic, cursors) in of_topic {
            let leaders = match self.client.leaders_of(&topic).await {
                Ok(leaders) => leaders,
                Err(error) if error.kind() == ErrorKind::Unavailable => Vec::new(),
                Err(error) if error.error_code() == Some(codes::NO_TOPIC) => {
                    self.check_topics = true;
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            for cursor in cursors {
                let leader = leaders.get(cursor.number as usize).copied().flatten();
                let refused = match leader {
                    Some(leader) => self.assign(leader, cursor),
                    None => Some(cursor),
                };
                left.extend(refused);
            }
        }
        if !left.is_empty() {
            self.turn_out(left);
        }
        Ok(())
    }

    /// Gives a partition to whoever reads from `broker`. Returns it if nobody can.
    fn assign(&mut self, broker: i32, cursor: Cursor) -> Option<Cursor> {
        if !self.fetchers.contains_key(&broker) {
            let Some(address) = self.client.address(broker).map(str::to_owned) else {
                return Some(cursor);
            };
            let (cursors, assigned) = mpsc::unbounded_channel();
            // Each has two answers in memory, the loop has two more.
            let of_each = self.reader.config.buffer.0 / (2 * self.client.brokers().max(1) as u64 + 2);
            let most = usize::try_from(of_each).map_or(MOST_ANSWER, |most| most.clamp(LEAST_ANSWER, MOST_ANSWER));
            let fetcher = Fetcher {
                broker,
                address,
                connector: self.client.connector(),
                most: (most, most.min(MOST_OF_PARTITION)),
                timeout: self.reader.config.timeout.0,
                assigned,
                came: self.came.0.clone(),
            };
            // Those that have ended are let go of.
            while self.tasks.try_join_next().is_some() {}
            self.tasks.spawn(fetcher.run());
            self.fetchers.insert(broker, cursors);
        }
        let fetcher = self.fetchers.get(&broker)?;
        fetcher.send(cursor).err().map(|refused| refused.0)
    }

    fn tell_lags(&self) {
        for partition in self.partitions.iter() {
            let Some(end) = partition.end else { continue };
            metrics::gauge!(
                "millstream_kafka_lag_messages",
                "pipeline" => self.reader.pipeline.clone(),
                "source" => self.reader.source.clone(),
                "topic" => partition.topic().to_owned(),
                "partition" => partition.number.to_string()
            )
            .set((end - partition.next).max(0) as f64);
        }
    }

    /// Picks up partitions that were added or have a leader again, and notices those that are gone.
    async fn discover(&mut self) -> Result<()> {
        for layout in self.reader.layouts.clone() {
            let known = self.partitions.count(&layout.topic);
            let leaders = match self.look_at(&layout.topic, known).await {
                Ok(leaders) => leaders,
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
            let mut wanted = Vec::new();
            for (number, leader) in (0..).zip(leaders) {
                if leader.is_none() || self.partitions.contains(&layout.topic, number) {
                    continue;
                }
                let mut held = self.held(&layout, number)?;
                if known > 0 && held.iter().all(|held| held.offset.is_none()) {
                    // It was added while the others were read, which `resume` may not tell yet.
                    held.iter_mut().for_each(|held| held.topic = true);
                }
                wanted.push((number, held));
            }
            if wanted.is_empty() {
                continue;
            }
            match self.locate(&layout, &wanted).await {
                Ok(located) => {
                    tracing::info!(topic = layout.topic, partitions = located.len(), "new kafka partitions");
                    for partition in located {
                        self.add(partition?);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => tracing::warn!(
                    topic = layout.topic,
                    error = error.summary(),
                    "cannot read new partitions yet"
                ),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Who leads each partition of a topic. A topic or its last partitions may look
    /// missing for a moment, while metadata spreads over the brokers: fewer than `known`
    /// partitions are looked at again.
    async fn look_at(&mut self, topic: &str, known: i32) -> Result<Vec<Option<i32>>> {
        let mut looks = 1;
        loop {
            let looked = self.client.leaders_of(topic).await;
            let passing = match &looked {
                Ok(leaders) => (leaders.len() as i32) < known,
                Err(error) => error.error_code() == Some(codes::NO_TOPIC),
            };
            if passing && looks < LOOKS {
                looks += 1;
                tokio::time::sleep(BETWEEN_LOOKS).await;
                continue;
            }
            return match looked {
                Ok(leaders) if passing => Err(partitions_gone(topic, known - 1, leaders.len())),
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

#[cfg(test)]
mod tests;
