//! Transactions that the server sends before they commit: the same changes at the same
//! positions as without, whatever becomes of the transactions.

use millstream_core::ByteBudget;
use millstream_testkit::change_log::ChangeRow;
use millstream_testkit::postgres::{Shutdown, TestCluster};
use tokio_postgres::{Client, NoTls};

use crate::target::{Running, Target, config, eventually, present, source, table};

const TABLES: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text, amount int); \
     CREATE TABLE lines (id int PRIMARY KEY, body text); \
     ALTER TABLE lines ALTER body SET STORAGE EXTERNAL; \
     CREATE PUBLICATION p FOR ALL TABLES;";
const COLUMNS: [&str; 3] = ["id", "note", "amount"];

/// A server that sends a transaction in parts once its changes take 64 kB.
fn cluster() -> TestCluster {
    let settings = [
        ("logical_decoding_work_mem", "64kB"),
        ("max_prepared_transactions", "10"),
    ];
    let cluster = TestCluster::with_settings(&settings).unwrap();
    cluster.psql(TABLES).unwrap();
    cluster
}

/// A source that keeps no more than 64 kB of transactions in progress in memory.
fn streaming(cluster: &TestCluster) -> serde_json::Value {
    let mut config = config(cluster, &["orders", "lines"]);
    config["spool_memory"] = "64kB".into();
    config
}

fn whole(cluster: &TestCluster) -> serde_json::Value {
    let mut config = config(cluster, &["orders", "lines"]);
    config["streaming"] = false.into();
    config["slot"] = "whole".into();
    config
}

fn empty() -> Target {
    Target::of(&["orders", "lines"])
}

async fn session(cluster: &TestCluster) -> Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn run(session: &Client, sql: &str) {
    session.batch_execute(sql).await.unwrap();
}

/// SQL that inserts `orders` from `from` on, 200 kB of them.
fn orders(from: u32) -> String {
    format!("INSERT INTO orders SELECT i, repeat('x', 200), i FROM generate_series({from}, {from} + 999) i;")
}

/// How many parts of transactions in progress the server has sent through `slot`.
fn parts(cluster: &TestCluster, slot: &str) -> u64 {
    let sql = format!("SELECT stream_count FROM pg_stat_replication_slots WHERE slot_name = '{slot}'");
    cluster.psql(&sql).unwrap().parse().unwrap_or(0)
}

/// Waits until the server has sent parts through the source's slot.
async fn until_sent_in_parts(cluster: &TestCluster, more_than: u64) {
    eventually("parts are sent", || parts(cluster, "millstream_t_shop") > more_than).await;
}

fn streamed(target: &Target, name: &str) -> Vec<ChangeRow> {
    let rows = &target.tables[&table(name)].rows;
    rows.iter().filter(|row| row.op != "r").cloned().collect()
}

fn agrees(target: &Target, cluster: &TestCluster) {
    assert_eq!(target.folded("orders", "id"), present(cluster, "orders", &COLUMNS));
    assert_eq!(target.folded("lines", "id"), present(cluster, "lines", &["id", "body"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_parts_are_the_same_changes_as_whole_ones() {
    let cluster = cluster();
    let mut in_parts = Running::start(source(&streaming(&cluster)), empty());
    in_parts.until_streaming(&cluster).await;
    let mut as_whole = Running::start(source(&whole(&cluster)), empty());
    as_whole.until_streaming(&cluster).await;

    let (a, b, c) = (
        session(&cluster).await,
        session(&cluster).await,
        session(&cluster).await,
    );
    // Savepoints that are kept, rolled back, and released into one that is rolled back.
    run(
        &a,
        &format!("BEGIN; {} SAVEPOINT s; {}", orders(10_000), orders(20_000)),
    )
    .await;
    run(&b, &format!("BEGIN; {} UPDATE orders SET amount = 0;", orders(30_000))).await;
    run(&c, "INSERT INTO orders VALUES (1, 'between', 1)").await;
    run(
        &a,
        &format!("ROLLBACK TO s; {} SAVEPOINT t; {}", orders(40_000), orders(50_000)),
    )
    .await;
    run(
        &a,
        &format!(
            "SAVEPOINT u; {} RELEASE u; {} ROLLBACK TO t;",
            orders(60_000),
            orders(70_000)
        ),
    )
    .await;
    run(&a, "SAVEPOINT v; DELETE FROM orders WHERE id % 2 = 0; RELEASE v").await;
    // Large values, and an update that does not send them.
    let lines = "INSERT INTO lines SELECT i, repeat('y', 5000) FROM generate_series(1, 100) i; \
                 UPDATE lines SET id = id + 1000 WHERE id <= 50;";
    run(&b, &format!("SAVEPOINT s; {lines} ROLLBACK TO s; {lines}")).await;
    // One that never commits, and a change of columns that only it sees.
    run(
        &c,
        &format!(
            "CREATE TABLE other (id int PRIMARY KEY, note text); BEGIN; {}",
            orders(80_000)
        ),
    )
    .await;
    run(&c, "ROLLBACK").await;
    run(
        &b,
        &format!(
            "COMMIT; BEGIN; ALTER TABLE lines ADD extra int; {}",
            lines.replace("(1, 100)", "(200, 300)")
        ),
    )
    .await;
    run(&c, "INSERT INTO orders VALUES (2, 'between', 2)").await;
    run(&b, "ROLLBACK; INSERT INTO lines VALUES (5000, 'after')").await;
    run(&a, &format!("{} COMMIT", orders(90_000))).await;
    // Columns change inside of a transaction that is kept.
    let wide = "INSERT INTO lines SELECT i, repeat('z', 500), i FROM generate_series(6000, 6999) i;";
    run(
        &b,
        &format!("BEGIN; {} ALTER TABLE lines ADD extra int; {wide}", orders(100_000)),
    )
    .await;
    run(&c, "INSERT INTO orders VALUES (3, 'between', 3)").await;
    run(
        &b,
        "ALTER TABLE lines DROP extra; INSERT INTO lines VALUES (7000, 'end'); COMMIT",
    )
    .await;
    run(
        &c,
        "INSERT INTO lines VALUES (7001, 'after'); TRUNCATE orders; INSERT INTO orders VALUES (4, 'last', 4)",
    )
    .await;

    in_parts.catch_up(&cluster).await;
    as_whole.catch_up(&cluster).await;
    let (in_parts, as_whole) = (in_parts.stop().await, as_whole.stop().await);
    for name in ["orders", "lines"] {
        let (changes, expected) = (streamed(&in_parts, name), streamed(&as_whole, name));
        assert!(changes.len() > 1000, "{name}: {}", changes.len());
        assert!(
            changes == expected,
            "{name}: {} and {} changes",
            changes.len(),
            expected.len()
        );
    }
    assert_eq!(in_parts.folded("orders", "id"), present(&cluster, "orders", &COLUMNS));
    until_sent_in_parts(&cluster, 10).await;
    assert_eq!(parts(&cluster, "whole"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_midst_of_a_transaction_loses_and_repeats_nothing() {
    let cluster = cluster();
    let config = streaming(&cluster);
    let writer = session(&cluster).await;
    let mut target = empty();
    let mut sent = 0;
    for round in 0u32..2 {
        let mut running = Running::start(source(&config), target);
        running.until_streaming(&cluster).await;
        let from = 10_000 * (round + 1);
        run(
            &writer,
            &format!(
                "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s;",
                orders(from),
                orders(from + 1000)
            ),
        )
        .await;
        until_sent_in_parts(&cluster, sent).await;
        // Its positions go on past the parts that were sent.
        cluster
            .psql(&format!("INSERT INTO lines VALUES ({round}, 'between')"))
            .unwrap();
        running.catch_up(&cluster).await;
        assert_eq!(
            streamed(&running.target, "orders").len() as u32,
            2000 * round,
            "none before the commit"
        );
        target = running.stop().await;
        target.boundaries.clear();
        if round % 2 == 0 {
            run(&writer, &format!("{} COMMIT", orders(from + 2000))).await;
        }
        let mut running = Running::start(source(&config), target);
        running.catch_up(&cluster).await;
        if round % 2 == 1 {
            run(&writer, &format!("{} COMMIT", orders(from + 2000))).await;
        }
        running.catch_up(&cluster).await;
        assert_eq!(streamed(&running.target, "orders").len() as u32, 2000 * (round + 1));
        target = running.stop().await;
        target.boundaries.clear();
        sent = parts(&cluster, "millstream_t_shop");
    }
    agrees(&target, &cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_ends_transactions_without_a_word() {
    let cluster = cluster();
    let config = streaming(&cluster);
    let mut running = Running::start(source(&config), empty());
    running.until_streaming(&cluster).await;
    let writer = session(&cluster).await;
    run(&writer, &format!("BEGIN; {}", orders(10_000))).await;
    until_sent_in_parts(&cluster, 0).await;
    let mut target = running.target.clone();
    cluster.restart(Shutdown::Immediate).unwrap();
    let failure = running.failure().await;
    assert_eq!(
        failure.kind(),
        millstream_core::ErrorKind::Unavailable,
        "{}",
        failure.summary()
    );
    target.crash();
    target.boundaries.clear();
    let mut running = Running::start(source(&config), target);
    let writer = session(&cluster).await;
    run(&writer, &format!("BEGIN; {} COMMIT", orders(10_500))).await;
    running.catch_up(&cluster).await;
    let target = running.stop().await;
    assert_eq!(streamed(&target, "orders").len(), 1000);
    agrees(&target, &cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_in_parts_that_needs_text_is_begun_again() {
    let cluster = cluster();
    let mut running = Running::start(source(&streaming(&cluster)), empty());
    running.until_streaming(&cluster).await;
    let (a, b) = (session(&cluster).await, session(&cluster).await);
    run(&b, &format!("BEGIN; {}", orders(30_000))).await;
    let spans = "ALTER TABLE lines ADD span int4range; \
                 INSERT INTO lines SELECT i, 'x', int4range(i, i + 1) FROM generate_series(1, 1000) i;";
    run(&a, &format!("BEGIN; {} {spans}", orders(10_000))).await;
    until_sent_in_parts(&cluster, 1).await;
    run(&a, &format!("{} COMMIT", orders(20_000))).await;
    run(&b, &format!("{} COMMIT", orders(40_000))).await;
    running.catch_up(&cluster).await;
    let target = running.stop().await;
    assert_eq!(target.folded("orders", "id"), present(&cluster, "orders", &COLUMNS));
    assert_eq!(
        target.folded("lines", "id"),
        present(&cluster, "lines", &["id", "body", "span"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_that_is_rolled_back_leaves_the_rows() {
    let cluster = cluster();
    let mut running = Running::start(source(&streaming(&cluster)), empty());
    running.until_streaming(&cluster).await;
    let (a, b) = (session(&cluster).await, session(&cluster).await);
    run(&b, &format!("BEGIN; {}", orders(30_000))).await;
    run(
        &a,
        &format!(
            "INSERT INTO lines VALUES (1, 'a'); BEGIN; {} SAVEPOINT s; TRUNCATE lines;",
            orders(10_000)
        ),
    )
    .await;
    let lines = |from: u32| {
        format!("INSERT INTO lines SELECT i, repeat('y', 500) FROM generate_series({from}, {from} + 500) i;")
    };
    run(&a, &format!("{} ROLLBACK TO s; {}", lines(1000), lines(2000))).await;
    run(&b, &format!("{} COMMIT", orders(40_000))).await;
    run(&a, &format!("{} COMMIT", lines(3000))).await;
    run(&b, &format!("INSERT INTO lines VALUES (2, 'b'); {}", lines(4000))).await;
    running.catch_up(&cluster).await;
    agrees(&running.stop().await, &cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_appears_when_it_commits() {
    for two_phase in [false, true] {
        let cluster = cluster();
        if two_phase && !cluster.has("two-phase commit in the stream", 15).unwrap() {
            return;
        }
        let mut config = streaming(&cluster);
        config["two_phase"] = two_phase.into();
        let mut running = Running::start(source(&config), empty());
        running.until_streaming(&cluster).await;
        let prepared = |from: u32, gid: &str| format!("BEGIN; {} PREPARE TRANSACTION '{gid}';", orders(from));
        // In parts, whole, and one that is rolled back.
        cluster.psql(&prepared(10_000, "large")).unwrap();
        cluster
            .psql("BEGIN; INSERT INTO lines VALUES (1, 'a'); PREPARE TRANSACTION 'small'")
            .unwrap();
        cluster.psql(&prepared(20_000, "gone")).unwrap();
        cluster.psql("INSERT INTO lines VALUES (2, 'between')").unwrap();
        running.catch_up(&cluster).await;
        let mut target = running.stop().await;
        assert_eq!(streamed(&target, "lines").len(), 1);
        assert_eq!(streamed(&target, "orders").len(), 0);
        target.boundaries.clear();

        cluster.restart(Shutdown::Immediate).unwrap();
        let mut running = Running::start(source(&config), target);
        running.catch_up(&cluster).await;
        let mut target = running.stop().await;
        target.boundaries.clear();
        cluster.psql("ROLLBACK PREPARED 'gone'").unwrap();
        cluster.psql("COMMIT PREPARED 'small'").unwrap();
        cluster.psql("INSERT INTO lines VALUES (3, 'between')").unwrap();
        let mut running = Running::start(source(&config), target);
        running.catch_up(&cluster).await;
        cluster.psql("COMMIT PREPARED 'large'").unwrap();
        cluster.psql("INSERT INTO lines VALUES (4, 'after')").unwrap();
        running.catch_up(&cluster).await;
        let target = running.stop().await;
        agrees(&target, &cluster);
        let ids = streamed(&target, "lines")
            .into_iter()
            .map(|row| row.cells["id"].clone());
        assert_eq!(
            ids.collect::<Vec<_>>(),
            ["2", "1", "3", "4"],
            "in the order of the commits"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_that_changes_columns_is_read_by_those_of_each_change() {
    for two_phase in [false, true] {
        let cluster = cluster();
        if two_phase && !cluster.has("two-phase commit in the stream", 15).unwrap() {
            return;
        }
        let mut config = streaming(&cluster);
        config["two_phase"] = two_phase.into();
        let mut running = Running::start(source(&config), empty());
        running.until_streaming(&cluster).await;
        // From here on the server need not describe the table before the first change.
        cluster.psql("INSERT INTO lines VALUES (1, 'a')").unwrap();
        running.catch_up(&cluster).await;
        cluster
            .psql(
                "BEGIN; INSERT INTO lines VALUES (2, 'b'); ALTER TABLE lines ADD note text; \
                 INSERT INTO lines VALUES (3, 'c', 'with it'); PREPARE TRANSACTION 'columns'",
            )
            .unwrap();
        running.catch_up(&cluster).await;
        cluster
            .psql("COMMIT PREPARED 'columns'; INSERT INTO lines VALUES (4, 'd', 'after')")
            .unwrap();
        running.catch_up(&cluster).await;
        let target = running.stop().await;
        let expected = present(&cluster, "lines", &["id", "body", "note"]);
        assert_eq!(target.folded("lines", "id"), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_prepared_is_not_confirmed_until_it_is_held() {
    let cluster = cluster();
    if !cluster.has("two-phase commit in the stream", 15).unwrap() {
        return;
    }
    let mut config = streaming(&cluster);
    config["two_phase"] = true.into();
    config["status_interval"] = "50ms".into();
    let mut running = Running::start(source(&config), empty());
    running.until_streaming(&cluster).await;
    let confirmed = |than: &str| {
        let sql = format!("SELECT confirmed_flush_lsn > '{than}' FROM pg_replication_slots");
        cluster.psql(&sql).unwrap() == "t"
    };
    let before = cluster.psql("SELECT pg_current_wal_insert_lsn()").unwrap();
    cluster
        .psql("BEGIN; INSERT INTO lines VALUES (1, 'a'); PREPARE TRANSACTION 'x'")
        .unwrap();
    let after = cluster.psql("SELECT pg_current_wal_insert_lsn()").unwrap();
    running.catch_up(&cluster).await;
    eventually("it is confirmed up to there", || confirmed(&before)).await;
    // Several more are told to the server in this time.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!confirmed(&after), "past a transaction that is prepared");
    cluster.psql("COMMIT PREPARED 'x'").unwrap();
    running.catch_up(&cluster).await;
    eventually("it is confirmed past it", || confirmed(&after)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phase_may_be_set_and_left_out_again_while_a_transaction_is_prepared() {
    let cluster = cluster();
    if !cluster.has("two-phase commit in the stream", 15).unwrap() {
        return;
    }
    let config = streaming(&cluster);
    let two_phase = |on: bool| {
        let mut config = config.clone();
        config["two_phase"] = on.into();
        source(&config)
    };
    let mut target = empty();
    for (turn, on) in [false, true, false, true].into_iter().enumerate() {
        let mut running = Running::start(two_phase(on), target);
        running.until_streaming(&cluster).await;
        let prepare = format!("BEGIN; INSERT INTO lines VALUES ({turn}, 'a'); PREPARE TRANSACTION '{turn}'");
        cluster.psql(&prepare).unwrap();
        running.catch_up(&cluster).await;
        target = running.stop().await;
        target.boundaries.clear();
        if turn > 0 {
            cluster.psql(&format!("COMMIT PREPARED '{}'", turn - 1)).unwrap();
        }
    }
    cluster
        .psql("COMMIT PREPARED '3'; TRUNCATE lines; INSERT INTO lines VALUES (9, 'b')")
        .unwrap();
    let mut running = Running::start(two_phase(false), target);
    running.catch_up(&cluster).await;
    let target = running.stop().await;
    assert_eq!(streamed(&target, "lines").len(), 6);
    agrees(&target, &cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_applications_do_not_disturb() {
    let cluster = cluster();
    let mut config = streaming(&cluster);
    config["messages"] = true.into();
    let mut running = Running::start(source(&config), empty());
    running.until_streaming(&cluster).await;
    let emit =
        |transactional: bool| format!("SELECT pg_logical_emit_message({transactional}, 'app', repeat('m', 1000));");
    let (yes, no) = (emit(true), emit(false));
    cluster
        .psql(&format!(
            "{yes} {no} BEGIN; {yes} INSERT INTO lines VALUES (1, 'a'); {no} {yes} COMMIT"
        ))
        .unwrap();
    let large = orders(10_000);
    cluster
        .psql(&format!(
            "BEGIN; {large} {yes} {no} SAVEPOINT s; {yes} ROLLBACK TO s; {yes} COMMIT"
        ))
        .unwrap();
    running.catch_up(&cluster).await;
    agrees(&running.stop().await, &cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_from_another_server_is_left_out_if_that_is_wished() {
    let cluster = cluster();
    let mut config = streaming(&cluster);
    let mut running = Running::start(source(&config), empty());
    running.until_streaming(&cluster).await;
    cluster.psql("SELECT pg_replication_origin_create('other')").unwrap();
    let (ours, others) = (session(&cluster).await, session(&cluster).await);
    run(&others, "SELECT pg_replication_origin_session_setup('other')").await;
    run(
        &others,
        &format!(
            "INSERT INTO lines VALUES (1, 'other'); BEGIN; {} COMMIT",
            orders(10_000)
        ),
    )
    .await;
    run(&ours, "INSERT INTO lines VALUES (2, 'ours')").await;
    running.catch_up(&cluster).await;
    agrees(&running.target, &cluster);
    let mut target = running.stop().await;
    target.boundaries.clear();

    config["origin"] = "none".into();
    run(
        &others,
        &format!(
            "INSERT INTO lines VALUES (3, 'other'); BEGIN; {} COMMIT",
            orders(20_000)
        ),
    )
    .await;
    run(&ours, "INSERT INTO lines VALUES (4, 'ours')").await;
    let mut running = Running::start(source(&config), target);
    let version: u32 = cluster.psql("SHOW server_version_num").unwrap().parse().unwrap();
    if version < 160_000 {
        let failure = running.failure().await;
        assert_eq!(failure.error_code(), Some("PG0042"), "{}", failure.summary());
        return;
    }
    running.catch_up(&cluster).await;
    let target = running.stop().await;
    assert_eq!(streamed(&target, "orders").len(), 1000);
    let ids = streamed(&target, "lines")
        .into_iter()
        .map(|row| row.cells["id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), ["1", "2", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_answered_while_a_kept_transaction_is_read() {
    let settings = [("logical_decoding_work_mem", "64kB"), ("wal_sender_timeout", "2s")];
    let cluster = TestCluster::with_settings(&settings).unwrap();
    cluster.psql(TABLES).unwrap();
    let mut config = streaming(&cluster);
    config["batch"]["rows"] = 100.into();
    let mut running = Running::with_budget(source(&config), empty(), ByteBudget::new(64 * 1024));
    running.until_streaming(&cluster).await;
    cluster
        .psql("INSERT INTO orders SELECT i, repeat('x', 200), i FROM generate_series(1, 50000) i")
        .unwrap();
    running.until(|target| !target.batches.is_empty()).await;
    until_sent_in_parts(&cluster, 0).await;
    let sender = || cluster.psql("SELECT pid FROM pg_stat_replication").unwrap();
    let before = sender();
    assert!(!before.is_empty());
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(sender(), before, "the server gave us up");
    running.catch_up(&cluster).await;
    agrees(&running.stop().await, &cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_cannot_be_written_to_is_told_before_the_stream() {
    let cluster = cluster();
    let mut config = streaming(&cluster);
    config["spool"] = cluster.log_path().join("below").to_str().unwrap().into();
    let failure = Running::start(source(&config), empty()).failure().await;
    assert_eq!(failure.error_code(), Some("PG0041"), "{}", failure.summary());
}
