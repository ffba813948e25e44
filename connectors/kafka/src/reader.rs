//! The reading loop: who is read from, what came of each partition, and the rounds that are passed on.
//!
//! A [`Fetcher`](crate::fetcher::Fetcher) for each broker sends what came; the loop cuts it into rounds and hands them to whoever decodes
//! them, over a channel of one round. While that is full nothing more is taken, and the fetchers stop: so memory stays
//! flat.

mod housing;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use millstream_core::{Checkpoint, Error, ErrorKind, PartitionId, Result, ResumePoints};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use self::housing::Fetching;
use crate::client::{Client, Leader, denied_topic, topic_gone, unreadable};
use crate::codes;
use crate::config::KafkaConfig;
use crate::fetcher::Came;
use crate::gathered::Item;
use crate::layout::Layout;
use crate::offsets::{self, Held, Loss, Lost, decide};
use crate::partition::{Partition, Partitions, position_lost};
use crate::wire::{Cursor, Stop};

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
/// Partitions that nobody reads are looked after again after this time, which doubles up to a [`TICK`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often lags are told, and the time is looked at.
const TICK: Duration = Duration::from_secs(1);
/// A partition that cannot be read for so long is told of, and then again after the other time.
const WORTH_TELLING: Duration = Duration::from_secs(10);
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// A broker that refuses us so often without an answer in between means it. One that starts may refuse what it serves soon.
const REFUSALS: u32 = 3;
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
    /// Whoever reads from a broker, by the broker's number.
    fetchers: HashMap<i32, Fetching>,
    /// Their tasks, which end with this.
    tasks: JoinSet<()>,
    /// The number of the next of them.
    next_fetcher: u64,
    came: (mpsc::Sender<Came>, mpsc::Receiver<Came>),
    /// How long to wait before partitions that nobody reads are looked after again.
    pause: Duration,
    /// When to look after them, for new partitions, and at the time.
    next_look: Instant,
    discovered: Instant,
    check_topics: bool,
    /// Partitions whose place every table knows, that had no leader when reading began, and since when.
    unled: BTreeMap<(String, i32), Instant>,
    /// What went wrong last with a broker, and when it was told that partitions cannot be read.
    fault: Option<String>,
    refusals: u32,
    told: Option<Instant>,
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
            next_fetcher: 0,
            came: mpsc::channel(1),
            pause: FIRST_PAUSE,
            next_look: now + TICK,
            discovered: now,
            check_topics: false,
            unled: BTreeMap::new(),
            fault: None,
            refusals: 0,
            told: None,
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
                    self.unled.insert((layout.topic.clone(), number), Instant::now());
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
        if partition.is_due() {
            self.since.get_or_insert_with(Instant::now);
        }
        self.partitions.add(partition);
    }

    async fn read(&mut self) -> Result<()> {
        let rounds = self.reader.rounds.clone();
        let batch = self.reader.config.batch;
        loop {
            let full = self.is_full();
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
                Some(came) = self.came.1.recv(), if !full => self.take(came).await?,
                () = waited, if !ready && lingers_until.is_some() => {}
            }
        }
    }

    /// Whether nothing more is taken before a round was passed on. Four times as much may be in memory at once, for which
    /// there is half of the buffer: what waits here, a round that waits to be decoded, and two that are.
    fn is_full(&self) -> bool {
        let Reader { config, .. } = &self.reader;
        self.rows >= config.batch.rows || self.bytes >= config.batch.bytes.0.min(config.buffer.0 / 8)
    }

    /// Takes what came of a broker.
    async fn take(&mut self, came: Came) -> Result<()> {
        match came {
            // Of one that was dismissed meanwhile, whose partitions are read by others.
            Came::Answer { fetcher, .. } | Came::Gone { fetcher, .. } if self.broker_of(fetcher).is_none() => Ok(()),
            Came::Answer { parts, stopped, .. } => {
                self.refusals = 0;
                let disturbed = !stopped.is_empty();
                for part in parts {
                    let Some(partition) = self.partitions.get_mut(&part.topic, part.number) else {
                        continue;
                    };
                    if !partition.reader.silent_for().is_zero() {
                        self.pause = FIRST_PAUSE;
                    }
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
                    if let Some(partition) = self.partitions.get_mut(&cursor.topic, cursor.number) {
                        partition.reader.turn_out();
                    }
                }
                if disturbed {
                    self.look_soon();
                }
                Ok(())
            }
            Came::Gone { fetcher, fault } => {
                if fault.is_refusal() {
                    self.refusals += 1;
                    if self.refusals == REFUSALS {
                        return Err(self.client.explain(&fault));
                    }
                }
                if let Some(broker) = self.broker_of(fetcher) {
                    let address = self.client.address(broker).unwrap_or_default();
                    tracing::debug!(broker, address, %fault, "a kafka broker is gone");
                    self.fault = Some(format!("broker {broker} at {address}: {fault}"));
                    self.dismiss(broker);
                }
                self.look_soon();
                Ok(())
            }
        }
    }

    fn round(&mut self) -> Round {
        let now = chrono::Utc::now().timestamp_micros();
        let (round, rows, bytes) = self.partitions.round(self.reader.config.batch, now);
        self.rows -= rows;
        self.bytes -= bytes;
        if !self.partitions.iter().any(Partition::is_due) {
            self.since = None;
        }
        round
    }

    /// Decides what it means that a partition is not read on. What passes by itself is let pass.
    async fn judge(&mut self, cursor: &Cursor, stop: Stop) -> Result<()> {
        let topic = &*cursor.topic;
        match stop {
            Stop::Diverged => Err(self.find_loss(cursor).await?.unwrap_or_else(|| log_changed(cursor))),
            Stop::Error(ResponseError::OffsetOutOfRange) => match self.find_loss(cursor).await? {
                Some(lost) => Err(lost),
                // Not all that speak the protocol can place an epoch: it is asked for once more without it.
                None if cursor.epoch >= 0 => {
                    if let Some(partition) = self.partitions.get_mut(topic, cursor.number) {
                        partition.forget_epoch();
                    }
                    Ok(())
                }
                None => Err(log_changed(cursor)),
            },
            Stop::Error(ResponseError::TopicAuthorizationFailed) => Err(denied_topic(topic)),
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
                self.fault = Some(format!("partition {} of {topic}: {error}", cursor.number));
                Ok(())
            }
        }
    }

    /// What a partition lost of what was to be read next, if it lost anything.
    async fn find_loss(&mut self, cursor: &Cursor) -> Result<Option<Error>> {
        let (topic, number, next) = (&*cursor.topic, cursor.number, cursor.next);
        let marks = self.client.watermarks(topic, &[number]).await?;
        let marks = marks.get(&number).copied();
        Ok(marks.and_then(|marks| {
            let loss = Loss::of(next, marks)?;
            Some(position_lost(topic, number, Lost { next, loss }, marks))
        }))
    }

    /// Looks after partitions that nobody reads, for those that are new, have moved or are gone, and at the time.
    async fn look(&mut self) -> Result<()> {
        self.next_look = Instant::now() + TICK;
        while let Some(ended) = self.tasks.try_join_next() {
            if let Some(panic) = ended.err().filter(JoinError::is_panic) {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        self.tell_lags();
        self.tell_silence()?;
        if self.check_topics || self.discovered.elapsed() >= self.reader.config.discover_every.0 {
            self.discover().await?;
            self.check_topics = false;
            self.discovered = Instant::now();
        }
        self.house().await
    }

    /// Says that partitions cannot be read.
    ///
    /// # Errors
    /// `Unavailable` if none can, for too long.
    fn tell_silence(&mut self) -> Result<()> {
        if self.is_full() {
            // While nothing is taken, nothing is known.
            self.partitions
                .iter_mut()
                .for_each(|partition| partition.reader.excuse());
            return Ok(());
        }
        let unled = self.unled.values().map(Instant::elapsed);
        let silence = self.partitions.iter().map(|partition| partition.reader.silent_for());
        let silence = silence.chain(unled);
        let (least, most) = silence.fold((Duration::MAX, Duration::ZERO), |(least, most), silence| {
            (least.min(silence), most.max(silence))
        });
        if least >= self.reader.config.unavailable_after.0 && least < Duration::MAX {
            let fault = self.fault.take();
            return Err(self
                .client
                .unreadable_topics()
                .caused_by(fault.unwrap_or_else(|| "no partition has a leader".to_owned())));
        }
        if most.is_zero() {
            self.fault = None;
        }
        if most >= WORTH_TELLING && self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            let silent = |partition: &&Partition| partition.reader.silent_for() >= WORTH_TELLING;
            let names = self.partitions.iter().filter(silent).map(|p| (p.topic(), p.number));
            let unled = self.unled.keys().map(|(topic, number)| (topic.as_str(), *number));
            let silent: Vec<_> = names.chain(unled).collect();
            if let Some((topic, partition)) = silent.first() {
                tracing::warn!(
                    topic,
                    partition,
                    others = silent.len() - 1,
                    fault = self.fault.as_deref().unwrap_or("nobody leads it"),
                    "a kafka partition cannot be read"
                );
            }
        }
        Ok(())
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

    /// Picks up partitions that were added or have a leader again, and notices those that are gone, or led by another.
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
                    // Nobody answers for the others either.
                    return Ok(());
                }
                Err(error) if error.error_code() == Some(codes::NO_TOPIC) => {
                    return Err(topic_gone(&layout.topic, "a topic that was being read is gone").caused_by(error));
                }
                Err(error) => return Err(error),
            };
            let mut wanted = Vec::new();
            for (number, leader) in (0..).zip(leaders) {
                let Some(leader) = leader else { continue };
                if let Some(partition) = self.partitions.get_mut(&layout.topic, number) {
                    // A broker that was cut off from the others may not know that it leads no more.
                    let read_at = partition.reader.leader().map(|leader| leader.broker);
                    if let Some(before) = read_at.filter(|before| *before != leader.broker) {
                        self.dismiss(before);
                    }
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
                        let partition = partition?;
                        self.unled.remove(&(layout.topic.clone(), partition.number));
                        self.add(partition);
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
    async fn look_at(&mut self, topic: &str, known: i32) -> Result<Vec<Option<Leader>>> {
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

/// The log ends before the next offset, or its leaders' history does not lead there, and has grown since: to go on from
/// the same offset would pass over what was written anew.
fn log_changed(cursor: &Cursor) -> Error {
    Error::new(
        ErrorKind::PositionLost,
        "a broker refused an offset that its log has by now",
    )
    .code(codes::POSITION_LOST)
    .with("topic", &cursor.topic)
    .with("partition", cursor.number)
    .with("offset", cursor.next)
    .hint(
        "the log was truncated or the topic created anew, and has grown since: find out which; if neither \
         is so, restart the pipeline, which goes on from the committed positions",
    )
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
