//! The conformance suite on Apache Kafka itself.

use millstream_testkit::kafka::{Outgoing, TestKafka, TestProducer};

use super::*;

const IN_EACH: i64 = 400;
const PARTITIONS: i32 = 3;

struct OnKafka {
    node: TestKafka,
}

impl OnKafka {
    fn start() -> Self {
        let node = TestKafka::start().unwrap();
        node.create_topic("clicks", PARTITIONS).unwrap();
        let mut producer = TestProducer::new(&node.brokers()).unwrap();
        for n in 0..IN_EACH * i64::from(PARTITIONS) {
            let close = if n % 10 == 7 { "" } else { "}" };
            let message = Outgoing::to("clicks", (n % i64::from(PARTITIONS)) as i32);
            let payload = format!("{{\"id\": {n}, \"name\": \"n{n}\"{close}");
            producer.send(message.payload(payload)).unwrap();
        }
        producer.flush().unwrap();
        Self { node }
    }
}

#[async_trait]
impl SourceSubject for OnKafka {
    async fn source(&self) -> Box<dyn Source> {
        let config = "topics: [clicks]\ndecode: {json: {columns: {id: int64, name: utf8}}}\nbatch: {rows: 64}";
        Box::new(source(&self.node.brokers(), config))
    }

    fn is_complete(&self, read: &Checkpoint) -> bool {
        let last = offsets::position(IN_EACH - 1);
        (0..PARTITIONS).all(|number| *read.position(&partition("clicks", number)) == last)
    }

    fn rows(&self) -> usize {
        IN_EACH as usize * PARTITIONS as usize
    }

    fn resumes(&self) -> usize {
        3
    }
}

#[test]
fn the_conformance_suite_passes_on_apache_kafka() {
    if !TestKafka::is_available() {
        return millstream_testkit::loudly("Apache Kafka is not installed: its conformance suite is left out");
    }
    let subject = OnKafka::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(source_suite::run(&subject));
}
