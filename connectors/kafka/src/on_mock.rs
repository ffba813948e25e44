//! The source as a whole, on librdkafka's mock cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use async_trait::async_trait;
use millstream_core::{
    ByteBudget, Checkpoint, Error, ErrorKind, EventReceiver, PartitionId, Position, ResumePoints, Source,
    SourceContext, SourceEvent, TableId, event_channel,
};
use millstream_testkit::source_suite::{self, SourceSubject};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::mock::KafkaMock;
use crate::{KafkaConfig, KafkaSource, codes, offsets};

mod faults;
mod real;
mod starts;

const PATIENCE: Duration = Duration::from_secs(30);

fn source(brokers: &str, config: &str) -> KafkaSource {
    let yaml = format!("brokers: '{brokers}'\n{config}");
    let config: KafkaConfig = serde_saphyr::from_str(&yaml).expect("the test's configuration is sound");
    KafkaSource::new("p", "clicks", config).expect("the test's configuration is valid")
}

fn partition(topic: &str, number: i32) -> PartitionId {
    PartitionId::new("clicks", format!("{topic}/{number}"))
}

fn resume_from(topic: &str, positions: &[(i32, i64)]) -> ResumePoints {
    let checkpoint: Checkpoint = positions
        .iter()
        .map(|&(p, o)| (partition(topic, p), offsets::position(o)))
        .collect();
    [(TableId::new("clicks", None, topic), checkpoint)]
        .into_iter()
        .collect()
}

struct Run {
    events: EventReceiver,
    cancel: CancellationToken,
    task: JoinSet<millstream_core::Result<()>>,
    _durable: watch::Sender<Checkpoint>,
}

impl Run {
    fn start(source: KafkaSource, resume: ResumePoints, budget: u64, events: usize) -> Self {
        let (sender, receiver) = event_channel(ByteBudget::new(budget), events);
        let (durable, seen) = watch::channel(Checkpoint::default());
        let cancel = CancellationToken::new();
        let context = SourceContext::new(resume, sender, seen, cancel.clone());
        let mut task = JoinSet::new();
        task.spawn(Box::new(source).run(context));
        Self {
            events: receiver,
            cancel,
            task,
            _durable: durable,
        }
    }

    async fn error(mut self) -> Error {
        let outcome = timeout(PATIENCE, self.task.join_next())
            .await
            .expect("the source ends in time");
        outcome
            .unwrap()
            .expect("the source does not panic")
            .expect_err("the source fails")
    }

    /// Reads until this many rows, rejected ones included, have come.
    async fn read(&mut self, wanted: usize) -> Reading {
        let mut reading = Reading::default();
        while reading.rows + reading.rejected.len() < wanted || reading.open {
            let event = timeout(PATIENCE, self.events.recv()).await.expect("the source goes on");
            reading.take(event.expect("the source does not end"));
        }
        reading
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        let outcome = timeout(Duration::from_secs(5), self.task.join_next())
            .await
            .expect("a cancelled source returns");
        outcome
            .unwrap()
            .expect("the source does not panic")
            .expect("a cancelled source returns Ok");
    }
}

#[derive(Default)]
struct Reading {
    rows: usize,
    open: bool,
    batches: Vec<millstream_core::ChangeBatch>,
    /// Reason and raw bytes.
    rejected: Vec<(String, Vec<u8>)>,
    held: BTreeMap<PartitionId, Position>,
    /// Positions by partition, in the order of their coming.
    positions: BTreeMap<String, Vec<String>>,
}

impl Reading {
    fn take(&mut self, event: SourceEvent) {
        self.open = true;
        match event {
            SourceEvent::Changes(batch) => {
                self.rows += batch.num_rows();
                self.note(&batch);
                // Without its permits, which would hold up the source.
                let copy = millstream_core::ChangeBatch::try_new(batch.schema().clone(), batch.rows().clone());
                self.batches.push(copy.unwrap());
            }
            SourceEvent::Rejected { rows, .. } => {
                self.note(&rows);
                let text = |name: &str| rows.rows().column_by_name(name).unwrap().as_string::<i32>();
                let raw = rows.rows().column_by_name("raw").unwrap().as_binary::<i32>();
                self.rejected.extend(
                    (0..rows.num_rows()).map(|row| (text("reason").value(row).to_owned(), raw.value(row).to_vec())),
                );
            }
            SourceEvent::Boundary(boundary) => {
                self.open = false;
                self.held.insert(boundary.partition, boundary.position);
            }
            SourceEvent::TablesChanged => panic!("topics are configured one by one"),
        }
    }

    fn note(&mut self, batch: &millstream_core::ChangeBatch) {
        let partitions = batch.partitions().downcast_dict::<arrow_array::StringArray>().unwrap();
        for (partition, position) in partitions.into_iter().zip(batch.positions()) {
            self.positions
                .entry(partition.unwrap().into())
                .or_default()
                .push(position.unwrap().into());
        }
    }
}

struct Clicks {
    kafka: KafkaMock,
}

const MESSAGES: usize = 3_000;

impl Clicks {
    /// Three partitions; each tenth message is poison.
    fn new() -> Self {
        let kafka = KafkaMock::start(2).unwrap();
        kafka.create_topic("clicks", 3).unwrap();
        for n in 0..MESSAGES {
            let payload = if n % 10 == 7 {
                format!("{{\"id\": {n}")
            } else {
                format!("{{\"id\": {n}, \"name\": \"n{n}\"}}")
            };
            kafka
                .send("clicks", Some((n % 3) as i32), None, Some(payload.as_bytes()))
                .unwrap();
        }
        kafka.flush().unwrap();
        Self { kafka }
    }
}

#[async_trait]
impl SourceSubject for Clicks {
    async fn source(&self) -> Box<dyn Source> {
        let config = "topics: [clicks]\ndecode: {json: {columns: {id: int64, name: utf8}}}\nbatch: {rows: 256}";
        Box::new(source(&self.kafka.brokers(), config))
    }

    fn is_complete(&self, read: &Checkpoint) -> bool {
        let last = offsets::position(MESSAGES as i64 / 3 - 1);
        (0..3).all(|number| *read.position(&partition("clicks", number)) == last)
    }

    fn rows(&self) -> usize {
        MESSAGES
    }

    fn resumes(&self) -> usize {
        4
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_suite_passes() {
    source_suite::run(&Clicks::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_quarantined_and_new_fields_are_kept() {
    let kafka = KafkaMock::start(1).unwrap();
    kafka.create_topic("clicks", 1).unwrap();
    let messages: [&[u8]; 6] = [
        br#"{"id":1}"#,
        b"\xff",
        br#"{"id":"x"}"#,
        br#"{"id":2,"new":[1]}"#,
        br#"{"id":3}{"id":4}"#,
        br#"{"id":5}"#,
    ];
    for message in messages {
        kafka
            .send_with_headers("clicks", Some(0), Some(b"k"), Some(message), &[("h", b"v")])
            .unwrap();
    }
    kafka.send("clicks", Some(0), Some(b"9"), None).unwrap();
    kafka.flush().unwrap();
    let config = "topics: [clicks]\nkey: [id]\ndecode: {json: {columns: {id: int64}}}";
    let mut run = Run::start(
        source(&kafka.brokers(), config),
        resume_from("clicks", &[]),
        1 << 20,
        16,
    );
    let reading = run.read(7).await;
    run.stop().await;
    assert_eq!(
        reading.rejected,
        [
            ("invalid UTF-8 after 0 bytes".to_owned(), b"\xff".to_vec()),
            (
                "column `id`: expected int64, found a string".to_owned(),
                br#"{"id":"x"}"#.to_vec()
            ),
            (
                "more than one JSON document in the message".to_owned(),
                br#"{"id":3}{"id":4}"#.to_vec()
            ),
        ]
    );
    let rows: Vec<_> = reading
        .batches
        .iter()
        .flat_map(|batch| {
            let id = batch
                .rows()
                .column_by_name("id")
                .unwrap()
                .as_primitive::<arrow_array::types::Int64Type>();
            let extra = batch.rows().column_by_name("_extra").unwrap().as_string::<i32>();
            let row = |row: usize| {
                let extra = extra.is_valid(row).then(|| extra.value(row).to_owned());
                (batch.ops().value(row).to_owned(), id.value(row), extra)
            };
            (0..batch.num_rows()).map(row).collect::<Vec<_>>()
        })
        .collect();
    let row = |op: &str, id, extra: Option<&str>| (op.to_owned(), id, extra.map(str::to_owned));
    assert_eq!(
        rows,
        [
            row("u", 1, None),
            row("u", 2, Some(r#"{"new":[1]}"#)),
            row("u", 5, None),
            row("d", 9, None)
        ]
    );
    assert_eq!(reading.held[&partition("clicks", 0)], offsets::position(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_beyond_the_end_halts() {
    let clicks = Clicks::new();
    let config = "topics: [clicks]\ndecode: bytes";
    let resume = resume_from("clicks", &[(0, 5), (1, 1_500), (2, 7)]);
    let error = Run::start(source(&clicks.kafka.brokers(), config), resume, 1 << 20, 16)
        .error()
        .await;
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::PositionLost, Some(codes::POSITION_LOST))
    );
    assert_eq!(
        error.summary(),
        "KF0004: the committed offset lies beyond the end of the topic (topic=clicks, partition=1, \
         committed_offset=1500, earliest_offset=0, end_offset=1000, offsets_beyond_end=501)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_retention_removed_halts_and_says_how_much() {
    let kafka = KafkaMock::start(1).unwrap();
    kafka.create_topic("clicks", 1).unwrap();
    // The mock keeps 5 MiB of a partition.
    for _ in 0..200 {
        kafka.send("clicks", Some(0), None, Some(&[b'x'; 50_000])).unwrap();
        kafka.flush().unwrap();
    }
    let config = "topics: [clicks]\ndecode: bytes";
    let resume = resume_from("clicks", &[(0, 3)]);
    let error = Run::start(source(&kafka.brokers(), config), resume, 1 << 20, 16)
        .error()
        .await;
    assert_eq!(error.kind(), ErrorKind::PositionLost);
    let summary = error.summary();
    let number = |name: &str| {
        let text = &summary[summary.find(name).unwrap_or_else(|| panic!("{summary}")) + name.len() + 1..];
        text[..text.find([',', ')']).unwrap()].parse::<i64>().unwrap()
    };
    assert_eq!(number("committed_offset"), 3);
    assert!(number("earliest_offset") > 4, "the mock removed nothing");
    assert_eq!(number("offsets_lost"), number("earliest_offset") - 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_announced_so_that_a_restart_loses_nothing() {
    let kafka = KafkaMock::start(1).unwrap();
    kafka.create_topic("clicks", 2).unwrap();
    kafka.send("clicks", Some(0), None, Some(b"old")).unwrap();
    kafka.flush().unwrap();
    let config = "topics: [clicks]\ndecode: bytes\nstart: latest";
    let mut run = Run::start(
        source(&kafka.brokers(), config),
        resume_from("clicks", &[]),
        1 << 20,
        16,
    );
    let mut first = Reading::default();
    while first.held.len() < 2 {
        first.take(timeout(PATIENCE, run.events.recv()).await.unwrap().unwrap());
    }
    run.stop().await;
    assert_eq!(first.held[&partition("clicks", 0)], offsets::position(0));
    assert_eq!(first.held[&partition("clicks", 1)], offsets::position(-1));
    for number in [0, 1] {
        kafka.send("clicks", Some(number), None, Some(b"new")).unwrap();
    }
    kafka.flush().unwrap();
    let mut run = Run::start(
        source(&kafka.brokers(), config),
        resume_from("clicks", &[(0, 0), (1, -1)]),
        1 << 20,
        16,
    );
    let reading = run.read(2).await;
    run.stop().await;
    let read: Vec<_> = reading
        .positions
        .into_iter()
        .map(|(p, at)| (p, at[0].parse::<i64>().unwrap(), at.len()))
        .collect();
    assert_eq!(
        read,
        [
            ("clicks/clicks/0".to_owned(), 1, 1),
            ("clicks/clicks/1".to_owned(), 0, 1)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_inferred_from_a_sample() {
    let clicks = Clicks::new();
    let mut kafka = source(&clicks.kafka.brokers(), "topics: [clicks]\ndecode: json");
    let tables = kafka.tables().await.unwrap();
    let columns: Vec<_> = tables[0]
        .columns
        .fields()
        .iter()
        .take(3)
        .map(|f| format!("{} {}", f.name(), f.data_type()))
        .collect();
    assert_eq!(columns, ["id Int64", "name Utf8", "_extra Utf8"]);
    let found = kafka.preflight().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].code, &*found[0].subject), (Some(codes::INFERRED), "clicks"));
    let hint = found[0].hint.as_deref().unwrap();
    let (_, block) = hint.split_once("alone: ").unwrap();
    assert_eq!(block, r#"decode: {json: {columns: {"id": int64, "name": utf8}}}"#);
    // As it stands it is a configuration, of the same table, and leaves nothing to be said.
    let mut declared = source(&clicks.kafka.brokers(), &format!("topics: [clicks]\n{block}"));
    assert_eq!(declared.tables().await.unwrap(), tables);
    assert_eq!(declared.preflight().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_names_what_is_missing() {
    let kafka = KafkaMock::start(1).unwrap();
    kafka.create_topic("empty", 1).unwrap();
    let found = source(&kafka.brokers(), "topics: [empty, absent]\ndecode: bytes")
        .preflight()
        .await
        .unwrap();
    assert_eq!(
        found.iter().map(|f| (f.code, f.subject.as_str())).collect::<Vec<_>>(),
        [(Some(codes::NO_TOPIC), "absent")]
    );
    let found = source(&kafka.brokers(), "topics: [empty]\ndecode: json")
        .preflight()
        .await
        .unwrap();
    assert_eq!(found[0].code, Some(codes::NO_SAMPLE));
    let config = "topics: [empty]\ndecode: bytes\ntimeout: 1s";
    let found = source("127.0.0.1:1", config).preflight().await.unwrap();
    assert_eq!(
        (found[0].code, found[0].subject.as_str()),
        (Some(codes::UNREACHABLE), "127.0.0.1:1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_may_be_away_for_a_while_but_not_for_ever() {
    let kafka = KafkaMock::start(1).unwrap();
    kafka.create_topic("clicks", 1).unwrap();
    kafka.send("clicks", Some(0), None, Some(b"a")).unwrap();
    kafka.flush().unwrap();
    let config = "topics: [clicks]\ndecode: bytes\nunavailable_after: 8s";
    let mut run = Run::start(
        source(&kafka.brokers(), config),
        resume_from("clicks", &[]),
        1 << 20,
        16,
    );
    run.read(1).await;
    kafka.stop_broker(1).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    kafka.start_broker(1).unwrap();
    kafka.send("clicks", Some(0), None, Some(b"b")).unwrap();
    kafka.flush().unwrap();
    assert_eq!(run.read(1).await.rows, 1);
    kafka.stop_broker(1).unwrap();
    let error = run.error().await;
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::Unavailable, Some(codes::UNREACHABLE))
    );
}
