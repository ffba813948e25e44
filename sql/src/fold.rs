//! The fold of changes by key: the rows of a table as they are after all of its changes.
//!
//! What a change did not send (`__unchanged`) it has from the row with its key; a create that
//! moves a row to another key has it from the row that the delete just before it removed. Where
//! that row has nothing that was sent, the value counts that stands in the change itself: it was
//! read again, and is that of the key. One that an earlier change was read with may be another
//! row's by then, so that it does not move to another key.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
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

impl Current {
    /// Where the column was last sent.
    fn place_of(&self, column: usize) -> (usize, usize) {
        let older = self.older.iter().find(|(older, _)| *older == column);
        older.map_or(self.latest, |(_, place)| *place)
    }
}

/// The last row that a partition's changes removed, and the place of that change.
struct Removed<'a> {
    position: &'a str,
    ordinal: i64,
    row: Current,
}

/// Whether a change did not send a column.
fn is_unchanged(batch: &RecordBatch, row: usize, name: &str) -> bool {
    let lists = batch
        .column_by_name(envelope::UNCHANGED)
        .map(|column| column.as_list::<i32>());
    lists.filter(|lists| lists.is_valid(row)).is_some_and(|lists| {
        let names = lists.value(row);
        names.as_string::<i32>().iter().flatten().any(|one| one == name)
    })
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
    let partition_column = schema.index_of(envelope::PARTITION)?;
    let position_column = schema.index_of(envelope::POSITION)?;
    let ordinal_column = schema.index_of(envelope::ORDINAL)?;
    let fields = key_columns
        .iter()
        .map(|&index| SortField::new(schema.field(index).data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;

    let partition_type = schema.field(partition_column).data_type().clone();
    let partition_converter = RowConverter::new(vec![SortField::new(partition_type)])?;

    let mut rows: HashMap<OwnedRow, Current> = HashMap::new();
    let mut removed: HashMap<OwnedRow, Removed<'_>> = HashMap::new();
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
        let partitions = partition_converter.convert_columns(&[batch.column(partition_column).clone()])?;
        let positions = batch.column(position_column).as_string::<i32>();
        let ordinals = batch.column(ordinal_column).as_primitive::<Int64Type>();
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
                    if let Some(row_removed) = rows.remove(&key) {
                        let removal = Removed {
                            position: positions.value(row),
                            ordinal: ordinals.value(row),
                            row: row_removed,
                        };
                        removed.insert(partitions.row(row).owned(), removal);
                    }
                }
                _ => {
                    seen += 1;
                    let known = rows.get(&key);
                    let mut older = Vec::new();
                    if unchanged.is_valid(row) {
                        let moved = removed.get(&partitions.row(row).owned()).filter(|removed| {
                            op == Some(Op::Create)
                                && removed.position == positions.value(row)
                                && removed.ordinal + 1 == ordinals.value(row)
                        });
                        let had = moved.map(|removed| &removed.row).or(known);
                        let names = unchanged.value(row);
                        for name in names.as_string::<i32>().iter().flatten() {
                            let index = schema.index_of(name)?;
                            // A column that was left out is not NULL.
                            let is_known = |place: &(usize, usize)| changes[place.0].column(index).is_valid(place.1);
                            let place = had.map(|had| had.place_of(index)).filter(is_known);
                            let counts = |place: &(usize, usize)| {
                                !is_unchanged(&changes[place.0], place.1, name) || moved.is_none() && !is_known(&here)
                            };
                            older.extend(place.filter(counts).map(|place| (index, place)));
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
        let places: Vec<(usize, usize)> = if key.is_empty() {
            appended.clone()
        } else {
            left.iter().map(|current| current.place_of(index)).collect()
        };
        let arrays: Vec<&dyn Array> = changes.iter().map(|batch| batch.column(index).as_ref()).collect();
        interleave(&arrays, &places)
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    Ok(Some(RecordBatch::try_new(schema.project(&user)?.into(), columns)?))
}
