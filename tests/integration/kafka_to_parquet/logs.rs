//! Logs that hold more offsets than messages, and topics that go.

use std::time::Instant;

use millstream_testkit::kafka::TestKafka;

use super::*;

/// Waits until the table stands at the last offset of partition 0, whatever it holds.
fn wait_at_the_end(clicks: &Clicks, daemon: &mut Daemon, end: i64) {
    let goal = (
        clicks.topic.to_owned(),
        clicks.partition(0),
        Position::at(text(end - 1)),
    );
    caught_up::at(daemon, &[goal]);
}

/// Waits for the log's last transaction marker, which is written after its transaction has ended.
fn wait_for_end(kafka: &TestKafka, topic: &str, end: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match kafka.end_of(topic, 0).unwrap() {
            reached if reached == end => return,
            reached => assert!(reached < end && Instant::now() < deadline, "{reached} of {end}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn aborted_messages_never_appear_and_markers_are_passed() {
    let clicks = Clicks::new("transactions", 1);
    let Some(kafka) = clicks.broker.real("transactions") else {
        return;
    };
    let mut producer = TestProducer::transactional(&clicks.broker.brokers(), "test").unwrap();
    let mut committed = Vec::new();
    let mut transact = |numbers: std::ops::Range<i64>, commit: bool, committed: &mut Vec<Delivered>| {
        producer.begin().unwrap();
        for number in numbers {
            producer.send(message(clicks.topic, 0, number)).unwrap();
        }
        let sent = producer.end(commit).unwrap();
        if commit {
            committed.extend(sent);
        }
    };
    transact(0..20, true, &mut committed);
    transact(20..40, false, &mut committed);
    transact(40..50, true, &mut committed);
    transact(50..60, false, &mut committed);
    // 60 messages and 4 markers, the last 11 of which nobody may see.
    let end = 64;
    wait_for_end(kafka, clicks.topic, end);
    let mut daemon = clicks.daemon();
    wait_at_the_end(&clicks, &mut daemon, end);
    daemon.kill();
    clicks.assert_equal(&committed);
    // From behind the last marker, and over one that comes while nothing else does.
    let mut daemon = clicks.daemon();
    transact(60..70, true, &mut committed);
    let end = 75;
    wait_for_end(kafka, clicks.topic, end);
    wait_at_the_end(&clicks, &mut daemon, end);
    daemon.drain();
    clicks.assert_equal(&committed);
}

/// The broker writes them itself where a topic has a codec of its own: in Java's framings.
#[test]
fn messages_are_read_whatever_the_codec_of_their_topic() {
    let broker = Broker::shared();
    let Some(kafka) = broker.real("codecs") else {
        return;
    };
    let topics = [
        ("gzip", "codec-gzip"),
        ("snappy", "codec-snappy"),
        ("lz4", "codec-lz4"),
        ("zstd", "codec-zstd"),
        ("uncompressed", "codec-none"),
    ];
    for (codec, topic) in topics {
        kafka
            .create_topic_with(topic, 2, &[("compression.type", codec)])
            .unwrap();
        let clicks = Clicks::of_topic(broker.clone(), topic);
        // More than a block of snappy's in a batch.
        let sent = clicks.send(&[0, 1], 0, 3_000);
        let mut daemon = clicks.daemon();
        clicks.wait_caught_up(&mut daemon, &sent);
        daemon.drain();
        clicks.assert_equal(&sent);
    }
}

#[test]
fn what_compaction_removed_is_passed_over() {
    let broker = Broker::shared();
    let Some(kafka) = broker.real("compaction") else {
        return;
    };
    let compacted = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "100"),
        ("max.compaction.lag.ms", "100"),
    ];
    kafka.create_topic_with("compacted", 1, &compacted).unwrap();
    let clicks = Clicks::of_topic(broker.clone(), "compacted");
    let send = |from: i64, to: i64| {
        let mut producer = clicks.producer();
        for number in from..to {
            let keyed = message(clicks.topic, 0, number).key(format!("k{}", number % 10));
            // With timestamps of now, by which segments are rolled.
            producer
                .send(Outgoing {
                    timestamp: None,
                    ..keyed
                })
                .unwrap();
        }
        producer.flush().unwrap()
    };
    let mut sent = send(0, 100);
    let deadline = Instant::now() + Duration::from_secs(90);
    let log = loop {
        // The log's last segment, which only a message can close, is never compacted.
        std::thread::sleep(Duration::from_millis(300));
        let next = sent.len() as i64;
        sent.extend(send(next, next + 1));
        let log = kafka.read_log(clicks.topic, &[0]).unwrap();
        if log.len() < sent.len() / 2 {
            break log;
        }
        assert!(Instant::now() < deadline, "nothing was compacted");
    };
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &log);
    daemon.drain();
    // More may have been removed between the look at the log and the daemon's.
    let read = clicks.positions_read();
    let left = kafka.read_log(clicks.topic, &[0]).unwrap();
    assert!(left.iter().all(|message| read.contains(&text(message.offset))));
    assert!(
        read.iter()
            .all(|position| log.iter().any(|message| text(message.offset) == *position))
    );
}

#[test]
fn a_topic_that_is_deleted_halts_the_pipeline() {
    let clicks = Clicks::new("deleted", 2);
    let Some(kafka) = clicks.broker.real("a topic deleted while it is read") else {
        return;
    };
    let sent = clicks.send(&[0, 1], 0, 40);
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    kafka.delete_topic(clicks.topic).unwrap();
    let error = daemon.wait_halted().last_error.unwrap();
    assert_eq!((&*error.kind, error.code.as_deref()), ("position_lost", Some("KF0010")));
    drop(daemon);
    clicks.assert_equal(&sent);
}
