//! A producer that knows where each of its messages went.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::log;

/// Longer than a broker's restart.
const FLUSH: Duration = Duration::from_secs(90);

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outgoing {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The headers, in order; names may repeat.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the Unix epoch; the producer's clock where it is not given.
    pub timestamp: Option<i64>,
}

impl Outgoing {
    /// An empty message to a partition.
    pub fn to(topic: &str, partition: i32) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            key: None,
            payload: None,
            headers: Vec::new(),
            timestamp: None,
        }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.map(<[u8]>::to_vec)));
        self
    }

    /// With this timestamp, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp(mut self, millis: i64) -> Self {
        self.timestamp = Some(millis);
        self
    }
}

/// A message that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// What was sent.
    pub message: Outgoing,
    /// Its offset.
    pub offset: i64,
}

/// Sends messages to a real or a mock broker, each exactly once, also over a broker's restart.
pub struct TestProducer {
    brokers: String,
    producer: BaseProducer<Receipts>,
    outgoing: Vec<Outgoing>,
}

#[derive(Clone, Default)]
struct Receipts {
    /// The offset or the failure of each message, by its place in `outgoing`.
    offsets: Arc<Mutex<BTreeMap<usize, Result<i64, KafkaError>>>>,
}

impl ClientContext for Receipts {}

impl ProducerContext for Receipts {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, place: Box<usize>) {
        let receipt = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.offsets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*place, receipt);
    }
}

impl TestProducer {
    /// A producer for these brokers; it connects in the background.
    ///
    /// # Errors
    /// If librdkafka refuses its configuration.
    pub fn new(brokers: &str) -> Result<Self> {
        Self::with(brokers, &mut ClientConfig::new())
    }

    /// A producer whose messages go in transactions, each begun by [`begin`](Self::begin).
    ///
    /// # Errors
    /// If the brokers have no transactions.
    pub fn transactional(brokers: &str, id: &str) -> Result<Self> {
        let producer = Self::with(
            brokers,
            ClientConfig::new()
                .set("transactional.id", id)
                .set("transaction.timeout.ms", FLUSH.as_millis().to_string()),
        )?;
        producer.producer.init_transactions(FLUSH)?;
        Ok(producer)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// If one is open.
    pub fn begin(&self) -> Result<()> {
        Ok(self.producer.begin_transaction()?)
    }

    /// Ends the transaction after everything that was sent is in the log: commits it, or else
    /// aborts it.
    ///
    /// # Errors
    /// If it cannot be ended, or a message was not delivered.
    pub fn end(&mut self, commit: bool) -> Result<Vec<Delivered>> {
        let sent = self.flush()?;
        if commit {
            self.producer.commit_transaction(FLUSH)?;
        } else {
            self.producer.abort_transaction(FLUSH)?;
        }
        Ok(sent)
    }

    fn with(brokers: &str, config: &mut ClientConfig) -> Result<Self> {
        let producer = config
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("message.timeout.ms", FLUSH.as_millis().to_string())
            .set("reconnect.backoff.max.ms", "500")
            .set("log_level", "0")
            .create_with_context(Receipts::default())?;
        Ok(Self {
            brokers: brokers.to_owned(),
            producer,
            outgoing: Vec::new(),
        })
    }

    /// Queues a message.
    ///
    /// # Errors
    /// If librdkafka does not take it.
    pub fn send(&mut self, message: Outgoing) -> Result<()> {
        let mut record =
            BaseRecord::<[u8], [u8], Box<usize>>::with_opaque_to(&message.topic, Box::new(self.outgoing.len()))
                .partition(message.partition);
        record.key = message.key.as_deref();
        record.payload = message.payload.as_deref();
        record.timestamp = message.timestamp;
        if !message.headers.is_empty() {
            record.headers = Some(message.headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: value.as_ref(),
                })
            }));
        }
        while let Err((error, back)) = self.producer.send(record) {
            let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            ensure!(full, "a message was not taken: {error}");
            record = back;
            self.producer.poll(Duration::from_millis(10));
        }
        self.producer.poll(Duration::ZERO);
        self.outgoing.push(message);
        Ok(())
    }

    /// Waits until everything sent since the last flush is in the log, and tells where.
    ///
    /// # Errors
    /// If a message could not be delivered.
    pub fn flush(&mut self) -> Result<Vec<Delivered>> {
        self.producer.flush(FLUSH)?;
        let mut receipts = std::mem::take(
            &mut *self
                .producer
                .context()
                .offsets
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let sent = std::mem::take(&mut self.outgoing).into_iter().enumerate();
        let mut delivered = sent
            .map(|(place, message)| {
                let receipt = receipts.remove(&place).context("a message without a receipt")?;
                let offset = receipt.map_err(|error| anyhow!("a message was not delivered: {error}"))?;
                Ok(Delivered { message, offset })
            })
            .collect::<Result<Vec<_>>>()?;
        self.locate(&mut delivered)?;
        Ok(delivered)
    }

    /// Looks in the log where the offset of a message is not known: a broker that lost its answer in
    /// a crash may say only that it has the message (`DUPLICATE_SEQUENCE_NUMBER`). What was told
    /// of the others in such a partition is not believed either.
    fn locate(&self, delivered: &mut [Delivered]) -> Result<()> {
        let mut unknown: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for Delivered { message, .. } in delivered.iter().filter(|sent| sent.offset < 0) {
            let partitions = unknown.entry(message.topic.clone()).or_default();
            partitions.insert(message.partition);
        }
        // A time that was not given is in the log alone.
        let timeless = |message: &Outgoing| Outgoing {
            timestamp: None,
            ..message.clone()
        };
        for (topic, partitions) in &unknown {
            let mut places: BTreeMap<Outgoing, Vec<(Option<i64>, i64)>> = BTreeMap::new();
            for found in log::read(&self.brokers, topic, partitions)? {
                places
                    .entry(timeless(&found.message))
                    .or_default()
                    .push((found.message.timestamp, found.offset));
            }
            let concerned =
                |sent: &&mut Delivered| sent.message.topic == *topic && partitions.contains(&sent.message.partition);
            for sent in delivered.iter_mut().filter(concerned) {
                let timestamp = sent.message.timestamp;
                let place = places.get_mut(&timeless(&sent.message)).and_then(|equal| {
                    let fits = |(found, _): &(Option<i64>, i64)| timestamp.is_none() || *found == timestamp;
                    let at = equal.iter().position(fits)?;
                    Some(equal.remove(at).1)
                });
                sent.offset = place.with_context(|| {
                    let payload = sent.message.payload.as_deref().unwrap_or_default();
                    format!(
                        "a message that the broker took, at {}, is not in its log of {} messages: {}",
                        sent.offset,
                        places.len(),
                        String::from_utf8_lossy(payload)
                    )
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn messages_of_unknown_offset_are_found_in_the_log() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 2, 1).unwrap();
        let mut producer = TestProducer::new(&cluster.bootstrap_servers()).unwrap();
        for number in 0..8 {
            // Two of each are equal: each of them has a place of its own.
            let message = Outgoing::to("t", number % 2)
                .key("k")
                .payload(format!("{}", number / 4));
            producer.send(message.header("h", None)).unwrap();
        }
        let sent = producer.flush().unwrap();
        let mut forgotten = sent.clone();
        for place in [0, 3, 4, 6] {
            forgotten[place].offset = -1001;
        }
        producer.locate(&mut forgotten).unwrap();
        assert_eq!(forgotten, sent);
        forgotten[5].message.payload = None;
        forgotten[5].offset = -1001;
        assert!(producer.locate(&mut forgotten).is_err());
    }
}
