//! Tables and changes written as text, and changes shown as text.
//!
//! A row is `op | cell | cell …`. `NULL` or nothing is null, `~` is a column that the source did
//! not send, `~x` one whose value was read again, `''` is the empty text. A row `<` holds the row before the change above it.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use millstream_core::{ChangeBatch, EnvelopeBuilder, Op, PartitionId, TableId, TableSchema, envelope};

/// `shop.orders (id int64, status utf8) key (id)`, and `before` where updates and deletes carry
/// the row before.
pub fn parse_table(text: &str) -> Result<Arc<TableSchema>, String> {
    let (name, rest) = text.split_once('(').ok_or("a table needs (columns)")?;
    let (columns, rest) = match rest.rsplit_once("key (") {
        Some((columns, key)) => (columns.trim_end(), Some(key)),
        None => (rest.trim_end_matches("before").trim_end(), None),
    };
    let columns = columns.trim_end().strip_suffix(')').ok_or("no ) after the columns")?;
    let fields = split_outside_parentheses(columns)
        .into_iter()
        .map(|column| {
            let (name, data_type) = column.trim().split_once(' ').ok_or("a column needs a type")?;
            Ok(Field::new(name, parse_type(data_type.trim())?, true))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let key = match rest {
        None => Vec::new(),
        Some(rest) => {
            let (key, _) = rest.split_once(')').ok_or("no ) after the key")?;
            key.split(',').map(|name| name.trim().to_owned()).collect()
        }
    };
    let mut parts: Vec<&str> = name.trim().split('.').collect();
    let (source, own) = (parts.remove(0), parts.pop().ok_or("a table needs a source")?);
    Ok(Arc::new(TableSchema {
        id: TableId::new(source, parts.pop(), own),
        columns: Arc::new(Schema::new(fields)),
        not_null: key.clone(),
        key,
        before_image: text.trim_end().ends_with("before"),
    }))
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_type(text: &str) -> Result<DataType, String> {
    let decimal = || {
        let (precision, scale) = text.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
        Some(DataType::Decimal128(
            precision.trim().parse().ok()?,
            scale.trim().parse().ok()?,
        ))
    };
    Ok(match text {
        "bool" => DataType::Boolean,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "float64" => DataType::Float64,
        "utf8" => DataType::Utf8,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => decimal().ok_or_else(|| format!("`{text}` is not a type of these files"))?,
    })
}

type Row = Vec<Option<String>>;

/// The changes in `lines`, at position `position` with ordinals from 0.
pub fn parse_changes(schema: &Arc<TableSchema>, lines: &[&str], position: usize) -> Result<ChangeBatch, String> {
    let width = schema.columns.fields().len();
    let mut rows: Vec<Row> = Vec::new();
    let mut befores: Vec<Option<Row>> = Vec::new();
    let mut envelope = EnvelopeBuilder::default();
    let partition = PartitionId::new(&schema.id.source, "log");
    for line in lines {
        let mut cells = line.split('|').map(str::trim);
        let op = cells.next().unwrap_or_default();
        let mut row: Row = cells.map(cell).collect();
        if row.len() > width {
            return Err(format!("`{line}` has more than {width} cells"));
        }
        row.resize(width, None);
        if op == "<" {
            *befores.last_mut().ok_or("a row before without a change")? = Some(row);
            continue;
        }
        let op = Op::from_letter(op).ok_or_else(|| format!("`{line}` begins with no operation"))?;
        let mut unchanged = Vec::new();
        for (field, cell) in schema.columns.fields().iter().zip(&mut row) {
            let reread = cell
                .as_deref()
                .and_then(|cell| cell.strip_prefix('~'))
                .map(str::to_owned);
            if let Some(reread) = reread {
                *cell = (!reread.is_empty()).then_some(reread);
                unchanged.push(field.name().as_str());
            }
        }
        let ordinal = rows.len() as i64;
        envelope.append_partial(op, &partition, &format!("{position:08}"), ordinal, Some(0), &unchanged);
        rows.push(row);
        befores.push(None);
    }
    let mut columns = typed(schema, &rows)?;
    columns.extend(envelope.finish());
    if schema.before_image {
        let valid: BooleanArray = befores.iter().map(|row| Some(row.is_some())).collect();
        let rows: Vec<Row> = befores
            .into_iter()
            .map(|row| row.unwrap_or_else(|| vec![None; width]))
            .collect();
        let fields = schema.columns.fields().clone();
        let nulls = Some(valid.values().clone().into());
        columns.push(Arc::new(StructArray::new(fields, typed(schema, &rows)?, nulls)));
    }
    let rows = RecordBatch::try_new(schema.batch_schema(), columns).map_err(|error| error.to_string())?;
    ChangeBatch::try_new(schema.clone(), rows).map_err(|error| error.summary())
}

fn cell(text: &str) -> Option<String> {
    match text {
        "" | "NULL" => None,
        "''" => Some(String::new()),
        text => Some(text.to_owned()),
    }
}

fn typed(schema: &TableSchema, rows: &[Row]) -> Result<Vec<ArrayRef>, String> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let columns = schema.columns.fields().iter().enumerate();
    columns
        .map(|(index, field)| {
            let texts: StringArray = rows.iter().map(|row| row[index].as_deref()).collect();
            cast_with_options(&texts, field.data_type(), &strict).map_err(|error| error.to_string())
        })
        .collect()
}

/// Changes as [`parse_changes`] reads them, with columns aligned.
pub fn show_changes(batch: &ChangeBatch) -> Vec<String> {
    let columns = batch.schema().columns.fields().len();
    let rows = batch.rows();
    let mut lines: Vec<Row> = Vec::new();
    let before = rows.column_by_name(envelope::BEFORE).map(|column| column.as_struct());
    let unchanged = rows[envelope::UNCHANGED].as_list::<i32>();
    for row in 0..batch.num_rows() {
        let names: Vec<String> = match unchanged.is_valid(row) {
            true => unchanged
                .value(row)
                .as_string::<i32>()
                .iter()
                .flatten()
                .map(str::to_owned)
                .collect(),
            false => Vec::new(),
        };
        let mut line = vec![Some(batch.ops().value(row).to_owned())];
        for (index, field) in batch.schema().columns.fields().iter().enumerate() {
            let missing = names.contains(field.name());
            let column = rows.column(index);
            line.push(match missing {
                true if column.is_null(row) => Some("~".to_owned()),
                true => Some(format!("~{}", shown(column, row))),
                false => Some(shown(column, row)),
            });
        }
        lines.push(line);
        if let Some(before) = before.filter(|before| before.is_valid(row)) {
            let mut line = vec![Some("<".to_owned())];
            line.extend((0..columns).map(|index| Some(shown(before.column(index), row))));
            lines.push(line);
        }
    }
    let texts: Vec<Vec<String>> = lines
        .into_iter()
        .map(|line| line.into_iter().flatten().collect())
        .collect();
    aligned(&texts)
}

fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join(" | ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// One cell as text.
pub fn shown(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options).expect("the type has a text form");
    let text = formatter.value(row).to_string();
    if text.is_empty() { "''".to_owned() } else { text }
}
