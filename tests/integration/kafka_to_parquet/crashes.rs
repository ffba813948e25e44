//! Kills of the daemon, and restarts of the broker.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;
use crate::broker::MOCK;

const SIGKILL: i32 = 9;

fn rows_of(daemon: &Daemon, topic: &str) -> Option<u64> {
    Some(daemon.status()?[0].tables.get(topic)?.rows)
}

#[test]
fn a_kill_at_each_failpoint_loses_and_repeats_no_message() {
    let clicks = Clicks::new("failpoints", 2);
    let writer = Writer::start(&clicks, 2);
    let failpoints = millstream::engine::FAILPOINTS
        .iter()
        .chain(millstream_parquet::FAILPOINTS);
    for (index, failpoint) in failpoints.enumerate() {
        // A table is opened and swept once in a run.
        let once_in_a_run = ["parquet::after-open", "parquet::before-sweep"].contains(failpoint);
        let passes = if once_in_a_run { 0 } else { index % 3 };
        let mut env = clicks.env();
        env.push(("FAILPOINTS", format!("{failpoint}={passes}*off->return(kill)")));
        let mut daemon = Daemon::start(clicks.project.path(), &env);
        let status = daemon.wait_exit(Duration::from_secs(60));
        assert_eq!(
            status.signal(),
            Some(SIGKILL),
            "{failpoint}: {status}\n{}",
            daemon.log()
        );
    }
    let sent = writer.stop();
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.drain();
    clicks.assert_equal(&sent);
}

#[test]
fn kills_at_random_moments_lose_and_repeat_no_message() {
    let clicks = Clicks::new("killed", 2);
    let writer = Writer::start(&clicks, 2);
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]);
    let mut lives_with_commits = 0;
    for life in 0..20 {
        let mut daemon = clicks.daemon();
        // Each second life commits something first; the others end while they start.
        if life % 2 == 0 {
            daemon.wait_until("rows committed", Duration::from_secs(60), |status| {
                status[0].tables.get(clicks.topic).is_some_and(|table| table.rows > 0)
            });
            lives_with_commits += u64::from(rows_of(&daemon, clicks.topic).is_some_and(|rows| rows > 0));
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..600)));
        daemon.kill();
    }
    assert_eq!(lives_with_commits, 10);
    let sent = writer.stop();
    assert!(sent.len() > 500, "{}", sent.len());
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &sent);
    daemon.drain();
    clicks.assert_equal(&sent);
}

#[test]
fn restarts_of_the_broker_are_survived() {
    // A node of its own: the others' tests want theirs to stay.
    let clicks = Clicks::on(Broker::own(), "restarted", 2);
    let mut daemon = clicks.daemon();
    let writer = Writer::start(&clicks, 2);
    daemon.wait_until("rows committed", Duration::from_secs(60), |status| {
        status[0].tables.get(clicks.topic).is_some_and(|table| table.rows > 0)
    });
    for crash in [false, true] {
        clicks.broker.restart(crash, Duration::from_millis(300));
        let before = rows_of(&daemon, clicks.topic).unwrap_or_default();
        daemon.wait_until("rows after the restart", Duration::from_secs(60), |status| {
            status[0].tables[clicks.topic].rows > before
        });
    }
    let sent = writer.stop();
    // What a broker tells of offsets over a crash is not to be relied on, but its log is.
    let log = match &*clicks.broker {
        Broker::Real(kafka) => kafka.read_log(clicks.topic, &[0, 1]).unwrap(),
        Broker::Mock(_) => sent.clone(),
    };
    let taken: BTreeSet<_> = log.iter().map(|logged| &logged.message).collect();
    assert!(sent.iter().all(|sent| taken.contains(&sent.message)));
    clicks.wait_caught_up(&mut daemon, &log);
    daemon.drain();
    clicks.assert_equal(&log);
}

/// What these tests do where Kafka could not be fetched is itself seen to work.
#[test]
fn the_suite_runs_on_the_mock_broker() {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .args([
            "kafka_to_parquet::a_message_is_a_row_as_it_was_sent_or_in_quarantine_with_its_bytes",
            "kafka_to_parquet::messages_that_expired_before_they_were_read_halt_the_pipeline",
        ])
        .env(MOCK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("2 passed"), "{said}");
    assert!(said.contains("LEFT OUT"), "{said}");
}
