//! What a user reads who got something wrong, word for word.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use millstream::engine::status::State;
use millstream_testkit::postgres::{ClusterOptions, PASSWORD, TestCluster};
use rcgen::{CertificateParams, KeyPair};

use crate::daemon::{Daemon, MILLSTREAM};
use crate::lake::count_and_sum;
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

const SCHEMA: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, amount numeric(10,2)); \
                      CREATE PUBLICATION millstream FOR TABLE orders";

/// Runs `millstream check` on a folder with these files and returns its output and exit code.
fn check(files: &[(&str, &str)], url: &str) -> String {
    check_folder(&ProjectFolder::new(files), url)
}

fn check_folder(project: &ProjectFolder, url: &str) -> String {
    let output = Command::new(MILLSTREAM)
        .arg("check")
        .arg(project.path())
        .env("SHOP_URL", url)
        .env("LAKE", project.lake())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    for secret in [PASSWORD, "hunter2"] {
        assert!(
            !out.contains(secret) && !err.contains(secret),
            "the password is shown:\n{out}{err}"
        );
    }
    let shown = format!("{out}{err}exit code {}", output.status.code().unwrap());
    shown.replace(&project.path().display().to_string(), "PROJECT")
}

/// Ports and times differ from run to run.
pub fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"(127\.0\.0\.1|localhost):\d+", "$1:PORT");
    settings.add_filter(r"verification time \d+", "verification time NOW");
    settings.add_filter(r"\d+ seconds ago", "N seconds ago");
    settings.set_prepend_module_to_snapshot(false);
    settings
}

const NOWHERE: &str = "postgres://user:hunter2@127.0.0.1:1/shop";

#[test]
fn faults_of_the_files_are_shown_with_their_place() {
    settings().bind(|| {
        let with = |from: &str, to: &str| {
            let files = [
                ("orders.yaml", &*ORDERS.replace(from, to)),
                ("sql/orders_clean.sql", SQL),
            ];
            check(&files, NOWHERE)
        };
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
    cluster.psql(SCHEMA).unwrap();
    let files = |yaml: &str, sql: &str| check(&[("orders.yaml", yaml), ("sql/orders_clean.sql", sql)], &cluster.url());
    let wrong_password = cluster.url_as("postgres", "hunter2", "postgres");
    settings().bind(|| {
        insta::assert_snapshot!("all_is_well", files(ORDERS, SQL));
        insta::assert_snapshot!("bad_sql", files(ORDERS, "SELECT id, amout FROM shop.orders"));
        insta::assert_snapshot!(
            "sql_a_stream_cannot_do",
            files(ORDERS, "SELECT id, sum(amount) FROM shop.orders GROUP BY id")
        );
        insta::assert_snapshot!(
            "missing_table",
            files(&ORDERS.replace("public.orders", "public.ordres"), SQL)
        );
        insta::assert_snapshot!(
            "missing_publication",
            files(&ORDERS.replace("publication: millstream", "publication: other"), SQL)
        );
        insta::assert_snapshot!(
            "unknown_sink_table",
            files(&ORDERS.replace("tables: [orders_clean]", "tables: [orders_clear]"), SQL)
        );
        insta::assert_snapshot!(
            "wrong_password",
            check(
                &[("orders.yaml", ORDERS), ("sql/orders_clean.sql", SQL)],
                &wrong_password
            )
        );
    });
}

#[test]
fn a_server_without_logical_replication_is_told_how_to_get_it() {
    let cluster = TestCluster::with_settings(&[("wal_level", "replica")]).unwrap();
    cluster.psql(SCHEMA).unwrap();
    let shown = check(
        &[("orders.yaml", ORDERS), ("sql/orders_clean.sql", SQL)],
        &cluster.url(),
    );
    settings().bind(|| insta::assert_snapshot!("no_logical_wal", shown));
}

#[test]
fn an_expired_certificate_is_named() {
    let project = ProjectFolder::new(&[("orders.yaml", ORDERS), ("sql/orders_clean.sql", SQL)]);
    let path = |name: &str| project.path().join(name);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    project.write("server.crt", &params.self_signed(&key).unwrap().pem());
    project.write("server.key", &key.serialize_pem());
    let options = ClusterOptions::default().tls(path("server.crt"), path("server.key"));
    let cluster = options.launch().unwrap();
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        cluster.url().replace("127.0.0.1", "localhost"),
        path("server.crt").display()
    );
    let shown = check_folder(&project, &url);
    settings().bind(|| insta::assert_snapshot!("expired_certificate", shown));
}

/// A small file system, which only the daemon sees: `unshare` gives it a mount of its own.
#[test]
fn a_full_disk_is_reported_and_recovered_from() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(SCHEMA).unwrap();
    cluster
        .psql("INSERT INTO orders SELECT g, 1 + random() * 1000000 FROM generate_series(1, 400000) g")
        .unwrap();
    let project = ProjectFolder::new(&[("orders.yaml", ORDERS), ("sql/orders_clean.sql", SQL)]);
    let lake = project.path().join("lake");
    std::fs::create_dir(&lake).unwrap();
    let env = [("SHOP_URL", cluster.url()), ("LAKE", project.lake())];
    let Some(mut daemon) = Daemon::start_on_full_disk(project.path(), &env, &lake) else {
        return;
    };
    daemon.wait_until("the disk is full", Duration::from_secs(60), |status| {
        status[0].last_error.is_some() && status[0].state != State::Running
    });
    let error = daemon.status().unwrap().remove(0).last_error.unwrap();
    let shown = format!(
        "{}: {}\nhint: {}",
        error.kind,
        error.message,
        error.hint.unwrap_or_default()
    );
    let shown = shown.replace(&project.path().display().to_string(), "PROJECT");
    assert_eq!(error.kind, "storage_full", "{shown}");
    let mut settings = settings();
    settings.add_filter(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]{20}[0-9a-z.-]*", "FILE");
    settings.bind(|| insta::assert_snapshot!("disk_full", shown));

    // The daemon's view of its mounts, through which its file system can be reached.
    let within = PathBuf::from(format!("/proc/{}/root{}", daemon.id(), lake.display()));
    std::fs::remove_file(within.join("filler")).unwrap();
    daemon.wait_until("all is committed", Duration::from_secs(240), |status| {
        status[0]
            .tables
            .get("orders_clean")
            .is_some_and(|table| table.rows == 400_000)
    });
    let query = "SELECT sum(id) FROM orders";
    let sum: u128 = cluster.psql(query).unwrap().trim().parse().unwrap();
    assert_eq!(count_and_sum(&within, "orders_clean", "id"), (400_000, sum));
    daemon.drain();
}

#[test]
fn help_texts_are_as_reviewed() {
    for command in ["", "check", "run", "setup postgres", "status", "demo"] {
        let arguments = command.split_whitespace().chain(["--help"]);
        let output = Command::new(MILLSTREAM).args(arguments).output().unwrap();
        let name = if command.is_empty() { "millstream" } else { command };
        let name = format!("help_{}", name.replace(' ', "_"));
        settings().bind(|| insta::assert_snapshot!(name, String::from_utf8_lossy(&output.stdout)));
    }
}
