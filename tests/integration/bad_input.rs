//! What a user reads who got something wrong, word for word.

use std::process::Command;

use millstream_testkit::postgres::TestCluster;

use crate::daemon::MILLSTREAM;
use crate::project::ProjectFolder;

const ORDERS: &str = r#"
pipeline: orders
sources:
  shop:
    postgres:
      url: {env: SHOP_URL}
      publication: millstream
      tables: [public.orders]
models:
  orders_clean:
    sql: sql/orders_clean.sql
    key: [id]
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    tables: [orders_clean]
"#;

const SQL: &str = "SELECT id, amount FROM shop.orders WHERE amount > 0\n";

/// Runs `millstream check` on a folder with these files and returns its output and exit code.
fn check(files: &[(&str, &str)], url: &str) -> String {
    let project = ProjectFolder::new(files);
    let output = Command::new(MILLSTREAM)
        .arg("check")
        .arg(project.path())
        .env("SHOP_URL", url)
        .env("LAKE", project.lake())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!out.contains("millstream-test") && !err.contains("millstream-test"), "the password is shown");
    let shown = format!("{out}{err}exit code {}", output.status.code().unwrap());
    shown.replace(&project.path().display().to_string(), "PROJECT")
}

/// Ports differ from run to run.
fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT");
    settings.set_prepend_module_to_snapshot(false);
    settings
}

const NOWHERE: &str = "postgres://user:secret@127.0.0.1:1/shop";

#[test]
fn faults_of_the_files_are_shown_with_their_place() {
    settings().bind(|| {
        let with = |from: &str, to: &str| check(&[("orders.yaml", &ORDERS.replace(from, to))], NOWHERE);
        insta::assert_snapshot!("unknown_key", with("publication:", "publicaton:"));
        insta::assert_snapshot!("wrong_type", with("tables: [public.orders]", "tables: 7"));
        insta::assert_snapshot!("unset_variable", with("{env: SHOP_URL}", "{env: NOT_SET_ANYWHERE}"));
        insta::assert_snapshot!("missing_sql_file", with("orders_clean.sql", "missing.sql"));
        insta::assert_snapshot!("bad_name", with("pipeline: orders", "pipeline: Orders-1"));
        insta::assert_snapshot!("unknown_sink", with("parquet:", "parquett:"));
        insta::assert_snapshot!("no_pipeline", check(&[], NOWHERE));
    });
}

#[test]
fn an_unreachable_host_is_named() {
    let shown = check(&[("orders.yaml", ORDERS), ("sql/orders_clean.sql", SQL)], NOWHERE);
    settings().bind(|| insta::assert_snapshot!("unreachable_host", shown));
}

#[test]
fn faults_that_only_the_server_knows_are_shown_with_their_remedy() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE orders (id bigint PRIMARY KEY, amount numeric(10,2)); CREATE PUBLICATION millstream FOR TABLE orders")
        .unwrap();
    let files = |yaml: &str, sql: &str| check(&[("orders.yaml", yaml), ("sql/orders_clean.sql", sql)], &cluster.url());
    let wrong_password = cluster.url_as("postgres", "wrong", "postgres");
    settings().bind(|| {
        insta::assert_snapshot!("all_is_well", files(ORDERS, SQL));
        insta::assert_snapshot!("bad_sql", files(ORDERS, "SELECT id, amout FROM shop.orders"));
        insta::assert_snapshot!("sql_a_stream_cannot_do", files(ORDERS, "SELECT id, sum(amount) FROM shop.orders GROUP BY id"));
        insta::assert_snapshot!("missing_table", files(&ORDERS.replace("public.orders", "public.ordres"), SQL));
        insta::assert_snapshot!("missing_publication", files(&ORDERS.replace("publication: millstream", "publication: other"), SQL));
        insta::assert_snapshot!("unknown_sink_table", files(&ORDERS.replace("tables: [orders_clean]", "tables: [orders_clear]"), SQL));
        insta::assert_snapshot!("wrong_password", check(&[("orders.yaml", ORDERS), ("sql/orders_clean.sql", SQL)], &wrong_password));
    });
}

#[test]
fn a_server_without_logical_replication_is_told_how_to_get_it() {
    let cluster = TestCluster::with_settings(&[("wal_level", "replica")]).unwrap();
    cluster
        .psql("CREATE TABLE orders (id bigint PRIMARY KEY, amount numeric(10,2)); CREATE PUBLICATION millstream FOR TABLE orders")
        .unwrap();
    let shown = check(&[("orders.yaml", ORDERS), ("sql/orders_clean.sql", SQL)], &cluster.url());
    settings().bind(|| insta::assert_snapshot!("no_logical_wal", shown));
}

#[test]
fn help_texts_are_as_reviewed() {
    for command in ["", "check", "run", "status", "demo"] {
        let arguments = [command, "--help"];
        let output = Command::new(MILLSTREAM).args(arguments.iter().filter(|word| !word.is_empty())).output().unwrap();
        let name = format!("help_{}", if command.is_empty() { "millstream" } else { command });
        settings().bind(|| insta::assert_snapshot!(name, String::from_utf8_lossy(&output.stdout)));
    }
}
