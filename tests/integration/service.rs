//! The daemon as a service: signals, the notify socket, the unit file, and its secrets.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use millstream::engine::status::{PipelineStatus, State};
use millstream_testkit::ports;
use millstream_testkit::postgres::{PASSWORD, TestCluster};

use crate::daemon::{Daemon, MILLSTREAM};
use crate::lake::Table;
use crate::project::ProjectFolder;

/// A pipeline that copies one table of [`cluster`].
pub fn pipeline(name: &str, table: &str) -> String {
    format!(
        "pipeline: {name}\nsources:\n  db:\n    postgres:\n      url: {{env: DB_URL}}\n      publication: millstream\n      \
         tables: [{table}]\nsinks:\n  lake:\n    parquet: {{url: \"${{LAKE}}/{name}\"}}\n    \
         commit: {{every: 100ms, idle_every: 300ms}}\n"
    )
}

/// A server with the tables `a` and `b`, of one row each.
pub fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); \
             CREATE PUBLICATION millstream FOR TABLE a, b; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)",
        )
        .unwrap();
    cluster
}

/// For what takes a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The state of one of the pipelines.
pub fn state(status: &[PipelineStatus], name: &str) -> Option<State> {
    status.iter().find(|each| each.pipeline == name).map(|each| each.state)
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

/// A daemon whose address is not given on the command line.
fn start_with_address_of_the_project(project: &ProjectFolder, url: &str) -> std::process::Child {
    Command::new(MILLSTREAM)
        .arg("run")
        .arg(project.path())
        .env("DB_URL", url)
        .env("LAKE", project.lake())
        .env_remove("MILLSTREAM_ADMIN_LISTEN")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_admin_interface_listens_where_the_project_says() {
    assert!(
        millstream::config::DaemonConfig::default()
            .admin
            .listen
            .ip()
            .is_loopback()
    );
    let address = format!("127.0.0.1:{}", ports::free_port());
    let project = ProjectFolder::new(&[
        ("a.yaml", &pipeline("first", "a")),
        ("millstream.yaml", &format!("admin: {{listen: \"{address}\"}}\n")),
    ]);
    let mut child = start_with_address_of_the_project(&project, "postgres://me@127.0.0.1:1/x");
    let deadline = Instant::now() + PATIENCE;
    let answered = loop {
        if std::net::TcpStream::connect(&address).is_ok() {
            break true;
        }
        if Instant::now() > deadline || child.try_wait().unwrap().is_some() {
            break false;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = child.kill();
    let _ = child.wait();
    assert!(answered, "nothing listens at {address}");
}

#[test]
fn secrets_come_from_files_and_credentials_and_are_not_shown() {
    let cluster = cluster();
    let yaml = pipeline("first", "a").replace(
        "url: {env: DB_URL}",
        "url: {credential: secrets_url}\n      password: {file: \"${FOLDER}/password\"}",
    );
    let url = cluster.url().replace(PASSWORD, "wrong");
    let project = ProjectFolder::new(&[
        ("a.yaml", &yaml),
        ("password", PASSWORD),
        ("credentials/secrets_url", &url),
    ]);
    let folder = project.path().display().to_string();
    let env = [
        ("LAKE", project.lake()),
        ("CREDENTIALS_DIRECTORY", format!("{folder}/credentials")),
        ("FOLDER", folder),
        ("RUST_LOG", "trace".to_owned()),
    ];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("committed", PATIENCE, |status| status[0].commits > 0);
    for shown in [
        daemon.get("/api/v1/pipelines").1,
        daemon.get("/metrics").1,
        daemon.log(),
    ] {
        assert!(
            !shown.contains(PASSWORD) && !shown.contains(&url),
            "a secret is shown:\n{shown}"
        );
    }
    daemon.drain();
}

#[test]
fn every_metric_has_a_meaning_a_type_and_base_units() {
    let cluster = cluster();
    let project = ProjectFolder::new(&[("a.yaml", &pipeline("first", "a"))]);
    let env = [("DB_URL", cluster.url()), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("committed", PATIENCE, |status| status[0].commits > 0);
    let text = daemon.get("/metrics").1;
    let samples: std::collections::BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap())
        .map(|name| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name)
        })
        .collect();
    assert!(samples.len() > 5, "{text}");
    for name in samples {
        assert!(name.starts_with("millstream_"), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no HELP");
        let kind = text
            .split(&format!("# TYPE {name} "))
            .nth(1)
            .expect("a TYPE")
            .lines()
            .next()
            .unwrap();
        let ends: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_seconds", "_bytes"],
            // Units, then what is 1 or 0.
            _ => &[
                "_seconds",
                "_bytes",
                "_lsn",
                "_messages",
                "_rows",
                "_ratio",
                "_xids",
                "_transactions",
                "_up",
                "_over_budget",
                "_status",
                "_invalidated",
                "_failover",
                "_synced",
            ],
        };
        assert!(ends.iter().any(|end| name.ends_with(end)), "{kind} {name}");
    }
    daemon.drain();
}

#[test]
fn a_panic_stops_at_its_pipeline_and_tells_no_more_than_its_place() {
    let cluster = cluster();
    let project = ProjectFolder::new(&[
        ("a.yaml", &pipeline("first", "a")),
        ("b.yaml", &pipeline("second", "b")),
    ]);
    let env = [
        ("DB_URL", cluster.url()),
        ("LAKE", project.lake()),
        (
            "FAILPOINTS",
            "engine::after-prepare=1*panic(a-cell-of-a-row)".to_owned(),
        ),
        ("MILLSTREAM_LOG_FORMAT", "json".to_owned()),
    ];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("both have committed, one after a panic", PATIENCE, |status| {
        status.iter().all(|each| each.commits > 0) && status.iter().map(|each| each.restarts).sum::<u64>() == 1
    });
    let status = daemon.status().unwrap();
    let error = status.iter().find_map(|each| each.last_error.as_ref()).unwrap();
    assert_eq!(error.code.as_deref(), Some("EN0001"));
    assert!(error.message.contains("(at="), "{}", error.message);
    let log = daemon.log();
    for shown in [&log, &daemon.get("/api/v1/pipelines").1] {
        assert!(!shown.contains("a-cell-of-a-row"), "{shown}");
    }
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    daemon.drain();
    for table in ["first/a", "second/b"] {
        let (folder, name) = table.split_once('/').unwrap();
        Table::read(&project.path().join("lake").join(folder), name).assert_each_change_once();
    }
}

#[test]
fn a_log_for_machines_has_one_object_in_each_line_also_for_errors() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let sound = pipeline("first", "a");
    let faulty = sound.replace("tables: [a]", "tables: []");
    for (yaml, said) in [(&sound, "cannot listen"), (&faulty, "PG0029")] {
        let project = ProjectFolder::new(&[("a.yaml", yaml)]);
        let output = Command::new(MILLSTREAM)
            .args(["run", "--log-format", "json", "--admin-listen", &address])
            .arg(project.path())
            .env("DB_URL", "postgres://me@127.0.0.1:1/x")
            .env("LAKE", project.lake())
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(said), "{log}");
        for line in log.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
    }
}

#[test]
fn the_status_is_shown_to_people() {
    let cluster = cluster();
    let broken = pipeline("broken", "b").replace("publication: millstream", "publication: missing");
    let project = ProjectFolder::new(&[("a.yaml", &pipeline("first", "a")), ("b.yaml", &broken)]);
    let env = [("DB_URL", cluster.url()), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("one has committed, one has halted", PATIENCE, |status| {
        state(status, "broken") == Some(State::Halted)
            && status
                .iter()
                .any(|each| each.tables.get("a").is_some_and(|a| a.rows == 1 && a.pending == 0))
    });
    let output = Command::new(MILLSTREAM)
        .args(["status", "--admin", daemon.admin()])
        .output()
        .unwrap();
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\(exactly once(, [\d.]+ s behind)?\)", "(exactly once, N s behind)");
    settings.add_filter(r"\d+ commits", "N commits");
    settings.add_filter(r" +\d+\n", " VERSION\n");
    settings.add_filter(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("status_text", String::from_utf8_lossy(&output.stdout)));
    daemon.kill();
}
