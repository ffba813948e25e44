//! A Kafka cluster inside the process, for the demo and for tests: librdkafka's mock cluster.
//!
//! It is real TCP on loopback, but not a real Kafka. It keeps messages in memory only and
//! drops old ones (past 5 MiB or 100,000 message sets in a partition), shows rows of aborted
//! transactions, and cannot add partitions to a topic.

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// A running cluster with a producer; stopped when dropped.
pub struct KafkaMock {
    /// The cluster belongs to its client; a `MockCluster` itself stays on one thread.
    producer: BaseProducer,
}

const FLUSH: Duration = Duration::from_secs(10);

impl KafkaMock {
    /// Starts a cluster of `brokers` brokers on free ports of loopback.
    ///
    /// # Errors
    /// `Internal` if librdkafka cannot start it.
    pub fn start(brokers: i32) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("test.mock.num.brokers", brokers.to_string())
            .set("linger.ms", "5")
            .set("message.timeout.ms", "10000")
            .create()
            .map_err(|error| failed("start the mock cluster", &error))?;
        Ok(Self { producer })
    }

    fn cluster(&self) -> MockCluster<'_, DefaultProducerContext> {
        self.producer
            .client()
            .mock_cluster()
            .expect("the client was made with a mock cluster")
    }

    /// The value for `brokers` of a configuration.
    pub fn brokers(&self) -> String {
        self.cluster().bootstrap_servers()
    }

    /// Creates a topic.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.cluster()
            .create_topic(topic, partitions, 1)
            .map_err(|error| failed("create a topic", &error))
    }

    /// Queues a message; [`flush`](Self::flush) waits until it is in the log. `None` as the
    /// payload makes a tombstone, and as the partition lets the key choose.
    pub fn send(&self, topic: &str, partition: Option<i32>, key: Option<&[u8]>, payload: Option<&[u8]>) -> Result<()> {
        self.send_with_headers(topic, partition, key, payload, &[])
    }

    /// As [`send`](Self::send), with headers.
    pub fn send_with_headers(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic);
        record.partition = partition;
        record.key = key;
        record.payload = payload;
        if !headers.is_empty() {
            let all = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
            record.headers = Some(all);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(failed("send a message", &error)),
            }
        }
    }

    /// Waits until every message that was sent is in the log.
    pub fn flush(&self) -> Result<()> {
        self.producer
            .flush(FLUSH)
            .map_err(|error| failed("flush messages", &error))
    }

    /// Makes the next requests of a kind fail with these errors, one each.
    pub fn fail_requests(&self, kind: RDKafkaApiKey, errors: &[RDKafkaRespErr]) {
        self.cluster().request_errors(kind, errors);
    }

    /// Makes the brokers describe a topic by this error, until it is no error.
    pub fn fail_topic(&self, topic: &str, error: RDKafkaRespErr) -> Result<()> {
        self.cluster()
            .topic_error(topic, error)
            .map_err(|error| failed("fail a topic", &error))
    }

    /// Makes a broker, numbered from 1, the leader of a partition.
    pub fn lead(&self, topic: &str, partition: i32, broker: i32) -> Result<()> {
        self.cluster()
            .partition_leader(topic, partition, Some(broker))
            .map_err(|error| failed("move a partition", &error))
    }

    /// Takes a broker away, numbered from 1.
    pub fn stop_broker(&self, broker: i32) -> Result<()> {
        self.cluster()
            .broker_down(broker)
            .map_err(|error| failed("stop a broker", &error))
    }

    /// Brings a broker back.
    pub fn start_broker(&self, broker: i32) -> Result<()> {
        self.cluster()
            .broker_up(broker)
            .map_err(|error| failed("start a broker", &error))
    }
}

fn failed(what: &str, error: &KafkaError) -> Error {
    Error::new(ErrorKind::Internal, format!("cannot {what}")).with("error", error)
}
