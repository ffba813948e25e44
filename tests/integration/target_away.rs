//! A target that is away for long: the log is taken off the source's server meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use millstream::engine::status::State;
use millstream_testkit::postgres::TestCluster;

use crate::caught_up;
use crate::daemon::Daemon;
use crate::lake::Table;
use crate::project::ProjectFolder;
use crate::service::PATIENCE;

const PIPELINE: &str = r#"
pipeline: shop
sources:
  db:
    postgres:
      url: {env: DB_URL}
      publication: millstream
      tables: [orders]
      governor: {every: 100ms}
      wal_budget: {bytes: 1MiB, backlog: {folder: "${BACKLOG}", size: 1GiB}}
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    tables: [orders]
    commit: {every: 100ms, idle_every: 200ms}
"#;

struct Shop {
    cluster: TestCluster,
    project: ProjectFolder,
}

impl Shop {
    fn daemon(&self) -> Daemon {
        let backlog = self.project.path().join("backlog").to_str().unwrap().to_owned();
        let env = [
            ("DB_URL", self.cluster.url()),
            ("LAKE", self.project.lake()),
            ("BACKLOG", backlog),
        ];
        Daemon::start(self.project.path(), &env)
    }

    /// Some 8 MB of the log.
    fn write(&self, from: u32) {
        let rows = format!(
            "INSERT INTO orders SELECT i, repeat(md5(i::text), 20) FROM generate_series({from}, {from} + 9999) i; \
             UPDATE orders SET note = 'changed' WHERE id % 100 = 1; DELETE FROM orders WHERE id % 50 = 7"
        );
        self.cluster.psql(&rows).unwrap();
    }

    /// Waits until the server need keep less than a megabyte for us.
    fn wait_relieved(&self) {
        let behind = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots";
        let started = Instant::now();
        while self.cluster.psql(behind).unwrap().parse::<u64>().unwrap() > 1 << 20 {
            assert!(started.elapsed() < PATIENCE, "the log stays on the server");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn segments(&self) -> usize {
        let folder = self.project.path().join("backlog").join("millstream_shop_db");
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        names
            .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "wal"))
            .count()
    }
}

#[test]
fn a_lake_that_is_away_over_a_crash_does_not_fill_the_servers_disk_and_gets_each_change_once() {
    let shop = Shop {
        cluster: TestCluster::new().unwrap(),
        project: ProjectFolder::new(&[("shop.yaml", PIPELINE)]),
    };
    shop.cluster
        .psql("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE PUBLICATION millstream FOR TABLE orders")
        .unwrap();
    shop.write(0);
    let mut daemon = shop.daemon();
    caught_up::with_postgres(
        &mut daemon,
        &shop.cluster,
        "db",
        &["orders"],
        "INSERT INTO orders VALUES (-1, 'first')",
    );

    let (lake, away) = (shop.project.path().join("lake"), shop.project.path().join("away"));
    fs::rename(&lake, &away).unwrap();
    fs::write(&lake, "no folder").unwrap();
    shop.write(10_000);
    daemon.wait_until("the pipeline waits for its lake", PATIENCE, |status| {
        matches!(status[0].state, State::BackingOff | State::Halted)
    });
    shop.wait_relieved();
    daemon.kill();
    shop.write(20_000);
    let daemon = shop.daemon();
    shop.wait_relieved();
    shop.write(30_000);
    shop.wait_relieved();
    assert!(shop.segments() > 0);
    let (code, metrics) = daemon.get("/metrics");
    assert_eq!(code, 200);
    assert!(
        metrics.contains("millstream_postgres_backlog_filling{source=\"db\"} 1"),
        "{metrics}"
    );
    daemon.kill();

    fs::remove_file(&lake).unwrap();
    fs::rename(&away, &lake).unwrap();
    let mut daemon = shop.daemon();
    caught_up::with_postgres(
        &mut daemon,
        &shop.cluster,
        "db",
        &["orders"],
        "INSERT INTO orders VALUES (-2, 'second')",
    );
    let started = Instant::now();
    while shop.segments() > 0 {
        assert!(started.elapsed() < PATIENCE, "the backlog stays");
        shop.cluster.psql("UPDATE orders SET note = 'on' WHERE id = 1").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    caught_up::with_postgres(
        &mut daemon,
        &shop.cluster,
        "db",
        &["orders"],
        "INSERT INTO orders VALUES (-3, 'third')",
    );
    daemon.drain();

    let table = Table::read(&lake, "orders");
    table.assert_each_change_once();
    let folded = table.fold("id");
    let found: Vec<String> = folded
        .values()
        .map(|row| format!("{}|{}", row["id"], row["note"]))
        .collect();
    let mut expected: Vec<String> = shop
        .cluster
        .psql("SELECT id || '|' || note FROM orders")
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let mut found = found;
    found.sort();
    expected.sort();
    assert!(found == expected, "{} and {} rows", found.len(), expected.len());
}
