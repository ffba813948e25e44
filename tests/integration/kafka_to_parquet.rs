//! Kafka to Parquet, end to end: every message is in the lake as it was sent, or in quarantine
//! with its bytes, exactly once, whatever dies meanwhile.

mod crashes;
mod inferred;
mod logs;
mod secured;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use millstream::engine::status::State;
use millstream_core::{PartitionId, Position};
use millstream_testkit::change_log::Cells;
use millstream_testkit::kafka::{Delivered, Outgoing, TestProducer};
use serde_json::Value;

use crate::broker::Broker;
use crate::caught_up;
use crate::daemon::Daemon;
use crate::lake::Table;
use crate::project::ProjectFolder;

const PIPELINE: &str = r#"
pipeline: clicks
sources:
  events:
    kafka:
      brokers: "${KAFKA}"
      topics: ["${TOPIC}"]
      decode: {json: {columns: {id: int64, page: utf8, price: "decimal(18,2)", at: timestamp, tags: "list<utf8>"}}}
      discover_every: 300ms
      batch: {linger: 20ms}
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    commit: {every: 100ms, idle_every: 300ms}
"#;

/// The columns of [`PIPELINE`]; other fields of a message go to `_extra`.
const COLUMNS: &[&str] = &["id", "page", "price", "at", "tags"];

/// Messages have timestamps of their own from here on, in milliseconds since the Unix epoch.
const EPOCH: i64 = 1_767_323_045_000;

/// A topic, and a project folder that reads it.
struct Clicks {
    broker: Arc<Broker>,
    topic: &'static str,
    project: ProjectFolder,
}

impl Clicks {
    fn new(topic: &'static str, partitions: i32) -> Self {
        Self::on(Broker::shared(), topic, partitions)
    }

    fn on(broker: Arc<Broker>, topic: &'static str, partitions: i32) -> Self {
        broker.create_topic(topic, partitions);
        Self::of_topic(broker, topic)
    }

    /// A topic that is there already.
    fn of_topic(broker: Arc<Broker>, topic: &'static str) -> Self {
        Self {
            broker,
            topic,
            project: ProjectFolder::new(&[("clicks.yaml", PIPELINE)]),
        }
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("KAFKA", self.broker.brokers()),
            ("TOPIC", self.topic.to_owned()),
            ("LAKE", self.project.lake()),
        ]
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(self.project.path(), &self.env())
    }

    fn producer(&self) -> TestProducer {
        TestProducer::new(&self.broker.brokers()).unwrap()
    }

    /// Sends messages number `from` up to `to`, spread over `partitions`.
    fn send(&self, partitions: &[i32], from: i64, to: i64) -> Vec<Delivered> {
        let mut producer = self.producer();
        for number in from..to {
            let partition = partitions[number as usize % partitions.len()];
            producer.send(message(self.topic, partition, number)).unwrap();
        }
        producer.flush().unwrap()
    }

    fn partition(&self, number: i32) -> PartitionId {
        PartitionId::new("events", format_args!("{}/{number}", self.topic))
    }

    fn wait_caught_up(&self, daemon: &mut Daemon, sent: &[Delivered]) {
        let mut last = BTreeMap::new();
        for Delivered { message, offset } in sent {
            let end = last.entry(message.partition).or_insert(*offset);
            *end = (*end).max(*offset);
        }
        let goals: Vec<_> = last
            .into_iter()
            .map(|(number, offset)| {
                (
                    self.topic.to_owned(),
                    self.partition(number),
                    Position::at(text(offset)),
                )
            })
            .collect();
        caught_up::at(daemon, &goals);
    }

    /// The lake holds what was sent: no more, no less, nothing twice, and everything as it was.
    fn assert_equal(&self, sent: &[Delivered]) {
        let (mut rows, mut rejected) = (BTreeMap::new(), BTreeMap::new());
        for Delivered { message, offset } in sent {
            let place = (self.partition(message.partition).to_string(), text(*offset));
            match expected_cells(message, *offset) {
                Some(cells) => drop(rows.insert(place, cells)),
                None => drop(rejected.insert(place, hex::encode(message.payload.as_ref().unwrap()))),
            }
        }
        let lake = self.project.path().join("lake");

        let table = Table::read(&lake, self.topic);
        table.assert_each_change_once();
        let found: BTreeMap<_, _> = table
            .changes()
            .into_iter()
            .map(|row| ((row.partition, row.position), row.cells))
            .collect();
        assert_eq!(found.len(), rows.len(), "rows");
        for (place, cells) in &rows {
            assert_eq!(found.get(place), Some(cells), "{place:?}");
        }

        let table = Table::read_quarantine(&lake, self.topic);
        table.assert_each_change_once();
        let found: BTreeMap<_, _> = table
            .changes()
            .into_iter()
            .map(|mut row| {
                assert_eq!((&*row.cells["check"], &*row.cells["table"]), ("decode", self.topic));
                assert_eq!(row.cells["raw_format"], "bytes");
                ((row.partition, row.position), row.cells.remove("raw").unwrap())
            })
            .collect();
        assert_eq!(found, rejected);
    }
}

impl Clicks {
    /// The positions of all rows and rejected rows in the lake.
    fn positions_read(&self) -> Vec<String> {
        let lake = self.project.path().join("lake");
        let tables = [
            Table::read(&lake, self.topic),
            Table::read_quarantine(&lake, self.topic),
        ];
        let rows = tables.iter().flat_map(Table::changes);
        rows.map(|row| row.position).collect()
    }
}

/// The text of a position, as the source promises it.
fn text(offset: i64) -> String {
    format!("{offset:020}")
}

/// Message number `number`: of each ten, some have nulls, fields without a column, odd
/// characters, and one is poison.
fn message(topic: &str, partition: i32, number: i64) -> Outgoing {
    let payload = match number % 10 {
        6 => format!(r#"{{"id":{number},"more":{{"x":[1, 2.50]}}}}"#).into_bytes(),
        7 => format!(r#"{{"id":{number},"page":null}}"#).into_bytes(),
        8 => poison(number),
        9 => format!(r#"{{"id":{number},"page":"é€𝄞\u0041\t","tags":[]}}"#).into_bytes(),
        _ => format!(
            r#"{{"id":{number},"page":"p{}","price":{number}.25,"at":"2026-01-02T03:04:05.{:06}Z","tags":["a","b{number}"]}}"#,
            number % 7,
            number + 100_000
        )
        .into_bytes(),
    };
    let mut message = Outgoing::to(topic, partition)
        .payload(payload)
        .timestamp(EPOCH + number);
    if number % 3 != 0 {
        message = message.key(format!("k{number}"));
    }
    if number % 4 == 0 {
        message = message.header("trace", Some(b"t\x00")).header("empty", None);
    }
    message
}

fn poison(number: i64) -> Vec<u8> {
    match number / 10 % 6 {
        0 => br#"{"id":"#.to_vec(),
        1 => b"not json".to_vec(),
        2 => br#"{"id":"seven"}"#.to_vec(),
        3 => vec![b'{', 0xff, 0x00, b'}'],
        4 => b"[1,2]".to_vec(),
        _ => br#"{"id":1}{"id":2}"#.to_vec(),
    }
}

/// What a message has to be in the lake, from the message alone; `None` where it is poison.
fn expected_cells(message: &Outgoing, offset: i64) -> Option<Cells> {
    let payload = message.payload.as_ref().unwrap();
    let Ok(Value::Object(fields)) = serde_json::from_slice(payload) else {
        return None;
    };
    fields["id"].as_i64()?;
    let mut cells = Cells::new();
    for (name, value) in &fields {
        let cell = match (name.as_str(), value) {
            (_, Value::Null) => continue,
            ("tags", Value::Array(tags)) => {
                let tags: Vec<_> = tags.iter().map(|tag| tag.as_str().unwrap()).collect();
                format!("[{}]", tags.join(", "))
            }
            ("at", Value::String(text)) => shown(DateTime::parse_from_rfc3339(text).unwrap().to_utc()),
            (known, Value::String(text)) if COLUMNS.contains(&known) => text.clone(),
            (known, value) if COLUMNS.contains(&known) => value.to_string(),
            _ => {
                let raw = std::str::from_utf8(payload).unwrap();
                let field = raw.find(&format!("\"{name}\"")).unwrap();
                cells.insert("_extra".into(), format!("{{{}", &raw[field..]));
                continue;
            }
        };
        cells.insert(name.clone(), cell);
    }
    if let Some(key) = &message.key {
        cells.insert("_key".into(), hex::encode(key));
    }
    if !message.headers.is_empty() {
        let headers = message.headers.iter().map(|(name, value)| {
            let value = value.as_ref().map(hex::encode).unwrap_or_default();
            format!("{{key: {name}, value: {value}}}")
        });
        cells.insert(
            "_headers".into(),
            format!("[{}]", headers.collect::<Vec<_>>().join(", ")),
        );
    }
    let timestamp = DateTime::from_timestamp_millis(message.timestamp.unwrap()).unwrap();
    cells.insert("_timestamp".into(), shown(timestamp));
    cells.insert("_kafka_partition".into(), message.partition.to_string());
    cells.insert("_kafka_offset".into(), offset.to_string());
    Some(cells)
}

/// A moment as a column of timestamps shows it.
fn shown(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Sends messages until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Delivered>>,
}

impl Writer {
    fn start(clicks: &Clicks, partitions: i32) -> Self {
        let (topic, mut producer) = (clicks.topic, clicks.producer());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let partition = (number % i64::from(partitions)) as i32;
                producer.send(message(topic, partition, number)).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
            producer.flush().unwrap()
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<Delivered> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_message_is_a_row_as_it_was_sent_or_in_quarantine_with_its_bytes() {
    let clicks = Clicks::new("exact", 3);
    let mut sent = clicks.send(&[0, 1, 2], 0, 500);
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    sent.extend(clicks.send(&[0, 1, 2], 500, 700));
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.drain();
    clicks.assert_equal(&sent);
}

#[test]
fn where_the_latest_message_stood_is_committed_though_none_comes() {
    let clicks = Clicks::new("latest", 2);
    let patient = PIPELINE
        .replace("decode:", "start: latest\n      decode:")
        .replace("idle_every: 300ms", "idle_every: 1h");
    clicks.project.write("clicks.yaml", &patient);
    clicks.send(&[0, 1], 0, 20);
    let mut daemon = clicks.daemon();
    let goal = |number| {
        let stands = Position::at(text(9));
        (clicks.topic.to_owned(), clicks.partition(number), stands)
    };
    caught_up::at(&mut daemon, &[goal(0), goal(1)]);
    daemon.kill();
    // What comes while nobody reads is read, and nothing before it.
    let sent = clicks.send(&[0, 1], 20, 40);
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.drain();
    clicks.assert_equal(&sent);
}

#[test]
fn a_partition_that_is_added_is_read_from_its_first_message() {
    let clicks = Clicks::new("growing", 1);
    let Some(kafka) = clicks.broker.real("partitions added while the daemon runs") else {
        return;
    };
    let mut sent = clicks.send(&[0], 0, 50);
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    kafka.grow_topic(clicks.topic, 3).unwrap();
    sent.extend(clicks.send(&[0, 1, 2], 50, 150));
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.kill();
    // The new partitions' positions are in the target like any other.
    sent.extend(clicks.send(&[2, 1, 0], 150, 200));
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.drain();
    clicks.assert_equal(&sent);
}

#[test]
fn messages_that_expired_before_they_were_read_halt_the_pipeline() {
    let clicks = Clicks::new("expired", 2);
    let Some(kafka) = clicks.broker.real("messages removed before they were read") else {
        return;
    };
    let sent = clicks.send(&[0, 1], 0, 40);
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.drain();
    // 20 messages in each partition are committed; 30 more come, of which 12 go unread.
    clicks.send(&[1], 40, 70);
    kafka.delete_records(clicks.topic, 1, 32).unwrap();
    let mut daemon = clicks.daemon();
    let error = daemon.wait_halted().last_error.unwrap();
    assert_eq!((&*error.kind, error.code.as_deref()), ("position_lost", Some("KF0004")));
    for told in [
        "topic=expired",
        "partition=1",
        "committed_offset=19",
        "earliest_offset=32",
        "end_offset=50",
        "offsets_lost=12",
    ] {
        assert!(error.message.contains(told), "{told} in {}", error.message);
    }
    assert!(error.hint.is_some());
    drop(daemon);
    // Nothing was read past the hole.
    clicks.assert_equal(&sent);
}

#[test]
fn messages_that_expire_while_the_daemon_sleeps_halt_it_too() {
    let clicks = Clicks::new("overtaken", 1);
    let Some(kafka) = clicks.broker.real("messages removed under a running reader") else {
        return;
    };
    let sent = clicks.send(&[0], 0, 10);
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.signal("STOP");
    // A fetch that waits at the broker is answered with the first of these alone.
    let first = clicks.send(&[0], 10, 11);
    std::thread::sleep(Duration::from_millis(200));
    clicks.send(&[0], 11, 60);
    kafka.delete_records(clicks.topic, 0, 40).unwrap();
    daemon.signal("CONT");
    let status = daemon.wait_halted();
    assert_eq!(status.state, State::Halted);
    let error = status.last_error.unwrap();
    assert_eq!((&*error.kind, error.code.as_deref()), ("position_lost", Some("KF0004")));
    assert!(error.message.contains("earliest_offset=40"), "{}", error.message);
    assert!(error.message.contains("offsets_lost="), "{}", error.message);
    drop(daemon);
    // The message before the hole may or may not have been committed before the halt.
    let mut positions = clicks.positions_read();
    positions.sort_unstable();
    let mut expected: Vec<_> = sent.iter().chain(&first).map(|sent| text(sent.offset)).collect();
    if positions.len() == sent.len() {
        expected.pop();
    }
    assert_eq!(positions, expected);
}
