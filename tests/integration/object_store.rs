//! PostgreSQL to Parquet on S3, through a proxy that loses requests and answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millstream::engine::status::State;
use millstream_core::config::Secret;
use millstream_parquet::ParquetConfig;
use millstream_testkit::change_log::{Cells, FoldedTable};
use millstream_testkit::fault_proxy::{Fault, FaultProxy, Tally, Which};
use millstream_testkit::postgres::TestCluster;
use millstream_testkit::seaweedfs::{ACCESS_KEY, SECRET_KEY, TestS3};
use object_store::aws::{AmazonS3, AmazonS3Builder};

use crate::caught_up;
use crate::daemon::{Daemon, MILLSTREAM};
use crate::lake::{Table, orphans};
use crate::project::ProjectFolder;

const PIPELINE: &str = r#"
pipeline: bank
sources:
  bank:
    postgres:
      url: {env: BANK_URL}
      publication: millstream
      tables: [public.accounts]
sinks:
  lake:
    parquet:
      url: s3://lake/bank
      options:
        aws_endpoint: "${S3}"
        aws_allow_http: true
        aws_region: us-east-1
        aws_access_key_id: "${S3_KEY}"
        aws_secret_access_key: {env: S3_SECRET}
    commit: {every: 100ms, idle_every: 300ms}
"#;

const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric(12,2) NOT NULL);
    ALTER TABLE accounts REPLICA IDENTITY FULL;
    CREATE PUBLICATION millstream FOR TABLE accounts;
    INSERT INTO accounts SELECT g, 'owner ' || g, (g * 37) % 1000 FROM generate_series(1, 500) g;";

/// Round `n` of a workload.
fn round(n: u64) -> String {
    let id = n % 500 + 1;
    format!(
        "UPDATE accounts SET balance = balance + {n}.25 WHERE id BETWEEN {id} AND {id} + 20;
         DELETE FROM accounts WHERE id = {};
         INSERT INTO accounts VALUES ({n} + 10000, 'new', {n});",
        n * 7 % 500 + 1
    )
}

/// A cluster, an S3 server behind a proxy, and a project folder between them.
struct Bank {
    cluster: TestCluster,
    s3: TestS3,
    proxy: FaultProxy,
    project: ProjectFolder,
}

impl Bank {
    fn new() -> Self {
        let cluster = TestCluster::new().expect("PostgreSQL starts");
        cluster.psql(SCHEMA).unwrap();
        let s3 = TestS3::start("lake").expect("SeaweedFS starts");
        Self {
            proxy: FaultProxy::start(s3.address()).unwrap(),
            cluster,
            s3,
            project: ProjectFolder::new(&[("bank.yaml", PIPELINE)]),
        }
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BANK_URL", self.cluster.url()),
            ("S3", format!("http://{}", self.proxy.address())),
            ("S3_KEY", ACCESS_KEY.to_owned()),
            ("S3_SECRET", SECRET_KEY.to_owned()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ]
    }

    fn wait_caught_up(&self, daemon: &mut Daemon) {
        let marker = "INSERT INTO accounts VALUES (0, 'marker', 0)
            ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + 1";
        caught_up::with_postgres(daemon, &self.cluster, "bank", &["accounts"], marker);
    }

    /// The lake's configuration and its bucket, past the proxy.
    fn lake(&self) -> (ParquetConfig, AmazonS3) {
        let endpoint = format!("http://{}", self.s3.address());
        let mut config = ParquetConfig::new("s3://lake/bank");
        config.options = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_allow_http", "true"),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", ACCESS_KEY),
            ("aws_secret_access_key", SECRET_KEY),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Secret::new(value)))
        .collect();
        let store: AmazonS3 = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name("lake")
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .build()
            .unwrap();
        (config, store)
    }

    fn read_lake(&self) -> Table {
        let (config, store) = self.lake();
        Table::read_from(&config, &store, "bank", "accounts")
    }

    fn assert_no_orphans(&self) {
        let (config, store) = self.lake();
        assert_eq!(orphans(&config, &store, "bank", "accounts"), Vec::<String>::new());
    }

    fn assert_equal(&self) {
        let columns = ["id", "owner", "balance"];
        let rows = self.cluster.psql("SELECT id, owner, balance FROM accounts").unwrap();
        let source: FoldedTable = rows
            .lines()
            .map(|line| {
                let cells: Cells = columns
                    .map(str::to_owned)
                    .into_iter()
                    .zip(line.split('|').map(str::to_owned))
                    .collect();
                (Cells::from([("id".to_owned(), cells["id"].clone())]), cells)
            })
            .collect();
        let table = self.read_lake();
        table.assert_each_change_once();
        let target = table.fold("id");
        assert_eq!(source.len(), target.len(), "rows");
        for (key, row) in &source {
            assert_eq!(target.get(key), Some(row), "row {key:?}");
        }
    }

    fn wait_for_faults(&self, what: &str, reached: impl Fn(&Tally) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !reached(&self.proxy.tally()) {
            assert!(
                Instant::now() < deadline,
                "{what} did not come: {:?}",
                self.proxy.tally()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn refusals_lost_replies_and_cuts_neither_lose_nor_repeat_a_change() {
    let bank = Bank::new();
    let mut daemon = Daemon::start(bank.project.path(), &bank.env());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                bank.cluster.psql(&round(rounds)).unwrap();
                rounds += 1;
                std::thread::sleep(Duration::from_millis(30));
            }
            rounds
        });
        // Stops the writer also when an assertion below fails, or the scope would wait for ever.
        let _stop = StopOnDrop(&stop);
        daemon.wait_until("rows committed", Duration::from_secs(60), |status| {
            status[0].tables.get("accounts").is_some_and(|table| table.rows > 600)
        });
        let faults = [
            (Which::ConditionalCreates, Fault::LostReply, 3),
            (Which::ConditionalCreates, Fault::Unavailable, 3),
            (Which::Writes, Fault::LostReply, 3),
            (Which::Any, Fault::Unavailable, 4),
            // More than the client itself puts up with: the commit protocol has to find out.
            (Which::ConditionalCreates, Fault::LostReply, 8),
        ];
        for (which, fault, times) in faults {
            let before = bank.proxy.tally();
            bank.proxy.inject(which, fault, times);
            bank.wait_for_faults("the fault", |now| match fault {
                Fault::Unavailable => now.unavailable - before.unavailable >= times,
                _ => now.lost_replies - before.lost_replies >= times,
            });
        }
        bank.proxy.cut();
        std::thread::sleep(Duration::from_secs(1));
        bank.proxy.mend();
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 20);
    });
    bank.wait_caught_up(&mut daemon);
    daemon.drain();
    bank.assert_equal();
}

/// The store's client gives up after five answers of 503; the commit protocol does not.
#[test]
fn a_commit_that_is_refused_for_longer_than_the_client_waits_needs_no_restart() {
    let bank = Bank::new();
    let mut daemon = Daemon::start(bank.project.path(), &bank.env());
    bank.wait_caught_up(&mut daemon);
    bank.proxy.inject(Which::ConditionalCreates, Fault::Unavailable, 12);
    bank.cluster.psql(&round(1)).unwrap();
    bank.wait_for_faults("the last 503", |now| now.unavailable >= 12);
    bank.wait_caught_up(&mut daemon);
    assert_eq!(daemon.status().unwrap()[0].restarts, 0, "{}", daemon.log());
    daemon.drain();
    bank.assert_equal();
    bank.assert_no_orphans();
}

#[test]
fn a_kill_at_each_failpoint_loses_and_repeats_nothing_on_s3() {
    let bank = Bank::new();
    for (index, failpoint) in (0..).zip(millstream_parquet::FAILPOINTS) {
        // The table is opened and swept once in a run.
        let once_in_a_run = ["parquet::after-open", "parquet::before-sweep"].contains(failpoint);
        let passes = if once_in_a_run { 0 } else { index % 3 };
        let mut env = bank.env();
        env.push(("FAILPOINTS", format!("{failpoint}={passes}*off->return(kill)")));
        let mut daemon = Daemon::start(bank.project.path(), &env);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut rounds = index * 10_000;
        let status = loop {
            bank.cluster.psql(&round(rounds)).unwrap();
            rounds += 1;
            if let Some(status) = daemon.exited() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "{failpoint} was never reached\n{}",
                daemon.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(!status.success(), "{failpoint}");
    }
    let mut daemon = Daemon::start(bank.project.path(), &bank.env());
    bank.wait_caught_up(&mut daemon);
    daemon.drain();
    bank.assert_equal();
    bank.assert_no_orphans();
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn of_two_daemons_on_one_bucket_the_older_is_fenced_and_the_newer_goes_on() {
    let bank = Bank::new();
    // Under a slot of its own: the server would keep a second reader of one slot away. It is
    // older than what the lake will hold, or changes could fall between the two.
    bank.cluster
        .psql("SELECT pg_create_logical_replication_slot('second', 'pgoutput')")
        .unwrap();
    let other = PIPELINE.replace("publication: millstream", "publication: millstream\n      slot: second");
    let project = ProjectFolder::new(&[("bank.yaml", &other)]);
    let mut older = Daemon::start(bank.project.path(), &bank.env());
    bank.wait_caught_up(&mut older);
    let mut newer = Daemon::start(project.path(), &bank.env());
    newer.wait_until("running", Duration::from_secs(60), |status| {
        status[0].state == State::Running
    });
    bank.cluster.psql(&round(1)).unwrap();
    assert_eq!(older.wait_halted().last_error.unwrap().kind, "fenced");
    bank.cluster.psql(&round(2)).unwrap();
    bank.wait_caught_up(&mut newer);
    newer.drain();
    bank.assert_equal();
    // The older removed what it had uploaded when it learnt that it was fenced.
    bank.assert_no_orphans();
}

#[test]
fn a_store_whose_conditional_create_does_not_hold_is_refused_before_a_table_is_made() {
    let bank = Bank::new();
    let check = || {
        let output = std::process::Command::new(MILLSTREAM)
            .arg("check")
            .arg(bank.project.path())
            .envs(bank.env())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    let (passed, said) = check();
    assert!(passed, "{said}");

    bank.proxy.inject(Which::ConditionalCreates, Fault::FalseSuccess, 1_000);
    let (passed, said) = check();
    assert!(!passed && said.contains("PQ0017"), "{said}");
    let mut daemon = Daemon::start(bank.project.path(), &bank.env());
    let error = daemon.wait_halted().last_error.unwrap();
    assert_eq!((&*error.kind, error.code.as_deref()), ("unsupported", Some("PQ0017")));
    drop(daemon);
    bank.proxy.calm();
    assert!(bank.read_lake().changes().is_empty());
}
