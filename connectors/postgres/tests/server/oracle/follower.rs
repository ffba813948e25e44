//! A source that reads what a subscription reads, tables that come and go included.

use std::collections::BTreeMap;

use millstream_core::{Error, ErrorKind, TableId};
use millstream_testkit::postgres::TestCluster;

use super::rows::{self, Columns, Rows};
use crate::target::{Held, Running, Target, source};

/// A table's schema and name.
pub type Name = (String, String);

/// Tables, each with its kind and columns.
pub type Tables = BTreeMap<Name, (String, Columns)>;

/// A source and its target, beside a subscriber of the same publications.
pub struct Follower {
    slot: String,
    pub publications: Vec<String>,
    /// What the source's configuration says beside the tables.
    pub further: serde_json::Value,
    /// The tables that are read, each with its OID.
    tables: BTreeMap<Name, String>,
    run: Option<Running>,
    /// What is held while the source does not run.
    target: Target,
    /// The errors that ended it.
    pub halts: Vec<String>,
    /// Part of an error that may end it: a subscriber's stream ends with it as well.
    pub may_end_by: Option<&'static str>,
}

impl Follower {
    pub fn new(slot: &str) -> Self {
        Self {
            slot: slot.to_owned(),
            publications: Vec::new(),
            further: serde_json::json!({}),
            tables: BTreeMap::new(),
            run: None,
            target: new_target(),
            halts: Vec::new(),
            may_end_by: None,
        }
    }

    pub fn tables(&self) -> Vec<Name> {
        self.tables.keys().cloned().collect()
    }

    /// Reads those of the tables that the publications have now, and no others. What left or was
    /// replaced is dropped from the target, as an operator is told to do; what is new is copied.
    pub async fn follow(&mut self, publisher: &TestCluster, publications: &[String], wanted: &[Name]) {
        let there = publisher
            .psql("SELECT pubname FROM pg_publication")
            .expect("the catalog can be read");
        let is_there = |name: &&String| there.lines().any(|line| line == name.as_str());
        let publications: Vec<String> = publications.iter().filter(is_there).cloned().collect();
        let published = published(publisher, &publications);
        let is_wanted = |name: &Name| wanted.contains(name) && name.1 != "marker";
        let tables: BTreeMap<_, _> = published.into_iter().filter(|(name, _)| is_wanted(name)).collect();
        if self.run.is_some() && tables == self.tables && publications == self.publications {
            return;
        }
        self.stop().await;
        let replaced = |name: &Name| tables.get(name) != self.tables.get(name);
        let held = std::mem::take(&mut self.target.tables);
        let kept: BTreeMap<TableId, Held> = tables
            .keys()
            .map(|name| {
                let id = id(name);
                let held = held.get(&id).filter(|_| !replaced(name)).cloned();
                (id, held.unwrap_or_default())
            })
            .collect();
        self.target.tables = kept;
        self.tables = tables;
        self.publications = publications;
        if !self.tables.is_empty() {
            self.start(publisher);
        }
    }

    /// Follows until all that the publisher has committed came.
    pub async fn keep_up(&mut self, publisher: &TestCluster, publications: &[String], wanted: &[Name]) {
        for _ in 0..4 {
            self.follow(publisher, publications, wanted).await;
            if self.catch_up(publisher).await {
                return;
            }
        }
        panic!("{} does not keep up: {:?}", self.slot, self.halts);
    }

    fn start(&mut self, publisher: &TestCluster) {
        let names: Vec<String> = self
            .tables
            .keys()
            .map(|(schema, name)| format!("{schema}.{name}"))
            .collect();
        let publications: Vec<_> = self.publications.iter().map(String::as_str).chain(["marker"]).collect();
        let mut config = serde_json::json!({
            "url": publisher.url(), "slot": self.slot, "publications": publications, "tables": names,
            "numeric": "text", "arrays": "text", "spool_memory": "64kB",
            // A subscriber does not look either: a table that leaves the publication is silent.
            "governor": {"every": "1h"}, "batch": {"idle": "20ms"},
        });
        for (key, value) in self.further.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        self.target.boundaries.clear();
        let target = std::mem::replace(&mut self.target, new_target());
        self.run = Some(Running::start(source(&config), target));
    }

    /// Takes what the publisher has committed. Whether it came: not if the source ended before.
    pub async fn catch_up(&mut self, publisher: &TestCluster) -> bool {
        let Some(run) = &mut self.run else {
            return true;
        };
        let Err(error) = run.try_catch_up(publisher).await else {
            return true;
        };
        self.note(&error);
        let run = self.run.take().expect("it ran");
        self.target = run.target;
        self.target.crash();
        false
    }

    /// Takes note of an error that ended the source.
    ///
    /// # Panics
    /// Where it is none that a replay brings about.
    fn note(&mut self, error: &Error) {
        // What it has replaced is copied anew; an operator is told to do so by these.
        let told = matches!(error.error_code(), Some("PG0015" | "PG0017" | "PG0034"));
        let text = format!("{error:?}");
        // A subscriber tries again until it exists.
        let waits = text.contains("publication \\\"") && text.contains("does not exist");
        let may_end = self.may_end_by.is_some_and(|by| text.contains(by));
        let expected = told || waits || may_end || error.kind() == ErrorKind::Unavailable;
        assert!(expected, "{text}");
        self.halts.push(text);
    }

    pub async fn stop(&mut self) {
        if let Some(run) = self.run.take() {
            let (target, ended) = run.halt().await;
            self.target = target;
            if let Err(error) = ended {
                self.note(&error);
            }
        }
    }

    /// What the target holds of a table.
    pub fn rows(&self, name: &Name, columns: &Columns) -> Rows {
        let target = self.run.as_ref().map_or(&self.target, |run| &run.target);
        let table = id(name);
        // The last schema tells the key; none came of a table that was empty.
        let last = target.batches.iter().rfind(|(schema, _)| schema.id == table);
        let key = last.map_or(&[][..], |(schema, _)| &schema.key);
        rows::folded(key, &target.tables[&table].rows, columns)
    }
}

/// A target whose rows are as the server shows them.
pub fn new_target() -> Target {
    let mut target = Target::default();
    target.seen_as = Some(rows::as_server_text);
    target
}

fn id((schema, name): &Name) -> TableId {
    TableId::new("shop", Some(schema), name)
}

/// The tables that the publications send under their own names, with their OIDs.
fn published(publisher: &TestCluster, publications: &[String]) -> Vec<(Name, String)> {
    let listed = publisher
        .psql(&format!(
            "WITH sent AS (SELECT (quote_ident(t.schemaname) || '.' || quote_ident(t.tablename))::regclass relid, b.pubviaroot \
             FROM pg_publication_tables t JOIN pg_publication b ON b.pubname = t.pubname WHERE b.pubname IN ({})) \
             SELECT DISTINCT n.nspname, c.relname, c.oid FROM sent s JOIN pg_class c ON c.oid = s.relid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE NOT EXISTS (SELECT FROM sent r WHERE r.pubviaroot AND r.relid <> s.relid \
             AND r.relid IN (SELECT pg_partition_ancestors(s.relid)))",
            literals(publications)
        ))
        .expect("the catalog can be read");
    let split = |line: &str| {
        let mut fields = line.split('|').map(str::to_owned);
        let name = (fields.next()?, fields.next()?);
        Some((name, fields.next()?))
    };
    listed.lines().filter_map(split).collect()
}

/// `'a', 'b'`, for SQL; of none NULL.
pub fn literals(names: &[String]) -> String {
    let quoted: Vec<String> = names
        .iter()
        .map(|name| format!("'{}'", name.replace('\'', "''")))
        .collect();
    if quoted.is_empty() {
        "NULL".to_owned()
    } else {
        quoted.join(", ")
    }
}

/// The columns of all tables that users made, and each table's kind.
pub fn tables_of(cluster: &TestCluster) -> Tables {
    listed(cluster, "true")
}

/// The columns that the publications send of each table.
pub fn sent_of(publisher: &TestCluster, publications: &[String]) -> Tables {
    let version = publisher.major().expect("the server answers");
    // Before 15 all are sent, and before 18 generated columns are named, but not sent.
    let by_list = format!(
        "EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname IN ({}) \
         AND t.schemaname = n.nspname AND t.tablename = c.relname AND a.attname = ANY (t.attnames))",
        literals(publications)
    );
    listed(
        publisher,
        match version {
            ..15 => "a.attgenerated = ''".to_owned(),
            15..18 => format!("a.attgenerated = '' AND {by_list}"),
            _ => by_list,
        }
        .as_str(),
    )
}

fn listed(cluster: &TestCluster, condition: &str) -> Tables {
    read_tables(&cluster.psql(&tables_query(condition)).expect("the catalog can be read"))
}

/// What shows the columns for which a condition holds.
pub fn tables_query(condition: &str) -> String {
    format!(
        "SELECT to_json(ARRAY[n.nspname, c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod)]) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid \
         AND a.attnum > 0 AND NOT a.attisdropped AND {condition} \
         WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema)' ORDER BY c.oid, a.attnum;"
    )
}

/// The tables that [`tables_query`] shows.
pub fn read_tables(shown: &str) -> Tables {
    let mut tables = Tables::new();
    for line in shown.lines() {
        let fields: Vec<Option<String>> = serde_json::from_str(line).expect("the server's JSON");
        let [Some(schema), Some(name), Some(kind), column, sql_type] = fields.as_slice() else {
            panic!("{line}");
        };
        let (name, kind) = ((schema.clone(), name.clone()), kind.clone());
        let table = tables.entry(name).or_insert((kind, Columns::new()));
        table.1.extend(column.clone().zip(sql_type.clone()));
    }
    tables
}
