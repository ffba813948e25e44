//! First copy, then the stream: nothing twice, nothing missing, whatever happens meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, is_copied, present, source, table, wal};

const ORDERS: &str =
    "CREATE TABLE orders (id int PRIMARY KEY, note text, amount int); CREATE PUBLICATION p FOR ALL TABLES;";

fn cells(pairs: &[(&str, &str)]) -> millstream_testkit::change_log::Cells {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_and_stream_meet_while_a_writer_runs() {
    let cluster = Arc::new(TestCluster::new().unwrap());
    cluster.psql(ORDERS).unwrap();
    cluster
        .psql("CREATE TABLE lines (id bigint PRIMARY KEY, price numeric(10,2))")
        .unwrap();
    cluster
        .psql("INSERT INTO orders SELECT i, 'n' || i, i FROM generate_series(1, 20000) i")
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (cluster, stop) = (cluster.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let mut script = String::new();
                    for step in 0..50 {
                        let id = 100_000 * (writer + 1) + turn * 50 + step;
                        script.push_str(&format!(
                            "INSERT INTO orders VALUES ({id}, 'w', {step}); \
                             BEGIN; UPDATE orders SET amount = amount + 1 WHERE id = {}; \
                             INSERT INTO lines VALUES ({id}, {step}.25); COMMIT; \
                             BEGIN; DELETE FROM orders; ROLLBACK; \
                             DELETE FROM orders WHERE id = {};",
                            (id * 7) % 20_000,
                            (id * 13) % 20_000
                        ));
                    }
                    cluster.psql(&script).unwrap();
                }
            })
        })
        .collect();
    let tables = ["orders", "lines"];
    let mut run = Running::start(source(&config(&cluster, &tables)), Target::of(&tables));
    run.until(|target| {
        target
            .tables
            .values()
            .all(|held| held.rows.iter().filter(|row| row.op != "r").count() > 500)
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert!(
        target
            .tables
            .values()
            .all(|held| is_copied(held, "orders") || is_copied(held, "lines"))
    );
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "note", "amount"])
    );
    assert_eq!(
        target.folded("lines", "id"),
        present(&cluster, "lines", &["id", "price"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_flows_in_many_batches_and_shows_one_boundary() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let mut small = config(&cluster, &["orders"]);
    small["batch"]["rows"] = 1000.into();
    let mut run = Running::start(source(&small), Target::of(&["orders"]));
    run.until_copied().await;
    cluster
        .psql("INSERT INTO orders SELECT i, repeat('x', 50), i FROM generate_series(1, 50000) i")
        .unwrap();
    run.until(|target| target.tables[&table("orders")].rows.len() == 50_000)
        .await;
    let target = run.stop().await;
    let sizes: Vec<_> = target.batches.iter().map(|(_, rows)| *rows).collect();
    assert!(sizes.len() >= 50 && sizes.iter().all(|rows| *rows <= 1000), "{sizes:?}");
    let positions: std::collections::BTreeSet<_> = target.tables[&table("orders")]
        .rows
        .iter()
        .map(|row| row.position.clone())
        .collect();
    assert_eq!(
        positions.len(),
        1,
        "all rows of a transaction have its commit's position"
    );
    let of_it = target
        .boundaries
        .iter()
        .filter(|boundary| boundary.committed_at.is_some())
        .count();
    assert_eq!(of_it, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn toast_keys_and_truncation_keep_their_meaning() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_copied().await;
    cluster
        .psql(
            "ALTER TABLE orders ALTER note SET STORAGE EXTERNAL; \
             INSERT INTO orders VALUES (1, repeat('long', 5000), 1); \
             UPDATE orders SET amount = 2; \
             UPDATE orders SET id = 5; \
             INSERT INTO orders VALUES (6, NULL, NULL); \
             DELETE FROM orders WHERE id = 6;",
        )
        .unwrap();
    let columns = ["id", "note", "amount"];
    run.catch_up(&cluster).await;
    let moved = run.target.folded("orders", "id");
    assert_eq!(moved, present(&cluster, "orders", &columns));
    assert_eq!(moved.values().next().unwrap()["note"].len(), 20_000);
    cluster
        .psql("TRUNCATE orders; INSERT INTO orders VALUES (7, 'after', 7)")
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let changes = target.changes("orders");
    let ops: Vec<_> = changes.iter().map(|(op, ..)| op.as_str()).collect();
    assert_eq!(ops, ["c", "u", "d", "c", "c", "d", "t", "c"].to_vec());
    assert_eq!(changes[1].1, cells(&[("id", "1"), ("amount", "2")]));
    assert_eq!(changes[1].2, ["note"], "an unchanged value is not a null");
    assert_eq!(changes[2].1["id"], "1");
    assert_eq!(
        (changes[3].1["id"].as_str(), changes[3].2.as_slice()),
        ("5", ["note".to_owned()].as_slice())
    );
    assert_eq!(changes[4].1, cells(&[("id", "6")]));
    assert_eq!(target.folded("orders", "id"), present(&cluster, "orders", &columns));
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_change_while_it_runs() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    cluster.psql("INSERT INTO orders VALUES (1, 'a', 1)").unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_copied().await;
    cluster
        .psql(
            "INSERT INTO orders VALUES (2, 'b', 2); \
             CREATE TYPE mood AS ENUM ('happy', 'sad'); \
             ALTER TABLE orders ADD feeling mood NOT NULL DEFAULT 'happy'; \
             INSERT INTO orders VALUES (3, 'c', 3, 'sad'); \
             ALTER TABLE orders DROP note; \
             INSERT INTO orders VALUES (4, 4, 'happy'); \
             ALTER TABLE orders RENAME amount TO total; \
             ALTER TABLE orders ALTER total TYPE numeric(9,1); \
             INSERT INTO orders VALUES (5, 5.5, 'sad');",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    // Nothing is sent of the rows that were there: a default is not in them, and what was
    // dropped or renamed stays as it was.
    let rows: Vec<_> = run.target.folded("orders", "id").into_values().collect();
    assert_eq!(
        rows,
        [
            cells(&[("id", "1"), ("note", "a"), ("amount", "1")]),
            cells(&[("id", "2"), ("note", "b"), ("amount", "2")]),
            cells(&[("id", "3"), ("note", "c"), ("amount", "3"), ("feeling", "sad")]),
            cells(&[("id", "4"), ("amount", "4"), ("feeling", "happy")]),
            cells(&[("id", "5"), ("total", "5.5"), ("feeling", "sad")]),
        ]
    );
    cluster.psql("UPDATE orders SET id = id").unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(
        run.target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "total", "feeling"])
    );
    let target = run.stop().await;
    let changes: Vec<_> = target
        .changes("orders")
        .into_iter()
        .filter(|(op, ..)| op == "c")
        .collect();
    assert_eq!(changes[0].1, cells(&[("id", "2"), ("note", "b"), ("amount", "2")]));
    assert_eq!(
        changes[1].1,
        cells(&[("id", "3"), ("note", "c"), ("amount", "3"), ("feeling", "sad")])
    );
    assert_eq!(
        changes[2].1,
        cells(&[("id", "4"), ("amount", "4"), ("feeling", "happy")])
    );
    assert_eq!(
        changes[3].1,
        cells(&[("id", "5"), ("total", "5.5"), ("feeling", "sad")])
    );
    let last = &target.batches.last().unwrap().0;
    assert_eq!(last.key, ["id"]);
    let types: Vec<_> = last
        .columns
        .fields()
        .iter()
        .map(|field| field.metadata()[millstream_postgres::TYPE_METADATA].clone())
        .collect();
    assert_eq!(types, ["integer", "numeric(9,1)", "mood"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_with_a_reserved_name_stops_the_stream() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    cluster.psql("CREATE TABLE lines (id int PRIMARY KEY)").unwrap();
    let tables = config(&cluster, &["orders", "lines"]);
    let mut run = Running::start(source(&tables), Target::of(&["orders", "lines"]));
    run.catch_up(&cluster).await;
    let mut target = run.target.clone();
    cluster
        .psql(
            "INSERT INTO lines VALUES (1); ALTER TABLE orders ADD __op text; \
             INSERT INTO orders VALUES (1, 'a', 1, 'd'); INSERT INTO lines VALUES (2)",
        )
        .unwrap();
    let failure = run.failure().await;
    assert_eq!(failure.error_code(), Some("PG0030"), "{}", failure.summary());

    // What its page says: the other table still has to read past the place.
    cluster.psql("ALTER TABLE orders DROP __op").unwrap();
    target.boundaries.clear();
    target.tables.insert(table("orders"), crate::target::Held::default());
    let mut run = Running::start(source(&tables), target);
    run.until_copied().await;
    cluster.psql("INSERT INTO orders VALUES (2, 'b', 2)").unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let columns = ["id", "note", "amount"];
    assert_eq!(target.folded("orders", "id"), present(&cluster, "orders", &columns));
    assert_eq!(target.folded("lines", "id"), present(&cluster, "lines", &["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_stops_the_stream() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(ORDERS).unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    cluster
        .psql("INSERT INTO orders VALUES (1, 'a', 1); ALTER TABLE orders RENAME TO old; INSERT INTO old VALUES (2, 'b', 2)")
        .unwrap();
    let failure = run.failure().await;
    assert_eq!(failure.error_code(), Some("PG0032"), "{}", failure.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_text_only_types_and_full_identity_agree_between_copy_and_stream() {
    let cluster = TestCluster::new().unwrap();
    if !cluster.has("row filters", 15).unwrap() {
        return;
    }
    cluster
        .psql(
            "CREATE TABLE spans (id int PRIMARY KEY, span int4range, hidden text); \
             ALTER TABLE spans REPLICA IDENTITY FULL; \
             CREATE PUBLICATION p FOR TABLE spans WHERE (id > 1); \
             INSERT INTO spans VALUES (1, '[1,2)', 'h'), (2, '[2,3)', 'h')",
        )
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["spans"])), Target::of(&["spans"]));
    run.until_copied().await;
    cluster.psql("INSERT INTO spans VALUES (0, '[0,9)', 'h'), (3, '[3,4)', 'h'); UPDATE spans SET span = '[5,6)' WHERE id = 2").unwrap();
    run.until(|target| target.tables[&table("spans")].rows.len() >= 3).await;
    let target = run.stop().await;
    let mut expected = present(&cluster, "spans", &["id", "span", "hidden"]);
    expected.retain(|key, _| !["0", "1"].contains(&key["id"].as_str()));
    assert_eq!(target.folded("spans", "id"), expected);
    assert!(target.batches.iter().all(|(schema, _)| schema.before_image));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_table_in_a_busy_log_moves_on_and_frees_it() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE quiet (id int PRIMARY KEY); CREATE TABLE busy (id int); CREATE PUBLICATION p FOR TABLE quiet",
        )
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["quiet"])), Target::of(&["quiet"]));
    run.until_copied().await;
    cluster
        .psql("INSERT INTO busy SELECT generate_series(1, 100000)")
        .unwrap();
    run.catch_up(&cluster).await;
    let reached = run.target.least().position(&wal()).ordered().unwrap().to_owned();
    let confirmed = || {
        let lsn = cluster
            .psql("SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots")
            .unwrap();
        crate::target::position(lsn.parse().unwrap())
    };
    for _ in 0..50 {
        if confirmed() > reached {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(confirmed() > reached, "the slot moved with the idle table");
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_transactions_without_a_pause_do_not_hold_the_log() {
    let cluster = Arc::new(TestCluster::new().unwrap());
    cluster
        .psql(
            "CREATE TABLE quiet (id int PRIMARY KEY); CREATE TABLE busy (id int); CREATE PUBLICATION p FOR ALL TABLES; \
             CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN \
             WHILE NOT EXISTS (SELECT FROM quiet) LOOP INSERT INTO busy VALUES (1); COMMIT; END LOOP; END $$;",
        )
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["quiet"])), Target::of(&["quiet"]));
    run.until_streaming(&cluster).await;
    let reached = run.target.least().position(&wal()).clone();
    let writer = std::thread::spawn({
        let cluster = cluster.clone();
        move || cluster.psql("CALL work()").unwrap()
    });
    run.until(|target| *target.least().position(&wal()) > reached).await;
    let reached = run.target.least().position(&wal()).clone();
    run.until(|target| *target.least().position(&wal()) > reached).await;
    assert!(!writer.is_finished(), "the writer must not have paused");
    cluster.psql("INSERT INTO quiet VALUES (1)").unwrap();
    writer.join().unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("quiet", "id").len(), 1);
}
