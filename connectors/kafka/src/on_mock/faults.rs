//! What the source does while brokers, topics or its pipeline are not as they should be.

use std::sync::Arc;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_blocked_for_long_gets_everything_once_and_in_order() {
    let clicks = Clicks::new();
    let config = "topics: [clicks]\ndecode: bytes\nbatch: {rows: 100}";
    let brokers = clicks.kafka.brokers();
    let mut run = Run::start(source(&brokers, config), resume_from("clicks", &[]), 1024, 1);
    // Nobody takes events meanwhile, and the fetchers wait.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reading = run.read(MESSAGES).await;
    run.stop().await;
    assert_eq!(reading.rows, MESSAGES);
    for (partition, positions) in reading.positions {
        let offsets: Vec<i64> = positions.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(offsets, (0..MESSAGES as i64 / 3).collect::<Vec<_>>(), "{partition}");
    }
}

/// Looking for partitions while no broker answers must not eat what was fetched before.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_survives_requests_that_fail() {
    let clicks = Clicks::new();
    let config = "topics: [clicks]\ndecode: bytes\nbatch: {rows: 500}\ntimeout: 1s\ndiscover_every: 100ms";
    let mut run = Run::start(
        source(&clicks.kafka.brokers(), config),
        resume_from("clicks", &[]),
        1024,
        1,
    );
    let first = run.read(1).await;
    // All of it has been fetched by now, or will be when the brokers are back.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for broker in [1, 2] {
        clicks.kafka.stop_broker(broker).unwrap();
    }
    let mut reading = first;
    let mut back = false;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(8);
    while reading.rows < MESSAGES {
        let event = tokio::select! {
            event = run.events.recv() => event.expect("the source goes on"),
            () = tokio::time::sleep_until(deadline), if !back => {
                back = true;
                for broker in [1, 2] {
                    clicks.kafka.start_broker(broker).unwrap();
                }
                continue;
            }
            () = tokio::time::sleep(PATIENCE) => panic!("{} of {MESSAGES} rows came", reading.rows),
        };
        reading.take(event);
    }
    run.stop().await;
    for (partition, positions) in reading.positions {
        let offsets: Vec<i64> = positions.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(offsets, (0..MESSAGES as i64 / 3).collect::<Vec<_>>(), "{partition}");
    }
}

/// Back and forth, while messages come: each is read once, and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_to_another_broker_is_read_on() {
    let kafka = KafkaMock::start(3).unwrap();
    kafka.create_topic("clicks", 2).unwrap();
    let config = "topics: [clicks]\ndecode: bytes\nbatch: {linger: 10ms}";
    let mut run = Run::start(
        source(&kafka.brokers(), config),
        resume_from("clicks", &[]),
        1 << 20,
        16,
    );
    let mut sent = 0;
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for broker in [1, 2, 3, 1, 3] {
        for number in [0, 1] {
            kafka.lead("clicks", number, broker).unwrap();
        }
        for n in 0..40 {
            kafka.send("clicks", Some(n % 2), None, Some(b"x")).unwrap();
        }
        kafka.flush().unwrap();
        sent += 40;
        let reading = run.read(40).await;
        assert_eq!(reading.rows, 40, "after {sent} were sent");
        for (partition, positions) in reading.positions {
            read.entry(partition).or_default().extend(positions);
        }
    }
    run.stop().await;
    for (partition, positions) in read {
        let offsets: Vec<i64> = positions.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(offsets, (0..sent / 2).collect::<Vec<_>>(), "{partition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_looks_missing_for_a_moment_is_read() {
    let clicks = Arc::new(Clicks::new());
    let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    clicks.kafka.fail_topic("clicks", unknown).unwrap();
    let config = "topics: [clicks]\ndecode: bytes";
    let mut run = Run::start(
        source(&clicks.kafka.brokers(), config),
        resume_from("clicks", &[]),
        1 << 20,
        16,
    );
    tokio::time::sleep(Duration::from_millis(600)).await;
    let known = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    clicks.kafka.fail_topic("clicks", known).unwrap();
    assert_eq!(run.read(MESSAGES).await.rows, MESSAGES);
    run.stop().await;
}

/// The right to read is another than the right to describe, and only a fetch tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_to_read_is_found_before_and_while_it_reads() {
    let clicks = Clicks::new();
    let denied = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 4];
    clicks.kafka.fail_requests(RDKafkaApiKey::Fetch, &denied);
    let config = "topics: [clicks]\ndecode: bytes";
    let mut checked = source(&clicks.kafka.brokers(), config);
    let found = checked.preflight().await.unwrap();
    let found: Vec<_> = found.iter().map(|f| (f.code, &*f.subject)).collect();
    assert_eq!(found, [(Some(codes::DENIED), "clicks")]);

    clicks.kafka.fail_requests(RDKafkaApiKey::Fetch, &denied);
    let run = Run::start(
        source(&clicks.kafka.brokers(), config),
        resume_from("clicks", &[(0, -1), (1, -1), (2, -1)]),
        1 << 20,
        16,
    );
    let error = run.error().await;
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::Denied, Some(codes::DENIED))
    );
}
