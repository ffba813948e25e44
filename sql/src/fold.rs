//! The fold of changes by key: the rows of a table as they are after all of its changes.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_row::{OwnedRow, RowConverter, SortField};
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave;
use datafusion::common::DataFusionError;
use millstream_core::{Op, envelope};

/// Where a row's columns were last sent.
struct Current {
    /// When the key was first seen, for the order of the output.
    since: usize,
    latest: (usize, usize),
    /// Columns that the latest change did not send, and where they were.
    older: Vec<(usize, (usize, usize))>,
}

/// The user's columns of the rows that are left after `changes`, which are in order, in the
/// order in which their keys appeared. `None` if there are no batches.
///
/// Without a key every created row stays.
///
/// # Errors
/// If a key or reserved column is missing.
pub fn current(changes: &[RecordBatch], key: &[String]) -> Result<Option<RecordBatch>, DataFusionError> {
    let Some(first) = changes.first() else { return Ok(None) };
    let schema = first.schema();
    let user: Vec<usize> = (0..schema.fields().len())
        .filter(|&index| !envelope::is_reserved(schema.field(index).name()))
        .collect();
    let key_columns = key
        .iter()
        .map(|name| schema.index_of(name))
        .collect::<Result<Vec<_>, ArrowError>>()?;
    let op_column = schema.index_of(envelope::OP)?;
    let unchanged_column = schema.index_of(envelope::UNCHANGED)?;
    let fields = key_columns
        .iter()
        .map(|&index| SortField::new(schema.field(index).data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;

    let mut rows: HashMap<OwnedRow, Current> = HashMap::new();
    let mut appended: Vec<(usize, usize)> = Vec::new();
    let mut seen = 0;
    for (number, batch) in changes.iter().enumerate() {
        let columns: Vec<ArrayRef> = key_columns.iter().map(|&index| batch.column(index).clone()).collect();
        let keys = if key.is_empty() {
            None
        } else {
            Some(converter.convert_columns(&columns)?)
        };
        let unchanged = batch.column(unchanged_column).as_list::<i32>();
        for (row, letter) in batch.column(op_column).as_string::<i32>().iter().enumerate() {
            let here = (number, row);
            let op = letter.and_then(Op::from_letter);
            let Some(keys) = &keys else {
                match op {
                    Some(Op::Truncate) => appended.clear(),
                    Some(Op::Delete) => {}
                    _ => appended.push(here),
                }
                continue;
            };
            let key = keys.row(row).owned();
            match op {
                Some(Op::Truncate) => rows.clear(),
                Some(Op::Delete) => {
                    rows.remove(&key);
                }
                _ => {
                    seen += 1;
                    let known = rows.get(&key);
                    let mut older = Vec::new();
                    if unchanged.is_valid(row) {
                        let names = unchanged.value(row);
                        for name in names.as_string::<i32>().iter().flatten() {
                            let index = schema.index_of(name)?;
                            let was = known.map(|known| {
                                let older = known.older.iter().find(|(column, _)| *column == index);
                                older.map_or(known.latest, |(_, place)| *place)
                            });
                            older.extend(was.map(|place| (index, place)));
                        }
                    }
                    let since = known.map_or(seen, |known| known.since);
                    rows.insert(
                        key,
                        Current {
                            since,
                            latest: here,
                            older,
                        },
                    );
                }
            }
        }
    }
    let mut left: Vec<Current> = rows.into_values().collect();
    left.sort_unstable_by_key(|current| current.since);
    let columns = user.iter().map(|&index| {
        let place = |current: &Current| {
            current
                .older
                .iter()
                .find(|(column, _)| *column == index)
                .map_or(current.latest, |(_, place)| *place)
        };
        let places: Vec<(usize, usize)> = if key.is_empty() {
            appended.clone()
        } else {
            left.iter().map(place).collect()
        };
        let arrays: Vec<&dyn Array> = changes.iter().map(|batch| batch.column(index).as_ref()).collect();
        interleave(&arrays, &places)
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    Ok(Some(RecordBatch::try_new(schema.project(&user)?.into(), columns)?))
}
