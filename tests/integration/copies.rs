//! Copies as an operator sees them, and tables that join a pipeline while it runs.

use std::process::Command;
use std::time::{Duration, Instant};

use millstream::engine::status::PipelineStatus;
use millstream_core::CopyKind;

use crate::caught_up::{is_copied, with_postgres};
use crate::daemon::{Daemon, MILLSTREAM};
use crate::lake::Table;
use crate::postgres_to_parquet::source_rows;
use crate::project::ProjectFolder;
use crate::service::{PATIENCE, cluster};

const PIPELINE: &str = r#"
pipeline: first
sources:
  db:
    postgres:
      url: {env: DB_URL}
      publication: millstream
      tables: [TABLES]
      governor: {every: 200ms}
      messages: true
      batch: {rows: 50}
      copy: {rate: RATE}
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    commit: {every: 100ms, idle_every: 300ms}
"#;

fn pipeline(tables: &str, rate: &str) -> String {
    PIPELINE.replace("TABLES", tables).replace("RATE", rate)
}

/// The sample of a metric whose name and labels begin so.
fn metric(daemon: &Daemon, name: &str) -> Option<f64> {
    let (_, metrics) = daemon.get("/metrics");
    let line = metrics.lines().find(|line| line.starts_with(name))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn copied(name: &'static str, rows: u64) -> impl Fn(&[PipelineStatus]) -> bool {
    move |status| {
        let table = status[0].tables.get(name);
        table.is_some_and(|table| table.rows >= rows && is_copied(&table.positions))
    }
}

#[test]
fn progress_of_a_copy_is_shown_by_the_api_the_metrics_and_the_command_line() {
    let cluster = cluster();
    cluster
        .psql(
            "ALTER TABLE a ADD note text; INSERT INTO a SELECT i, repeat('x', 300) FROM generate_series(2, 3000) i; ANALYZE a",
        )
        .unwrap();
    let project = ProjectFolder::new(&[("a.yaml", &pipeline("a", "96KiB"))]);
    let env = [("DB_URL", cluster.url()), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    let of_a = |status: &[PipelineStatus]| status[0].copies.values().next().cloned();
    daemon.wait_until("half of it is copied", PATIENCE, |status| {
        of_a(status).is_some_and(|copy| copy.ratio > 0.3)
    });
    let copy = of_a(&daemon.status().unwrap()).unwrap();
    assert!(copy.kind == CopyKind::First && !copy.finished, "{copy:?}");
    assert!((300..3000).contains(&copy.rows), "{copy:?}");
    assert!(0 < copy.bytes && copy.bytes < copy.total_bytes, "{copy:?}");
    assert!(copy.seconds_left.is_some_and(|left| left <= 60), "{copy:?}");
    let of = |name: &str| metric(&daemon, &format!("millstream_copy_{name}{{")).unwrap();
    assert!((0.2..1.0).contains(&of("ratio")), "{}", of("ratio"));
    assert!((300.0..3000.0).contains(&of("read_rows")), "{}", of("read_rows"));
    assert!(0.0 < of("read_bytes") && of("read_bytes") < of("total_bytes"));
    assert!((0.0..=60.0).contains(&of("left_seconds")), "{}", of("left_seconds"));
    let shown = Command::new(MILLSTREAM)
        .args(["status", "--admin", daemon.admin()])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = shown.lines().find(|line| line.contains("copying db.public.a: "));
    assert!(
        line.is_some_and(|line| line.ends_with(" s left") && line.contains(" %, ")),
        "{shown}"
    );

    daemon.wait_until("all of it is copied", PATIENCE, |status| {
        copied("a", 3000)(status) && of_a(status).is_some_and(|copy| copy.finished)
    });
    let copy = of_a(&daemon.status().unwrap()).unwrap();
    assert!(
        copy.finished && copy.ratio == 1.0 && copy.seconds_left.is_none(),
        "{copy:?}"
    );
    let of = |name: &str| metric(&daemon, &format!("millstream_copy_{name}{{")).unwrap();
    assert_eq!((of("ratio"), of("left_seconds"), of("read_rows")), (1.0, 0.0, 3000.0));

    // Messages of applications are counted.
    cluster
        .psql("SELECT pg_logical_emit_message(true, 'app', 'one'), pg_logical_emit_message(true, 'app', 'two')")
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while metric(&daemon, "millstream_postgres_logical_messages_total{") != Some(2.0) {
        assert!(Instant::now() < deadline, "{}", daemon.get("/metrics").1);
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.drain();
}

#[test]
fn tables_join_from_the_publication_and_from_the_configuration_without_a_restart() {
    let cluster = cluster();
    // The second has been there for long, with rows, and is written to meanwhile.
    cluster
        .psql(
            "CREATE TABLE c_first (id int PRIMARY KEY); ALTER PUBLICATION millstream ADD TABLE c_first; \
             CREATE TABLE c (id int PRIMARY KEY, n int); INSERT INTO c SELECT i, 0 FROM generate_series(1, 500) i",
        )
        .unwrap();
    let project = ProjectFolder::new(&[("a.yaml", &pipeline("public.a, \"public.c*\"", "1GiB"))]);
    let env = [("DB_URL", cluster.url()), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    daemon.wait_until("the first tables are copied", PATIENCE, copied("a", 1));
    let change = "UPDATE c SET n = n + 1 WHERE id % 7 = 0; INSERT INTO c SELECT max(id) + 1, 0 FROM c";
    for _ in 0..5 {
        cluster.psql(change).unwrap();
    }
    cluster.psql("ALTER PUBLICATION millstream ADD TABLE c").unwrap();
    for _ in 0..20 {
        cluster.psql(change).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.wait_until("the table of the publication is copied", PATIENCE, copied("c", 500));
    with_postgres(&mut daemon, &cluster, "db", &["c"], change);

    project.write("a.yaml", &pipeline("public.a, \"public.c*\", public.b", "1GiB"));
    daemon.signal("HUP");
    daemon.wait_until("the table of the configuration is copied", PATIENCE, copied("b", 1));
    with_postgres(
        &mut daemon,
        &cluster,
        "db",
        &["a", "b", "c"],
        "INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)",
    );
    assert_eq!(daemon.status().unwrap()[0].restarts, 0);
    daemon.drain();
    let lake = project.path().join("lake");
    for (name, columns) in [("a", "id"), ("b", "id"), ("c", "id, n")] {
        let table = Table::read(&lake, name);
        table.assert_each_change_once();
        assert_eq!(
            table.fold("id"),
            source_rows(&cluster, &format!("SELECT {columns} FROM {name}")),
            "{name}"
        );
    }
}
