//! What `setup` prints is enough for a role that has nothing else.

use millstream_core::Severity;
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, check, config, present, source};

/// Runs what `setup` says must be run, as psql does, and returns it.
async fn set_up(cluster: &TestCluster, config: &serde_json::Value) -> Vec<String> {
    let setup = source(config).setup().await;
    let statements: Vec<String> = setup
        .statements
        .into_iter()
        .filter(|statement| statement.severity == Severity::Error)
        .filter_map(|statement| statement.sql)
        .collect();
    let script = statements.join("\n");
    cluster
        .psql(&format!("\\set password 'it''s'\n{script}"))
        .unwrap_or_else(|error| panic!("{script}: {error}"));
    statements
}

async fn copies_and_streams(
    cluster: &TestCluster,
    config: &serde_json::Value,
    tables: &[&str],
    insert: &str,
) -> Target {
    assert_eq!(check(config).await, []);
    let mut run = Running::start(source(config), Target::of(tables));
    run.until_streaming(cluster).await;
    cluster.psql(insert).unwrap();
    run.catch_up(cluster).await;
    run.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_nothing_is_set_up_without_reaching_it() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; \
             CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'a'); \
             CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); \
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1)",
        )
        .unwrap();
    let mut config = config(&cluster, &["orders", "parts"]);
    config["url"] = cluster
        .url_as("Odd reader", "unused", "postgres")
        .replace(' ', "%20")
        .into();
    config["password"] = "it's".into();
    let statements = set_up(&cluster, &config).await;
    assert!(statements[0].starts_with("CREATE ROLE"), "{statements:?}");
    let attributes = "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication FROM pg_roles \
                      WHERE rolname = 'Odd reader'";
    assert_eq!(cluster.psql(attributes).unwrap(), "f|f|f|f|t");
    let target = copies_and_streams(
        &cluster,
        &config,
        &["orders", "parts"],
        "INSERT INTO orders VALUES (2, 'b'); UPDATE orders SET note = 'c' WHERE id = 1; INSERT INTO parts VALUES (2)",
    )
    .await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "note"])
    );
    assert_eq!(target.folded("parts", "id"), present(&cluster, "parts", &["id"]));
    assert_eq!(set_up(&cluster, &config).await, [""; 0], "nothing is missing any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_is_asked_for() {
    let cluster = TestCluster::new().unwrap();
    if !cluster.has("column lists", 15).unwrap() {
        return;
    }
    cluster
        .psql(
            "CREATE ROLE reader LOGIN PASSWORD 'r' REPLICATION; CREATE SCHEMA sales; \
             CREATE TABLE people (id int PRIMARY KEY, note text, secret text); \
             CREATE TABLE sales.lines (id int PRIMARY KEY); CREATE TABLE sales.more (id int PRIMARY KEY); \
             INSERT INTO people VALUES (1, 'a', 's'); INSERT INTO sales.lines VALUES (1); \
             CREATE PUBLICATION p FOR TABLE people (id, note) WHERE (id <> 7), sales.lines, sales.more",
        )
        .unwrap();
    let mut config = config(&cluster, &["people", "sales.*"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    assert_eq!(
        set_up(&cluster, &config).await,
        [
            "GRANT SELECT (\"ctid\", \"id\", \"note\") ON \"public\".\"people\" TO \"reader\";",
            "GRANT USAGE ON SCHEMA \"sales\" TO \"reader\";",
            "GRANT SELECT ON \"sales\".\"lines\" TO \"reader\";",
            "GRANT SELECT ON \"sales\".\"more\" TO \"reader\";",
        ]
    );
    config["tables"] = serde_json::json!(["people"]);
    let target = copies_and_streams(
        &cluster,
        &config,
        &["people"],
        "INSERT INTO people VALUES (2, 'b', 's'), (7, 'n', 's'); UPDATE people SET note = 'c' WHERE id = 1",
    )
    .await;
    let mut expected = present(&cluster, "people", &["id", "note"]);
    expected.retain(|key, _| key["id"] != "7");
    assert_eq!(target.folded("people", "id"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_publication_gets_what_the_patterns_match() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE ROLE reader LOGIN PASSWORD 'r' REPLICATION; CREATE SCHEMA sales; \
             CREATE TABLE sales.lines (id int PRIMARY KEY); CREATE TABLE sales.tmp (id int PRIMARY KEY); \
             CREATE TABLE sales.parts (id int PRIMARY KEY) PARTITION BY RANGE (id); \
             CREATE TABLE sales.parts_1 PARTITION OF sales.parts FOR VALUES FROM (0) TO (10)",
        )
        .unwrap();
    let mut config = config(&cluster, &["sales.*"]);
    config["exclude"] = serde_json::json!(["sales.t*"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    let statements = set_up(&cluster, &config).await;
    assert_eq!(
        statements.last().unwrap(),
        "CREATE PUBLICATION \"p\" FOR TABLE \"sales\".\"lines\", \"sales\".\"parts\" \
         WITH (publish_via_partition_root = true);"
    );
    assert_eq!(check(&config).await, []);
}

/// As after the first of two rounds, which could not know what the patterns match.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_publication_gets_what_the_patterns_match() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE ROLE reader LOGIN PASSWORD 'r' REPLICATION; CREATE TABLE lines (id int PRIMARY KEY); \
             CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION p",
        )
        .unwrap();
    let mut config = config(&cluster, &["li*"]);
    config["url"] = cluster.url_as("reader", "r", "postgres").into();
    assert_eq!(
        set_up(&cluster, &config).await,
        [
            "GRANT SELECT ON \"public\".\"lines\" TO \"reader\";",
            "ALTER PUBLICATION \"p\" ADD TABLE \"public\".\"lines\";",
        ]
    );
    assert_eq!(check(&config).await, []);

    // A slot that was made by hand is taken.
    let slot = source(&config).setup().await.statements.pop().unwrap();
    cluster.psql(slot.sql.as_deref().unwrap()).unwrap();
    cluster.psql("INSERT INTO lines VALUES (1)").unwrap();
    let mut run = Running::start(source(&config), Target::of(&["lines"]));
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("lines", "id").len(), 1);
}

/// What changes a table is for its owner to decide on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_a_choice_is_not_to_be_run() {
    let cluster = TestCluster::with_settings(&[("wal_level", "replica")]).unwrap();
    cluster
        .psql("CREATE TABLE keyless (id int); CREATE PUBLICATION p FOR TABLE keyless")
        .unwrap();
    let setup = source(&config(&cluster, &["keyless"])).setup().await;
    assert_eq!(setup.unreachable, None);
    let told: Vec<_> = setup.statements.iter().map(|one| (one.severity, one.code)).collect();
    assert_eq!(
        told,
        [
            (Severity::Warning, Some("PG0011")),
            (Severity::Warning, Some("PG0018")),
            (Severity::Info, None)
        ]
    );
}
