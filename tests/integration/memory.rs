//! Peak memory on large input: `make bench`. The limit holds for the build that runs, whatever
//! the size of the transaction or the table.

use std::time::{Duration, Instant};

use millstream_core::{PartitionId, Position};
use millstream_testkit::kafka::{Outgoing, TestKafka, TestProducer};
use millstream_testkit::postgres::TestCluster;

use crate::daemon::Daemon;
use crate::lake;
use crate::project::ProjectFolder;

/// What the daemon may take at most, in bytes.
const LIMIT: u64 = 400 << 20;
const PATIENCE: Duration = Duration::from_secs(600);

const PIPELINE: &str = r#"
pipeline: big
sources:
  db:
    postgres: {url: {env: DB_URL}, publication: millstream, tables: [events]}
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    commit: {every: 1s, idle_every: 1s}
"#;

const TABLE: &str = "CREATE TABLE events (id bigint PRIMARY KEY, account int, amount numeric(12,2), note text, \
                     at timestamptz); CREATE PUBLICATION millstream FOR TABLE events";

fn insert(from: u64, to: u64) -> String {
    format!(
        "INSERT INTO events SELECT g, g % 1000, (g % 100000) / 100.0, 'note ' || md5(g::text), \
         '2026-01-01'::timestamptz + g * interval '1 second' FROM generate_series({from}, {to}) g"
    )
}

/// Runs the daemon until `rows` rows are committed, and holds the target against the source.
fn run(what: &str, before: u64, after: u64) {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(TABLE).unwrap();
    if before > 0 {
        cluster.psql(&insert(1, before)).unwrap();
    }
    let project = ProjectFolder::new(&[("big.yaml", PIPELINE)]);
    let started = Instant::now();
    let mut daemon = Daemon::start(project.path(), &[("DB_URL", cluster.url()), ("LAKE", project.lake())]);
    let committed = |rows: u64| {
        move |status: &[millstream::engine::status::PipelineStatus]| {
            status[0].tables.get("events").is_some_and(|table| table.rows >= rows)
        }
    };
    if before > 0 {
        daemon.wait_until("the table is copied", PATIENCE, committed(before));
    } else {
        // The empty table's copy has given it a place in the log: what comes now is streamed.
        let wal = PartitionId::new("db", "wal");
        daemon.wait_until("streaming", PATIENCE, |status| {
            let table = status[0].tables.get("events");
            table.is_some_and(|table| *table.positions.position(&wal) > Position::Beginning)
        });
    }
    let start_of_stream = Instant::now();
    if after > before {
        cluster.psql(&insert(before + 1, after)).unwrap();
        daemon.wait_until("the transaction is committed", PATIENCE, committed(after));
    }
    let (peak, took) = (daemon.peak_memory(), started.elapsed());
    daemon.drain();
    let sums = lake::count_and_sum(&project.path().join("lake"), "events", "id");
    assert_eq!(
        sums,
        (after, u128::from(after) * (u128::from(after) + 1) / 2),
        "rows and the sum of their keys"
    );
    let copied = lake::count_of_op(&project.path().join("lake"), "events", "r");
    assert_eq!(copied, before, "rows of the first copy");
    println!(
        "{what}: {after} rows, peak RSS {:.0} MiB (limit {}), {:.1} s from start to commit, {:.1} s of it streaming",
        peak as f64 / (1 << 20) as f64,
        LIMIT >> 20,
        took.as_secs_f64(),
        start_of_stream.elapsed().as_secs_f64(),
    );
    assert!(
        peak < LIMIT,
        "{what}: the peak of {peak} bytes is above the limit of {LIMIT}"
    );
}

#[test]
#[ignore = "takes minutes; `make bench` runs it"]
fn a_transaction_of_two_million_rows_takes_no_more_memory() {
    run("one transaction", 0, 2_000_000);
}

#[test]
#[ignore = "takes minutes; `make bench` runs it"]
fn a_table_of_five_million_rows_takes_no_more_memory() {
    run("first copy", 5_000_000, 5_000_000);
}

/// Small messages, whose rows are larger than what is sent of them.
#[test]
#[ignore = "takes minutes; `make bench` runs it"]
fn a_backlog_of_a_million_small_messages_takes_no_more_memory() {
    const MESSAGES: i64 = 1_000_000;
    const KAFKA: &str = r#"
pipeline: big
sources:
  events:
    kafka:
      brokers: "${KAFKA}"
      topics: [small]
      decode: {json: {columns: {id: int64}}}
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    commit: {every: 1s}
"#;
    let node = TestKafka::start().unwrap();
    node.create_topic("small", 4).unwrap();
    let mut producer = TestProducer::new(&node.brokers()).unwrap();
    for id in 1..=MESSAGES {
        let message = Outgoing::to("small", (id % 4) as i32).payload(format!("{{\"id\":{id}}}"));
        producer.send(message).unwrap();
    }
    producer.flush().unwrap();
    let project = ProjectFolder::new(&[("big.yaml", KAFKA)]);
    let started = Instant::now();
    let mut daemon = Daemon::start(project.path(), &[("KAFKA", node.brokers()), ("LAKE", project.lake())]);
    daemon.wait_until("the backlog is committed", PATIENCE, |status| {
        status[0]
            .tables
            .get("small")
            .is_some_and(|table| table.rows >= MESSAGES as u64)
    });
    let (peak, took) = (daemon.peak_memory(), started.elapsed());
    daemon.drain();
    let sums = lake::count_and_sum(&project.path().join("lake"), "small", "id");
    let (rows, last) = (MESSAGES as u64, MESSAGES as u128);
    assert_eq!(sums, (rows, last * (last + 1) / 2), "rows and the sum of their keys");
    println!(
        "small messages: {MESSAGES} rows, peak RSS {:.0} MiB (limit {}), {:.1} s",
        peak as f64 / (1 << 20) as f64,
        LIMIT >> 20,
        took.as_secs_f64(),
    );
    assert!(peak < LIMIT, "the peak of {peak} bytes is above the limit of {LIMIT}");
}
