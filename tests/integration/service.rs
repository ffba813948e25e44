//! The daemon as a service: signals, the notify socket, the unit file, and its secrets.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use millstream::engine::status::{PipelineStatus, State};
use millstream_testkit::postgres::{PASSWORD, TestCluster};

use crate::daemon::Daemon;
use crate::project::ProjectFolder;

fn pipeline(name: &str, table: &str) -> String {
    format!(
        "pipeline: {name}\nsources:\n  db:\n    postgres:\n      url: {{env: DB_URL}}\n      publication: millstream\n      \
         tables: [{table}]\nsinks:\n  lake:\n    parquet: {{url: \"${{LAKE}}/{name}\"}}\n    \
         commit: {{every: 100ms, idle_every: 300ms}}\n"
    )
}

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); \
             CREATE PUBLICATION millstream FOR TABLE a, b; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)",
        )
        .unwrap();
    cluster
}

const PATIENCE: Duration = Duration::from_secs(60);

fn state(status: &[PipelineStatus], name: &str) -> Option<State> {
    status.iter().find(|each| each.pipeline == name).map(|each| each.state)
}

#[test]
fn a_reload_starts_and_drains_pipelines_and_refuses_a_faulty_folder() {
    let cluster = cluster();
    let project = ProjectFolder::new(&[("a.yaml", &pipeline("first", "a"))]);
    let env = [("DB_URL", cluster.url()), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    let running = |status: &[PipelineStatus], name| state(status, name) == Some(State::Running);
    daemon.wait_until("first has committed", PATIENCE, |status| status[0].commits > 0);
    let commits = |daemon: &Daemon| daemon.status().unwrap()[0].commits;
    let before = commits(&daemon);

    project.write("b.yaml", &pipeline("second", "b"));
    daemon.signal("HUP");
    daemon.wait_until("second runs", PATIENCE, |status| {
        running(status, "second") && running(status, "first")
    });
    assert!(
        commits(&daemon) >= before,
        "a reload must not start an unchanged pipeline anew"
    );

    project.write("a.yaml", "pipeline: first\nsorces: {}\n");
    daemon.signal("HUP");
    let deadline = Instant::now() + PATIENCE;
    while !daemon.log().contains("the project has faults") {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(daemon.log().contains("a.yaml:2:1"), "{}", daemon.log());
    let status = daemon.status().unwrap();
    assert!(running(&status, "first") && running(&status, "second"), "{status:?}");

    std::fs::remove_file(project.path().join("a.yaml")).unwrap();
    daemon.signal("HUP");
    daemon.wait_until("first is gone", PATIENCE, |status| {
        state(status, "first").is_none() && running(status, "second")
    });
    daemon.drain();
}

#[test]
fn a_pipeline_that_fails_leaves_the_other_alone() {
    let cluster = cluster();
    let broken = pipeline("broken", "a").replace("{env: DB_URL}", "{env: NOWHERE_URL}");
    let project = ProjectFolder::new(&[("a.yaml", &broken), ("b.yaml", &pipeline("whole", "b"))]);
    let nowhere = format!("postgres://postgres:{PASSWORD}@127.0.0.1:1/postgres");
    let env = [
        ("DB_URL", cluster.url()),
        ("NOWHERE_URL", nowhere),
        ("LAKE", project.lake()),
    ];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("one fails, one commits", PATIENCE, |status| {
        let whole = status.iter().find(|each| each.pipeline == "whole");
        whole.is_some_and(|whole| whole.commits > 0 && whole.restarts == 0)
            && status.iter().any(|each| each.pipeline == "broken" && each.restarts > 0)
    });
    assert_eq!(daemon.get("/health/live").0, 200);
    assert_eq!(daemon.get("/health/ready").0, 503, "one pipeline is not ready");

    let answers = [
        daemon.get("/api/v1/pipelines").1,
        daemon.get("/metrics").1,
        daemon.log(),
    ];
    for answer in &answers {
        assert!(!answer.contains(PASSWORD), "a secret is shown:\n{answer}");
    }
    assert!(answers[0].contains("PG0001"), "{}", answers[0]);
    assert!(
        answers[1].contains("millstream_pipeline_failures_total{pipeline=\"broken\",kind=\"unavailable\"}"),
        "{}",
        answers[1]
    );
    daemon.drain();
}

#[test]
fn systemd_is_told_of_readiness_life_and_the_end() {
    let cluster = cluster();
    let project = ProjectFolder::new(&[("a.yaml", &pipeline("first", "a"))]);
    let path = project.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let env = [
        ("DB_URL", cluster.url()),
        ("LAKE", project.lake()),
        ("NOTIFY_SOCKET", path.display().to_string()),
        ("WATCHDOG_USEC", "400000".to_owned()),
    ];
    let mut daemon = Daemon::start(project.path(), &env);
    let wait_for = |wanted: &str| {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 256];
        loop {
            let length = socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.lines().any(|line| line == wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "no {wanted}, but {message}");
        }
    };
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    daemon.wait_until("running", PATIENCE, |status| {
        state(status, "first") == Some(State::Running)
    });
    daemon.signal("HUP");
    wait_for("RELOADING=1");
    wait_for("READY=1");
    daemon.signal("TERM");
    wait_for("STOPPING=1");
    assert!(daemon.wait_exit(PATIENCE).success());
}

/// The unit with the daemon's path replaced by a program that is there.
fn unit(folder: &ProjectFolder) -> std::path::PathBuf {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let text = std::fs::read_to_string(format!("{root}/packaging/systemd/millstream.service")).unwrap();
    folder.write(
        "millstream.service",
        &text.replace("/usr/local/bin/millstream", "/bin/true"),
    );
    folder.path().join("millstream.service")
}

#[test]
fn the_unit_is_valid_and_hardened() {
    let folder = ProjectFolder::new(&[]);
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(unit(&folder))
            .output();
        let output = output.expect("systemd-analyze, which scripts/setup.sh installs");
        let shown = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), shown)
    };
    // The threshold is the exposure level times ten: 2.0.
    let (hardened, report) = analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"]);
    assert!(hardened && report.contains("Overall exposure level"), "{report}");
    let (valid, report) = analyze(&["verify"]);
    assert!(valid && !report.contains("millstream.service:"), "{report}");
}
