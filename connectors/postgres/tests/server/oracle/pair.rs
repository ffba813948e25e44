//! A publisher, a subscriber and a source beside it.

use std::time::{Duration, Instant};

use millstream_testkit::postgres::{SUPERUSER, TestCluster};

use super::follower::{Follower, Name, sent_of, tables_of};
use super::rows::{Columns, difference, present, quoted};

const PATIENCE: Duration = Duration::from_secs(30);

/// What both servers have: transactions are sent in parts as soon as they can be, and nobody
/// waits longer than needed for the other.
/// A statement that waits for another ends some time.
pub const SETTINGS: [(&str, &str); 9] = [
    ("lock_timeout", "30s"),
    ("statement_timeout", "60s"),
    ("logical_decoding_work_mem", "64kB"),
    ("max_prepared_transactions", "10"),
    ("synchronous_commit", "on"),
    ("wal_writer_delay", "10ms"),
    ("wal_retrieve_retry_interval", "20ms"),
    ("max_worker_processes", "20"),
    ("max_logical_replication_workers", "12"),
];

/// What `cluster` is called in a subscription: by its socket, where it trusts everybody.
pub fn connection(cluster: &TestCluster) -> String {
    format!(
        "host={} port={} user={SUPERUSER}",
        cluster.socket_dir().display(),
        cluster.port()
    )
}

/// Waits until `query` says `t`.
pub async fn eventually(cluster: &TestCluster, query: &str) {
    wait_for(cluster, query, "t", cluster).await;
}

/// Waits until `query` says `wanted`. If it does not, the log of `telling` may say why.
pub async fn wait_for(cluster: &TestCluster, query: &str, wanted: &str, telling: &TestCluster) {
    let deadline = Instant::now() + PATIENCE;
    let mut answer = cluster.psql(query);
    while !answer.as_ref().is_ok_and(|answer| answer == wanted) {
        assert!(Instant::now() < deadline, "{query}: {answer:?}\n{}", log_end(telling));
        tokio::time::sleep(Duration::from_millis(60)).await;
        answer = cluster.psql(query);
    }
}

fn log_end(cluster: &TestCluster) -> String {
    let log = std::fs::read_to_string(cluster.log_path()).unwrap_or_default();
    let telling: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("FATAL"))
        .collect();
    telling[telling.len().saturating_sub(5)..].join("\n")
}

/// Waits until the subscription has applied all that is committed.
pub async fn applied(publisher: &TestCluster, subscriber: &TestCluster, subscription: &str) {
    let end = publisher
        .psql("SELECT pg_current_wal_lsn()")
        .expect("the server answers");
    let query = format!(
        "SELECT coalesce(bool_and('{end}' <= replay_lsn AND state = 'streaming'), false) \
         FROM pg_stat_replication WHERE application_name = '{subscription}'"
    );
    wait_for(publisher, &query, "t", subscriber).await;
}

/// Waits until the subscriber has its first copies.
pub async fn synchronised(subscriber: &TestCluster) {
    let query = "SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate NOT IN ('r', 's')";
    eventually(subscriber, query).await;
}

/// Publications, and tables on the subscriber, of its subscriptions to the server on a port.
pub fn subscribed(subscriber: &TestCluster, port: u16) -> (Vec<String>, Vec<Name>) {
    let of = format!("s.subconninfo LIKE '%port={port} %' AND s.subenabled");
    let publications =
        format!("SELECT DISTINCT unnest(s.subpublications) FROM pg_subscription s WHERE {of} ORDER BY 1");
    let tables = format!(
        "SELECT DISTINCT n.nspname, c.relname FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid \
         JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {of} ORDER BY 1, 2"
    );
    let read = |sql: &str| subscriber.psql(sql).expect("the catalog can be read");
    let split = |line: &str| {
        line.split_once('|')
            .map(|(schema, name)| (schema.to_owned(), name.to_owned()))
    };
    (
        read(&publications).lines().map(str::to_owned).collect(),
        read(&tables).lines().filter_map(split).collect(),
    )
}

/// How a server's tables are named in a query, without those that inherit from them.
pub fn relation((schema, name): &Name, kind: &str) -> String {
    let only = if kind == "p" { "" } else { "ONLY " };
    format!("{only}{}.{}", quoted(schema), quoted(name))
}

/// What was compared, and what came of it.
pub struct Comparison {
    /// Tables that were looked at.
    pub tables: usize,
    /// Rows that the subscriber has in those that are the same.
    pub rows: usize,
    /// The other tables, and how they differ.
    pub differ: Vec<(Name, String)>,
}

/// Compares the subscriber's tables with what the source sent.
/// For what it has not applied yet it is given some time, but for the tables that `may_differ`.
pub async fn compare_with_subscriber(
    publisher: &TestCluster,
    follower: &Follower,
    subscriber: &TestCluster,
    patience: Duration,
    may_differ: impl Fn(&Name) -> bool,
) -> Comparison {
    let (sent, there) = (sent_of(publisher, &follower.publications), tables_of(subscriber));
    let (mut selects, mut found) = (Vec::new(), Vec::new());
    for name in follower.tables() {
        let (kind, columns) = &there[&name];
        let is_there = |column: &&(String, String)| columns.iter().any(|(other, _)| *other == column.0);
        let both: Columns = sent[&name].1.iter().filter(is_there).cloned().collect();
        found.push((name.clone(), follower.rows(&name, &both)));
        selects.push((relation(&name, kind), both));
    }
    let deadline = Instant::now() + patience;
    loop {
        let expected = present(subscriber, &selects);
        let (mut rows, mut differ) = (0, Vec::new());
        for (expected, (name, found)) in expected.iter().zip(&found) {
            match difference(expected, found) {
                None => rows += expected.len(),
                Some(how) => differ.push((name.clone(), how)),
            }
        }
        if differ.iter().all(|(name, _)| may_differ(name)) || Instant::now() >= deadline {
            return Comparison {
                tables: found.len(),
                rows,
                differ,
            };
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How what the source sent of a table differs from what the publisher has of it, of the rows that
/// `filter` lets pass.
pub fn differs_from_publisher(
    publisher: &TestCluster,
    follower: &Follower,
    name: &Name,
    filter: &str,
) -> Option<String> {
    let (kind, columns) = &sent_of(publisher, &follower.publications)[name];
    let select = (format!("{} {filter}", relation(name, kind)), columns.clone());
    let expected = present(publisher, &[select]).remove(0);
    difference(&expected, &follower.rows(name, columns))
}

/// What a source that catches up waits for. It is in a publication of its own, since the place of
/// changes that are not sent is told late.
pub const MARKER: &str = "CREATE TABLE marker (id int); CREATE PUBLICATION marker FOR TABLE marker";

/// Two servers that know nothing of each other.
pub struct Servers {
    pub publisher: TestCluster,
    subscriber: TestCluster,
}

impl Servers {
    pub fn start() -> Self {
        let start = || {
            let server = TestCluster::with_settings(&SETTINGS).unwrap();
            server.psql(MARKER).unwrap();
            server
        };
        Self {
            publisher: start(),
            subscriber: start(),
        }
    }

    /// Runs `tables` on both servers and `publish` on the publisher, then subscribes with these options.
    pub async fn pair(self, tables: &str, publish: &str, publications: &[&str], options: &str) -> Pair {
        let Self { publisher, subscriber } = self;
        for (server, sql) in [(&publisher, tables), (&subscriber, tables), (&publisher, publish)] {
            server.psql(sql).unwrap_or_else(|error| panic!("{error:#}"));
        }
        let mut pair = Pair {
            publisher,
            subscriber,
            publications: publications.iter().map(|name| (*name).to_owned()).collect(),
            follower: Follower::new("follower"),
        };
        let subscribe = format!(
            "CREATE SUBSCRIPTION sub CONNECTION '{} dbname=postgres' PUBLICATION {} {options}",
            connection(&pair.publisher),
            publications.join(", ")
        );
        if options.contains("origin = none") {
            pair.follower.further["origin"] = "none".into();
        }
        pair.subscriber
            .psql(&subscribe)
            .unwrap_or_else(|error| panic!("{error:#}"));
        pair.follow().await;
        pair
    }
}

/// Both servers with the same tables, a subscription called `sub`, and a source that follows it.
pub struct Pair {
    publisher: TestCluster,
    pub subscriber: TestCluster,
    publications: Vec<String>,
    follower: Follower,
}

impl Pair {
    async fn follow(&mut self) {
        let (_, tables) = subscribed(&self.subscriber, self.publisher.port());
        self.follower.follow(&self.publisher, &self.publications, &tables).await;
        synchronised(&self.subscriber).await;
        assert!(
            self.follower.catch_up(&self.publisher).await,
            "{:?}",
            self.follower.halts
        );
    }

    /// Runs SQL on the publisher.
    pub fn write(&self, sql: &str) {
        self.publisher
            .psql(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:#}"));
    }

    /// Compares all tables with the subscriber's, and those of `filters`, with a filter in SQL,
    /// with the publisher's.
    pub async fn compare(&mut self, filters: &[(&str, &str)]) {
        assert!(
            self.follower.catch_up(&self.publisher).await,
            "{:?}",
            self.follower.halts
        );
        applied(&self.publisher, &self.subscriber, "sub").await;
        let (publisher, follower) = (&self.publisher, &self.follower);
        assert!(!follower.tables().is_empty());
        let found = compare_with_subscriber(publisher, follower, &self.subscriber, Duration::ZERO, |_| false).await;
        assert!(found.differ.is_empty(), "from the subscriber: {:?}", found.differ);
        assert!(found.rows > 0, "no row was compared");
        for (table, filter) in filters {
            let name = ("public".to_owned(), (*table).to_owned());
            assert!(follower.tables().contains(&name), "{table} is not read");
            let differs = differs_from_publisher(publisher, follower, &name, filter);
            assert_eq!(differs, None, "{table} and the publisher's");
        }
    }
}
