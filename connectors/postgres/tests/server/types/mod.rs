//! Every type: what arrives by the first copy, by a binary stream and by one in text mode is
//! the server's own text of the value.
//!
//! A table has a column per type and a row per value. Half of the rows are there before the
//! source starts. Values are the edges of each type, and random ones from a fixed seed.

mod composed;
mod debezium;
mod matrix;
mod random;
pub mod shown;
mod spatial;

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use millstream_core::SourceEvent;
use millstream_testkit::postgres::{ClusterOptions, TestCluster, say_skipped};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use self::matrix::{Column, EXTENSIONS, SETUP};
use crate::target::{Running, Target, config, source};

const PATIENCE: Duration = Duration::from_secs(60);
/// Random values of each type, besides its edges.
const RANDOM_VALUES: usize = 40;

/// How the server is asked for a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Binary,
    Text,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_arrives_as_the_server_shows_it() {
    let server = Server::start().await;
    let columns = server.offered(matrix::listed());
    server.compare("binary_lists", &columns, Mode::Binary, "list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_arrives_as_the_server_shows_it_in_text_mode() {
    let server = Server::start().await;
    let mut columns = server.offered(matrix::listed());
    columns.extend(server.offered(matrix::text_only()));
    server.compare("text_lists", &columns, Mode::Text, "list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arrays_of_any_shape_arrive_as_the_server_shows_them() {
    let server = Server::start().await;
    let mut columns = composed::as_text();
    columns.extend(spatial::as_text());
    let columns = server.offered(columns);
    server.compare("binary_texts", &columns, Mode::Binary, "text").await;
    let mut columns = columns;
    columns.extend(server.offered(matrix::text_only()));
    server.compare("text_texts", &columns, Mode::Text, "text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_generated_columns_arrive_from_version_18_on() {
    let server = Server::start().await;
    let publishes = server.version >= 180_000;
    let (publish, virtual_column) = if publishes {
        (
            "WITH (publish_generated_columns = stored)",
            ", tripled int GENERATED ALWAYS AS (n * 3) VIRTUAL",
        )
    } else {
        ("", "")
    };
    let create = format!(
        "CREATE TABLE made (id int PRIMARY KEY, n int, doubled int GENERATED ALWAYS AS (n * 2) STORED{virtual_column}); \
         CREATE PUBLICATION p FOR TABLE made {publish}; INSERT INTO made (id, n) VALUES (1, 10)"
    );
    server.cluster.psql(&create).unwrap();
    let mut run = Running::start(source(&config(&server.cluster, &["made"])), Target::of(&["made"]));
    run.until_streaming(&server.cluster).await;
    server.cluster.psql("INSERT INTO made (id, n) VALUES (2, 20)").unwrap();
    run.catch_up(&server.cluster).await;
    let rows = run.stop().await.folded("made", "id");
    let cells = |doubled: &str| -> Vec<String> {
        let sent = ["doubled"].iter().filter(|_| publishes);
        sent.map(|name| format!("{name}={doubled}")).collect()
    };
    let arrived: Vec<Vec<String>> = rows
        .values()
        .map(|row| row.iter().filter(|(name, _)| !["id", "n"].contains(&name.as_str())))
        .map(|cells| cells.map(|(name, value)| format!("{name}={value}")).collect())
        .collect();
    assert_eq!(arrived, [cells("20"), cells("40")]);
}

/// A server with the types that the matrix needs.
struct Server {
    cluster: TestCluster,
    client: Client,
    version: u32,
    extensions: Vec<&'static str>,
}

impl Server {
    async fn start() -> Self {
        let cluster = ClusterOptions::default().setting("log_replication_commands", "on");
        let cluster = cluster.launch().unwrap();
        let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let settings = "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; \
             SET bytea_output = 'hex'; SET TimeZone = 'UTC'; SET xmloption = 'content';";
        client.batch_execute(settings).await.unwrap();
        let version = cluster.psql("SHOW server_version_num").unwrap().parse().unwrap();
        let mut extensions = Vec::new();
        for name in EXTENSIONS {
            let offered = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{name}'");
            if cluster.psql(&offered).unwrap() == "1" {
                cluster.psql(&format!("CREATE EXTENSION {name}")).unwrap();
                extensions.push(*name);
            } else {
                say_skipped(&format!("the server has no extension {name}")).unwrap();
            }
        }
        // A server may be built without it.
        if cluster.psql("SELECT '<a/>'::xml").is_ok() {
            extensions.push("xml");
        }
        cluster.psql(SETUP).unwrap();
        Self {
            cluster,
            client,
            version,
            extensions,
        }
    }

    /// Those of the columns whose types this server has, with their random values.
    fn offered(&self, columns: Vec<Column>) -> Vec<Column> {
        let offered = columns.into_iter().filter(|column| {
            column.from_version <= self.version && column.extension.is_none_or(|name| self.extensions.contains(&name))
        });
        offered.map(|column| column.with_random(RANDOM_VALUES)).collect()
    }

    /// Inserts the values into a new table, half of them before the source starts, and compares.
    async fn compare(&self, table: &str, columns: &[Column], mode: Mode, arrays: &str) {
        let names: Vec<String> = (0..columns.len()).map(|index| format!("c{index}")).collect();
        let definitions = names
            .iter()
            .zip(columns)
            .map(|(name, column)| format!("{name} {}", column.sql_type));
        let create = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, {}); DROP PUBLICATION IF EXISTS p; \
             CREATE PUBLICATION p FOR TABLE {table};",
            definitions.collect::<Vec<_>>().join(", ")
        );
        self.cluster.psql(&create).unwrap_or_else(|error| panic!("{error:#}"));
        let (copied, streamed) = self.inserts(table, &names, columns);
        self.cluster.psql(&copied).unwrap_or_else(|error| panic!("{error:#}"));

        let mut config = config(&self.cluster, &[table]);
        (config["slot"], config["arrays"]) = (format!("of_{table}").into(), arrays.into());
        if arrays == "text" {
            config["numeric"] = "text".into();
        }
        let mut run = Running::start(source(&config), Target::of(&[table]));
        let mut arrived = BTreeMap::new();
        let rows = columns.iter().map(|column| column.values.len()).max().unwrap();
        // The copy's rows; more than that come once the stream runs.
        receive(&mut run, &mut arrived, rows).await;
        self.cluster.psql(&streamed).unwrap_or_else(|error| panic!("{error:#}"));
        receive(&mut run, &mut arrived, 2 * rows).await;
        drop(run.stop().await);
        assert_eq!(self.streamed_in(table), mode);
        self.hold_against(table, &names, columns, &arrived).await;
    }

    /// Statements that insert every value twice: for the copy, and with other keys for the stream.
    fn inserts(&self, table: &str, names: &[String], columns: &[Column]) -> (String, String) {
        let rows = columns.iter().map(|column| column.values.len()).max().unwrap();
        let insert = |first: usize| {
            let mut script = String::from("SET DateStyle = 'ISO'; SET TimeZone = 'UTC';\n");
            for row in 0..rows {
                let cells = columns.iter().map(|column| match column.values.get(row) {
                    Some(Some(literal)) => format!("'{}'", literal.replace('\'', "''")),
                    _ => "NULL".to_owned(),
                });
                script += &format!(
                    "INSERT INTO {table} (id, {}) VALUES ({}, {});\n",
                    names.join(", "),
                    first + row,
                    cells.collect::<Vec<_>>().join(", ")
                );
            }
            script
        };
        (insert(0), insert(rows))
    }

    /// The mode of the last stream that was asked for.
    fn streamed_in(&self, table: &str) -> Mode {
        let log = std::fs::read_to_string(self.cluster.log_path()).unwrap();
        let start = format!("START_REPLICATION SLOT \"of_{table}\"");
        let last = log
            .lines()
            .rfind(|line| line.contains(&start))
            .expect("a stream was asked for");
        if last.contains("binary 'true'") {
            Mode::Binary
        } else {
            Mode::Text
        }
    }

    /// Compares what arrived with the server's text of it.
    async fn hold_against(
        &self,
        table: &str,
        names: &[String],
        columns: &[Column],
        arrived: &BTreeMap<i32, (RecordBatch, usize)>,
    ) {
        // A cast to text is not the text output for bool, char(n) and inet; what format() writes is.
        // And IS NULL holds for a composite of NULLs.
        let texts = names
            .iter()
            .map(|name| format!("CASE WHEN num_nulls({name}) = 1 THEN NULL ELSE format('%s', {name}) END"));
        let sql = format!(
            "SELECT id, {} FROM {table} ORDER BY id",
            texts.collect::<Vec<_>>().join(", ")
        );
        let (mut compared, mut wrong) = (0, Vec::new());
        for message in self.client.simple_query(&sql).await.unwrap() {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let id = row.get(0).unwrap().parse::<i32>().unwrap();
            let (batch, at) = arrived
                .get(&id)
                .unwrap_or_else(|| panic!("row {id} of {table} did not arrive"));
            for (index, (name, column)) in names.iter().zip(columns).enumerate() {
                let array = batch.column_by_name(name).expect("the column is there");
                let expected = row.get(index + 1);
                compared += usize::from(expected.is_some());
                if let Err(found) = shown::same(array.as_ref(), *at, expected, column.sql_type) {
                    let (expected, found) = where_they_differ(expected.unwrap_or("NULL"), &found);
                    wrong.push(format!(
                        "{} row {id}: {expected:?} arrived as {found:?}",
                        column.sql_type
                    ));
                }
            }
        }
        let values: usize = columns
            .iter()
            .map(|column| column.values.iter().flatten().count())
            .sum();
        assert_eq!(compared, 2 * values);
        assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// Takes rows until there are so many, and finds them by their id.
async fn receive(run: &mut Running, arrived: &mut BTreeMap<i32, (RecordBatch, usize)>, rows: usize) {
    while arrived.len() < rows {
        let event = timeout(PATIENCE, run.events.recv()).await;
        match event.unwrap_or_else(|_| panic!("{} of {rows} rows came", arrived.len())) {
            Some(SourceEvent::Changes(batch)) => {
                // A copy, so that the batch's permit is given back.
                let rows = batch.rows().clone();
                let ids = rows.column_by_name("id").unwrap().as_primitive::<Int32Type>().clone();
                arrived.extend(
                    ids.values()
                        .iter()
                        .enumerate()
                        .map(|(at, id)| (*id, (rows.clone(), at))),
                );
            }
            Some(SourceEvent::Rejected { rows, .. }) => {
                let reason = rows.rows().column_by_name("reason").unwrap();
                panic!("rejected: {}", reason.as_string::<i32>().value(0));
            }
            Some(SourceEvent::Boundary(_) | SourceEvent::TablesChanged) => {}
            None => panic!("the source ended after {} of {rows} rows", arrived.len()),
        }
    }
}

/// Both texts around the first place in which they differ.
fn where_they_differ(expected: &str, found: &str) -> (String, String) {
    let same = expected
        .chars()
        .zip(found.chars())
        .take_while(|(one, other)| one == other)
        .count();
    let around = |text: &str| text.chars().skip(same.saturating_sub(25)).take(60).collect();
    (around(expected), around(found))
}
