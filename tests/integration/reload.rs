//! SIGHUP: what a reload starts, drains, and leaves alone.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use millstream::engine::status::{PipelineStatus, State};
use millstream_testkit::postgres::PASSWORD;

use crate::daemon::Daemon;
use crate::project::ProjectFolder;
use crate::service::{PATIENCE, cluster, pipeline, state};

fn running(status: &[PipelineStatus], name: &str) -> bool {
    state(status, name) == Some(State::Running)
}

/// How many lines of the log say `what` of `pipeline`.
fn times(daemon: &Daemon, what: &str, pipeline: &str) -> usize {
    let log = daemon.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(what) && line.contains(pipeline));
    lines.count()
}

fn starts(daemon: &Daemon, pipeline: &str) -> usize {
    times(daemon, "pipeline running", &format!("pipeline={pipeline} "))
}

/// Waits for something in the log.
fn wait_for(daemon: &Daemon, what: &str, reached: impl Fn(&Daemon) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached(daemon) {
        assert!(Instant::now() < deadline, "not in time: {what}\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// SIGHUP, and waits until it has had its effect.
fn reload(daemon: &Daemon) {
    let done = |daemon: &Daemon| times(daemon, "reloaded pipelines", "") + times(daemon, "the project has faults", "");
    let before = done(daemon);
    daemon.signal("HUP");
    wait_for(daemon, "reloaded", |daemon| done(daemon) > before);
}

#[test]
fn a_reload_starts_and_drains_pipelines_and_refuses_a_faulty_folder() {
    let cluster = cluster();
    let project = ProjectFolder::new(&[("a.yaml", &pipeline("first", "a"))]);
    let env = [("DB_URL", cluster.url()), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("first has committed", PATIENCE, |status| status[0].commits > 0);

    project.write("b.yaml", &pipeline("second", "b"));
    reload(&daemon);
    daemon.wait_until("second runs", PATIENCE, |status| {
        running(status, "second") && running(status, "first")
    });

    // The second shows only when the source is built, the third when its tables are looked for.
    for (faulty, place) in [
        ("pipeline: first\nsorces: {}\n".to_owned(), "a.yaml:2:1"),
        (
            pipeline("first", "a").replace("tables: [a]", "tables: []"),
            "a.yaml:4:5",
        ),
        (
            pipeline("first", "a")
                .replace("/first", "/second")
                .replace("    commit", "    tables: [b]\n    commit"),
            "a.yaml:11:14",
        ),
    ] {
        project.write("a.yaml", &faulty);
        reload(&daemon);
        assert!(daemon.log().contains(place), "{place}\n{}", daemon.log());
        let status = daemon.status().unwrap();
        assert!(running(&status, "first") && running(&status, "second"), "{status:?}");
    }

    std::fs::remove_file(project.path().join("a.yaml")).unwrap();
    reload(&daemon);
    daemon.wait_until("first is gone", PATIENCE, |status| {
        state(status, "first").is_none() && running(status, "second")
    });
    assert_eq!(
        (starts(&daemon, "first"), starts(&daemon, "second")),
        (1, 1),
        "{}",
        daemon.log()
    );
    assert_eq!(times(&daemon, "pipeline ended", "first"), 1);
    daemon.drain();
}

#[test]
fn a_reload_starts_anew_what_changed_or_halted() {
    let cluster = cluster();
    // A role of its own: the other pipeline may still be connecting when the password changes.
    let role = format!("CREATE ROLE rotating SUPERUSER LOGIN REPLICATION PASSWORD '{PASSWORD}'");
    cluster.psql(&role).unwrap();
    let with_password = |name, table| {
        let password = "url: {env: ROTATING_URL}\n      password: {file: \"${FOLDER}/password\"}";
        pipeline(name, table).replace("url: {env: DB_URL}", password)
    };
    let project = ProjectFolder::new(&[
        ("a.yaml", &with_password("first", "a")),
        ("b.yaml", &pipeline("second", "b")),
        ("password", "wrong"),
    ]);
    let env = [
        ("DB_URL", cluster.url()),
        ("LAKE", project.lake()),
        ("FOLDER", project.path().display().to_string()),
        ("ROTATING_URL", cluster.url_as("rotating", "none", "postgres")),
    ];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("first has halted", PATIENCE, |status| {
        state(status, "first") == Some(State::Halted) && running(status, "second")
    });
    let wait_for_start = |daemon: &mut Daemon, count: usize| {
        daemon.wait_until("first runs", PATIENCE, |status| running(status, "first"));
        wait_for(daemon, "started again", |daemon| starts(daemon, "first") >= count);
        assert_eq!(starts(daemon, "first"), count, "{}", daemon.log());
    };

    // The trailing newline is no part of a secret.
    project.write("password", &format!("{PASSWORD}\n"));
    reload(&daemon);
    wait_for_start(&mut daemon, 1);

    reload(&daemon);
    assert_eq!(starts(&daemon, "first"), 1, "nothing has changed");

    cluster.psql("ALTER ROLE rotating PASSWORD 'rotated'").unwrap();
    project.write("password", "rotated");
    reload(&daemon);
    wait_for_start(&mut daemon, 2);

    project.write(
        "a.yaml",
        &with_password("first", "a").replace("every: 100ms", "every: 200ms"),
    );
    reload(&daemon);
    wait_for_start(&mut daemon, 3);
    assert_eq!(starts(&daemon, "second"), 1, "{}", daemon.log());
    daemon.drain();
}

#[test]
fn a_pipeline_that_is_stuck_holds_up_neither_a_reload_nor_the_end() {
    let cluster = cluster();
    // Accepts connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let stuck = pipeline("first", "a").replace("DB_URL", "SILENT_URL");
    let project = ProjectFolder::new(&[("a.yaml", &stuck)]);
    let env = [
        ("DB_URL", cluster.url()),
        (
            "SILENT_URL",
            format!("postgres://me@127.0.0.1:{port}/x?connect_timeout=600"),
        ),
        ("LAKE", project.lake()),
    ];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("first starts", PATIENCE, |status| {
        state(status, "first") == Some(State::Starting)
    });
    project.write("a.yaml", &stuck.replace("every: 100ms", "every: 200ms"));
    project.write("b.yaml", &pipeline("second", "b"));
    daemon.signal("HUP");
    daemon.wait_until("second runs, and first is still to be seen", PATIENCE, |status| {
        running(status, "second") && state(status, "first").is_some()
    });
    // `drain` waits for a tenth of what the server would have been given.
    daemon.drain();
}
