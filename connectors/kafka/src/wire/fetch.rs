//! Fetching from one broker: the request, and what its answer holds of each partition.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchResponse, PartitionData};
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::batch::{Damaged, RecordBatch};

/// Rows of aborted transactions are told from others.
const READ_COMMITTED: i8 = 1;
/// There is no session: each request says all.
const NO_SESSION: i32 = -1;

/// A partition, and the place in it that is read next.
#[derive(Debug, Clone)]
pub struct Cursor {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub number: i32,
    /// The offset to read next.
    pub next: i64,
    /// The epoch of the leader that appended what was read last; -1 before the first. A broker finds out by it
    /// whether the log that was read is its own (KIP-595), from version 12 on.
    pub epoch: i32,
    /// The epoch of the leader that it is read from, -1 if it is not known: whoever leads it no more, or not yet, refuses
    /// to serve it (KIP-320), from version 9 on.
    pub leader_epoch: i32,
}

impl Cursor {
    /// The place where reading a partition begins, of which nobody is known to lead it.
    pub fn new(topic: &str, number: i32, next: i64) -> Self {
        Self {
            topic: topic.into(),
            number,
            next,
            epoch: -1,
            leader_epoch: -1,
        }
    }
}

/// What an answer holds of a partition.
#[derive(Debug)]
pub struct Part {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub number: i32,
    /// Batches that hold messages, in order.
    pub batches: Vec<RecordBatch>,
    /// The offset behind all that was sent, whether it holds messages or not.
    pub next: i64,
    /// The epoch of the leader that appended what was sent last.
    pub epoch: i32,
    /// The offset behind the last message that a reader may see.
    pub end: i64,
}

/// Why a partition cannot be read on from this broker.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The broker says so.
    #[error("{0}")]
    Error(ResponseError),
    /// The log that was read is not the one that the broker has.
    #[error("the log that was read is not the one that the broker has")]
    Diverged,
    /// What it sent cannot be read.
    #[error(transparent)]
    Damaged(Damaged),
}

/// The request for these in a version, at most `most` bytes, where none wait for `wait`. The broker serves them in
/// their order until the bytes are used up, so that a topic is named again where others stand between (KIP-74).
pub fn request(cursors: &[Cursor], version: i16, most: usize, of_partition: usize, wait: Duration) -> FetchRequest {
    let bytes = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    let since = |first: i16, value: i32| if version >= first { value } else { -1 };
    let mut topics: Vec<FetchTopic> = Vec::new();
    for cursor in cursors {
        if topics.last().is_none_or(|last| **last.topic != *cursor.topic) {
            let mut topic = FetchTopic::default();
            topic.topic = topic_name(&cursor.topic);
            topics.push(topic);
        }
        let mut partition = FetchPartition::default();
        partition.partition = cursor.number;
        partition.current_leader_epoch = since(9, cursor.leader_epoch);
        partition.fetch_offset = cursor.next;
        partition.last_fetched_epoch = since(12, cursor.epoch);
        partition.log_start_offset = -1;
        partition.partition_max_bytes = bytes(of_partition);
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(partition);
        }
    }
    let mut request = FetchRequest::default();
    // We are no replica.
    request.replica_id = BrokerId(-1);
    request.max_wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    request.min_bytes = 1;
    request.max_bytes = bytes(most);
    request.isolation_level = READ_COMMITTED;
    request.session_id = 0;
    request.session_epoch = NO_SESSION;
    request.topics = topics;
    request
}

/// The newest version of the request that names topics, and does not number them.
pub const HIGHEST: i16 = 12;

/// The name of a topic in a request.
pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// What the answer holds of each of `cursors`, which are moved on. Those that end are taken out of it.
pub fn take(cursors: &mut Vec<Cursor>, answer: FetchResponse) -> (Vec<Part>, Vec<(Cursor, Stop)>) {
    if let Some(error) = ResponseError::try_from_code(answer.error_code) {
        let all = cursors.drain(..).map(|cursor| (cursor, Stop::Error(error)));
        return (Vec::new(), all.collect());
    }
    let (mut parts, mut stopped) = (Vec::new(), Vec::new());
    for topic in answer.responses {
        for partition in topic.partitions {
            let is_it = |cursor: &Cursor| cursor.number == partition.partition_index && *cursor.topic == **topic.topic;
            let Some(at) = cursors.iter().position(is_it) else {
                continue;
            };
            match part_of(&mut cursors[at], partition) {
                Ok(part) => {
                    // Whoever was served comes last the next time, so that large batches starve nobody (KIP-74).
                    if part.batches.is_empty() {
                        parts.push(part);
                    } else {
                        let served = cursors.remove(at);
                        cursors.push(served);
                        parts.push(part);
                    }
                }
                Err(stop) => stopped.push((cursors.remove(at), stop)),
            }
        }
    }
    (parts, stopped)
}

fn part_of(cursor: &mut Cursor, data: PartitionData) -> Result<Part, Stop> {
    if let Some(error) = ResponseError::try_from_code(data.error_code) {
        return Err(Stop::Error(error));
    }
    if data.diverging_epoch.epoch >= 0 {
        return Err(Stop::Diverged);
    }
    let mut aborted = Aborted::new(data.aborted_transactions.unwrap_or_default());
    let mut log = data.records.unwrap_or_default();
    let mut batches = Vec::new();
    let asked_for = cursor.next;
    loop {
        let batch = match RecordBatch::take(&mut log) {
            Ok(Some(batch)) => batch,
            // What stands before it is good; it comes again, first.
            Err(_) if cursor.next > asked_for => break,
            Err(damaged) => return Err(Stop::Damaged(damaged)),
            Ok(None) => break,
        };
        if batch.last < cursor.next {
            continue;
        }
        (cursor.next, cursor.epoch) = (batch.last + 1, batch.leader_epoch);
        if !aborted.holds(&batch).map_err(Stop::Damaged)? && !batch.is_control() && batch.records > 0 {
            batches.push(batch);
        }
    }
    let end = if data.last_stable_offset >= 0 {
        data.last_stable_offset
    } else {
        data.high_watermark
    };
    Ok(Part {
        topic: cursor.topic.clone(),
        number: cursor.number,
        batches,
        next: cursor.next,
        epoch: cursor.epoch,
        end,
    })
}

/// The transactions of one answer that were aborted (Kafka's documentation, "Fetch": `aborted_transactions`).
struct Aborted {
    /// By the offset of their first record, the last first.
    coming: Vec<AbortedTransaction>,
    /// The producers whose transaction is open, and will be aborted.
    producers: HashSet<i64>,
}

impl Aborted {
    fn new(mut transactions: Vec<AbortedTransaction>) -> Self {
        transactions.sort_unstable_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Self {
            coming: transactions,
            producers: HashSet::new(),
        }
    }

    /// Whether the next batch belongs to one of them.
    fn holds(&mut self, batch: &RecordBatch) -> Result<bool, Damaged> {
        while let Some(begun) = self.coming.pop_if(|next| next.first_offset <= batch.last) {
            self.producers.insert(begun.producer_id.0);
        }
        if !batch.is_transactional() || !self.producers.contains(&batch.producer) {
            return Ok(false);
        }
        if batch.is_control() && batch.aborts()? {
            self.producers.remove(&batch.producer);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
