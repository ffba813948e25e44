//! What a topic's log holds, as a consumer that is not ours reads it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Delivered, Outgoing};

/// How long one reading may take.
const READ_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// All messages of these partitions, from their beginnings to where they end now.
///
/// # Errors
/// If the brokers do not answer, or the ends are not reached in a minute.
pub(super) fn read(brokers: &str, topic: &str, partitions: &BTreeSet<i32>) -> Result<Vec<Delivered>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "millstream-testkit")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("log_level", "0")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let deadline = Instant::now() + READ_LIMIT;
    let (mut open, mut log) = (partitions.clone(), Vec::new());
    while !open.is_empty() {
        ensure!(Instant::now() < deadline, "partitions {open:?} of {topic} do not end");
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => log.push(delivered(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            // A node that has just come up may not lead its partitions yet; the reader tries again.
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NotLeaderForPartition) => {}
            Some(Err(error)) => return Err(error).with_context(|| format!("cannot read {topic}")),
        }
    }
    Ok(log)
}

fn delivered(message: &BorrowedMessage<'_>) -> Delivered {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let copied = Outgoing {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect(),
        timestamp: message.timestamp().to_millis(),
    };
    Delivered {
        message: copied,
        offset: message.offset(),
    }
}
