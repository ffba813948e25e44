//! The rows after and before each change, with what the source did not send filled in.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, StructArray};
use arrow_buffer::NullBuffer;
use arrow_select::zip::zip;
use millstream_core::{ChangeBatch, Result, envelope};

use crate::apply::{internal, lacking};
use crate::model::Branch;

/// The columns that a branch reads, after and before the changes of a batch.
#[derive(Debug)]
pub(crate) struct Images {
    /// The rows after the change. On a delete, what the source sent.
    pub(crate) after: RecordBatch,
    /// The rows before the change, where the table has a before-image. Reserved columns are
    /// those of the change itself. Rows without a before-image are undefined.
    pub(crate) before: Option<RecordBatch>,
    before_nulls: Option<NullBuffer>,
    /// Columns that the source did not send and no before-image holds, by row; empty if there are
    /// none in any row.
    unsent: Vec<Box<[Unsent]>>,
}

/// A column that was not sent with a change.
#[derive(Debug)]
struct Unsent {
    name: Box<str>,
    /// Whether its value is not known: nobody read it again. One that was left out is never NULL.
    missing: bool,
}

impl Images {
    pub(crate) fn new(batch: &ChangeBatch, branch: &Branch) -> Result<Self> {
        let rows = batch.rows();
        let before_column = rows
            .column_by_name(envelope::BEFORE)
            .and_then(|column| column.as_struct_opt());
        let before_nulls = before_column.and_then(|before| before.nulls().cloned());
        let mut images = Self {
            after: image(rows, branch, None)?,
            before: before_column
                .map(|before| image(rows, branch, Some(before)))
                .transpose()?,
            before_nulls,
            unsent: Vec::new(),
        };
        images.resolve(rows)?;
        Ok(images)
    }

    /// Whether the row before the change is known.
    pub(crate) fn has_before(&self, row: usize) -> bool {
        self.before.is_some() && self.before_nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
    }

    /// The columns of a row that the source did not send and that no before-image holds, also
    /// those whose values were read again.
    pub(crate) fn unsent(&self, row: usize) -> impl Iterator<Item = &str> {
        self.of(row).iter().map(|column| &*column.name)
    }

    /// Whether the value of any column of a row is not known.
    pub(crate) fn misses_any(&self, row: usize) -> bool {
        self.of(row).iter().any(|column| column.missing)
    }

    /// The first of `columns` whose value is not known in a row.
    pub(crate) fn missing_of<'c>(&self, row: usize, columns: &'c [String]) -> Option<&'c str> {
        let unsent = self.of(row);
        if unsent.is_empty() {
            return None;
        }
        let is_missing = |column: &&str| unsent.iter().any(|unsent| unsent.missing && *unsent.name == **column);
        columns.iter().map(String::as_str).find(is_missing)
    }

    fn of(&self, row: usize) -> &[Unsent] {
        self.unsent.get(row).map_or(&[], |columns| columns)
    }

    /// Fills unchanged columns in from the before-image, and notes which stay unsent.
    fn resolve(&mut self, rows: &RecordBatch) -> Result<()> {
        let unchanged = rows
            .column_by_name(envelope::UNCHANGED)
            .ok_or_else(|| lacking(envelope::UNCHANGED))?;
        if unchanged.null_count() == unchanged.len() {
            return Ok(());
        }
        let lists = unchanged.as_list::<i32>();
        let names = |row: usize| -> Vec<Box<str>> {
            if lists.is_null(row) {
                return Vec::new();
            }
            let list = lists.value(row);
            list.as_string::<i32>().iter().flatten().map(Box::from).collect()
        };
        let by_row: Vec<Vec<Box<str>>> = (0..rows.num_rows()).map(names).collect();
        if let Some(before) = &self.before {
            let mut columns = self.after.columns().to_vec();
            for (index, field) in self.after.schema_ref().fields().iter().enumerate() {
                let is_filled =
                    |row: usize| self.has_before(row) && by_row[row].iter().any(|name| **name == **field.name());
                let mask: BooleanArray = (0..rows.num_rows()).map(|row| Some(is_filled(row))).collect();
                if mask.true_count() > 0 {
                    columns[index] = zip(&mask, before.column(index), &columns[index]).map_err(internal)?;
                }
            }
            self.after = with_count(self.after.schema_ref().clone(), columns, rows.num_rows())?;
        }
        let is_missing = |name: &str, row: usize| rows.column_by_name(name).is_none_or(|column| column.is_null(row));
        let unsent = by_row.into_iter().enumerate().map(|(row, names)| {
            if self.has_before(row) {
                return Box::default();
            }
            let column = |name: Box<str>| Unsent {
                missing: is_missing(&name, row),
                name,
            };
            names.into_iter().map(column).collect()
        });
        self.unsent = unsent.collect();
        Ok(())
    }
}

/// The columns that `branch` reads: the user's from `before` if given, else from `rows`.
fn image(rows: &RecordBatch, branch: &Branch, before: Option<&StructArray>) -> Result<RecordBatch> {
    let column = |name: &str| -> Result<ArrayRef> {
        let found = match before {
            Some(before) if !envelope::is_reserved(name) => before.column_by_name(name),
            _ => rows.column_by_name(name),
        };
        found.cloned().ok_or_else(|| lacking(name))
    };
    let columns = branch
        .scan
        .fields()
        .iter()
        .map(|field| column(field.name()))
        .collect::<Result<Vec<_>>>()?;
    with_count(branch.scan.clone(), columns, rows.num_rows())
}

fn with_count(schema: Arc<arrow_schema::Schema>, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let count = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &count).map_err(internal)
}
