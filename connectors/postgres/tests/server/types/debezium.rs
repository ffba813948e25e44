//! Debezium's tables of types and the values of its own tests, which `scripts/setup.sh test` fetches.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use millstream_core::SourceEvent;
use millstream_testkit::postgres::say_skipped;
use millstream_testkit::tools::debezium_tables;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::{PATIENCE, Server, shown};
use crate::target::{Running, Target, config, source};

/// Rows by table and key, each with its place in a batch.
type Arrived = BTreeMap<(String, i64), (RecordBatch, usize)>;

#[tokio::test(flavor = "multi_thread")]
async fn debezium_s_values_arrive_as_the_server_shows_them() {
    let Some(folder) = debezium_tables() else {
        return say_skipped("Debezium's tables were not fetched; `scripts/setup.sh test` does so").unwrap();
    };
    let server = Server::start().await;
    let psql = |sql: &str| server.cluster.psql(sql);
    let tables = std::fs::read_to_string(folder.join("tables.sql")).unwrap();
    // Those with types that this server has not are left out.
    let _ = tables.split(';').filter(|statement| psql(statement).is_ok()).count();
    let inserts = inserts(&std::fs::read(folder.join("inserts.class")).unwrap());
    let inserted = inserts.iter().filter(|statement| psql(statement).is_ok()).count();
    assert!(inserted >= 20, "{inserted} of {} statements insert", inserts.len());

    let keyed = "SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'pk' AND a.attnum = ANY (i.indkey) \
         WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname ~ '^[a-z0-9_]+$' \
         AND i.indnatts = 1 ORDER BY 1";
    let keyed: Vec<String> = psql(keyed).unwrap().lines().map(str::to_owned).collect();
    let filled = keyed
        .into_iter()
        .filter(|table| server.count(std::slice::from_ref(table)) > 0);
    let tables: Vec<String> = filled.collect();
    assert!(tables.len() >= 15, "{tables:?}");
    psql(&format!("CREATE PUBLICATION p FOR TABLE {}", tables.join(", "))).unwrap();

    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let mut config = config(&server.cluster, &names);
    (config["numeric"], config["arrays"]) = ("text".into(), "text".into());
    let mut run = Running::start(source(&config), Target::of(&names));
    let mut arrived = Arrived::new();
    receive(&mut run, &mut arrived, server.count(&tables)).await;
    let again = inserts.iter().filter(|statement| psql(statement).is_ok()).count();
    assert!(again >= 20, "{again} statements insert again");
    receive(&mut run, &mut arrived, server.count(&tables)).await;
    drop(run.stop().await);
    for table in &tables {
        server.hold_table(table, &arrived).await;
    }
}

/// The constants of a class that begin with `INSERT INTO`: each is its length in two bytes, then
/// its text (JVM specification, 4.4.7).
fn inserts(class: &[u8]) -> Vec<String> {
    let start = b"INSERT INTO";
    let found = (2..class.len().saturating_sub(start.len())).filter(|at| class[*at..].starts_with(start));
    let text = |at: usize| {
        let len = usize::from(u16::from_be_bytes([class[at - 2], class[at - 1]]));
        class
            .get(at..at + len)
            .map(|text| String::from_utf8_lossy(text).into_owned())
    };
    found.filter_map(text).collect()
}

async fn receive(run: &mut Running, arrived: &mut Arrived, rows: usize) {
    while arrived.len() < rows {
        let event = timeout(PATIENCE, run.events.recv()).await;
        match event.unwrap_or_else(|_| panic!("{} of {rows} rows came", arrived.len())) {
            Some(SourceEvent::Changes(batch)) => {
                let rows = batch.rows().clone();
                for at in 0..rows.num_rows() {
                    let key = (batch.schema().id.name.to_string(), key_of(&rows, at));
                    arrived.insert(key, (rows.clone(), at));
                }
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

fn key_of(rows: &RecordBatch, at: usize) -> i64 {
    let key = rows.column_by_name("pk").unwrap();
    match key.data_type() {
        DataType::Int32 => key.as_primitive::<Int32Type>().value(at).into(),
        _ => key.as_primitive::<Int64Type>().value(at),
    }
}

impl Server {
    /// Rows of all these tables.
    fn count(&self, tables: &[String]) -> usize {
        let counts = tables
            .iter()
            .map(|table| self.cluster.psql(&format!("SELECT count(*) FROM {table}")).unwrap());
        counts.map(|count| count.parse::<usize>().unwrap()).sum()
    }

    async fn hold_table(&self, table: &str, arrived: &Arrived) {
        let columns = format!(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute \
             WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
        );
        let columns = self.cluster.psql(&columns).unwrap();
        let columns: Vec<(&str, &str)> = columns.lines().filter_map(|line| line.split_once('|')).collect();
        let texts: Vec<String> = columns
            .iter()
            .map(|(name, _)| format!("CASE WHEN num_nulls(\"{name}\") = 1 THEN NULL ELSE format('%s', \"{name}\") END"))
            .collect();
        let sql = format!("SELECT pk, {} FROM {table}", texts.join(", "));
        for message in self.client.simple_query(&sql).await.unwrap() {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let key = row.get(0).unwrap().parse::<i64>().unwrap();
            let (batch, at) = &arrived[&(table.to_owned(), key)];
            for (index, (name, sql_type)) in columns.iter().enumerate() {
                let array = batch.column_by_name(name).expect("the column is there");
                let same = shown::same(array.as_ref(), *at, row.get(index + 1), sql_type);
                assert_eq!(same, Ok(()), "{table}.{name} ({sql_type}) {:?}", row.get(index + 1));
            }
        }
    }
}
