//! Tables that are no longer those that the lake was filled from: copied anew by themselves.

use std::collections::BTreeMap;

use millstream::engine::status::State;
use millstream_core::{PartitionId, Position};
use millstream_testkit::change_log::FoldedTable;
use millstream_testkit::postgres::TestCluster;

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
      tables: [a, b]
      lost_slot: recopy
      batch: {rows: 50}
models:
  both:
    sql: SELECT id, n FROM db.a UNION ALL SELECT id, n FROM db.b
    key: [id]
sinks:
  lake:
    parquet: {url: "${LAKE}"}
    tables: [a, b, both]
    commit: {every: 50ms, idle_every: 100ms}
"#;

const SCHEMA: &str = "
    CREATE TABLE a (id int PRIMARY KEY, n int);
    CREATE TABLE b (id int PRIMARY KEY, n int);
    INSERT INTO a SELECT i, i FROM generate_series(1, 300) i;
    INSERT INTO b SELECT 1000 + i, i FROM generate_series(1, 300) i;
    CREATE PUBLICATION millstream FOR ALL TABLES";

struct Shop {
    cluster: TestCluster,
    project: ProjectFolder,
}

impl Shop {
    fn daemon(&self) -> Daemon {
        let env = [("DB_URL", self.cluster.url()), ("LAKE", self.project.lake())];
        Daemon::start(self.project.path(), &env)
    }

    fn psql(&self, sql: &str) -> String {
        self.cluster.psql(sql).unwrap()
    }

    /// Waits until all that is committed now is in the lake, and no copy is owed or runs.
    fn wait_caught_up(&self, daemon: &mut Daemon) {
        let lsn = self.psql("SELECT pg_current_wal_flush_lsn()");
        let (high, low) = lsn.trim().split_once('/').expect("an LSN");
        let committed = Position::at(format!("{high:0>8}{low:0>8}"));
        // The log goes on, and with it the positions.
        self.psql("SELECT pg_logical_emit_message(true, 'marker', '')");
        let oids = ["a", "b"].map(|name| self.psql(&format!("SELECT '{name}'::regclass::oid")));
        daemon.wait_until("all is copied and followed", PATIENCE, |status| {
            ["a", "b", "both"].iter().all(|target| {
                let Some(table) = status[0].tables.get(*target) else {
                    return false;
                };
                let position = |within: String| table.positions.position(&PartitionId::new("db", within)).clone();
                // Of one of several inputs it may be remembered apart.
                let of = |kind: &str, input: &str| {
                    let whole = format!("{kind}/public.{input}");
                    let own = position(format!("{whole}@public.{input}"));
                    if own == Position::Beginning {
                        position(whole)
                    } else {
                        own
                    }
                };
                let inputs = ["a", "b"]
                    .iter()
                    .zip(&oids)
                    .filter(|(input, _)| *target == "both" || target == *input);
                let whole = |(input, oid): (&&str, &String)| {
                    let is_of = matches!(of("relation", input), Position::Token { token, .. } if *token == **oid);
                    let (owed, backfill) = (of("owed", input), of("backfill", input));
                    is_of
                        && of("copy", input) == Position::End
                        && !owed.ordered().is_some_and(|owed| owed.contains('/'))
                        && backfill.ordered().is_none_or(|place| place.ends_with("~~"))
                };
                position("wal".to_owned()) >= committed && { inputs }.all(whole)
            })
        });
    }

    /// The lake's tables equal the source's. The model over both has all their rows, and those that
    /// went with a table that was emptied: each is told in the quarantine.
    fn assert_equal(&self, emptied: usize) {
        let lake = self.project.path().join("lake");
        let (a, b) = (self.rows("SELECT id, n FROM a"), self.rows("SELECT id, n FROM b"));
        let both: BTreeMap<i64, i64> = a.iter().chain(&b).map(|(id, n)| (*id, *n)).collect();
        for (table, expected) in [("a", a), ("b", b)] {
            assert_eq!(pairs(&Table::read(&lake, table).fold("id")), expected, "{table}");
        }
        let mut found = pairs(&Table::read(&lake, "both").fold("id"));
        found.retain(|id, _| both.contains_key(id));
        assert_eq!(found, both);
        let quarantined = Table::read_quarantine(&lake, "both").changes();
        assert_eq!(
            quarantined
                .iter()
                .filter(|row| row.cells["reason"].contains("TRUNCATE"))
                .count(),
            emptied
        );
    }

    fn rows(&self, sql: &str) -> BTreeMap<i64, i64> {
        let lines = self.psql(&format!("SELECT id || ' ' || n FROM ({sql}) rows"));
        let pair = |line: &str| {
            let (id, n) = line.split_once(' ').expect("two numbers");
            (id.parse().unwrap(), n.parse().unwrap())
        };
        lines.lines().map(pair).collect()
    }
}

fn pairs(folded: &FoldedTable) -> BTreeMap<i64, i64> {
    let rows = folded.values();
    rows.map(|row| (row["id"].parse().unwrap(), row["n"].parse().unwrap()))
        .collect()
}

#[test]
fn replaced_tables_and_lost_slots_end_with_the_sources_rows() {
    let shop = Shop {
        cluster: TestCluster::new().unwrap(),
        project: ProjectFolder::new(&[("shop.yaml", PIPELINE)]),
    };
    shop.psql(SCHEMA);
    let mut daemon = shop.daemon();
    shop.wait_caught_up(&mut daemon);

    // Swapped while it is read: the pipeline is planned anew, and goes on without a halt.
    shop.psql(
        "CREATE TABLE next (id int PRIMARY KEY, n int); INSERT INTO next SELECT i, -i FROM generate_series(200, 500) i; \
         BEGIN; ALTER TABLE a RENAME TO old; ALTER TABLE next RENAME TO a; COMMIT; \
         INSERT INTO a VALUES (900, 9); DELETE FROM b WHERE id < 1010",
    );
    shop.wait_caught_up(&mut daemon);
    assert_eq!(daemon.status().unwrap()[0].state, State::Running);
    daemon.drain();
    shop.assert_equal(1);

    // Made again while nobody reads.
    shop.psql(
        "DROP TABLE b; CREATE TABLE b (id int PRIMARY KEY, n int); \
         INSERT INTO b SELECT 1000 + i, i * 2 FROM generate_series(1, 200) i; UPDATE a SET n = 0 WHERE id < 250",
    );
    let mut daemon = shop.daemon();
    shop.wait_caught_up(&mut daemon);
    daemon.drain();
    shop.assert_equal(2);

    // The slot is gone, and with it changes of both tables.
    shop.psql("SELECT pg_drop_replication_slot('millstream_shop_db')");
    shop.psql("DELETE FROM a WHERE id > 400; UPDATE b SET n = 7 WHERE id < 1100; INSERT INTO a VALUES (2, 2)");
    let mut daemon = shop.daemon();
    shop.wait_caught_up(&mut daemon);
    shop.psql("DELETE FROM a WHERE id = 2; INSERT INTO b VALUES (1999, 1)");
    shop.wait_caught_up(&mut daemon);
    daemon.drain();
    shop.assert_equal(4);
}
