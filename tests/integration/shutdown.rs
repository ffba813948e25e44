//! SIGTERM: what is committed, what is seen meanwhile, and with which exit code the daemon ends.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use millstream_testkit::postgres::TestCluster;

use crate::daemon::Daemon;
use crate::lake::Table;
use crate::project::ProjectFolder;
use crate::service::{PATIENCE, cluster, pipeline};

/// The rows that are inserted while the daemon streams.
const ROWS: usize = 1000;

/// A daemon that holds rows which no commit has asked for: rows of the stream, since the end of a
/// first copy is committed at once. The copy is another process's, so that only the rows meet
/// `failpoint`.
fn start_with_pending_rows(cluster: &TestCluster, project: &ProjectFolder, failpoint: &str) -> Daemon {
    let env = |failpoint: &str| {
        [
            ("DB_URL", cluster.url()),
            ("LAKE", project.lake()),
            ("FAILPOINTS", failpoint.to_owned()),
        ]
    };
    project.write("a.yaml", &pipeline("first", "a"));
    let mut copier = Daemon::start(project.path(), &env(""));
    copier.wait_until("the copy is committed", PATIENCE, |status| {
        status[0].tables.get("a").is_some_and(|table| table.rows == 1)
    });
    copier.signal("TERM");
    assert!(copier.wait_exit(PATIENCE).success(), "{}", copier.log());

    let yaml = pipeline("first", "a").replace("every: 100ms, idle_every: 300ms", "every: 1h, idle_every: 1h");
    project.write("a.yaml", &yaml);
    let mut daemon = Daemon::start(project.path(), &env(failpoint));
    cluster
        .psql(&format!(
            "INSERT INTO a SELECT g FROM generate_series(2, {}) g",
            ROWS + 1
        ))
        .unwrap();
    daemon.wait_until("the rows wait", PATIENCE, |status| {
        status[0]
            .tables
            .get("a")
            .is_some_and(|table| table.pending == ROWS as u64)
    });
    daemon
}

#[test]
fn a_drain_commits_what_waits_and_is_seen_while_it_lasts() {
    let (cluster, project) = (cluster(), ProjectFolder::new(&[]));
    let mut daemon = start_with_pending_rows(&cluster, &project, "engine::before-prepare=sleep(15000)");
    assert_eq!(daemon.get("/health/ready").0, 200);
    // A request that is never sent whole must not hold up the end.
    let mut half = TcpStream::connect(daemon.admin()).unwrap();
    half.write_all(b"GET /health/live HTTP/1.1\r\nHost: ").unwrap();
    daemon.signal("TERM");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while daemon.get("/health/ready").0 != 503 {
        assert!(std::time::Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(daemon.log().contains("draining"), "{}", daemon.log());
    let during = daemon.status().unwrap();
    assert_eq!(during.len(), 1, "the pipeline is seen until it has ended");
    let status = daemon.wait_exit(Duration::from_secs(60));
    assert!(status.success(), "{status}\n{}", daemon.log());
    let table = Table::read(&project.path().join("lake/first"), "a");
    assert_eq!(table.fold("id").len(), 1 + ROWS);
    table.assert_each_change_once();
}

#[test]
fn a_drain_that_fails_shows_in_the_exit_code() {
    let (cluster, project) = (cluster(), ProjectFolder::new(&[]));
    let mut daemon = start_with_pending_rows(&cluster, &project, "engine::before-prepare=return");
    daemon.signal("TERM");
    let status = daemon.wait_exit(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "{}", daemon.log());
}
