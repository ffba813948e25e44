//! PostgreSQL's own tests of logical decoding, `contrib/test_decoding/sql`, which
//! `scripts/setup.sh test` fetches: a real `psql` runs them on a real server, as PostgreSQL does,
//! with a source beside it. What the source sent is the table that the server has, at every place
//! where there is something to see: behind what a test looks at, new tables and commits, and
//! before a table is dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::future::join_all;
use millstream_testkit::postgres::{TestCluster, say_skipped};
use millstream_testkit::tools::postgres_tests;
use serde_json::{Value, json};

use super::follower::{Name, read_tables, tables_query};
use super::pair::{SETTINGS, relation};
use super::reader::Reader;
use super::rows::{Columns, difference, present_query, read_present};
use super::script::pieces;
use super::session::Session;
use super::wanted;
use crate::target::{Held, is_copied, position};

/// The settings that tests are run with: the version that these need, how the tests' names begin, and
/// on how many servers they are run, side by side.
const RUNS: &[(&str, u32, &[&str], usize)] = &[
    ("{}", 14, &[""], 3),
    (
        r#"{"two_phase": true}"#,
        15,
        &["prepared", "replorigin", "stream", "twophase"],
        1,
    ),
];

/// Tests that are left out, and why.
const LEFT_OUT: &[(&str, &str)] = &[("binary", "it changes nothing")];

/// Where a table differs because the stream does not tell: a test, a table, what is not told, and a
/// change behind which all is as it should be.
const UNTOLD: &[(&str, &str, &str, &str)] = &[(
    "toast",
    "tbl1",
    "the values that a new column got in rows that were there before",
    "UPDATE tbl1 SET a = a",
)];

/// How much there has to be in all, so that the test cannot pass by reading nothing.
const LEAST: Replayed = Replayed {
    tests: 18,
    comparisons: 130,
    rows: 700_000,
    changes: 100_000,
    parts: 15,
};

/// Before the tests: a pattern has to match something, a change of `marker` tells that all before it
/// came, and a table without a key is identified by whole rows, or the publication forbids to change it.
const BEFORE: &str = "CREATE TABLE always (id int PRIMARY KEY); INSERT INTO always VALUES (1); CREATE TABLE marker (id int); \
    CREATE FUNCTION identify() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE made regclass; BEGIN \
    FOR made IN SELECT r.oid FROM pg_event_trigger_ddl_commands() c JOIN pg_class r ON r.oid = c.objid \
    WHERE c.classid = 'pg_class'::regclass AND r.relkind = 'r' AND r.relreplident = 'd' AND r.relpersistence = 'p' \
    AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.oid AND i.indisprimary) \
    LOOP EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', made); END LOOP; END $$; \
    CREATE EVENT TRIGGER identify ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS') \
    EXECUTE FUNCTION identify(); CREATE PUBLICATION p FOR ALL TABLES";

/// Behind each test.
const DROP_ALL: &str = "DO $$ DECLARE made regclass; BEGIN FOR made IN SELECT relid FROM pg_stat_user_tables \
    WHERE relname NOT IN ('always', 'marker') LOOP EXECUTE format('DROP TABLE %s CASCADE', made); END LOOP; END $$";

/// Tables, and those of them that somebody has locked against readers: a transaction that is
/// prepared, or not at its end.
const THERE: &str =
    "SELECT relname, relid FROM pg_stat_user_tables WHERE schemaname = 'public' AND relname <> 'marker';";
const LOCKED: &str = "SELECT c.relname, c.oid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
    JOIN pg_database d ON d.oid = l.database \
    WHERE d.datname = current_database() AND l.granted AND l.mode = 'AccessExclusiveLock';";
/// The log's end, behind which something follows that the source waits for.
const COMMITTED: &str = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn; INSERT INTO marker VALUES (1);";

/// What was run and compared.
#[derive(Debug, Default, Clone, Copy)]
struct Replayed {
    tests: usize,
    comparisons: usize,
    /// Rows that both have, over all comparisons.
    rows: usize,
    /// Changes that the source sent, without rows of copies.
    changes: usize,
    /// Transactions that the server sent before they committed.
    parts: usize,
}

impl Replayed {
    fn add(&mut self, other: Self) {
        self.tests += other.tests;
        self.comparisons += other.comparisons;
        self.rows += other.rows;
        self.changes += other.changes;
        self.parts += other.parts;
    }

    fn is_at_least(&self, least: &Self) -> bool {
        self.tests >= least.tests
            && self.comparisons >= least.comparisons
            && self.rows >= least.rows
            && self.changes >= least.changes
            && self.parts >= least.parts
    }
}

// Servers are asked in blocking calls, in several lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgresql_s_tests_of_decoding_fold_to_what_its_tables_hold() {
    let Some(folder) = postgres_tests()
        .map(|folder| folder.join("decoding"))
        .filter(|folder| folder.is_dir())
    else {
        say_skipped("PostgreSQL's own tests of decoding were not fetched; `scripts/setup.sh test` does so").unwrap();
        return;
    };
    // On a busy machine it has been seen to wait too long for its source.
    let Some(only) = wanted() else {
        say_skipped("PostgreSQL's tests of decoding are replayed by `make replay`").unwrap();
        return;
    };
    let mut tests: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    tests.sort();
    tests.retain(|path| {
        let is_left_out = LEFT_OUT.iter().any(|(left_out, _)| *left_out == name(path));
        name(path).contains(&only) && !is_left_out
    });
    let runs = RUNS.iter().flat_map(|(settings, since, beginnings, servers)| {
        let is_wanted = |path: &&PathBuf| beginnings.iter().any(|begin| name(path).starts_with(begin));
        let wanted: VecDeque<PathBuf> = tests.iter().filter(is_wanted).cloned().collect();
        let servers = wanted.len().min(*servers);
        let wanted = Arc::new(Mutex::new(wanted));
        (0..servers).map(move |_| {
            let settings = serde_json::from_str(settings).unwrap();
            tokio::spawn(replay(settings, *since, Arc::clone(&wanted)))
        })
    });
    let (mut replayed, mut wrong) = (Replayed::default(), Vec::new());
    for run in join_all(runs).await {
        let (of_this, differences) = run.unwrap_or_else(|error| (Replayed::default(), vec![error.to_string()]));
        replayed.add(of_this);
        wrong.extend(differences);
    }
    println!("{replayed:?}");
    assert!(
        wrong.is_empty(),
        "{} of {replayed:?}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(replayed.is_at_least(&LEAST) || !only.is_empty(), "{replayed:?}");
}

fn name(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// Runs one after the other of the tests that are left in one database, if the server is of the
/// version `since` or later. What was compared and is the same, and what differed.
async fn replay(settings: Value, since: u32, tests: Arc<Mutex<VecDeque<PathBuf>>>) -> (Replayed, Vec<String>) {
    let cluster = TestCluster::with_settings(&SETTINGS).unwrap();
    if !cluster.has(&format!("such settings as {settings}"), since).unwrap() {
        return (Replayed::default(), Vec::new());
    }
    cluster.psql(BEFORE).unwrap();
    let mut config = json!({
        "url": cluster.url(), "publication": "p", "slot": "beside", "tables": ["public.*"], "exclude": ["public.marker"],
        "numeric": "text", "arrays": "text", "spool_memory": "64kB", "batch": {"idle": "20ms"},
        "governor": {"every": "50ms"}, "recopy": "changed",
    });
    for (key, value) in settings.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let mut replay = Replay {
        asking: Session::asking(&cluster),
        cluster,
        reader: Reader::new(config),
        equal: BTreeMap::new(),
        replayed: Replayed::default(),
        wrong: Vec::new(),
        mended: BTreeSet::new(),
    };
    replay.compare("nothing", "").await;
    loop {
        let next = tests.lock().unwrap().pop_front();
        let Some(path) = next else { break };
        replay.run(&path).await;
    }
    let parts = "SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = 'beside'";
    replay.replayed.parts = replay.asking.run(&format!("{parts};")).trim().parse().unwrap_or(0);
    println!("{settings}: {:?}", replay.replayed);
    (replay.replayed, replay.wrong)
}

/// What a comparison is of: the columns, what the server says of all rows, how many changes came.
type Compared = (Columns, String, usize);

struct Replay {
    asking: Session,
    cluster: TestCluster,
    reader: Reader,
    /// The last comparison of each table, which found it equal.
    equal: BTreeMap<Name, Compared>,
    replayed: Replayed,
    wrong: Vec<String>,
    /// Tables of [`UNTOLD`] that did differ.
    mended: BTreeSet<String>,
}

impl Replay {
    async fn run(&mut self, path: &Path) {
        let (began, before) = (Instant::now(), self.replayed.comparisons);
        self.equal.clear();
        let script = std::fs::read_to_string(path).unwrap();
        let mut session = Session::of(&self.cluster);
        for piece in pieces(&script) {
            session.run(piece);
            self.compare(name(path), piece).await;
        }
        drop(session);
        self.cluster.psql(DROP_ALL).unwrap();
        let of_this = UNTOLD.iter().filter(|(test, ..)| *test == name(path));
        let idle = of_this.filter(|(_, table, ..)| !self.mended.contains(*table));
        let idle = idle.map(|(test, table, what, _)| format!("{test}: {table}: it did tell {what}"));
        self.wrong.extend(idle);
        self.replayed.tests += 1;
        let comparisons = self.replayed.comparisons - before;
        if comparisons == 0 {
            self.wrong.push(format!("{} compares nothing", name(path)));
        }
        println!("{}: {comparisons} tables in {:?}", name(path), began.elapsed());
    }

    /// Compares all tables that can be read.
    async fn compare(&mut self, test: &str, piece: &str) {
        let differ = self.differences().await;
        let untold = UNTOLD
            .iter()
            .filter(|(of, table, ..)| *of == test && differ.contains_key(*table));
        let untold: Vec<_> = untold.collect();
        let is_told = |table: &&String| untold.iter().all(|(_, untold, ..)| untold != table);
        for table in differ.keys().filter(is_told) {
            self.wrong
                .push(format!("{test}: {table}: {} behind {piece}", differ[table]));
        }
        for (_, table, what, change) in &untold {
            self.cluster.psql(change).unwrap();
            self.mended.insert((*table).to_owned());
            if let Some(how) = self.differences().await.get(*table) {
                self.wrong
                    .push(format!("{test}: {table}: {what}, also behind {change}: {how}"));
            }
        }
    }

    /// Compares all tables that can be read. Which differ, and how.
    async fn differences(&mut self) -> BTreeMap<String, String> {
        let there = self.listed(THERE);
        let locked: BTreeSet<Name> = self.listed(LOCKED).into_keys().collect();
        // No snapshot can be taken before they have ended: new tables have to wait.
        let is_prepared = !self.asking.run("SELECT gid FROM pg_prepared_xacts;").is_empty();
        let is_compared = |name: &Name, held: Option<&Held>| {
            let is_copied = || held.is_some_and(|held| is_copied(held, &name.1));
            !locked.contains(name) && (!is_prepared || is_copied())
        };
        let committed = position(self.asking.run(COMMITTED).trim().parse().unwrap());
        self.reader.settle(&committed, &there, is_compared).await;
        let tables = read_tables(&self.asking.run(&tables_query("true")));
        let of = |name: &Name| {
            let (kind, columns) = &tables[name];
            (relation(name, kind), columns.clone())
        };
        let held = there.keys().filter(|name| is_compared(name, self.reader.held(name)));
        let names: Vec<Name> = held.cloned().collect();
        let compared = self.compared(names.into_iter().map(|name| (of(&name), name)).collect());
        // What is as it was when it was equal still is.
        let is_other = |(name, compared): &(Name, Compared)| self.equal.get(name) != Some(compared);
        let compared: Vec<_> = compared.into_iter().filter(is_other).collect();
        let selects: Vec<_> = compared.iter().map(|(name, _)| of(name)).collect();
        let expected = read_present(&selects, &self.asking.run(&present_query(&selects)));
        let mut differ = BTreeMap::new();
        for ((name, compared), expected) in compared.into_iter().zip(&expected) {
            match difference(expected, &self.reader.rows(&name, &compared.0)) {
                None => {
                    self.replayed.comparisons += 1;
                    self.replayed.rows += expected.len();
                    self.equal.insert(name, compared);
                }
                Some(how) => drop(differ.insert(name.1, how)),
            }
        }
        self.replayed.changes = self.reader.changes();
        differ
    }

    /// What comparisons of tables would be of.
    fn compared(&mut self, tables: Vec<((String, Columns), Name)>) -> Vec<(Name, Compared)> {
        let queries = tables.iter().map(|((relation, _), _)| {
            format!("SELECT count(*), sum(hashtextextended(format('%s', t), 0)) FROM {relation} t;")
        });
        let shown = self.asking.run(&queries.collect::<String>());
        assert_eq!(shown.lines().count(), tables.len(), "{shown}");
        let compared = tables
            .into_iter()
            .zip(shown.lines())
            .map(|(((_, columns), name), shown)| {
                let changes = self.reader.held(&name).map_or(0, |held| held.rows.len());
                (name, (columns, shown.to_owned(), changes))
            });
        compared.collect()
    }

    /// Name and OID of tables.
    fn listed(&mut self, query: &str) -> BTreeMap<Name, String> {
        let listed = self.asking.run(query);
        let split = |line: &str| {
            let (name, oid) = line.split_once('|')?;
            Some((("public".to_owned(), name.to_owned()), oid.to_owned()))
        };
        listed.lines().filter_map(split).collect()
    }
}
