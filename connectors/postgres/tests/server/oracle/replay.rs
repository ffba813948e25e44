//! PostgreSQL's own tests of logical replication, which `scripts/setup.sh test` fetches: their SQL
//! is run on real publishers and subscribers, with a source beside each subscriber. Wherever a
//! test waits for a subscriber, all its tables are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use millstream_testkit::postgres::{Shutdown, TestCluster, say_skipped};
use millstream_testkit::tools::postgres_tests;

use super::follower::{Follower, Name};
use super::pair::{MARKER, SETTINGS, applied, compare_with_subscriber, connection, subscribed, synchronised, wait_for};
use super::perl::{ADDRESS, ANSWER, Step, steps};
use super::session::Session;
use super::wanted;

/// The package whose tests the lists below are made for: those of other versions are others, or differ.
const WRITTEN_FOR: (&str, u32) = ("postgresql-15", 15);

/// Tests that are left out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "004_sync",
        "it counts what the subscription has, where ours has a table more",
    ),
    (
        "005_encoding",
        "its subscriber has another encoding, and so has its SQL",
    ),
    (
        "007_ddl",
        "it subscribes to a publication that does not exist, so that nothing is applied",
    ),
    (
        "009_matviews",
        "its subscription is never refreshed, so that no table is subscribed",
    ),
    ("012_collation", "it is run with ICU alone, which it asks Perl for"),
    (
        "021_twophase",
        "a publication joins while the slot is behind its making, which servers before 18 refuse",
    ),
    (
        "026_stats",
        "its SQL is made by functions, to count errors of the subscriber",
    ),
    (
        "027_nosuperuser",
        "its SQL is made by functions, to test permissions of the subscriber",
    ),
    (
        "020_messages",
        "what it writes is read by functions of the server, and no table is compared",
    ),
    (
        "029_on_error",
        "its SQL is made by functions, to skip transactions that the subscriber refuses",
    ),
    ("100_bugs", "it loops over databases, most of them without a subscriber"),
];

/// Tests that pass, and are run by `make replay` alone: with them the replay takes several minutes.
const ON_DEMAND: &[&str] = &[
    "001_rep_changes",
    "003_constraints",
    "006_rewrite",
    "008_diff_schema",
    "010_truncate",
    "011_generated",
    "013_partition",
    "014_binary",
    "022_twophase_cascade",
    "023_twophase_stream",
    "024_add_drop_pub",
    "025_rep_changes_for_schema",
    "031_column_list",
];

/// Tables of which a subscriber is meant to have something else than was sent, and why.
const OTHERWISE: &[(&str, &str, &str)] = &[
    (
        "001_rep_changes",
        "public.tab_full_pk",
        "the subscriber deletes rows of it",
    ),
    (
        "001_rep_changes",
        "public.tab_ins",
        "only its inserts are sent: after it was left out for a while it is copied as it has become since",
    ),
    (
        "003_constraints",
        "public.tab_fk_ref",
        "a trigger of the subscriber leaves rows out",
    ),
    (
        "006_rewrite",
        "public.test1",
        "a column comes with a default, which is not sent of older rows",
    ),
    ("010_truncate", "public.tab1", "the subscriber inserts rows"),
    ("010_truncate", "public.tab2", "the subscriber inserts rows"),
    ("010_truncate", "public.tab5", "two subscriptions write each row twice"),
    ("013_partition", "public.tab1_1", "the subscriber inserts rows"),
    ("013_partition", "public.tab2", "the subscriber deletes rows of it"),
    (
        "024_add_drop_pub",
        "public.tab_1",
        "the subscriber copies it a second time",
    ),
    (
        "031_column_list",
        "public.tab6",
        "its key changes, after which it has to be copied anew",
    ),
    (
        "031_column_list",
        "public.tab7",
        "its key changes, after which it has to be copied anew",
    ),
    ("031_column_list", "public.test_part_c_1", "the subscriber empties it"),
    ("031_column_list", "public.test_part_c_2", "the subscriber empties it"),
    ("031_column_list", "public.t_1", "the subscriber empties it"),
];

/// By what the streams of a test end, ours too if it gets there before it is stopped.
const ENDS: &[(&str, &str)] = &[("031_column_list", "cannot use different column lists")];

/// How many tests are replayed at a time: they wait more than they work.
const LANES: usize = 3;

/// How much there has to be in all, so that the test cannot pass by reading nothing.
const LEAST: Replayed = Replayed {
    tests: 7,
    statements: 200,
    tables: 120,
    rows: 1_000,
};

/// What was run and compared.
#[derive(Debug, Default, Clone, Copy)]
struct Replayed {
    tests: usize,
    statements: usize,
    tables: usize,
    rows: usize,
}

impl Replayed {
    fn add(&mut self, other: Self) {
        self.tests += other.tests;
        self.statements += other.statements;
        self.tables += other.tables;
        self.rows += other.rows;
    }

    fn is_at_least(&self, least: &Self) -> bool {
        self.tests >= least.tests
            && self.statements >= least.statements
            && self.tables >= least.tables
            && self.rows >= least.rows
    }
}

// Servers are started and asked in blocking calls, in several lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn postgresql_s_tests_of_replication_fold_to_what_its_subscribers_hold() {
    let Some(folder) = postgres_tests() else {
        say_skipped("PostgreSQL's own tests were not fetched; `scripts/setup.sh test` does so").unwrap();
        return;
    };
    let package = std::fs::read_to_string(folder.join("package")).unwrap();
    let server = TestCluster::new().unwrap().major().unwrap();
    if (package.trim(), server) != WRITTEN_FOR {
        say_skipped(&format!(
            "the tests of {} are not replayed on PostgreSQL {server}",
            package.trim()
        ))
        .unwrap();
        return;
    }
    let only = wanted();
    let mut files: Vec<_> = std::fs::read_dir(folder.join("subscription"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pl"))
        .collect();
    files.sort();
    files.retain(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let runs = match &only {
            None => !ON_DEMAND.contains(&name),
            Some(only) => name.contains(only),
        };
        runs && LEFT_OUT.iter().all(|(left_out, _)| *left_out != name)
    });
    let tests = files
        .into_iter()
        .map(|path| async move { tokio::spawn(async move { replay(&path).await }).await });
    let mut tests = futures::stream::iter(tests).buffer_unordered(LANES);
    let (mut replayed, mut wrong) = (Replayed::default(), Vec::new());
    while let Some(test) = tests.next().await {
        let (of_this, differences) = test.unwrap_or_else(|error| (Replayed::default(), vec![error.to_string()]));
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
    assert!(
        replayed.is_at_least(&LEAST) || only.is_some_and(|only| !only.is_empty()),
        "{replayed:?}"
    );
}

/// What was compared in a test and is the same, and what differed.
async fn replay(path: &Path) -> (Replayed, Vec<String>) {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let began = std::time::Instant::now();
    let source = std::fs::read_to_string(path).unwrap();
    let steps = match steps(&source) {
        Ok(steps) => steps,
        Err(error) => return (Replayed::default(), vec![format!("{name}: {error}")]),
    };
    let mut replay = Replay {
        test: name.to_owned(),
        ..Replay::default()
    };
    for step in steps {
        replay.take(step).await;
    }
    replay.stop_followers().await;
    let held = |(table, _): &(&str, &str)| !replay.differed.contains(*table);
    let otherwise = OTHERWISE
        .iter()
        .filter(|(test, ..)| *test == name)
        .map(|(_, table, why)| (*table, *why));
    let idle = otherwise
        .filter(held)
        .map(|(table, _)| format!("{name}: {table} is as it was sent after all"));
    replay.wrong.extend(idle.collect::<Vec<_>>());
    println!("{name}: {:?} in {:?}", replay.replayed, began.elapsed());
    replay.replayed.tests = 1;
    if replay.replayed.rows == 0 {
        replay.wrong.push(format!("{name} compares nothing"));
    }
    (replay.replayed, replay.wrong)
}

/// The text with what stands between the marks replaced.
fn replaced(text: &str, marks: (&str, &str), value: impl Fn(&str) -> String) -> String {
    let mut pieces = text.split(marks.0);
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once(marks.1).expect("both marks");
        whole += &value(name);
        whole += rest;
    }
    whole
}

#[derive(Default)]
struct Server {
    settings: Vec<(String, String)>,
    cluster: Option<TestCluster>,
    follower: Option<Follower>,
}

#[derive(Default)]
struct Replay {
    test: String,
    servers: BTreeMap<String, Server>,
    sessions: BTreeMap<String, Session>,
    answers: BTreeMap<String, String>,
    replayed: Replayed,
    wrong: Vec<String>,
    /// Tables that differ though they are allowed to.
    differed: BTreeSet<String>,
}

impl Replay {
    async fn take(&mut self, step: Step) {
        match step {
            Step::Create(server) => {
                self.sessions.clear();
                if let Some(mut old) = self.servers.insert(server, Server::default())
                    && let Some(follower) = &mut old.follower
                {
                    follower.stop().await;
                }
            }
            Step::Configure(server, lines) => {
                let split = |line: &str| {
                    let (name, value) = line.split_once('=')?;
                    Some((name.trim().to_owned(), value.trim().trim_matches('\'').to_owned()))
                };
                let settings: Vec<_> = lines.lines().filter_map(split).collect();
                self.server(&server).settings.extend(settings);
            }
            Step::Start(server) => self.start(&server),
            Step::Stop(server) => {
                self.stop_followers().await;
                self.cluster(&server).stop(Shutdown::Fast).unwrap();
            }
            Step::Restart(server) => {
                self.stop_followers().await;
                self.cluster(&server).restart(Shutdown::Fast).unwrap();
            }
            Step::Sql {
                server,
                database,
                sql,
                may_fail,
                answer,
            } => {
                self.replayed.statements += 1;
                let sql = self.filled_in(&sql);
                let done = self.cluster(&server).psql_in(&database, &sql);
                if let (Some(variable), Ok(answered)) = (answer, &done) {
                    self.answers.insert(variable, answered.clone());
                }
                if !may_fail {
                    done.unwrap_or_else(|error| panic!("{}: {sql}: {error:#}", self.test));
                }
                if sql.contains("SUBSCRIPTION") {
                    self.follow(&server).await;
                }
            }
            Step::Open(session, server) => {
                let opened = Session::of(self.cluster(&server));
                self.sessions.insert(session, opened);
            }
            Step::InSession(session, sql) => {
                self.replayed.statements += 1;
                self.sessions.get_mut(&session).unwrap().run(&format!("{sql};"));
            }
            Step::CaughtUp(publisher, subscription) => {
                let publisher = self.cluster(&publisher);
                applied(publisher, publisher, &subscription).await;
                self.compare().await;
            }
            Step::Synchronised(server, of) => {
                synchronised(self.cluster(&server)).await;
                if let Some((publisher, subscription)) = of {
                    applied(self.cluster(&publisher), self.cluster(&server), &subscription).await;
                }
                self.compare().await;
            }
            Step::Until(server, sql, wanted) => {
                let sql = self.filled_in(&sql);
                wait_for(self.cluster(&server), &sql, &wanted, self.cluster(&server)).await;
            }
        }
    }

    /// A server that shuts down waits until all is confirmed, which nobody does meanwhile.
    async fn stop_followers(&mut self) {
        for server in self.servers.values_mut() {
            if let Some(follower) = &mut server.follower {
                follower.stop().await;
            }
        }
    }

    fn server(&mut self, name: &str) -> &mut Server {
        self.servers.entry(name.to_owned()).or_default()
    }

    fn cluster(&self, name: &str) -> &TestCluster {
        let server = self.servers.get(name).and_then(|server| server.cluster.as_ref());
        server.unwrap_or_else(|| panic!("{}: {name} does not run", self.test))
    }

    fn start(&mut self, name: &str) {
        let may_end_by = ENDS.iter().find(|(test, _)| *test == self.test).map(|(_, by)| *by);
        let server = self.server(name);
        if let Some(cluster) = &server.cluster {
            return cluster.start().unwrap();
        }
        let mut settings = SETTINGS.to_vec();
        settings.extend(
            server
                .settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let cluster = TestCluster::with_settings(&settings).unwrap();
        cluster.psql(MARKER).unwrap();
        let mut follower = Follower::new(&format!("follower_of_{}", name.to_lowercase()));
        follower.may_end_by = may_end_by;
        server.cluster = Some(cluster);
        server.follower = Some(follower);
    }

    /// SQL with the addresses of servers and answers to queries.
    fn filled_in(&self, sql: &str) -> String {
        // A test that counts slots knows nothing of ours.
        let slots = "FROM (SELECT * FROM pg_replication_slots WHERE slot_name !~ '^follower_of_') AS slots";
        let sql = sql.replace("FROM pg_replication_slots", slots);
        let sql = replaced(&sql, ADDRESS, |server| connection(self.cluster(server)));
        replaced(&sql, ANSWER, |variable| {
            let answer = self.answers.get(variable);
            answer
                .unwrap_or_else(|| panic!("{}: ${variable} is not known", self.test))
                .clone()
        })
    }

    /// The publisher that a subscriber follows, publications and tables.
    fn followed(&self, subscriber: &str) -> Option<(String, Vec<String>, Vec<Name>)> {
        let cluster = self
            .servers
            .get(subscriber)?
            .cluster
            .as_ref()
            .filter(|cluster| cluster.pid().is_some())?;
        let publishers = self.servers.iter().filter(|(name, _)| *name != subscriber);
        publishers
            .filter_map(|(name, server)| {
                let port = server
                    .cluster
                    .as_ref()
                    .filter(|cluster| cluster.pid().is_some())?
                    .port();
                let (publications, tables) = subscribed(cluster, port);
                (!publications.is_empty()).then(|| (name.clone(), publications, tables))
            })
            .next()
    }

    /// Has the source read what the subscriber reads now.
    async fn follow(&mut self, subscriber: &str) {
        let followed = self.followed(subscriber);
        let mut follower = self.server(subscriber).follower.take().expect("it was started");
        match &followed {
            None => follower.stop().await,
            Some((publisher, publications, tables)) => {
                follower.keep_up(self.cluster(publisher), publications, tables).await;
            }
        }
        self.server(subscriber).follower = Some(follower);
    }

    /// Compares every table of every subscriber.
    async fn compare(&mut self) {
        for name in self.servers.keys().cloned().collect::<Vec<_>>() {
            let Some((publisher, ..)) = self.followed(&name) else {
                continue;
            };
            self.follow(&name).await;
            let (subscriber, publisher) = (self.cluster(&name), self.cluster(&publisher));
            let follower = self.servers[&name].follower.as_ref().expect("it was started");
            let may_differ = |(schema, table): &Name| {
                let table = format!("{schema}.{table}");
                OTHERWISE
                    .iter()
                    .any(|(test, name, _)| *test == self.test && *name == table)
            };
            let patience = Duration::from_secs(5);
            let found = compare_with_subscriber(publisher, follower, subscriber, patience, may_differ).await;
            let same = found.tables - found.differ.len();
            let (excused, wrong): (Vec<_>, Vec<_>) = found.differ.into_iter().partition(|(name, _)| may_differ(name));
            let shown = |(schema, table): &Name| format!("{schema}.{table}");
            let wrong = wrong
                .iter()
                .map(|(table, how)| format!("{}: {} on {name}: {how}", self.test, shown(table)));
            let wrong: Vec<_> = wrong.collect();
            self.replayed.tables += same;
            self.replayed.rows += found.rows;
            self.differed.extend(excused.iter().map(|(table, _)| shown(table)));
            self.wrong.extend(wrong);
        }
    }
}
