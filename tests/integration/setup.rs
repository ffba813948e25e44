//! `millstream setup postgres`: what it prints is a script that psql runs, and all that a pipeline
//! needs, also one that selects its tables by patterns.

use std::process::Command;
use std::time::Duration;

use millstream_testkit::postgres::TestCluster;

use crate::daemon::{Daemon, MILLSTREAM};
use crate::lake::Table;
use crate::project::ProjectFolder;

const PIPELINE: &str = r#"
pipeline: orders
sources:
  shop:
    postgres:
      url: {env: SHOP_URL}
      publication: millstream
      tables: ["*"]
      exclude: [secret]
models:
  large:
    sql: SELECT id, amount FROM shop.orders WHERE amount > 10
    key: [id]
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    tables: [large, lines]
    commit: {every: 100ms, idle_every: 300ms}
"#;

fn millstream(project: &ProjectFolder, url: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(MILLSTREAM)
        .args(arguments)
        .arg(project.path())
        .env("SHOP_URL", url)
        .env("LAKE", project.lake())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!out.contains("hunter2"), "the password is shown: {out}");
    (output.status.success(), out.into_owned())
}

#[test]
fn the_printed_script_is_all_that_a_pipeline_needs() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, amount int); \
             CREATE TABLE lines (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY); \
             INSERT INTO orders VALUES (1, 5), (2, 50); INSERT INTO lines VALUES (1)",
        )
        .unwrap();
    let project = ProjectFolder::new(&[("orders.yaml", PIPELINE)]);
    let url = cluster.url_as("reader", "hunter2", "postgres");
    let print = ["setup", "postgres", "--print-sql"];
    // The role is made first; once it can log in the patterns are known.
    for _ in 0..2 {
        let (printed, script) = millstream(&project, &url, &print);
        assert!(printed, "{script}");
        cluster
            .psql(&format!("\\set password hunter2\n{script}"))
            .unwrap_or_else(|error| panic!("{script}: {error}"));
    }
    let (_, script) = millstream(&project, &url, &print);
    assert!(script.contains("nothing is missing"), "{script}");
    let (well, findings) = millstream(&project, &url, &["check"]);
    assert!(well, "{findings}");

    let lake = project.path().join("lake");
    let env = [("SHOP_URL", url), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    let copied = |table: &'static str, rows: u64| {
        move |status: &[millstream::engine::status::PipelineStatus]| {
            status[0].tables.get(table).is_some_and(|known| known.rows >= rows)
        }
    };
    daemon.wait_until("the first copy", Duration::from_secs(60), copied("lines", 1));
    cluster
        .psql("INSERT INTO orders VALUES (3, 30); INSERT INTO lines VALUES (2)")
        .unwrap();
    daemon.wait_until("the stream", Duration::from_secs(60), copied("lines", 2));
    daemon.wait_until("the model", Duration::from_secs(60), copied("large", 2));
    daemon.drain();
    assert_eq!(Table::read(&lake, "lines").fold("id").len(), 2);
    assert_eq!(Table::read(&lake, "large").fold("id").len(), 2);
}

#[test]
fn json_holds_the_same_statements_and_no_pipeline_is_forgotten() {
    let project = ProjectFolder::new(&[("orders.yaml", PIPELINE)]);
    let url = "postgres://reader:hunter2@127.0.0.1:9/shop?connect_timeout=1";
    let print = [
        "setup",
        "postgres",
        "--print-sql",
        "--format",
        "json",
        "--pipeline",
        "orders",
    ];
    let (printed, json) = millstream(&project, url, &print);
    assert!(printed, "{json}");
    let setups: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(setups[0]["source"], "shop");
    assert!(setups[0]["unreachable"].is_string(), "{json}");
    let first = setups[0]["statements"][0]["sql"].as_str().unwrap();
    assert_eq!(first, "CREATE ROLE \"reader\" LOGIN REPLICATION PASSWORD :'password';");
    let (printed, error) = millstream(
        &project,
        url,
        &["setup", "postgres", "--print-sql", "--pipeline", "other"],
    );
    assert!(!printed && error.contains("no pipeline `other`"), "{error}");
    let (printed, error) = millstream(&project, url, &["setup", "postgres"]);
    assert!(!printed && error.contains("--print-sql"), "{error}");
}

#[test]
fn what_a_pattern_selects_is_not_missed_without_the_server() {
    let project = ProjectFolder::new(&[("orders.yaml", PIPELINE)]);
    let url = "postgres://reader:hunter2@127.0.0.1:9/shop";
    let (well, findings) = millstream(&project, url, &["check", "--offline"]);
    assert!(well, "{findings}");
    project.write(
        "orders.yaml",
        &PIPELINE.replace("\"*\"", "lines").replace("exclude", "# exclude"),
    );
    let (well, findings) = millstream(&project, url, &["check", "--offline"]);
    assert!(!well && findings.contains("SQ0002"), "{findings}");
}
