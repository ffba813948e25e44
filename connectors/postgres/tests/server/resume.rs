//! Stopping, starting again, and refusing to start where something is missing.

use millstream_core::{ErrorKind, Position};
use millstream_testkit::postgres::{Shutdown, TestCluster};

use crate::target::{Running, Target, config, present, source, table, wal};

fn cluster() -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE PUBLICATION p FOR ALL TABLES")
        .unwrap();
    cluster
        .psql("INSERT INTO orders SELECT i, i FROM generate_series(1, 100) i")
        .unwrap();
    cluster
}

fn write(cluster: &TestCluster, from: u32) {
    let script: String = (from..from + 300)
        .map(|id| {
            format!(
                "INSERT INTO orders VALUES ({id}, 0); UPDATE orders SET amount = amount + 1 WHERE id = {};",
                id / 2
            )
        })
        .collect();
    cluster.psql(&script).unwrap();
}

fn confirmed(cluster: &TestCluster) -> u64 {
    let lsn = cluster
        .psql("SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots")
        .unwrap();
    lsn.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_place_leaves_no_gap_and_no_overlap() {
    let cluster = cluster();
    let config = config(&cluster, &["orders"]);
    let mut target = Target::of(&["orders"]);
    for round in 0u32..6 {
        let mut run = Running::start(source(&config), target);
        run.until_copied().await;
        write(&cluster, 1000 * (round + 1));
        let some = run.target.tables[&table("orders")].rows.len() + 70 * round as usize;
        run.until(|target| target.tables[&table("orders")].rows.len() >= some)
            .await;
        target = run.stop().await;
        // A new process has no memory of boundaries.
        target.boundaries.clear();
        if round == 3 {
            cluster.restart(Shutdown::Immediate).unwrap();
        }
        // Written while nobody reads.
        write(&cluster, 1000 * (round + 1) + 500);
    }
    let mut run = Running::start(source(&config), target);
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_durable_is_confirmed() {
    let cluster = cluster();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_copied().await;
    let at_copy = confirmed(&cluster);
    write(&cluster, 1000);
    // Taken, and never declared durable.
    for _ in 0..2 {
        let event = run.events.recv().await.unwrap();
        run.target.take(event);
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(confirmed(&cluster), at_copy);
    let durable = run.target.least();
    let position = durable.position(&wal()).clone();
    run.durable.send_replace(durable);
    let expected = u64::from_str_radix(position.ordered().unwrap(), 16).unwrap() + 1;
    for _ in 0..100 {
        if confirmed(&cluster) == expected {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(confirmed(&cluster), expected);
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_added_later_is_copied_beside_the_stream() {
    let cluster = cluster();
    cluster
        .psql("CREATE TABLE later (id int PRIMARY KEY, amount int); INSERT INTO later VALUES (1, 1)")
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["orders"])), Target::of(&["orders"]));
    run.until_copied().await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    write(&cluster, 1000);
    cluster
        .psql("INSERT INTO later VALUES (2, 2); UPDATE later SET amount = 5 WHERE id = 1")
        .unwrap();
    target.tables.insert(table("later"), crate::target::Held::default());
    let mut run = Running::start(source(&config(&cluster, &["orders", "later"])), target);
    run.until_copied().await;
    cluster
        .psql("INSERT INTO later VALUES (3, 3); DELETE FROM later WHERE id = 2")
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    for name in ["orders", "later"] {
        assert_eq!(
            target.folded(name, "id"),
            present(&cluster, name, &["id", "amount"]),
            "{name}"
        );
    }
    let slots = cluster.psql("SELECT slot_name FROM pg_replication_slots").unwrap();
    assert_eq!(slots, "millstream_t_shop", "the temporary slot is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_ahead_or_gone_is_refused() {
    let cluster = cluster();
    let config = config(&cluster, &["orders"]);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_copied().await;
    let old = run.target.clone();
    write(&cluster, 1000);
    run.catch_up(&cluster).await;
    let newest = run.stop().await;
    cluster
        .psql("SELECT pg_replication_slot_advance('millstream_t_shop', pg_current_wal_insert_lsn())")
        .unwrap();
    let mut stale = old;
    stale.boundaries.clear();
    let failure = Running::start(source(&config), stale).failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::PositionLost, Some("PG0025"))
    );
    cluster
        .psql("SELECT pg_drop_replication_slot('millstream_t_shop')")
        .unwrap();
    let failure = Running::start(source(&config), newest).failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::PositionLost, Some("PG0024"))
    );
    // With nothing held there is nothing to lose.
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.catch_up(&cluster).await;
    assert!(*run.target.least().position(&wal()) > Position::Beginning);
    let target = run.stop().await;
    assert_eq!(
        target.folded("orders", "id"),
        present(&cluster, "orders", &["id", "amount"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_in_use_is_reported_with_its_reader() {
    let cluster = cluster();
    let config = config(&cluster, &["orders"]);
    let mut first = Running::start(source(&config), Target::of(&["orders"]));
    first.until_streaming(&cluster).await;
    let second = Running::start(source(&config), first.target.clone());
    let failure = second.failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::Unavailable, Some("PG0020"))
    );
    assert!(failure.summary().contains("PID"), "{}", failure.summary());
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_breaks_no_connection_that_the_server_would_tell_of() {
    let cluster = cluster();
    let config = config(&cluster, &["orders"]);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    run.stop().await;
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    crate::target::eventually("the slot is left", || cluster.psql(active).unwrap() == "0").await;
    let log = std::fs::read_to_string(cluster.log_path()).unwrap();
    for broken in [
        "unexpected EOF",
        "could not send data",
        "could not receive data",
        "connection to client lost",
    ] {
        assert!(!log.contains(broken), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_had_what_the_target_holds_is_refused() {
    let cluster = cluster();
    let config = config(&cluster, &["orders"]);
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.catch_up(&cluster).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    // As after a failover to a standby that had not received all: its log ends earlier.
    let held = &mut target.tables.get_mut(&table("orders")).unwrap().checkpoint;
    held.raise(&wal(), &Position::at(crate::target::position(1 << 40)));
    let failure = Running::start(source(&config), target).failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::PositionLost, Some("PG0035")),
        "{}",
        failure.summary()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_its_last_reader_moved_while_we_waited_is_refused() {
    let cluster = cluster();
    let config = config(&cluster, &["orders"]);
    let mut first = Running::start(source(&config), Target::of(&["orders"]));
    first.until_streaming(&cluster).await;
    let mut stale = first.target.clone();
    stale.boundaries.clear();
    let at_first = confirmed(&cluster);
    let second = Running::start(source(&config), stale);
    // It found the slot in order, and waits for its reader.
    let log = cluster.log_path();
    crate::target::eventually("the second waits", || {
        std::fs::read_to_string(&log).unwrap().contains("is active for PID")
    })
    .await;
    write(&cluster, 1000);
    first.catch_up(&cluster).await;
    crate::target::eventually("the slot moves", || confirmed(&cluster) > at_first + 1).await;
    first.stop().await;
    let failure = second.failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::PositionLost, Some("PG0025")),
        "{}",
        failure.summary()
    );
}
