//! `millstream check` shows all faults at once, whatever file, pipeline and kind they are of.

use std::process::Command;

use crate::bad_input::settings;
use crate::daemon::MILLSTREAM;
use crate::project::ProjectFolder;

const ORDERS: &str = r#"pipeline: orders
sources:
  shop:
    postgres:
      url: "postgres://me:hunter2@127.0.0.1:1/shop"
      publication: millstream
      tables: [orders, customers]
  clicks:
    kafka: {brokers: "127.0.0.1:1", topics: [clicks, clicks], decode: json}
models:
  orders_clean:
    sql: sql/orders_clean.sql
    key: [id]
    checks:
      - not_null: [id]
      - regex_match: {column: email, pattern: "("}
        then: quarantine
  totals:
    sql: SELECT id, sum(amount) AS total FROM shop.orders GROUP BY id
    key: [id]
sinks:
  lake:
    parquet: {url: /srv/lake}
    tables: [orders_clean, customers, public.customers, costumers]
"#;

const COPY: &str = r#"pipeline: copy
sources:
  shop:
    postgres:
      url: "postgres://me:hun?ter2@127.0.0.1:1/shop"
      publication: millstream
      tables: [customers]
sinks:
  lake:
    parquet: {url: /srv/./lake/}
"#;

const CLICKS: &str = r#"pipeline: clicks
sources:
  clicks:
    kafka:
      brokers: "127.0.0.1:1"
      topics: [clicks]
      decode: json
      security: {sasl: {mechanism: PLAIN, username: me, password: 87654321}}
sinks:
  lake:
    parquet: {url: /srv/clicks}
"#;

const ZERO: &str = r#"pipeline: zero
sources:
  clicks:
    kafka: {brokers: "127.0.0.1:1", topics: [clicks], decode: json}
sinks:
  lake:
    parquet: {url: "https://host/lake?sig=hunter2"}
    commit: {rows: 0}
"#;

const EVERY: &str = r#"pipeline: every
sources:
  clicks:
    kafka: {brokers: "127.0.0.1:1", topics: [clicks], decode: json}
sinks:
  lake:
    parquet: {url: /srv/every}
    commit: {rows: 0}
  second:
    parquet: {url: /srv/second, compresion: zstd}
"#;

fn check(project: &ProjectFolder, arguments: &[&str]) -> String {
    let output = Command::new(MILLSTREAM)
        .arg("check")
        .args(arguments)
        .arg(project.path())
        .output()
        .unwrap();
    let shown = format!(
        "{}{}exit code {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        output.status.code().unwrap()
    );
    for secret in ["hun", "ter2", "8765"] {
        assert!(!shown.contains(secret), "a secret is shown:\n{shown}");
    }
    shown.replace(&project.path().display().to_string(), "PROJECT")
}

#[test]
fn no_fault_hides_another() {
    let project = ProjectFolder::new(&[
        ("clicks.yaml", CLICKS),
        ("copy.yaml", COPY),
        ("every.yaml", EVERY),
        ("millstream.yaml", "admin: {listen: 9464}\n"),
        ("orders.yaml", ORDERS),
        ("zero.yaml", ZERO),
        ("sql/orders_clean.sql", "SELECT id, email FORM shop.orders\n"),
    ]);
    settings().bind(|| {
        insta::assert_snapshot!("all_faults", check(&project, &["--offline"]));
        insta::assert_snapshot!("all_faults_json", check(&project, &["--offline", "--format", "json"]));
    });
}

#[test]
fn two_pipelines_with_one_table_or_one_slot_are_refused() {
    let sound = COPY
        .replace("hun?ter2", "hunter2")
        .replace("/srv/./lake/", "/srv/x/../lake");
    let slot = "publication: millstream\n      slot: mine";
    let first = sound.replace("publication: millstream", slot).replace("copy", "first");
    let second = sound.replace("publication: millstream", slot).replace("copy", "second");
    let other_slot = sound
        .replace("copy", "third")
        .replace("/srv/x/../lake", "file:///srv/lake");
    let project = ProjectFolder::new(&[
        ("first.yaml", &first),
        ("second.yaml", &second.replace("/srv/x/../lake", "/srv/other")),
        ("third.yaml", &other_slot),
    ]);
    settings().bind(|| insta::assert_snapshot!("shared", check(&project, &["--offline"])));
}

#[test]
fn a_source_that_cannot_be_reached_hides_no_fault_of_the_sql() {
    let sql = "SELECT DISTINCT id FROM shop.customers";
    let model = format!("models:\n  ids:\n    sql: {sql}\n    key: [id]\nsinks:");
    let yaml = COPY
        .replace("hun?ter2", "hunter2")
        .replace("sinks:", &model)
        .replace("/srv/./lake/", "${LAKE}");
    let project = ProjectFolder::new(&[("copy.yaml", &yaml)]);
    let yaml = yaml.replace("${LAKE}", &project.lake());
    project.write("copy.yaml", &yaml);
    settings().bind(|| insta::assert_snapshot!("unreachable_and_wrong", check(&project, &[])));
}
