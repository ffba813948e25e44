//! Reads a topic with librdkafka and throws the messages away: what a consumer of this broker can
//! reach at most.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How long a broker may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Consumes a topic from its beginning.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    /// Stop after so many messages.
    #[arg(long)]
    messages: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &arguments.brokers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .set("queued.min.messages", "1000000")
        // Without these a full queue pauses for a second.
        .set("queued.max.messages.kbytes", "262144")
        .set("fetch.queue.backoff.ms", "50")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(&arguments.topic), PATIENCE)?;
    let topic = metadata.topics().first().context("no such topic")?;
    let mut assignment = TopicPartitionList::new();
    for partition in topic.partitions() {
        assignment.add_partition_offset(&arguments.topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (started, mut messages, mut bytes) = (Instant::now(), 0u64, 0u64);
    while messages < arguments.messages {
        let message = consumer.poll(PATIENCE).context("the broker is silent")??;
        messages += 1;
        bytes += message.payload().map_or(0, <[u8]>::len) as u64;
    }
    ensure!(bytes > 0, "empty messages");
    println!(
        "{{\"messages\": {messages}, \"bytes\": {bytes}, \"seconds\": {}}}",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
