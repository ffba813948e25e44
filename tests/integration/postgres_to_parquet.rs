//! PostgreSQL to Parquet, end to end: a first copy and the stream while a writer runs, kills
//! at every failpoint and at random moments, a restart of the server, two daemons, a model that
//! is added later.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use millstream::engine::status::{PipelineStatus, State};
use millstream_core::{PartitionId, Position};
use millstream_testkit::change_log::{Cells, FoldedTable};
use millstream_testkit::postgres::{Shutdown, TestCluster};
use proptest::prelude::RngExt as _;
use proptest::test_runner::TestRng;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::caught_up::{self, is_copied};
use crate::daemon::{Daemon, MILLSTREAM};
use crate::lake::Table;
use crate::project::ProjectFolder;

const PIPELINE: &str = r#"
pipeline: bank
sources:
  bank:
    postgres:
      url: {env: BANK_URL}
      publication: millstream
      tables: [public.accounts, public.notes]
models:
  rich:
    sql: SELECT id, balance, balance * 2 AS doubled FROM bank.accounts WHERE balance >= 500
    key: [id]
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    tables: [accounts, notes, rich]
    commit: {every: 100ms, idle_every: 300ms}
"#;

const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric(12,2) NOT NULL);
    CREATE TABLE notes (id bigint PRIMARY KEY, version int, body text);
    ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;
    ALTER TABLE accounts REPLICA IDENTITY FULL;
    CREATE PUBLICATION millstream FOR TABLE accounts, notes;
    INSERT INTO accounts SELECT g, 'owner ' || g, (g * 37) % 1000 FROM generate_series(1, 2000) g;
    INSERT INTO notes SELECT g, 0, repeat(md5(g::text), 200) FROM generate_series(1, 50) g;";

/// A cluster with the bank's tables, and a project folder for it.
struct Bank {
    cluster: TestCluster,
    project: ProjectFolder,
}

impl Bank {
    fn new() -> Self {
        let cluster = TestCluster::new().expect("PostgreSQL starts");
        cluster.psql(SCHEMA).unwrap();
        Self {
            cluster,
            project: ProjectFolder::new(&[("bank.yaml", PIPELINE)]),
        }
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![("BANK_URL", self.cluster.url()), ("LAKE", self.project.lake())]
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(self.project.path(), &self.env())
    }

    fn daemon_that_dies_at(&self, failpoint: &str, passes: usize) -> Daemon {
        let mut env = self.env();
        env.push(("FAILPOINTS", format!("{failpoint}={passes}*off->return(kill)")));
        Daemon::start(self.project.path(), &env)
    }

    /// Waits until every table holds all that the source has committed up to now.
    fn wait_caught_up(&self, daemon: &mut Daemon) {
        let lsn = self.cluster.psql("SELECT pg_current_wal_insert_lsn()").unwrap();
        let (high, low) = lsn.trim().split_once('/').expect("an LSN");
        let target = Position::at(format!("{high:0>8}{low:0>8}"));
        self.cluster
            .psql("UPDATE accounts SET owner = 'marker' WHERE id = 1")
            .unwrap();
        let wal = PartitionId::new("bank", "wal");
        daemon.wait_until("caught up", Duration::from_secs(60), |status| {
            ["accounts", "notes", "rich"].iter().all(|table| {
                let held = status[0].tables.get(*table).map(|table| &table.positions);
                held.is_some_and(|held| *held.position(&wal) >= target && is_copied(held))
            })
        });
    }

    /// Source and target hold the same rows, and no change is there twice.
    fn assert_equal(&self) {
        let lake = self.project.path().join("lake");
        for (table, sql) in [
            ("accounts", "SELECT id, owner, balance FROM accounts"),
            ("notes", "SELECT id, version, body FROM notes"),
            (
                "rich",
                "SELECT id, balance, balance * 2 AS doubled FROM accounts WHERE balance >= 500",
            ),
        ] {
            let target = Table::read(&lake, table);
            let (source, target_rows) = (self.source_rows(sql), target.fold("id"));
            assert_eq!(source.len(), target_rows.len(), "rows of {table}");
            for (key, row) in &source {
                assert_eq!(target_rows.get(key), Some(row), "row {key:?} of {table}");
            }
            target.assert_each_change_once();
        }
    }

    fn source_rows(&self, sql: &str) -> FoldedTable {
        source_rows(&self.cluster, sql)
    }
}

/// The rows of a query, by their `id`.
pub fn source_rows(cluster: &TestCluster, sql: &str) -> FoldedTable {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let rows = client.simple_query(sql).await.unwrap();
        drop(client);
        driver.await.unwrap().unwrap();
        rows.into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let cells: Cells = row
                        .columns()
                        .iter()
                        .enumerate()
                        .filter_map(|(at, column)| Some((column.name().to_owned(), row.get(at)?.to_owned())))
                        .collect();
                    Some((Cells::from([("id".to_owned(), cells["id"].clone())]), cells))
                }
                _ => None,
            })
            .collect()
    })
}

/// Changes rows of the bank at random until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Writer {
    fn start(cluster: &TestCluster, seed: u8) -> Self {
        let (url, stop) = (cluster.url(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut random = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[seed; 32]);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (mut client, mut driver) = connect(&url).await;
                let mut transactions = 0;
                while !stopped.load(Ordering::Relaxed) {
                    match client.batch_execute(&transaction(&mut random)).await {
                        Ok(()) => transactions += 1,
                        // The server was restarted under the writer, or two keys collided.
                        Err(error) if error.is_closed() || client.is_closed() => {
                            driver.abort();
                            (client, driver) = connect(&url).await;
                        }
                        Err(_) => client.batch_execute("ROLLBACK").await.unwrap_or_default(),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                driver.abort();
                transactions
            })
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn connect(url: &str) -> (tokio_postgres::Client, tokio::task::JoinHandle<()>) {
    for _ in 0..200 {
        if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
            let driver = tokio::spawn(async move { drop(connection.await) });
            return (client, driver);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the writer cannot connect");
}

fn transaction(random: &mut TestRng) -> String {
    let mut id = || random.random_range(1..2500);
    let (a, b, c) = (id(), id(), id());
    match random.random_range(0..10) {
        0 => format!("INSERT INTO accounts VALUES ({a}, 'new', {b}) ON CONFLICT (id) DO UPDATE SET balance = {b}"),
        1 => format!("DELETE FROM accounts WHERE id = {a}"),
        2 => format!("UPDATE accounts SET id = id + 10000 WHERE id = {a}"),
        3 => format!("BEGIN; DELETE FROM accounts WHERE id < {a}; ROLLBACK"),
        4 => format!(
            "BEGIN; UPDATE accounts SET balance = {b} % 1000 WHERE id = {a}; SAVEPOINT s; DELETE FROM accounts; \
             ROLLBACK TO s; UPDATE accounts SET owner = 'x' WHERE id = {c}; COMMIT"
        ),
        5 => format!("UPDATE notes SET version = version + 1 WHERE id = {a} % 50 + 1"),
        6 => format!("UPDATE notes SET body = repeat('{b}', 3000) WHERE id = {a} % 50 + 1"),
        7 => format!("UPDATE accounts SET balance = {b} % 1000 WHERE id BETWEEN {a} AND {a} + 200"),
        8 => "TRUNCATE notes; INSERT INTO notes SELECT g, 0, repeat(md5(g::text), 200) FROM generate_series(1, 50) g"
            .to_owned(),
        _ => format!("UPDATE accounts SET balance = balance + 1 WHERE id IN ({a}, {b}, {c})"),
    }
}

#[test]
fn a_first_copy_and_the_stream_equal_the_source_while_a_writer_runs() {
    let bank = Bank::new();
    let writer = Writer::start(&bank.cluster, 1);
    let mut daemon = bank.daemon();
    daemon.wait_until("rows committed", Duration::from_secs(60), |status| {
        status[0].tables.get("accounts").is_some_and(|table| table.rows > 2500)
    });
    assert!(writer.stop() > 50);
    bank.wait_caught_up(&mut daemon);
    assert_eq!(daemon.get("/health/live").0, 200);
    assert_eq!(daemon.get("/health/ready").0, 200);
    let (code, metrics) = daemon.get("/metrics");
    assert_eq!(code, 200);
    assert!(
        metrics.contains("millstream_committed_rows_total{pipeline=\"bank\",sink=\"lake\",table=\"accounts\"}"),
        "{metrics}"
    );
    assert_eq!(daemon.get("/api/v1/pipelines/none").0, 404);
    daemon.drain();
    bank.assert_equal();
}

#[test]
fn a_kill_at_each_failpoint_and_at_random_moments_loses_and_repeats_nothing() {
    let bank = Bank::new();
    let writer = Writer::start(&bank.cluster, 2);
    // While the slot is made and the tables are copied.
    for pause in [0, 100, 200, 300, 400] {
        let daemon = bank.daemon();
        std::thread::sleep(Duration::from_millis(pause));
        daemon.kill();
    }
    for (index, failpoint) in millstream::engine::FAILPOINTS
        .iter()
        .chain(millstream_parquet::FAILPOINTS)
        .enumerate()
    {
        // A table is opened and swept once in a run, so those are passed less often than there are tables.
        let once_in_a_run = ["parquet::after-open", "parquet::before-sweep"].contains(failpoint);
        let passes = if once_in_a_run { index % 3 } else { index % 3 * 4 };
        let mut daemon = bank.daemon_that_dies_at(failpoint, passes);
        let status = daemon.wait_exit(Duration::from_secs(60));
        assert_eq!(
            status.signal(),
            Some(9),
            "the failpoint {failpoint} was never reached: {status}"
        );
    }
    let mut random = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[7; 32]);
    for _ in 0..20 {
        let daemon = bank.daemon();
        std::thread::sleep(Duration::from_millis(random.random_range(50..1500)));
        daemon.kill();
    }
    assert!(writer.stop() > 100);
    let mut daemon = bank.daemon();
    bank.wait_caught_up(&mut daemon);
    daemon.drain();
    bank.assert_equal();
}

#[test]
fn a_restart_of_the_server_is_survived() {
    let bank = Bank::new();
    let mut daemon = bank.daemon();
    bank.wait_caught_up(&mut daemon);
    let writer = Writer::start(&bank.cluster, 3);
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        std::thread::sleep(Duration::from_secs(1));
        bank.cluster.restart(how).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    writer.stop();
    bank.wait_caught_up(&mut daemon);
    assert!(daemon.status().unwrap()[0].restarts > 0);
    daemon.drain();
    bank.assert_equal();
}

#[test]
fn of_two_daemons_on_one_lake_the_older_is_fenced_and_the_newer_goes_on() {
    let bank = Bank::new();
    // Under a slot of its own: the server would keep a second reader of one slot away. It is
    // older than what the lake will hold, or changes could fall between the two.
    bank.cluster
        .psql("SELECT pg_create_logical_replication_slot('second', 'pgoutput')")
        .unwrap();
    let other = PIPELINE.replace("publication: millstream", "publication: millstream\n      slot: second");
    let project = ProjectFolder::new(&[("bank.yaml", &other)]);
    let mut older = bank.daemon();
    bank.wait_caught_up(&mut older);
    let mut newer = Daemon::start(project.path(), &bank.env());
    newer.wait_until("running", Duration::from_secs(60), |status| {
        status[0].state == State::Running
    });
    bank.cluster.psql("UPDATE accounts SET balance = 1").unwrap();
    assert_eq!(older.wait_halted().last_error.unwrap().kind, "fenced");
    bank.wait_caught_up(&mut newer);
    newer.drain();
    bank.assert_equal();
}

/// As an operator would do it by mistake: the same folder, and so the same slot.
#[test]
fn of_two_daemons_on_one_pipeline_the_older_is_fenced_and_the_newer_goes_on() {
    let bank = Bank::new();
    let mut older = bank.daemon();
    bank.wait_caught_up(&mut older);
    let writer = Writer::start(&bank.cluster, 4);
    let mut newer = bank.daemon();
    assert_eq!(older.wait_halted().last_error.unwrap().kind, "fenced");
    newer.wait_until("running", Duration::from_secs(60), |status| {
        status[0].state == State::Running
    });
    writer.stop();
    bank.wait_caught_up(&mut newer);
    newer.drain();
    bank.assert_equal();
}

#[test]
fn a_model_that_is_added_later_is_complete_and_the_tables_beside_it_miss_nothing() {
    let bank = Bank::new();
    let (before_models, rest) = PIPELINE.split_once("models:").unwrap();
    let sinks = rest.split_once("sinks:").unwrap().1.replace(", rich]", "]");
    bank.project
        .write("bank.yaml", &format!("{before_models}sinks:{sinks}"));
    let mut daemon = bank.daemon();
    daemon.wait_until("rows committed", Duration::from_secs(60), |status| {
        ["accounts", "notes"]
            .iter()
            .all(|table| status[0].tables.get(*table).is_some_and(|table| table.rows > 0))
    });
    let writer = Writer::start(&bank.cluster, 5);
    std::thread::sleep(Duration::from_secs(1));
    daemon.kill();
    // The log goes on while nobody reads it, and the copy for the new model is taken after that.
    std::thread::sleep(Duration::from_secs(1));
    bank.project.write("bank.yaml", PIPELINE);
    let mut daemon = bank.daemon();
    daemon.wait_until("the model has rows", Duration::from_secs(60), |status| {
        status[0].tables.get("rich").is_some_and(|table| table.rows > 0)
    });
    assert!(writer.stop() > 100);
    bank.wait_caught_up(&mut daemon);
    daemon.drain();
    bank.assert_equal();
}

const EVERYTHING: &str = r#"
pipeline: all
sources:
  bank:
    postgres:
      url: {env: BANK_URL}
      publication: everything
      tables: ["public.*"]
      governor: {every: 200ms}
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    commit: {every: 100ms, idle_every: 300ms}
"#;

#[test]
fn a_table_is_copied_again_when_asked_and_a_new_one_joins_without_a_restart() {
    let bank = Bank::new();
    bank.project.write("bank.yaml", EVERYTHING);
    bank.cluster
        .psql("CREATE PUBLICATION everything FOR ALL TABLES")
        .unwrap();
    let mut daemon = bank.daemon();
    let rows = |name: &'static str, wanted: u64| {
        move |status: &[PipelineStatus]| {
            let table = status[0].tables.get(name);
            table.is_some_and(|table| table.rows >= wanted && is_copied(&table.positions))
        }
    };
    daemon.wait_until("copied", Duration::from_secs(60), rows("accounts", 2000));

    let ask = |table: &str, condition: &str| {
        let mut command = std::process::Command::new(MILLSTREAM);
        command.args([
            "backfill",
            "all",
            table,
            "--where",
            condition,
            "--admin",
            daemon.admin(),
        ]);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (taken, said) = ask("public.accounts", "id <= 100");
    assert!(taken && said.contains("being copied again"), "{said}");
    let (taken, said) = ask("public.acounts", "id <= 100");
    assert!(!taken && said.contains("hint: "), "{said}");
    let (taken, said) = ask("public.accounts", "idd <= 100");
    assert!(!taken && said.contains("idd"), "{said}");
    daemon.wait_until("copied again", Duration::from_secs(60), rows("accounts", 2100));

    bank.cluster
        .psql("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later SELECT generate_series(1, 50)")
        .unwrap();
    daemon.wait_until("the new table is copied", Duration::from_secs(60), rows("later", 50));
    caught_up::with_postgres(
        &mut daemon,
        &bank.cluster,
        "bank",
        &["later"],
        "INSERT INTO later VALUES (51)",
    );
    let status = daemon.status().unwrap();
    assert_eq!(status[0].restarts, 0);
    daemon.drain();
    let lake = bank.project.path().join("lake");
    let accounts = Table::read(&lake, "accounts");
    accounts.assert_each_change_once();
    assert_eq!(
        accounts.fold("id"),
        bank.source_rows("SELECT id, owner, balance FROM accounts")
    );
    assert_eq!(
        Table::read(&lake, "later").fold("id"),
        bank.source_rows("SELECT id FROM later")
    );
}
