//! The Kafka that these tests run on: Apache Kafka, or, where it could not be fetched,
//! librdkafka's mock broker, which is said loudly.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use millstream_kafka::mock::KafkaMock;
use millstream_testkit::kafka::TestKafka;
use millstream_testkit::loudly;

/// A running Kafka.
pub enum Broker {
    /// Apache Kafka.
    Real(TestKafka),
    /// librdkafka's mock cluster.
    Mock(KafkaMock),
}

/// With this variable the tests run on the mock broker, as they do where Kafka is not there.
pub const MOCK: &str = "MILLSTREAM_TEST_MOCK_KAFKA";

/// One node serves all tests that run at the same time; the last one ends it.
static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());

impl Broker {
    /// The broker of this test run.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start());
        *shared = Arc::downgrade(&started);
        started
    }

    /// A broker of one test alone, which may do with it what it likes.
    pub fn own() -> Arc<Self> {
        Arc::new(Self::start())
    }

    fn start() -> Self {
        let wants_mock = std::env::var_os(MOCK).is_some();
        if !wants_mock && TestKafka::is_available() {
            return Self::Real(TestKafka::start().expect("Kafka starts"));
        }
        if !wants_mock {
            loudly("Apache Kafka is NOT there: this runs on librdkafka's mock broker (see scripts/setup.sh test)");
        }
        Self::Mock(KafkaMock::start(1).expect("the mock cluster starts"))
    }

    /// Apache Kafka; `None`, and a loud word about `what` is left out, on the mock.
    pub fn real(&self, what: &str) -> Option<&TestKafka> {
        match self {
            Self::Real(kafka) => Some(kafka),
            Self::Mock(_) => {
                loudly(&format!("LEFT OUT, the mock broker cannot do it: {what}"));
                None
            }
        }
    }

    /// The value for `brokers` of a configuration.
    pub fn brokers(&self) -> String {
        match self {
            Self::Real(kafka) => kafka.brokers(),
            Self::Mock(mock) => mock.brokers(),
        }
    }

    /// Creates a topic.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        match self {
            Self::Real(kafka) => kafka.create_topic(topic, partitions).unwrap(),
            Self::Mock(mock) => mock.create_topic(topic, partitions).unwrap(),
        }
    }

    /// Takes the broker away for `pause`: in an orderly way, or, if `crash`, by SIGKILL.
    pub fn restart(&self, crash: bool, pause: Duration) {
        match self {
            Self::Real(kafka) => {
                kafka.stop(crash).unwrap();
                std::thread::sleep(pause);
                kafka.resume().unwrap();
            }
            Self::Mock(mock) => {
                mock.stop_broker(1).unwrap();
                std::thread::sleep(pause);
                mock.start_broker(1).unwrap();
            }
        }
    }
}
