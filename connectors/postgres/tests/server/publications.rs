//! What publications make of tables: patterns, several publications, row filters, column lists,
//! partitions. A first copy and the stream have to agree on it.

use millstream_core::{Source, TableId};
use millstream_testkit::change_log::{Cells, fold_rows};
use millstream_testkit::postgres::TestCluster;

use crate::target::{Held, Running, Target, check, config, source};

fn target(tables: &[(&str, &str)]) -> Target {
    let mut target = Target::default();
    for (schema, name) in tables {
        target.tables.insert(id(schema, name), Held::default());
    }
    target
}

fn id(schema: &str, name: &str) -> TableId {
    TableId::new("shop", Some(schema), name)
}

/// The rows that the target holds of a table, in the order of its key.
fn held(target: &Target, table: &TableId, key: &[&str]) -> Vec<Cells> {
    let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
    fold_rows(&key, target.tables[table].rows.clone())
        .into_values()
        .collect()
}

/// The rows of a query, as the target shows them: every column as text.
fn selected(cluster: &TestCluster, query: &str) -> Vec<Cells> {
    let json = cluster
        .psql(&format!("SELECT to_jsonb(q) FROM ({query}) q"))
        .unwrap_or_else(|error| panic!("{query}: {error}"));
    let cells = |line: &str| -> Cells {
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).expect("the server's JSON");
        row.into_iter()
            .filter_map(|(name, value)| match value {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some((name, text)),
                other => Some((name, other.to_string())),
            })
            .collect()
    };
    json.lines().map(cells).collect()
}

async fn names(config: &serde_json::Value) -> Vec<String> {
    let tables = source(config).tables().await.unwrap();
    tables.iter().map(|table| table.id.within_source()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_select_among_what_is_published() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE SCHEMA sales; CREATE TABLE sales.order_lines (id int PRIMARY KEY); \
             CREATE TABLE sales.order_notes (id int PRIMARY KEY); CREATE TABLE sales.other (id int PRIMARY KEY); \
             CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY); \
             CREATE TABLE unpublished (id int PRIMARY KEY); \
             INSERT INTO sales.order_lines VALUES (1); INSERT INTO items VALUES (1); \
             CREATE PUBLICATION p FOR TABLE sales.order_lines, sales.order_notes, sales.other, items, secret",
        )
        .unwrap();
    let mut config = config(&cluster, &["*", "sales.order_*"]);
    config["exclude"] = serde_json::json!(["*.secret", "sales.order_notes"]);
    assert_eq!(check(&config).await, []);
    assert_eq!(names(&config).await, ["public.items", "sales.order_lines"]);
    let (items, lines) = (id("public", "items"), id("sales", "order_lines"));
    let mut run = Running::start(
        source(&config),
        target(&[("public", "items"), ("sales", "order_lines")]),
    );
    run.until_streaming(&cluster).await;
    cluster
        .psql("INSERT INTO items VALUES (2); INSERT INTO secret VALUES (2); INSERT INTO sales.order_lines VALUES (2)")
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        held(&target, &items, &["id"]),
        selected(&cluster, "SELECT * FROM items")
    );
    assert_eq!(
        held(&target, &lines, &["id"]),
        selected(&cluster, "SELECT * FROM sales.order_lines")
    );

    config["tables"] = serde_json::json!(["*", "nowhere.*"]);
    let findings = check(&config).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].code, findings[0].subject.as_str()),
        (Some("PG0060"), "tables nowhere.*")
    );
    let failure = source(&config).tables().await.unwrap_err();
    assert_eq!(failure.error_code(), Some("PG0060"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_s_table_that_left_the_publication_is_missed() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); \
             CREATE PUBLICATION p FOR TABLE a, b",
        )
        .unwrap();
    let config = config(&cluster, &["*"]);
    let mut run = Running::start(source(&config), target(&[("public", "a"), ("public", "b")]));
    run.until_streaming(&cluster).await;
    let held = run.stop().await;
    cluster.psql("ALTER PUBLICATION p DROP TABLE b").unwrap();
    let failure = Running::start(source(&config), held).failure().await;
    assert_eq!(failure.error_code(), Some("PG0015"), "{}", failure.summary());
    assert_eq!(
        failure.hint_text(),
        Some("`millstream check` names the statement that mends it")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_publications_are_read_as_one() {
    let cluster = TestCluster::new().unwrap();
    if !cluster.has("row filters", 15).unwrap() {
        return;
    }
    cluster
        .psql(
            r#"CREATE TABLE ranges (id int PRIMARY KEY, note text); CREATE TABLE lines (id int PRIMARY KEY);
             CREATE TABLE whole (id int PRIMARY KEY);
             CREATE PUBLICATION a FOR TABLE ranges WHERE (id < 10), whole WHERE (id > 100);
             CREATE PUBLICATION "b, ""c'" FOR TABLE ranges WHERE (id >= 20 OR id = 15), lines, whole;
             INSERT INTO ranges SELECT g, 'copied' FROM generate_series(8, 22) g;
             INSERT INTO whole VALUES (1), (101); INSERT INTO lines VALUES (1)"#,
        )
        .unwrap();
    let mut config = config(&cluster, &["ranges", "whole", "lines"]);
    let object = config.as_object_mut().unwrap();
    object.remove("publication");
    object.insert("publications".to_owned(), serde_json::json!(["a", "b, \"c'"]));
    assert_eq!(check(&config).await, []);
    let tables = ["ranges", "whole", "lines"];
    let mut run = Running::start(source(&config), Target::of(&tables));
    run.until_streaming(&cluster).await;
    cluster
        .psql(
            "UPDATE ranges SET note = 'changed' WHERE id % 2 = 0; INSERT INTO ranges VALUES (2, 'n'), (40, 'n'), (30, 'n'); \
             DELETE FROM ranges WHERE id IN (9, 10, 21); \
             UPDATE ranges SET id = 10 WHERE id = 8; UPDATE ranges SET id = 7 WHERE id = 13; UPDATE ranges SET id = 3 WHERE id = 20; \
             INSERT INTO whole VALUES (2), (102); INSERT INTO lines VALUES (2)",
        )
        .unwrap_or_else(|error| panic!("{error}"));
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    for (table, query) in [
        (
            "ranges",
            "SELECT * FROM ranges WHERE id < 10 OR id >= 20 OR id = 15 ORDER BY id::text",
        ),
        ("whole", "SELECT * FROM whole ORDER BY id::text"),
        ("lines", "SELECT * FROM lines ORDER BY id::text"),
    ] {
        let held = held(&target, &id("public", table), &["id"]);
        assert_eq!(held, selected(&cluster, query), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_that_send_different_columns_are_refused() {
    let cluster = TestCluster::new().unwrap();
    if !cluster.has("column lists", 15).unwrap() {
        return;
    }
    cluster
        .psql(
            "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1); \
             CREATE TABLE dropped (id int PRIMARY KEY, a int, b int, g int GENERATED ALWAYS AS (id) STORED); \
             ALTER TABLE dropped DROP b; \
             CREATE PUBLICATION p FOR TABLE t (id); CREATE PUBLICATION q FOR TABLE t, dropped; \
             CREATE PUBLICATION r FOR TABLE t (a, id), dropped (id, a)",
        )
        .unwrap();
    let of = |publications: [&str; 2], table: &str| {
        let mut config = config(&cluster, &[table]);
        config.as_object_mut().unwrap().remove("publication");
        config["publications"] = serde_json::json!(publications);
        config
    };
    let refused = of(["p", "q"], "t");
    let findings = check(&refused).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].code, Some("PG0061"));
    // A list of all columns is none, but for 15 where a column was dropped or is generated.
    let whole = of(["q", "r"], "t");
    assert_eq!(check(&whole).await, []);
    let dropped = check(&of(["q", "r"], "dropped")).await;
    let codes: Vec<_> = dropped.iter().filter_map(|finding| finding.code).collect();
    let expected: &[&str] = if cluster.major().unwrap() == 15 {
        &["PG0061"]
    } else {
        &[]
    };
    assert_eq!(codes, expected);

    let mut run = Running::start(source(&whole), Target::of(&["t"]));
    run.until_streaming(&cluster).await;
    cluster.psql("INSERT INTO t VALUES (2, 2)").unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let expected = selected(&cluster, "SELECT id, a FROM t ORDER BY id");
    assert_eq!(held(&target, &id("public", "t"), &["id"]), expected);
    cluster.psql("INSERT INTO t VALUES (3, 3)").unwrap();
    let failure = Running::start(source(&refused), target).failure().await;
    assert!(format!("{failure:?}").contains("different column lists"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_pass_the_filter_in_both_directions() {
    let cluster = TestCluster::new().unwrap();
    if !cluster.has("row filters", 15).unwrap() {
        return;
    }
    cluster
        .psql(
            "CREATE TABLE full_rows (id int PRIMARY KEY, region text, amount int); \
             ALTER TABLE full_rows REPLICA IDENTITY FULL; \
             CREATE TABLE listed (secret text, id int, region text, amount int, PRIMARY KEY (region, id)); \
             CREATE PUBLICATION p FOR TABLE full_rows WHERE (region = 'eu' AND amount IS NOT NULL), \
             listed (id, region, amount) WHERE (region = 'eu'); \
             INSERT INTO full_rows SELECT g, CASE g % 2 WHEN 0 THEN 'eu' ELSE 'us' END, g FROM generate_series(1, 8) g; \
             INSERT INTO listed SELECT 's', id, region, amount FROM full_rows",
        )
        .unwrap();
    let mut run = Running::start(
        source(&config(&cluster, &["full_rows", "listed"])),
        Target::of(&["full_rows", "listed"]),
    );
    run.until_streaming(&cluster).await;
    for table in ["full_rows", "listed"] {
        cluster
            .psql(&format!(
                "UPDATE {table} SET region = 'us' WHERE id = 2; UPDATE {table} SET region = 'eu' WHERE id = 1; \
                 UPDATE {table} SET amount = NULL WHERE id IN (3, 4); UPDATE {table} SET amount = 40 WHERE id = 4; \
                 UPDATE {table} SET id = 60 WHERE id = 6; UPDATE {table} SET id = 80, region = 'us' WHERE id = 8; \
                 UPDATE {table} SET id = 50, region = 'eu' WHERE id = 5; DELETE FROM {table} WHERE id = 7; \
                 UPDATE {table} SET region = 'us' WHERE id = 1; UPDATE {table} SET region = 'eu' WHERE id = 1"
            ))
            .unwrap();
    }
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let full = selected(
        &cluster,
        "SELECT * FROM full_rows WHERE region = 'eu' AND amount IS NOT NULL ORDER BY id::text",
    );
    assert_eq!(full.len(), 4);
    assert_eq!(held(&target, &id("public", "full_rows"), &["id"]), full);
    let listed = selected(
        &cluster,
        "SELECT id, region, amount FROM listed WHERE region = 'eu' ORDER BY id::text",
    );
    assert_eq!(listed.len(), 4);
    assert_eq!(held(&target, &id("public", "listed"), &["id", "region"]), listed);
}

const TREE: &str = "CREATE TABLE tree (id int, day int, note text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day); \
    CREATE TABLE tree_a PARTITION OF tree FOR VALUES FROM (0) TO (10) PARTITION BY LIST (day); \
    CREATE TABLE tree_a_1 PARTITION OF tree_a FOR VALUES IN (1); \
    CREATE TABLE tree_a_rest PARTITION OF tree_a DEFAULT; \
    CREATE TABLE tree_b (note text, dropped int, id int NOT NULL, day int NOT NULL, PRIMARY KEY (day, id)); \
    ALTER TABLE tree_b DROP dropped; ALTER TABLE tree_b REPLICA IDENTITY FULL; \
    ALTER TABLE tree ATTACH PARTITION tree_b FOR VALUES FROM (10) TO (20); \
    INSERT INTO tree VALUES (1, 1, 'a'), (2, 2, 'a'), (3, 11, 'a'), (4, 12, 'a');";

const TREE_CHANGES: &str = "UPDATE tree SET note = 'b' WHERE id IN (1, 3); INSERT INTO tree VALUES (5, 1, 'n'), (6, 19, 'n'); \
    UPDATE tree SET day = 13 WHERE id = 2; UPDATE tree SET day = 2 WHERE id = 4; UPDATE tree SET id = 50 WHERE id = 5; \
    DELETE FROM tree WHERE id = 6; INSERT INTO tree_b (id, day) VALUES (7, 14)";

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_all_levels_are_one_table_by_its_root() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(TREE).unwrap();
    cluster
        .psql("CREATE PUBLICATION p FOR TABLE tree WITH (publish_via_partition_root = true)")
        .unwrap();
    let by_pattern = config(&cluster, &["tre*"]);
    assert_eq!(names(&by_pattern).await, ["public.tree"]);
    assert_eq!(check(&by_pattern).await, []);
    let mut run = Running::start(source(&by_pattern), Target::of(&["tree"]));
    run.until_streaming(&cluster).await;
    cluster.psql(TREE_CHANGES).unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let expected = selected(&cluster, "SELECT * FROM tree ORDER BY day::text, id::text");
    assert_eq!(held(&target, &id("public", "tree"), &["day", "id"]), expected);

    let findings = check(&config(&cluster, &["tree_b"])).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].code, Some("PG0023"));
    assert!(findings[0].message.contains("public.tree"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_tables_of_their_own_without_the_root() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(TREE).unwrap();
    cluster.psql("CREATE PUBLICATION p FOR TABLE tree").unwrap();
    let config = config(&cluster, &["tree*"]);
    let leaves = ["tree_a_1", "tree_a_rest", "tree_b"];
    assert_eq!(names(&config).await, leaves.map(|name| format!("public.{name}")));
    assert_eq!(check(&config).await, []);
    let mut run = Running::start(source(&config), Target::of(&leaves));
    run.until_streaming(&cluster).await;
    cluster.psql(TREE_CHANGES).unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    for leaf in leaves {
        let expected = selected(&cluster, &format!("SELECT * FROM {leaf} ORDER BY day::text, id::text"));
        assert_eq!(held(&target, &id("public", leaf), &["day", "id"]), expected, "{leaf}");
    }
}

/// Two publications of one tree: one sends the root's name, so that no partition has its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_of_one_publication_takes_the_partitions_of_another() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(TREE).unwrap();
    cluster
        .psql(
            "CREATE PUBLICATION p FOR TABLE tree_a WITH (publish_via_partition_root = true); \
             CREATE PUBLICATION q FOR TABLE tree_a_1, tree_b",
        )
        .unwrap();
    let mut config = config(&cluster, &["*"]);
    config.as_object_mut().unwrap().remove("publication");
    config["publications"] = serde_json::json!(["p", "q"]);
    assert_eq!(names(&config).await, ["public.tree_a", "public.tree_b"]);
    let mut run = Running::start(source(&config), Target::of(&["tree_a", "tree_b"]));
    run.until_streaming(&cluster).await;
    cluster.psql(TREE_CHANGES).unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    for table in ["tree_a", "tree_b"] {
        let expected = selected(&cluster, &format!("SELECT * FROM {table} ORDER BY day::text, id::text"));
        assert_eq!(held(&target, &id("public", table), &["day", "id"]), expected, "{table}");
    }
}

/// Servers look for publications as of the place in the log that they read; from version 18 on they
/// pass over one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_the_slot_has_not_reached_is_told_of() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE a")
        .unwrap();
    let mut config = config(&cluster, &["a"]);
    let mut run = Running::start(source(&config), target(&[("public", "a")]));
    run.until_streaming(&cluster).await;
    let before = run.stop().await;
    cluster
        .psql("INSERT INTO a VALUES (1); CREATE PUBLICATION q FOR TABLE b; INSERT INTO a VALUES (2)")
        .unwrap();
    config.as_object_mut().unwrap().remove("publication");
    config["publications"] = serde_json::json!(["p", "q"]);
    let mut run = Running::start(source(&config), before);
    if cluster.major().unwrap() >= 18 {
        run.catch_up(&cluster).await;
        assert_eq!(
            selected(&cluster, "SELECT id FROM a"),
            held(&run.stop().await, &id("public", "a"), &["id"])
        );
        return;
    }
    let failure = run.failure().await;
    assert_eq!(failure.error_code(), Some("PG0027"));
    assert!(failure.hint_text().unwrap().contains("`publications`"), "{failure:?}");
}
