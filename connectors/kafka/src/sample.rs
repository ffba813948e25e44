//! Reading a bounded sample of a topic, to infer its columns from.

use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::codes;
use crate::config::{KafkaConfig, is_taken};
use crate::decode::column_type::ColumnType;
use crate::decode::infer::infer;

/// A sample takes at most so many times as long as one request may.
const TIMEOUTS: u32 = 6;

/// A sample holds at most this many bytes of payload.
const MOST_BYTES: usize = 16 << 20;

/// Infers the columns of `topic` from its oldest messages: `sample` of them, an equal share
/// from each partition, taken in the order of partitions and offsets. Commits nothing.
///
/// # Errors
/// `Unavailable` if the sample cannot be read whole: half a sample would infer other columns.
/// `Cancelled` if `abandoned` fires.
pub fn infer_columns(
    config: &KafkaConfig,
    group: &str,
    topic: &str,
    sample: usize,
    abandoned: &CancellationToken,
) -> Result<Vec<(String, ColumnType)>> {
    // A client for each topic: assigning another would race with messages still on their way.
    let client = Client::that_sees_ends(config, group)?;
    let count = client.partitions_of(topic)?.len().max(1);
    let mut shares: Vec<Share> = Vec::with_capacity(count);
    let mut assignment = TopicPartitionList::new();
    for partition in 0..count as i32 {
        let marks = client.watermarks(topic, partition)?;
        let open = marks.high > marks.low;
        if open {
            assignment
                .add_partition_offset(topic, partition, Offset::Offset(marks.low))
                .map_err(|error| cannot_sample(topic, &error))?;
        }
        shares.push(Share {
            payloads: Vec::new(),
            messages: 0,
            bytes: 0,
            end: marks.high,
            open,
        });
    }
    client
        .consumer
        .assign(&assignment)
        .map_err(|error| cannot_sample(topic, &error))?;
    let (most_rows, most_bytes) = (sample.div_ceil(count), MOST_BYTES / count);
    let started = Instant::now();
    let mut progressed = started;
    while shares.iter().any(|share| share.open) {
        let mut closed = None;
        match client.consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => {
                progressed = Instant::now();
                let share = &mut shares[message.partition() as usize];
                let was_open = share.open;
                share.take(message.offset(), message.payload(), most_rows, most_bytes);
                closed = (was_open && !share.open).then(|| message.partition());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let share = &mut shares[partition as usize];
                closed = std::mem::take(&mut share.open).then_some(partition);
            }
            Some(Err(error)) => tracing::debug!(%error, topic, "kafka error while sampling"),
            None => {}
        }
        if let Some(partition) = closed {
            // Its messages would be fetched to the end while the others are sampled.
            let mut done = TopicPartitionList::new();
            done.add_partition(topic, partition);
            client
                .consumer
                .incremental_unassign(&done)
                .map_err(|error| cannot_sample(topic, &error))?;
        }
        if abandoned.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "nobody waits for the sample any more"));
        }
        if let Some(error) = client.refused() {
            return Err(error);
        }
        if progressed.elapsed() >= config.timeout.0 || started.elapsed() >= config.timeout.0 * TIMEOUTS {
            return Err(client.unreachable().with("topic", topic));
        }
    }
    let payloads = shares.iter().flat_map(|share| share.payloads.iter().map(Vec::as_slice));
    Ok(infer(payloads, is_taken))
}

struct Share {
    payloads: Vec<Vec<u8>>,
    /// Those without a payload included.
    messages: usize,
    bytes: usize,
    /// The end of the partition when sampling began.
    end: i64,
    open: bool,
}

impl Share {
    fn take(&mut self, offset: i64, payload: Option<&[u8]>, most_rows: usize, most_bytes: usize) {
        if !self.open || offset >= self.end {
            self.open = false;
            return;
        }
        self.messages += 1;
        if let Some(payload) = payload {
            self.bytes += payload.len();
            self.payloads.push(payload.to_vec());
        }
        self.open = self.messages < most_rows && self.bytes < most_bytes && offset + 1 < self.end;
    }
}

fn cannot_sample(topic: &str, error: &KafkaError) -> Error {
    Error::new(ErrorKind::Unavailable, "cannot sample a topic")
        .code(codes::UNREACHABLE)
        .with("topic", topic)
        .with("error", error)
}
