//! The sessions of a copy: how many there are, what they hold back, and what stays when one is lost.

use std::cell::Cell;
use std::time::Duration;

use millstream_core::ErrorKind;
use millstream_testkit::postgres::TestCluster;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::target::{Running, Target, client, config, present, source, table};

const ROWS: usize = 2000;
/// Rows of a piece, behind each of which the copy may be cut.
const PIECE: usize = 50;

/// A table of about 600 kB, partitioned or not, that is read slowly.
fn slow(cluster: &TestCluster, partitioned: bool) -> Value {
    let tables = if partitioned {
        "CREATE TABLE orders (id int PRIMARY KEY, note text) PARTITION BY RANGE (id); \
         CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (700); \
         CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (700) TO (10000)"
    } else {
        "CREATE TABLE orders (id int PRIMARY KEY, note text)"
    };
    cluster
        .psql(&format!(
            "{tables}; CREATE PUBLICATION p FOR TABLE orders WITH (publish_via_partition_root = true); \
             INSERT INTO orders SELECT i, repeat('x', 300) FROM generate_series(1, {ROWS}) i; ANALYZE orders"
        ))
        .unwrap();
    let mut config = config(cluster, &["orders"]);
    config["batch"]["rows"] = PIECE.into();
    config["copy"] = json!({"rate": "96KiB", "workers": 2});
    config
}

/// Sessions that copy; the server has sent a piece long before it is taken, so that most wait.
const COPYING: &str = "FROM pg_stat_activity WHERE application_name = 'millstream' AND query LIKE 'COPY%'";

fn read(target: &Target) -> usize {
    let rows = &target.tables[&table("orders")].rows;
    rows.iter().filter(|row| row.op == "r").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_of_a_first_copy_stays_when_its_sessions_are_lost() {
    let cluster = TestCluster::new().unwrap();
    for (partitioned, by_blocks) in [(false, false), (true, false), (false, true)] {
        let mut config = slow(&cluster, partitioned);
        if by_blocks {
            config["batch"] = json!({"rows": 300, "bytes": "16KiB"});
        }
        let mut run = Running::start(source(&config), Target::of(&["orders"]));
        run.until(|target| read(target) >= 500).await;
        let ended = cluster
            .psql(&format!("SELECT count(pg_terminate_backend(pid)) {COPYING}"))
            .unwrap();
        assert_ne!(ended, "0", "a session was copying");
        let error = run.try_until(Target::is_copied).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.summary());
        let target = run.kill();
        let before = read(&target);
        assert!((500..ROWS).contains(&before), "{before}");

        config["copy"] = json!({});
        let mut run = Running::start(source(&config), target);
        run.until_copied().await;
        cluster
            .psql("UPDATE orders SET note = 'now' WHERE id % 100 = 0")
            .unwrap();
        run.catch_up(&cluster).await;
        let target = run.stop().await;
        assert_eq!(
            read(&target),
            ROWS,
            "{before} rows were kept, partitioned: {partitioned}"
        );
        assert_eq!(
            target.folded("orders", "id"),
            present(&cluster, "orders", &["id", "note"])
        );
        cluster
            .psql("DROP TABLE orders; DROP PUBLICATION p; SELECT pg_drop_replication_slot('millstream_t_shop')")
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_as_many_sessions_as_it_may() {
    let cluster = TestCluster::new().unwrap();
    let mut config = slow(&cluster, false);
    for workers in [1, 3] {
        config["copy"]["workers"] = workers.into();
        config["slot"] = format!("slot_{workers}").into();
        let most = Cell::new(0);
        let mut run = Running::start(source(&config), Target::of(&["orders"]));
        run.until(|target| {
            let copying = cluster.psql(&format!("SELECT count(*) {COPYING}")).unwrap();
            most.set(most.get().max(copying.parse().unwrap()));
            target.is_copied()
        })
        .await;
        run.stop().await;
        assert_eq!(most.get(), workers);
    }
}

/// No rows come behind it for which a commit should wait.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_last_first_copy_is_urgent() {
    let cluster = TestCluster::new().unwrap();
    let mut config = slow(&cluster, false);
    cluster
        .psql("CREATE TABLE items (id int PRIMARY KEY); ALTER PUBLICATION p ADD TABLE items")
        .unwrap();
    config["tables"] = json!(["orders", "items"]);
    config["copy"] = json!({"workers": 2});
    let mut run = Running::start(source(&config), Target::of(&["orders", "items"]));
    run.until_copied().await;
    let target = run.stop().await;
    let of_copies: Vec<bool> = target
        .boundaries
        .iter()
        .filter(|boundary| boundary.partition.within_source().starts_with("copy/"))
        .map(|boundary| boundary.urgent)
        .collect();
    let (last, others) = of_copies.split_last().unwrap();
    assert!(*last && others.len() >= ROWS / PIECE, "{of_copies:?}");
    assert!(others.iter().all(|urgent| !urgent), "{of_copies:?}");
}

/// A copy that takes hours must not keep the server from removing dead rows for hours.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_lets_go_of_its_snapshot_in_time() {
    let cluster = TestCluster::new().unwrap();
    let mut config = slow(&cluster, false);
    for (kept_for, moves_on) in [("150ms", true), ("1h", false)] {
        config["copy"]["snapshot_for"] = kept_for.into();
        config["slot"] = format!("slot_{moves_on}").into();
        let (first, last) = (Cell::new(0u64), Cell::new(0));
        let mut run = Running::start(source(&config), Target::of(&["orders"]));
        run.until(|target| {
            // Each look is a transaction of its own, so that a later snapshot is seen as one.
            let held = cluster
                .psql(&format!(
                    "SELECT pg_current_xact_id(); SELECT COALESCE(min(backend_xmin::text::bigint), 0) {COPYING}"
                ))
                .unwrap();
            match held.lines().last().unwrap().parse().unwrap() {
                0 => {}
                held if first.get() == 0 => first.set(held),
                held => last.set(held),
            }
            target.is_copied()
        })
        .await;
        assert!(first.get() > 0 && last.get() > 0, "it was seen to copy");
        assert_eq!(last.get() > first.get(), moves_on, "{first:?} {last:?}");
        run.stop().await;
    }
}

/// Behind him every session that looks at the table waits, on version 16 and later; he waits for the copy.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_locks_of_a_copy_that_begins_stops_nothing() {
    let cluster = TestCluster::new().unwrap();
    let mut config = slow(&cluster, false);
    config["copy"] = json!({"rate": "1MiB"});
    let writer = client(&cluster).await;
    // He comes while the snapshot is taken, if he is in time, and while rows are read.
    let (early, late) = ("^(SELECT FROM|COPY)", "^COPY");
    for (workers, seen) in [(1, early), (2, early), (1, late), (2, late)] {
        config["copy"]["workers"] = workers.into();
        config["slot"] = format!("slot_{workers}_{}", seen.len()).into();
        let mut run = Running::start(source(&config), Target::of(&["orders"]));
        let changed = async {
            let holds = format!("SELECT 1 FROM pg_stat_activity WHERE state <> 'idle' AND query ~ '{seen}'");
            while writer
                .query_opt(&format!("{holds} LIMIT 1"), &[])
                .await
                .unwrap()
                .is_none()
            {
                sleep(Duration::from_millis(1)).await;
            }
            writer.batch_execute("BEGIN; LOCK TABLE orders; COMMIT").await.unwrap();
        };
        let both = timeout(Duration::from_secs(20), async {
            tokio::join!(changed, run.until_copied())
        });
        both.await.expect("neither waits for the other");
        assert_eq!(read(&run.stop().await), ROWS);
    }
}
