//! Tables that are no longer those that were copied: replaced under their names, moved away, or with
//! other columns.

use millstream_core::{ErrorKind, PartitionId, Position};
use millstream_testkit::change_log::{ChangeRow, FoldedTable, fold_rows};
use millstream_testkit::postgres::TestCluster;
use serde_json::{Value, json};

use crate::target::{Held, Running, Target, config, flushed, is_copied, present, source, table, wal};

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, amount int); \
    INSERT INTO orders SELECT i, i FROM generate_series(1, 400) i; \
    CREATE TABLE lines (id int PRIMARY KEY, note text); INSERT INTO lines VALUES (1, 'a'); \
    CREATE PUBLICATION p FOR ALL TABLES";

/// A swap by names in one transaction: `next` becomes `orders`.
const SWAP: &str = "BEGIN; ALTER TABLE orders RENAME TO old; ALTER TABLE next RENAME TO orders; COMMIT";
const NEXT: &str = "CREATE TABLE next (id int PRIMARY KEY, amount int); \
    INSERT INTO next SELECT i, -i FROM generate_series(300, 600) i";

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    cluster
}

/// Small pieces, and looks at the catalog that are too rare to matter.
fn settings(cluster: &TestCluster) -> Value {
    let mut config = config(cluster, &["orders", "lines"]);
    config["batch"]["rows"] = 50.into();
    config["governor"] = json!({"every": "1h"});
    config
}

/// The OID of the relation that has the name now.
pub fn relation(cluster: &TestCluster, name: &str) -> String {
    cluster.psql(&format!("SELECT '{name}'::regclass::oid")).unwrap()
}

/// Whether a target table holds all rows of the relation `oid`: nothing is owed, and no copy runs.
pub fn is_whole(held: &Held, name: &str, oid: &str) -> bool {
    let position = |kind: &str| {
        let partition = PartitionId::new("shop", format!("{kind}/public.{name}"));
        held.checkpoint.position(&partition).clone()
    };
    let is_of = match position("relation") {
        Position::Token { token, .. } => *token == *oid,
        _ => false,
    };
    let is_owed = position("owed").ordered().is_some_and(|owed| owed.contains('/'));
    let is_being_copied = position("backfill")
        .ordered()
        .is_some_and(|place| !place.ends_with("~~"));
    is_copied(held, name) && is_of && !is_owed && !is_being_copied
}

/// Runs the source, as often as it asks to be started anew, until the target has all that is there now.
pub async fn settled(cluster: &TestCluster, config: &Value, mut target: Target, names: &[&str]) -> Target {
    let oids: Vec<String> = names.iter().map(|name| relation(cluster, name)).collect();
    let committed = flushed(cluster);
    for _ in 0..30 {
        let mut run = Running::start(source(config), target);
        let done = |target: &Target| {
            let whole = names.iter().zip(&oids).all(|(name, oid)| {
                let holders = [target.tables.get(&table(name)), target.twins.get(&table(name))];
                holders.into_iter().flatten().all(|held| is_whole(held, name, oid))
            });
            whole && target.least().position(&wal()).ordered() >= Some(committed.as_str())
        };
        let is_done = run.until_or_anew(done).await;
        if is_done {
            let mut target = run.stop().await;
            target.boundaries.clear();
            return target;
        }
        target = run.kill();
    }
    panic!("it is started anew for ever");
}

/// A target that has everything.
async fn filled(cluster: &TestCluster, config: &Value) -> Target {
    settled(cluster, config, Target::of(&["orders", "lines"]), &["orders", "lines"]).await
}

/// The table by its key, from the last truncation on: rows before it may have another key.
pub fn since_emptied(rows: &[ChangeRow], key: &str) -> FoldedTable {
    fold_rows(&[key.to_owned()], behind_truncations(rows))
}

/// The changes from the last truncation on, in order.
pub fn behind_truncations(rows: &[ChangeRow]) -> Vec<ChangeRow> {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| (&a.position, a.ordinal, &a.partition).cmp(&(&b.position, b.ordinal, &b.partition)));
    let emptied = rows.iter().rposition(|row| row.op == "t").unwrap_or_default();
    rows.split_off(emptied)
}

#[track_caller]
fn assert_equal(target: &Target, cluster: &TestCluster, name: &str, columns: &[&str]) {
    let expected = present(cluster, name, columns);
    let holders = [target.tables.get(&table(name)), target.twins.get(&table(name))];
    for held in holders.into_iter().flatten() {
        assert_eq!(since_emptied(&held.rows, columns[0]), expected);
    }
}

fn truncations(target: &Target, name: &str) -> usize {
    let rows = target.tables[&table(name)].rows.iter();
    rows.filter(|row| row.op == "t").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_swapped_or_made_again_while_it_is_read_is_copied_anew() {
    for (replace, columns) in [
        (format!("{NEXT}; {SWAP}"), vec!["id", "amount"]),
        (
            "DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY, other text)".to_owned(),
            vec!["id", "other"],
        ),
        (
            "DROP TABLE orders; CREATE TABLE orders (number int, id text PRIMARY KEY)".to_owned(),
            vec!["id", "number"],
        ),
    ] {
        let cluster = cluster();
        let config = settings(&cluster);
        let target = filled(&cluster, &config).await;
        let mut run = Running::start(source(&config), target);
        run.catch_up(&cluster).await;
        cluster
            .psql(&format!("INSERT INTO orders VALUES (777, 0); {replace}; INSERT INTO orders VALUES (7000, 8); INSERT INTO lines VALUES (2, 'b')"))
            .unwrap();
        assert!(!run.until_or_anew(|_| false).await, "it asks to be started anew");
        let target = settled(&cluster, &config, run.kill(), &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &columns);
        assert_equal(&target, &cluster, "lines", &["id", "note"]);
        assert_eq!(truncations(&target, "orders"), 1);

        // And what changes afterwards is followed, without another copy.
        cluster.psql("INSERT INTO orders VALUES (7001, 9)").unwrap();
        let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &columns);
        assert_eq!(truncations(&target, "orders"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_replaced_while_nobody_reads_is_copied_anew() {
    let cluster = cluster();
    let config = settings(&cluster);
    let target = filled(&cluster, &config).await;
    cluster
        .psql(&format!(
            "DELETE FROM orders WHERE id < 10; {NEXT}; {SWAP}; DELETE FROM orders WHERE id = 599; INSERT INTO old VALUES (9999, 1)"
        ))
        .unwrap();
    let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
    assert_equal(&target, &cluster, "orders", &["id", "amount"]);
    assert_eq!(truncations(&target, "orders"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_there_and_back_loses_no_change_made_meanwhile() {
    let back = "BEGIN; ALTER TABLE orders RENAME TO next; ALTER TABLE old RENAME TO orders; COMMIT";
    for while_it_runs in [true, false] {
        for between in ["", "INSERT INTO orders VALUES (1000, 1);"] {
            let cluster = cluster();
            let config = settings(&cluster);
            let mut target = filled(&cluster, &config).await;
            let script = format!(
                "{NEXT}; {SWAP}; {between} UPDATE old SET amount = 5 WHERE id < 20; {back}; INSERT INTO orders VALUES (2000, 2)"
            );
            if while_it_runs {
                let mut run = Running::start(source(&config), target);
                run.catch_up(&cluster).await;
                cluster.psql(&script).unwrap();
                assert!(!run.until_or_anew(|_| false).await);
                target = run.kill();
            } else {
                cluster.psql(&script).unwrap();
            }
            let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
            // What is settled by its relation alone may still have to notice.
            let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
            assert_equal(&target, &cluster, "orders", &["id", "amount"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_after_which_nothing_changes_is_noticed_too() {
    let cluster = cluster();
    let mut config = settings(&cluster);
    config["governor"] = json!({"every": "100ms"});
    let target = filled(&cluster, &config).await;
    let mut run = Running::start(source(&config), target);
    run.catch_up(&cluster).await;
    cluster.psql(&format!("{NEXT}; {SWAP}")).unwrap();
    assert!(!run.until_or_anew(|_| false).await);
    let target = settled(&cluster, &config, run.kill(), &["orders", "lines"]).await;
    assert_equal(&target, &cluster, "orders", &["id", "amount"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_only_moves_away_halts_until_its_name_is_back() {
    let cluster = cluster();
    let config = settings(&cluster);
    let target = filled(&cluster, &config).await;
    let mut run = Running::start(source(&config), target);
    run.catch_up(&cluster).await;
    let before = run.target.clone();
    cluster
        .psql("ALTER TABLE orders RENAME TO old; INSERT INTO old VALUES (5000, 0)")
        .unwrap();
    let failure = run.failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::SchemaChange, Some("PG0032"))
    );
    cluster.psql("ALTER TABLE old RENAME TO orders").unwrap();
    let mut target = before;
    target.crash();
    target.boundaries.clear();
    let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
    assert_equal(&target, &cluster, "orders", &["id", "amount"]);
}

/// Every place at which the copy can be cut: before its first boundary, between any two, and at its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_boundary_of_the_copy_ends_right() {
    let cluster = cluster();
    let config = settings(&cluster);
    let mut target = filled(&cluster, &config).await;
    for boundaries in 0..12 {
        cluster
            .psql(&format!(
                "DROP TABLE IF EXISTS old; {NEXT}; {SWAP}; INSERT INTO orders VALUES (7000, 8)"
            ))
            .unwrap();
        let mut run = Running::start(source(&config), target);
        run.until_or_anew(|target| target.boundaries.len() >= boundaries).await;
        target = run.kill();
        let id = 8000 + boundaries;
        cluster
            .psql(&format!(
                "INSERT INTO orders VALUES ({id}, 1); DELETE FROM orders WHERE id = 300 + {boundaries}"
            ))
            .unwrap();
        target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &["id", "amount"]);
        target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &["id", "amount"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_replaced_again_in_the_middle_is_begun_again() {
    let again = "DROP TABLE old; CREATE TABLE next (id int PRIMARY KEY, amount int); \
        INSERT INTO next SELECT i, i * 2 FROM generate_series(500, 800) i";
    for stopped in [true, false] {
        let cluster = cluster();
        let config = settings(&cluster);
        let target = filled(&cluster, &config).await;
        cluster
            .psql(&format!("{NEXT}; {SWAP}; INSERT INTO orders VALUES (7000, 8)"))
            .unwrap();
        let mut run = Running::start(source(&config), target);
        let read = |target: &Target| {
            target.tables[&table("orders")]
                .rows
                .iter()
                .filter(|row| row.partition.contains("backfill"))
                .count()
        };
        run.until(|target| read(target) >= 100).await;
        let target = if stopped {
            let target = run.kill();
            cluster
                .psql(&format!("{again}; {SWAP}; INSERT INTO orders VALUES (7001, 8)"))
                .unwrap();
            target
        } else {
            cluster
                .psql(&format!("{again}; {SWAP}; INSERT INTO orders VALUES (7001, 8)"))
                .unwrap();
            assert!(!run.until_or_anew(|_| false).await);
            run.kill()
        };
        let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &["id", "amount"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn target_tables_that_stand_apart_both_get_the_new_table() {
    let cluster = cluster();
    let config = settings(&cluster);
    let mut target = filled(&cluster, &config).await;
    target
        .twins
        .insert(table("orders"), target.tables[&table("orders")].clone());
    cluster.psql("UPDATE orders SET amount = 0 WHERE id < 5").unwrap();
    let mut ahead = Running::start(source(&config), target.clone());
    ahead.is_durable = false;
    ahead.catch_up(&cluster).await;
    target.tables = ahead.kill().tables;
    for boundaries in [2, 4, 6, 10] {
        cluster
            .psql(&format!(
                "DROP TABLE IF EXISTS old; {NEXT}; {SWAP}; INSERT INTO orders VALUES (7000, 8)"
            ))
            .unwrap();
        // One of the two commits, and the other does not: nothing is durable for both.
        let twins = target.twins.clone();
        let mut run = Running::start(source(&config), target);
        run.is_durable = false;
        run.until_or_anew(|target| target.boundaries.len() >= boundaries).await;
        let mut apart = run.kill();
        apart.twins = twins;
        target = settled(&cluster, &config, apart, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &["id", "amount"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_table_that_joins_when_the_table_was_replaced_hides_it_from_no_other() {
    let back = "ALTER TABLE orders RENAME TO away; UPDATE away SET amount = 5 WHERE id < 20; \
        DELETE FROM away WHERE id = 30; ALTER TABLE away RENAME TO orders";
    for script in [
        format!("{NEXT}; {SWAP}; INSERT INTO orders VALUES (7000, 8)"),
        back.to_owned(),
    ] {
        let cluster = cluster();
        let config = settings(&cluster);
        let mut target = filled(&cluster, &config).await;
        cluster.psql(&script).unwrap();
        target.twins.insert(table("orders"), Held::default());
        let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        // What is settled by its relation alone may still have to notice.
        let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &["id", "amount"]);

        cluster.psql("INSERT INTO orders VALUES (7001, 9)").unwrap();
        let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &["id", "amount"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_whose_table_is_replaced_gives_way() {
    let cluster = cluster();
    let config = settings(&cluster);
    for rows in [0, 1, 150] {
        cluster
            .psql("DROP TABLE IF EXISTS next; DROP TABLE IF EXISTS old")
            .unwrap();
        let mut run = Running::start(source(&config), Target::of(&["orders", "lines"]));
        // Rows of the stream come before those of the copy.
        run.until(|target| !target.boundaries.is_empty() && target.tables[&table("orders")].rows.len() >= rows)
            .await;
        cluster.psql("INSERT INTO orders VALUES (90000, 1)").unwrap();
        if rows == 0 {
            run.until(|target| target.tables[&table("orders")].rows.iter().any(|row| row.op == "c"))
                .await;
        }
        let target = run.kill();
        cluster
            .psql(&format!("{NEXT}; {SWAP}; INSERT INTO orders VALUES (7000, 8)"))
            .unwrap();
        let target = settled(&cluster, &config, target, &["orders", "lines"]).await;
        assert_equal(&target, &cluster, "orders", &["id", "amount"]);
        crate::target::eventually("the slot is free", || {
            cluster
                .psql("SELECT pg_drop_replication_slot('millstream_t_shop')")
                .is_ok()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_replaced_and_a_truncation_is_none() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE log (n int); INSERT INTO log SELECT generate_series(1, 300); \
             CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    let mut config = config(&cluster, &["log"]);
    config["batch"]["rows"] = 50.into();
    let target = settled(&cluster, &config, Target::of(&["log"]), &["log"]).await;
    cluster
        .psql("TRUNCATE log; INSERT INTO log SELECT generate_series(1, 200)")
        .unwrap();
    let mut target = settled(&cluster, &config, target, &["log"]).await;
    let copied = |target: &Target| {
        target.tables[&table("log")]
            .rows
            .iter()
            .filter(|row| row.op == "r")
            .count()
    };
    assert_eq!(
        (truncations(&target, "log"), copied(&target)),
        (1, 300),
        "the stream told it"
    );
    for lives in 0..3 {
        cluster
            .psql("DROP TABLE log; CREATE TABLE log (n int); INSERT INTO log SELECT generate_series(1000, 1299)")
            .unwrap();
        for _ in 0..lives {
            let mut run = Running::start(source(&config), target);
            run.until_or_anew(|target| target.boundaries.len() > 4).await;
            target = run.kill();
            cluster.psql("INSERT INTO log VALUES (7)").unwrap();
        }
        target = settled(&cluster, &config, target, &["log"]).await;
        let mut rows = target.tables[&table("log")].rows.clone();
        rows.sort_by(|a, b| (&a.position, a.ordinal).cmp(&(&b.position, b.ordinal)));
        let emptied = rows.iter().rposition(|row| row.op == "t").unwrap();
        let mut found: Vec<i32> = rows[emptied + 1..]
            .iter()
            .map(|row| row.cells["n"].parse().unwrap())
            .collect();
        found.sort_unstable();
        let expected: Vec<i32> = std::iter::repeat_n(7, lives).chain(1000..1300).collect();
        assert_eq!(found, expected, "{lives} lives before the last");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_columns_are_copied_again_where_that_is_wanted() {
    let cluster = cluster();
    let mut config = settings(&cluster);
    config["recopy"] = "changed".into();
    let mut target = filled(&cluster, &config).await;
    for (statement, columns, emptied) in [
        (
            "ALTER TABLE orders ADD price int DEFAULT 4",
            ["id", "amount", "price"],
            0,
        ),
        ("ALTER TABLE orders RENAME amount TO total", ["id", "total", "price"], 0),
        (
            "ALTER TABLE orders ALTER total TYPE bigint USING total * 10",
            ["id", "total", "price"],
            0,
        ),
        (
            "UPDATE orders SET total = -id WHERE id > 0; ALTER TABLE orders ALTER total SET NOT NULL; \
             ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (total)",
            ["total", "id", "price"],
            1,
        ),
    ] {
        let mut run = Running::start(source(&config), target);
        run.catch_up(&cluster).await;
        cluster
            .psql(&format!(
                "{statement}; UPDATE orders SET price = 5 WHERE id = 1; DELETE FROM orders WHERE id = 2"
            ))
            .unwrap();
        let emptied_before = truncations(&run.target, "orders");
        let backfill = PartitionId::new("shop", "backfill/public.orders");
        let before = run.target.tables[&table("orders")]
            .checkpoint
            .position(&backfill)
            .clone();
        let begins = |target: &Target| *target.tables[&table("orders")].checkpoint.position(&backfill) != before;
        run.until_or_anew(begins).await;
        target = settled(&cluster, &config, run.kill(), &["orders", "lines"]).await;
        assert_eq!(truncations(&target, "orders") - emptied_before, emptied, "{statement}");
        let rows = &target.tables[&table("orders")].rows;
        let mut folded = since_emptied(rows, columns[0]);
        for row in folded.values_mut() {
            row.retain(|column, _| columns.contains(&column.as_str()));
        }
        assert_eq!(folded, present(&cluster, "orders", &columns), "{statement}");
    }
}
