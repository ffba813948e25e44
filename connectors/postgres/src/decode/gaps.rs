//! Values that the stream left out of a batch's rows, and how they are filled in.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave;
use arrow_select::take::take_record_batch;

use super::column::ColumnBuilder;
use super::{ColumnType, Lsn, TupleValue};

/// A transaction, as its Begin message tells of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) xid: u32,
    /// Where its commit record begins.
    pub(crate) commit: Lsn,
}

/// A value of a key as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum KeyValue {
    /// The type's text output.
    Text(Box<[u8]>),
    /// The type's binary output.
    Binary(Box<[u8]>),
}

impl KeyValue {
    pub(super) fn of(value: TupleValue<'_>) -> Option<Self> {
        match value {
            TupleValue::Text(text) => Some(Self::Text(text.into())),
            TupleValue::Binary(bytes) => Some(Self::Binary(bytes.into())),
            TupleValue::Null | TupleValue::Unchanged => None,
        }
    }
}

/// A row with values that were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Its number in the batch.
    pub(crate) row: usize,
    /// The columns, ascending.
    pub(crate) columns: Vec<usize>,
    /// The values of its key in the order of the columns; empty if they are not known.
    pub(crate) key: Vec<KeyValue>,
}

impl Gap {
    pub(super) fn new(row: usize, columns: &[usize], key: Vec<KeyValue>) -> Self {
        let columns = columns.to_vec();
        Self { row, columns, key }
    }
}

/// What was left out of one batch.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// Ascending by row.
    pub(crate) rows: Vec<Gap>,
    /// The transactions that left something out.
    pub(crate) written_by: BTreeSet<u32>,
    /// Where the last of them commits.
    pub(crate) last_commit: Lsn,
    /// The transaction of the next changes, if what it leaves out is noted.
    pub(super) of: Option<Transaction>,
}

impl Gaps {
    /// How many values are missing.
    pub(crate) fn values(&self) -> usize {
        self.rows.iter().map(|gap| gap.columns.len()).sum()
    }

    pub(super) fn add(&mut self, gap: Gap, of: Transaction) {
        self.rows.push(gap);
        self.written_by.insert(of.xid);
        self.last_commit = self.last_commit.max(of.commit);
    }

    /// What was left out so far. The transaction goes on.
    pub(super) fn take(&mut self) -> Self {
        let of = self.of;
        std::mem::replace(self, Self { of, ..Self::default() })
    }

    /// Takes the news that these rows, in order, were taken out of the batch.
    pub(super) fn leave_out(&mut self, refused: &[usize]) {
        if !refused.is_empty() {
            for gap in &mut self.rows {
                gap.row -= refused.partition_point(|row| *row < gap.row);
            }
        }
    }
}

/// Fills values into the columns of a batch.
pub(crate) struct Filler<'a> {
    rows: &'a RecordBatch,
    types: &'a [ColumnType],
    /// By column: the values, and the rows that they belong to.
    columns: Vec<Option<(ColumnBuilder, Vec<usize>)>>,
}

impl<'a> Filler<'a> {
    /// `types` are those of the first columns of `rows`.
    pub(crate) fn new(rows: &'a RecordBatch, types: &'a [ColumnType]) -> Self {
        let columns = types.iter().map(|_| None).collect();
        Self { rows, types, columns }
    }

    /// Fills in a value as the type's output wrote it: in text where the type needs it, else in
    /// binary. Rows come in ascending order. Returns whether it can be read.
    pub(crate) fn fill(&mut self, row: usize, column: usize, value: &[u8]) -> bool {
        let r#type = &self.types[column];
        let value = if r#type.needs_text() {
            TupleValue::Text(value)
        } else {
            TupleValue::Binary(value)
        };
        let (values, places) = self.columns[column].get_or_insert_with(|| (ColumnBuilder::new(r#type), Vec::new()));
        let filled = values.append(value).is_ok();
        if filled {
            places.push(row);
        }
        filled
    }

    /// The rows of `range`, with what was filled in, all of which lies in it. Begins anew.
    ///
    /// # Errors
    /// Those of Arrow, which would be a fault of this crate.
    pub(crate) fn finish(&mut self, range: Range<usize>) -> Result<RecordBatch, ArrowError> {
        let rows = if range.len() == self.rows.num_rows() {
            self.rows.clone()
        } else {
            // A slice would be counted with all the memory behind it.
            let indices: Result<Vec<u32>, _> = range.clone().map(u32::try_from).collect();
            let indices = indices.map_err(|error| ArrowError::InvalidArgumentError(error.to_string()))?;
            take_record_batch(self.rows, &UInt32Array::from(indices))?
        };
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        for (column, filled) in columns.iter_mut().zip(&mut self.columns) {
            let Some((mut values, places)) = filled.take() else {
                continue;
            };
            let values = values.finish();
            let mut indices: Vec<(usize, usize)> = (0..range.len()).map(|row| (0, row)).collect();
            for (index, row) in places.into_iter().enumerate() {
                indices[row - range.start] = (1, index);
            }
            *column = interleave(&[column as &dyn Array, &values], &indices)?;
        }
        RecordBatch::try_new(rows.schema(), columns)
    }
}
