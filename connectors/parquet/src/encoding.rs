//! Which columns of a file are worth a dictionary.
//!
//! A dictionary pays where values repeat. Where they do not, the encoder looks each one up in vain
//! until the dictionary is full, and begins anew with every row group. The first batch of a file tells
//! which columns are so, for some files after it too: to look costs as much as to encode some hundred
//! rows. What it does not show costs a little space or time, and nothing else.

use std::collections::HashSet;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::take::take;
use foldhash::fast::RandomState;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// How many rows are looked at.
const SAMPLE: usize = 1024;
/// How many of them follow each other.
const NEIGHBOURS: usize = 16;
/// With fewer values than this nothing is said.
const LEAST: usize = 64;
/// For so many rows that were looked at, one more file is taken to be like them.
const ROWS_PER_FILE: usize = 16;
/// So many times as many rows are looked at, whatever fewer have told.
const TELLS_MORE: usize = 4;
/// A batch of so many rows tells as much as any.
const WIDE: usize = 8 * SAMPLE;
/// Bytes of a dictionary of numbers at most. A larger one saves little, and to look numbers up in it costs
/// more than to compress them.
const NUMBERS_BYTES: usize = 256 << 10;

/// What the last rows that were looked at have told.
#[derive(Default)]
pub(crate) struct Dictionaries {
    told: Option<Told>,
}

struct Told {
    schema: SchemaRef,
    /// Columns nearly all of whose values are different ones.
    unlike: Vec<ColumnPath>,
    /// For so many more files.
    files: usize,
    /// For batches of fewer rows than this.
    below: usize,
}

impl Dictionaries {
    /// The settings for a file that begins with `rows`.
    pub(crate) fn chosen(&mut self, properties: WriterProperties, rows: &RecordBatch) -> WriterProperties {
        let valid = self
            .told
            .take()
            .filter(|told| told.files > 0 && rows.num_rows() < told.below && told.schema == rows.schema());
        let mut told = valid.unwrap_or_else(|| look(rows));
        told.files = told.files.saturating_sub(1);
        let mut builder = WriterPropertiesBuilder::from(properties);
        for field in rows.schema_ref().fields() {
            if field.data_type().primitive_width().is_some() {
                let column = ColumnPath::from(field.name().as_str());
                builder = builder.set_column_dictionary_page_size_limit(column, NUMBERS_BYTES);
            }
        }
        for column in &told.unlike {
            builder = builder.set_column_dictionary_enabled(column.clone(), false);
        }
        self.told = Some(told);
        builder.build()
    }
}

fn look(rows: &RecordBatch) -> Told {
    let count = rows.num_rows();
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    let unlike = columns.filter(|(_, column)| nearly_all_unlike(column).unwrap_or(false));
    Told {
        schema: rows.schema(),
        unlike: unlike
            .map(|(field, _)| ColumnPath::from(field.name().as_str()))
            .collect(),
        files: count.min(SAMPLE) / ROWS_PER_FILE,
        below: if count < WIDE { count * TELLS_MORE } else { usize::MAX },
    }
}

/// Whether a dictionary would find next to none of the values again.
fn nearly_all_unlike(column: &ArrayRef) -> Result<bool, ArrowError> {
    // A nested column's values are those of columns below it.
    if column.data_type().is_nested() {
        return Ok(false);
    }
    let sample = sample(column)?;
    let values = sample.len() - sample.null_count();
    if values < LEAST {
        return Ok(false);
    }
    let converter = RowConverter::new(vec![SortField::new(sample.data_type().clone())])?;
    let rows = converter.convert_columns(&[sample])?;
    let mut distinct = HashSet::with_capacity_and_hasher(rows.num_rows(), RandomState::default());
    distinct.extend(rows.iter().map(|row| row.data()));
    // Of some thousand values that take turns at random nine tenths of a sample are different ones, and
    // a dictionary pays.
    Ok(distinct.len() * 100 >= values * 98)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};

    use super::*;

    fn has_dictionary(column: ArrayRef) -> bool {
        let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let properties = Dictionaries::default().chosen(WriterProperties::default(), &rows);
        properties.dictionary_enabled(&ColumnPath::from("c"))
    }

    #[test]
    fn a_dictionary_is_made_where_values_repeat_or_little_is_known() {
        assert!(!has_dictionary(Arc::new(Int64Array::from_iter_values(0..5000))));
        assert!(has_dictionary(Arc::new(Int64Array::from_iter_values(0..50))));
        assert!(has_dictionary(Arc::new(Int64Array::from_iter_values(
            (0..5000).map(|number| number % 100)
        ))));
        let words = |many: usize| StringArray::from_iter_values((0..2000).map(|number| format!("w{}", number % many)));
        assert!(!has_dictionary(Arc::new(words(2000))));
        assert!(has_dictionary(Arc::new(words(300))));
        // At random, of 5,000.
        let mut state = 1_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % 5000
        };
        let customers = StringArray::from_iter_values((0..2000).map(|_| format!("customer {}", draw())));
        assert!(has_dictionary(Arc::new(customers)));
        assert!(has_dictionary(Arc::new(Int64Array::new_null(5000))));
    }

    #[test]
    fn values_that_come_again_soon_or_never_have_none_and_runs_have_one() {
        // A fifth of the changes are updates of rows that came a hundred changes before.
        let changed = |change: i64| if change % 5 == 4 { change - 103 } else { change };
        assert!(!has_dictionary(Arc::new(Int64Array::from_iter_values(
            (0..50_000).map(changed)
        ))));
        // Transactions of four rows.
        assert!(has_dictionary(Arc::new(Int64Array::from_iter_values(
            (0..50_000).map(|row| row / 4)
        ))));
        // In turn, so that neighbours are different ones.
        assert!(has_dictionary(Arc::new(Int64Array::from_iter_values(
            (0..50_000).map(|row| row % 10_007)
        ))));
    }

    #[test]
    fn what_many_rows_told_holds_for_more_files_than_what_few_did() {
        let rows = |column: ArrayRef| RecordBatch::try_from_iter([("c", column)]).unwrap();
        let unlike = |count: i64| rows(Arc::new(Int64Array::from_iter_values(0..count)));
        let alike = |count: usize| rows(Arc::new(Int64Array::from(vec![1; count])));
        let column = ColumnPath::from("c");
        for (count, files) in [(5000, 64), (160, 10), (64, 4)] {
            let mut dictionaries = Dictionaries::default();
            let mut has_one = |rows: &RecordBatch| {
                let properties = dictionaries.chosen(WriterProperties::default(), rows);
                properties.dictionary_enabled(&column)
            };
            assert!(!has_one(&unlike(count)));
            let like_it = alike(count as usize);
            let held = (1..).take_while(|_| !has_one(&like_it)).count();
            assert_eq!(held, files - 1, "{count} rows");
        }
    }

    #[test]
    fn many_more_rows_are_looked_at_whatever_few_have_told() {
        let unlike: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        for (count, has_one) in [(399, false), (400, true)] {
            let mut dictionaries = Dictionaries::default();
            let mut told = |column: ArrayRef| {
                let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
                let properties = dictionaries.chosen(WriterProperties::default(), &rows);
                properties.dictionary_enabled(&ColumnPath::from("c"))
            };
            assert!(!told(unlike.clone()));
            assert_eq!(
                told(Arc::new(Int64Array::from(vec![1; count]))),
                has_one,
                "{count} rows"
            );
        }
    }

    #[test]
    fn other_columns_are_looked_at_anew() {
        let rows = |name: &str| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5000));
            RecordBatch::try_from_iter([(name, column)]).unwrap()
        };
        let mut dictionaries = Dictionaries::default();
        for name in ["a", "b"] {
            let properties = dictionaries.chosen(WriterProperties::default(), &rows(name));
            assert!(!properties.dictionary_enabled(&ColumnPath::from(name)));
        }
    }
}
