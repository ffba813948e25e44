//! How many values of a column are different ones.

use std::collections::HashSet;

use arrow_array::{Array, ArrayRef, UInt64Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::ArrowError;
use arrow_select::take::take;
use foldhash::fast::RandomState;

use super::SAMPLE;

/// How many of the rows that are looked at follow each other.
const NEIGHBOURS: usize = 16;

/// What a sample has of values, and of different ones.
pub(crate) struct Distinct {
    pub(crate) values: usize,
    distinct: usize,
}

impl Distinct {
    /// Looks at a column; `None` for a nested one, whose values are those of columns below it.
    pub(crate) fn of(column: &ArrayRef) -> Result<Option<Self>, ArrowError> {
        if column.data_type().is_nested() {
            return Ok(None);
        }
        let sample = sample(column)?;
        let values = sample.len() - sample.null_count();
        let converter = RowConverter::new(vec![SortField::new(sample.data_type().clone())])?;
        let rows = converter.convert_columns(&[sample])?;
        let mut distinct = HashSet::with_capacity_and_hasher(rows.num_rows(), RandomState::default());
        distinct.extend(rows.iter().map(|row| row.data()));
        Ok(Some(Self {
            // Null is one of the rows, and no value.
            distinct: distinct.len() - usize::from(values < rows.num_rows()),
            values,
        }))
    }

    /// Different ones among 100 values.
    pub(crate) fn percent(&self) -> usize {
        self.distinct * 100 / self.values.max(1)
    }
}

/// Rows from all over the column, a few neighbours from each place.
///
/// A key comes again soon after, when its row is updated, and then never more: so the rows must not all
/// be from one place. But a value that its neighbours have too is quicker to look up than to compress.
fn sample(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if column.len() <= SAMPLE {
        return Ok(column.clone());
    }
    let part = column.len() / (SAMPLE / NEIGHBOURS);
    // Not at equal distances, or values that take turns would not be met again.
    let first = |number: usize| number * part + number * number * 7919 % (part - NEIGHBOURS + 1);
    let rows = (0..SAMPLE / NEIGHBOURS)
        .map(first)
        .flat_map(|first| first..first + NEIGHBOURS);
    let rows = UInt64Array::from_iter_values(rows.map(|row| row as u64));
    take(column, &rows, None)
}
