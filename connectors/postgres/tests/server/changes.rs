//! Tables that change their columns, names and places while nobody reads, or under the reader.

use millstream_core::{ErrorKind, TableId};
use millstream_testkit::change_log::{Cells, fold_rows};
use millstream_testkit::postgres::TestCluster;

use crate::target::{Held, Running, Target, check, config, eventually, present, source, table};

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE PUBLICATION p FOR ALL TABLES; \
    INSERT INTO orders VALUES (1, 1), (2, 2);";

fn cells(pairs: &[(&str, &str)]) -> Cells {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// What a source holds that caught up and was stopped.
async fn caught_up(cluster: &TestCluster, config: &serde_json::Value, target: Target) -> Target {
    let mut run = Running::start(source(config), target);
    run.catch_up(cluster).await;
    let mut target = run.stop().await;
    // A new process has no memory of boundaries.
    target.boundaries.clear();
    target
}

async fn first_copy(cluster: &TestCluster, config: &serde_json::Value, tables: &[&str]) -> Target {
    caught_up(cluster, config, Target::of(tables)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_came_and_went_before_the_start_is_read() {
    for (name, declared, value) in [("span", "int4range", "[1,5)"), ("feeling", "mood", "bad")] {
        let cluster = TestCluster::new().unwrap();
        cluster.psql(ORDERS).unwrap();
        cluster.psql("CREATE TYPE mood AS ENUM ('good', 'bad')").unwrap();
        let mut small = config(&cluster, &["orders"]);
        small["batch"]["rows"] = 100.into();
        let target = first_copy(&cluster, &small, &["orders"]).await;
        // A transaction of which much is handed on before the column comes.
        cluster
            .psql(&format!(
                "INSERT INTO orders SELECT i, i FROM generate_series(10, 60) i; BEGIN; \
                 INSERT INTO orders SELECT i, i FROM generate_series(1000, 1999) i; \
                 UPDATE orders SET id = id + 5000 WHERE id < 30; DELETE FROM orders WHERE id BETWEEN 1100 AND 1250; \
                 ALTER TABLE orders ADD {name} {declared}; INSERT INTO orders VALUES (3, 3, '{value}'); \
                 UPDATE orders SET amount = 0 WHERE id > 1900; COMMIT; \
                 INSERT INTO orders VALUES (4, 4, '{value}'); \
                 ALTER TABLE orders DROP {name}; DROP TYPE mood; INSERT INTO orders VALUES (5, 5)"
            ))
            .unwrap();
        let target = caught_up(&cluster, &small, target).await;
        let with_it = target.changes("orders").into_iter().filter(|(op, ..)| op == "c");
        let values: Vec<_> = with_it.filter_map(|(_, cells, _)| cells.get(name).cloned()).collect();
        assert_eq!(values, [value, value], "{name}");
        let mut folded = target.folded("orders", "id");
        folded.values_mut().for_each(|cells| {
            cells.remove(name);
        });
        assert_eq!(folded, present(&cluster, "orders", &["id", "amount"]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_answered_while_types_are_looked_up() {
    let cluster = TestCluster::with_settings(&[("wal_sender_timeout", "3s")]).unwrap();
    cluster.psql(ORDERS).unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    // From now on a new session takes longer than the server waits for an answer.
    cluster
        .psql("ALTER SYSTEM SET pre_auth_delay = '6s'; SELECT pg_reload_conf()")
        .unwrap();
    cluster
        .psql("ALTER TABLE orders ADD price numeric(9,1); INSERT INTO orders VALUES (3, 3, 1.5)")
        .unwrap();
    run.until(|target| target.tables[&table("orders")].rows.len() == 3)
        .await;
    let target = run.stop().await;
    let changes = target.changes("orders");
    assert_eq!(changes[0].1, cells(&[("id", "3"), ("amount", "3"), ("price", "1.5")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_replaced_under_its_name_halts_where_it_is_not_to_be_copied_anew() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let mut config = config(&cluster, &["orders"]);
    config["recopy"] = "never".into();
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let mut target = run.target.clone();
    target.boundaries.clear();
    cluster
        .psql(
            "CREATE TABLE next (id int PRIMARY KEY, amount int); INSERT INTO next VALUES (7, 7); \
             BEGIN; ALTER TABLE orders RENAME TO old; ALTER TABLE next RENAME TO orders; COMMIT; \
             INSERT INTO orders VALUES (8, 8)",
        )
        .unwrap();
    let while_it_runs = run.failure().await;
    let at_the_start = Running::start(source(&config), target).failure().await;
    for failure in [while_it_runs, at_the_start] {
        let found = (failure.kind(), failure.error_code());
        assert_eq!(
            found,
            (ErrorKind::SchemaChange, Some("PG0034")),
            "{}",
            failure.summary()
        );
        assert!(failure.hint_text().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_table_is_copied_anew_though_the_log_still_has_the_old_one() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    cluster.psql("CREATE TABLE lines (id int PRIMARY KEY)").unwrap();
    let config = config(&cluster, &["orders", "lines"]);
    let mut target = first_copy(&cluster, &config, &["orders", "lines"]).await;
    cluster
        .psql(
            "INSERT INTO lines VALUES (1); INSERT INTO orders VALUES (3, 3); DROP TABLE orders; \
             CREATE TABLE orders (id int PRIMARY KEY, amount int); INSERT INTO orders VALUES (9, 9); \
             INSERT INTO lines VALUES (2)",
        )
        .unwrap();
    // As an operator does who was told to.
    target.tables.insert(table("orders"), Held::default());
    for _ in 0..2 {
        target = caught_up(&cluster, &config, target).await;
        cluster
            .psql("INSERT INTO orders SELECT max(id) + 1, 0 FROM orders")
            .unwrap();
    }
    let target = caught_up(&cluster, &config, target).await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount"])
    );
    assert_eq!(target.folded("lines", "id").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_change_while_nobody_reads() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let config = config(&cluster, &["orders"]);
    let target = first_copy(&cluster, &config, &["orders"]).await;
    cluster
        .psql(
            "INSERT INTO orders VALUES (3, 3); ALTER TABLE orders ADD note text; \
             INSERT INTO orders VALUES (4, 4, 'd'); ALTER TABLE orders RENAME amount TO total; \
             INSERT INTO orders VALUES (5, 5, 'e'); ALTER TABLE orders DROP total; \
             INSERT INTO orders VALUES (6, 'f');",
        )
        .unwrap();
    let target = caught_up(&cluster, &config, target).await;
    let changes: Vec<_> = target
        .changes("orders")
        .into_iter()
        .map(|(_, cells, _)| cells)
        .collect();
    assert_eq!(
        changes,
        [
            cells(&[("id", "3"), ("amount", "3")]),
            cells(&[("id", "4"), ("amount", "4"), ("note", "d")]),
            cells(&[("id", "5"), ("total", "5"), ("note", "e")]),
            cells(&[("id", "6"), ("note", "f")]),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_taken_as_they_are() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            r#"CREATE SCHEMA sales; CREATE SCHEMA "Odd 'Schema";
             CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE sales.orders (id int PRIMARY KEY);
             CREATE TABLE "Odd 'Schema"."Ta""b.le" ("Id 'x" int PRIMARY KEY, "select" text);
             INSERT INTO orders VALUES (1); INSERT INTO sales.orders VALUES (2);
             INSERT INTO "Odd 'Schema"."Ta""b.le" VALUES (3, 'c');
             CREATE PUBLICATION "the ""p'ub" FOR ALL TABLES"#,
        )
        .unwrap();
    let ids = [("public", "orders"), ("sales", "orders"), ("Odd 'Schema", "Ta\"b.le")]
        .map(|(schema, name)| TableId::new("shop", Some(schema), name));
    let mut config = config(&cluster, &["public.orders", "sales.orders", "Odd 'Schema.Ta\"b.le"]);
    config["publication"] = "the \"p'ub".into();
    assert_eq!(check(&config).await, []);
    let mut target = Target::default();
    for id in &ids {
        target.tables.insert(id.clone(), Held::default());
    }
    let mut run = Running::start(source(&config), target);
    run.until_streaming(&cluster).await;
    cluster
        .psql(
            r#"INSERT INTO orders VALUES (10); INSERT INTO sales.orders VALUES (20);
             UPDATE "Odd 'Schema"."Ta""b.le" SET "select" = 'd'"#,
        )
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let rows = |id: &TableId, key: &str| -> Vec<Cells> {
        fold_rows(&[key.to_owned()], target.tables[id].rows.clone())
            .into_values()
            .collect()
    };
    let by_id = |id| cells(&[("id", id)]);
    assert_eq!(rows(&ids[0], "id"), [by_id("1"), by_id("10")]);
    assert_eq!(rows(&ids[1], "id"), [by_id("2"), by_id("20")]);
    assert_eq!(rows(&ids[2], "Id 'x"), [cells(&[("Id 'x", "3"), ("select", "d")])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_truncated_together() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    cluster
        .psql(
            "CREATE TABLE lines (id int PRIMARY KEY, orders int REFERENCES orders); \
             CREATE TABLE notes (id int PRIMARY KEY); CREATE TABLE foreigner (id int); \
             INSERT INTO lines VALUES (1, 1); INSERT INTO notes VALUES (1)",
        )
        .unwrap();
    let tables = ["orders", "lines", "notes"];
    let mut run = Running::start(source(&config(&cluster, &tables)), Target::of(&tables));
    run.until_streaming(&cluster).await;
    let counts = |target: &Target| tables.map(|name| target.folded(name, "id").len());
    assert_eq!(counts(&run.target), [2, 1, 1]);
    cluster
        .psql("INSERT INTO notes VALUES (2); TRUNCATE orders CASCADE; INSERT INTO orders VALUES (9, 9)")
        .unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(counts(&run.target), [1, 0, 2]);
    cluster
        .psql("BEGIN; INSERT INTO lines VALUES (9, 9); TRUNCATE lines, foreigner, notes; INSERT INTO notes VALUES (3); COMMIT")
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(counts(&target), [1, 0, 1]);
    assert_eq!(target.folded("notes", "id"), present(&cluster, "notes", &["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_leaves_the_publication_is_refused_at_the_next_start() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE lines (id int PRIMARY KEY); \
             CREATE PUBLICATION p FOR TABLE orders, lines",
        )
        .unwrap();
    let tables = ["orders", "lines"];
    let config = config(&cluster, &tables);
    let mut run = Running::start(source(&config), Target::of(&tables));
    run.until_streaming(&cluster).await;
    cluster
        .psql("ALTER PUBLICATION p DROP TABLE orders; INSERT INTO orders VALUES (1); INSERT INTO lines VALUES (1)")
        .unwrap();
    run.catch_up(&cluster).await;
    let mut target = run.stop().await;
    // The server says nothing of it.
    assert_eq!(target.folded("orders", "id").len(), 0);
    assert_eq!(target.folded("lines", "id").len(), 1);
    target.boundaries.clear();
    let free = "SELECT count(*) FROM pg_replication_slots WHERE active";
    eventually("the slot is free", || cluster.psql(free).unwrap() == "0").await;
    let failure = Running::start(source(&config), target).failure().await;
    assert_eq!(failure.error_code(), Some("PG0015"), "{}", failure.summary());
}
