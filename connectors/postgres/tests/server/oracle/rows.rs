//! Rows as the server shows them: those of a table, and those that a source's changes fold to.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{DataType, Field, Schema};
use millstream_core::envelope;
use millstream_postgres::TYPE_METADATA;
use millstream_testkit::change_log::{Cells, ChangeRow, fold_rows};
use millstream_testkit::postgres::TestCluster;

use crate::types::shown;

/// The rows of a table, in order, each as often as it is there.
pub type Rows = Vec<Cells>;

/// Names and types of columns.
pub type Columns = Vec<(String, String)>;

/// What the old row's cells are called among the others.
const BEFORE: &str = "before ";

/// The changes with every user column, and every column of the old row, as the server's text.
pub fn as_server_text(batch: &RecordBatch) -> RecordBatch {
    let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if field.name() == envelope::BEFORE {
            let rows = column.as_struct();
            for (field, column) in rows.fields().iter().zip(rows.columns()) {
                let shown = (0..rows.len()).map(|at| rows.is_valid(at).then(|| text(column, at, field)).flatten());
                fields.push(Field::new(format!("{BEFORE}{}", field.name()), DataType::Utf8, true));
                columns.push(Arc::new(shown.collect::<StringArray>()));
            }
        } else if envelope::is_reserved(field.name()) {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(column));
        } else {
            let shown = (0..column.len()).map(|at| text(column, at, field));
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(Arc::new(shown.collect::<StringArray>()));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).expect("as many as before")
}

fn text(column: &ArrayRef, at: usize, field: &Field) -> Option<String> {
    if column.is_null(at) {
        return None;
    }
    let sql_type = field.metadata().get(TYPE_METADATA).map_or("", String::as_str);
    let shown = match column.data_type() {
        DataType::Float32 => format!("{:e}", column.as_primitive::<Float32Type>().value(at)),
        DataType::Float64 => format!("{:e}", column.as_primitive::<Float64Type>().value(at)),
        other => shown::exact(column, at, sql_type).unwrap_or_else(|| panic!("a column of {other}")),
    };
    Some(shown)
}

/// A number may be shown in several ways.
fn canonical(text: String, sql_type: &str) -> String {
    match sql_type {
        "real" => format!("{:e}", text.parse::<f32>().expect("a float4")),
        "double precision" => format!("{:e}", text.parse::<f64>().expect("a float8")),
        _ => text,
    }
}

/// The rows that changes fold to, of these columns.
pub fn folded(key: &[String], changes: &[ChangeRow], columns: &[(String, String)]) -> Rows {
    let rows: Rows = if key.is_empty() {
        list(changes)
    } else {
        fold_rows(key, changes.to_vec()).into_values().collect()
    };
    let wanted = |name: &String| columns.iter().any(|(column, _)| column == name);
    sorted(
        rows.into_iter()
            .map(|row| row.into_iter().filter(|(name, _)| wanted(name)).collect()),
    )
}

/// Of a table without a key, whose changes name the whole old row.
fn list(changes: &[ChangeRow]) -> Rows {
    let mut changes: Vec<&ChangeRow> = changes.iter().collect();
    changes.sort_by_key(|row| (&row.position, row.ordinal, &row.partition));
    let mut rows: Rows = Vec::new();
    for change in changes {
        if change.op == "t" {
            rows.clear();
            continue;
        }
        let named = |is_old: bool| {
            change
                .cells
                .iter()
                .filter(move |(name, _)| name.starts_with(BEFORE) == is_old)
        };
        let old: Cells = named(true)
            .map(|(name, cell)| (name[BEFORE.len()..].to_owned(), cell.clone()))
            .collect();
        let new: Cells = named(false).map(|(name, cell)| (name.clone(), cell.clone())).collect();
        if matches!(change.op.as_str(), "u" | "d") {
            let old = if old.is_empty() { &new } else { &old };
            let at = rows.iter().position(|row| row == old).expect("what changes was there");
            rows.swap_remove(at);
        }
        if change.op != "d" {
            rows.push(new);
        }
    }
    rows
}

/// The rows of each `SELECT … FROM relation`, with columns of these names and types.
pub fn present(cluster: &TestCluster, selects: &[(String, Columns)]) -> Vec<Rows> {
    let shown = cluster.psql(&present_query(selects));
    read_present(selects, &shown.unwrap_or_else(|error| panic!("{error:#}")))
}

/// What shows the rows of each relation.
pub fn present_query(selects: &[(String, Columns)]) -> String {
    let mut sql = String::from("SET TimeZone = 'UTC'; SET DateStyle = 'ISO';");
    for (index, (relation, columns)) in selects.iter().enumerate() {
        // A cast to text is not the text output for bool, char(n) and inet; what format() writes is.
        // And IS NULL holds for a composite of NULLs.
        let texts = columns.iter().map(|(name, _)| {
            let name = quoted(name);
            format!(", CASE WHEN num_nulls({name}) = 1 THEN NULL ELSE format('%s', {name}) END")
        });
        let texts: String = texts.collect();
        sql += &format!("SELECT to_json(ARRAY['{index}'{texts}]::text[]) FROM {relation};");
    }
    sql
}

/// The rows that [`present_query`] shows.
pub fn read_present(selects: &[(String, Columns)], shown: &str) -> Vec<Rows> {
    let mut tables = vec![Rows::new(); selects.len()];
    for line in shown.lines() {
        let mut cells = serde_json::from_str::<Vec<Option<String>>>(line)
            .expect("the server's JSON")
            .into_iter();
        let index: usize = cells.next().flatten().expect("the table").parse().expect("a number");
        let named = selects[index].1.iter().zip(cells);
        let row = named.filter_map(|((name, sql_type), cell)| Some((name.clone(), canonical(cell?, sql_type))));
        tables[index].push(row.collect());
    }
    tables.into_iter().map(|rows| sorted(rows.into_iter())).collect()
}

fn sorted(rows: impl Iterator<Item = Cells>) -> Rows {
    let mut rows: Rows = rows.collect();
    rows.sort();
    rows
}

/// A name in SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// How two tables differ: how many rows each alone has, and one of them.
pub fn difference(expected: &Rows, found: &Rows) -> Option<String> {
    if expected == found {
        return None;
    }
    let alone = |some: &Rows, others: &Rows| -> Rows {
        let mut others = others.clone();
        let mut alone = Vec::new();
        for row in some {
            match others.binary_search(row) {
                Ok(at) => drop(others.remove(at)),
                Err(_) => alone.push(row.clone()),
            }
        }
        alone
    };
    let (missing, extra) = (alone(expected, found), alone(found, expected));
    let short = |cell: &String| cell.chars().take(20).collect::<String>();
    let one = |rows: &Rows| -> Option<Cells> {
        let row = rows.first()?;
        Some(row.iter().map(|(name, cell)| (name.clone(), short(cell))).collect())
    };
    Some(format!(
        "{} rows expected, {} came; {} are missing {:?}, {} too many {:?}",
        expected.len(),
        found.len(),
        missing.len(),
        one(&missing),
        extra.len(),
        one(&extra)
    ))
}
