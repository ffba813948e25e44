//! The Kafka-protocol broker inside this process, and what was sent to it.

use anyhow::{Result, anyhow};
use millstream_kafka::mock::KafkaMock;

/// The topic that the shop's web pages write to.
pub const TOPIC: &str = "clicks";
const PARTITIONS: usize = 3;

/// A running broker with the topic [`TOPIC`].
pub struct Broker {
    kafka: KafkaMock,
    address: String,
    /// Messages sent to each partition.
    counts: [i64; PARTITIONS],
}

impl Broker {
    /// Starts it on a free loopback port.
    ///
    /// # Errors
    /// If librdkafka cannot start it.
    pub fn start() -> Result<Self> {
        let failed = |error: millstream_core::Error| anyhow!("the embedded broker does not start: {}", error.summary());
        let kafka = KafkaMock::start(1).map_err(failed)?;
        kafka.create_topic(TOPIC, PARTITIONS as i32).map_err(failed)?;
        let address = kafka.brokers();
        Ok(Self {
            kafka,
            address,
            counts: [0; PARTITIONS],
        })
    }

    /// `host:port`
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Sends messages, to the partitions in turn, and waits until they are in the log.
    ///
    /// # Errors
    /// If the broker does not take them.
    pub fn send<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
        let failed =
            |error: millstream_core::Error| anyhow!("cannot write to the embedded broker: {}", error.summary());
        for payload in payloads {
            let total: i64 = self.counts.iter().sum();
            let partition = usize::try_from(total).unwrap_or_default() % PARTITIONS;
            self.kafka
                .send(TOPIC, Some(partition as i32), None, Some(payload))
                .map_err(failed)?;
            self.counts[partition] += 1;
        }
        self.kafka.flush().map_err(failed)
    }

    /// The last offset of each partition that holds a message.
    pub fn last_offsets(&self) -> impl Iterator<Item = (usize, i64)> {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(partition, count)| (partition, count - 1))
    }
}
