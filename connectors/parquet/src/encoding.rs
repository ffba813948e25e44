//! How the columns of a file are encoded.
//!
//! A dictionary pays where values repeat. Where they do not, the encoder looks each one up in vain
//! until the dictionary is full, and begins anew with every row group. Numbers that are not far from
//! their neighbours take least as differences (`DELTA_BINARY_PACKED`), and least time too: there is
//! nothing to look up, and little is left to compress. Values of which there are few different ones
//! are written by us ([`crate::words`], [`crate::numbers`]). The first batch of a file tells
//! which columns are so, for some files after it too: to look costs as much as to encode some hundred
//! rows. What it does not show costs a little space or time, or a row group that ends early.

mod deltas;
pub(crate) mod distinct;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parquet::basic;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use self::deltas::Deltas;
use self::distinct::Distinct;
use crate::config::EncodingChoice;
use crate::numbers::NumbersColumn;

/// How many rows are looked at.
const SAMPLE: usize = 1024;
/// With fewer values than this nothing is said.
const LEAST: usize = 64;
/// For so many rows that were looked at, one more file is taken to be like them.
const ROWS_PER_FILE: usize = 16;
/// So many times as many rows are looked at, whatever fewer have told.
const TELLS_MORE: usize = 4;
/// A batch of so many rows tells as much as any.
const WIDE: usize = 8 * SAMPLE;
/// Different ones among 100 values that are few. Where each of the places that are looked at has one of its own,
/// there are six, and there may be ever more.
const MOST_PERCENT_OF_FEW: usize = 5;
/// With fewer values than this, differences and dictionaries of ours are not worth the room that they begin with.
const MANY: usize = 512;
/// Bytes of a dictionary of numbers at most. A larger one saves little, and to look numbers up in it costs
/// more than to compress them.
const NUMBERS_BYTES: usize = 256 << 10;

/// What the last rows that were looked at have told.
pub(crate) struct Encodings {
    allowed: EncodingChoice,
    told: Option<Told>,
}

struct Told {
    schema: SchemaRef,
    /// Columns that are not left to `parquet`.
    columns: Vec<(String, Encoding)>,
    /// For so many more files.
    files: usize,
    /// For batches of fewer rows than this.
    below: usize,
}

/// How a column is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// By us, with a dictionary.
    Few,
    /// Without one: by us as differences of numbers that [`NumbersColumn`] knows, by `parquet` otherwise.
    Without(basic::Encoding),
}

/// How a file is written.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) properties: WriterProperties,
    /// Columns of values of which there are few different ones.
    pub(crate) few: Vec<String>,
}

impl Encodings {
    /// Before any row was looked at.
    pub(crate) fn of(allowed: EncodingChoice) -> Self {
        Self { allowed, told: None }
    }

    /// The choice for a file that begins with `rows`.
    pub(crate) fn chosen(&mut self, properties: WriterProperties, rows: &RecordBatch) -> Choice {
        let valid = self
            .told
            .take()
            .filter(|told| told.files > 0 && rows.num_rows() < told.below && told.schema == rows.schema());
        let mut told = valid.unwrap_or_else(|| look(rows, self.allowed));
        told.files = told.files.saturating_sub(1);
        let mut builder = WriterPropertiesBuilder::from(properties);
        for field in rows.schema_ref().fields() {
            if field.data_type().primitive_width().is_some() {
                let column = ColumnPath::from(field.name().as_str());
                builder = builder.set_column_dictionary_page_size_limit(column, NUMBERS_BYTES);
            }
        }
        let mut few = Vec::new();
        for (name, encoding) in &told.columns {
            match encoding {
                Encoding::Few => few.push(name.clone()),
                Encoding::Without(encoding) => {
                    let column = ColumnPath::from(name.as_str());
                    builder = builder
                        .set_column_dictionary_enabled(column.clone(), false)
                        .set_column_encoding(column, *encoding);
                }
            }
        }
        self.told = Some(told);
        Choice {
            properties: builder.build(),
            few,
        }
    }
}

fn look(rows: &RecordBatch, allowed: EncodingChoice) -> Told {
    let count = rows.num_rows();
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    let columns = columns.filter_map(|(field, column)| Some((field.name().clone(), encoding_of(column, allowed)?)));
    Told {
        schema: rows.schema(),
        columns: columns.collect(),
        files: count.min(SAMPLE) / ROWS_PER_FILE,
        below: if count < WIDE { count * TELLS_MORE } else { usize::MAX },
    }
}

/// How a column is encoded; `None` for a dictionary of `parquet`'s.
fn encoding_of(column: &ArrayRef, allowed: EncodingChoice) -> Option<Encoding> {
    let found = Distinct::of(column)
        .ok()
        .flatten()
        .filter(|found| found.values >= LEAST)?;
    let are_many = found.values >= MANY;
    // The fewer values come again, the more bits the number of one in a dictionary has. Of some
    // thousand values that take turns at random nine tenths of a sample are different ones.
    let is_close = |deltas: &Deltas| match found.percent() {
        98.. => deltas.bits * 4 <= deltas.plain_bits * 3,
        50.. => deltas.bits <= 16,
        12.. => deltas.bits <= 8,
        _ => false,
    };
    if are_many && allowed == EncodingChoice::All && Deltas::of(column).is_some_and(|deltas| is_close(&deltas)) {
        return Some(Encoding::Without(basic::Encoding::DELTA_BINARY_PACKED));
    }
    match found.percent() {
        98.. => Some(Encoding::Without(basic::Encoding::PLAIN)),
        ..=MOST_PERCENT_OF_FEW if are_many && is_ours(column) => Some(Encoding::Few),
        _ => None,
    }
}

/// Whether we write such values with a dictionary of ours.
fn is_ours(column: &ArrayRef) -> bool {
    *column.data_type() == DataType::Utf8 || NumbersColumn::knows(column.data_type())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Date32Array, Float64Array, Int32Array, Int64Array, StringArray};

    use super::*;

    /// The encoding of a column; `None` for a dictionary.
    fn encoding(column: ArrayRef) -> Option<basic::Encoding> {
        let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
        without_dictionary(&mut Encodings::of(EncodingChoice::All), &rows)
    }

    fn without_dictionary(encodings: &mut Encodings, rows: &RecordBatch) -> Option<basic::Encoding> {
        let properties = encodings.chosen(WriterProperties::default(), rows).properties;
        let column = ColumnPath::from(rows.schema_ref().field(0).name().as_str());
        let encoding = properties.encoding(&column);
        (!properties.dictionary_enabled(&column)).then(|| encoding.unwrap())
    }

    fn has_dictionary(column: ArrayRef) -> bool {
        encoding(column).is_none()
    }

    /// Numbers at random below a limit.
    fn drawn(count: usize, limit: u64) -> impl Iterator<Item = i64> {
        let mut state = 1_u64;
        (0..count).map(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 16) % limit) as i64
        })
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
        let customers = StringArray::from_iter_values(drawn(2000, 5000).map(|number| format!("customer {number}")));
        assert!(has_dictionary(Arc::new(customers)));
        assert!(has_dictionary(Arc::new(Int64Array::new_null(5000))));
    }

    #[test]
    fn values_that_come_again_soon_or_never_have_none_and_runs_of_texts_have_one() {
        // A fifth of the changes are updates of rows that came a hundred changes before.
        let changed = |change: i64| if change % 5 == 4 { change - 103 } else { change };
        assert!(!has_dictionary(Arc::new(Int64Array::from_iter_values(
            (0..50_000).map(changed)
        ))));
        let texts = |number: &dyn Fn(usize) -> usize| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(
                (0..50_000).map(|row| format!("order {}", number(row))),
            ))
        };
        // Transactions of four rows.
        assert!(has_dictionary(texts(&|row| row / 4)));
        // In turn, so that neighbours are different ones.
        assert!(has_dictionary(texts(&|row| row % 10_007)));
    }

    #[test]
    fn numbers_near_their_neighbours_are_differences_where_a_dictionary_would_be_large() {
        let of = |numbers: &mut dyn Iterator<Item = i64>| encoding(Arc::new(Int64Array::from_iter_values(numbers)));
        let deltas = Some(basic::Encoding::DELTA_BINARY_PACKED);
        assert_eq!(of(&mut (0..5000)), deltas, "a sequence");
        assert_eq!(
            of(&mut (0..50_000).map(|row| row / 4)),
            deltas,
            "transactions of four rows"
        );
        assert_eq!(of(&mut drawn(5000, 1 << 40)), deltas, "half of the bits are the same");
        assert_eq!(
            of(&mut drawn(5000, u64::MAX)),
            Some(basic::Encoding::PLAIN),
            "at random"
        );
        assert_eq!(of(&mut drawn(5000, 50)), None, "few different ones");
        assert_eq!(
            of(&mut drawn(50_000, 5000).map(|number| number << 30)),
            None,
            "some, far apart"
        );
        let keys = Int32Array::from_iter_values(drawn(5000, 1 << 20).map(|number| number as i32));
        assert_eq!(encoding(Arc::new(keys)), deltas, "keys of 20 bits");
        let basic = encoding_of(
            &(Arc::new(Int64Array::from_iter_values(0..5000)) as ArrayRef),
            EncodingChoice::Basic,
        );
        assert_eq!(
            basic,
            Some(Encoding::Without(basic::Encoding::PLAIN)),
            "for old readers"
        );
        let days = Date32Array::from_iter_values(drawn(5000, 2500).map(|number| number as i32));
        assert_eq!(encoding(Arc::new(days)), deltas, "days of seven years");
    }

    #[test]
    fn values_of_which_few_are_different_have_a_dictionary_of_ours() {
        let are_few = |column: ArrayRef| {
            let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
            !Encodings::of(EncodingChoice::All)
                .chosen(WriterProperties::default(), &rows)
                .few
                .is_empty()
        };
        let texts = |count: usize, text: &dyn Fn(usize) -> usize| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(
                (0..count).map(|row| format!("kind {}", text(row))),
            ))
        };
        assert!(are_few(texts(5000, &|row| row % 50)));
        assert!(!are_few(texts(5000, &|row| row % 200)));
        assert!(!are_few(texts(500, &|row| row % 2)), "too few");
        assert!(!are_few(texts(50_000, &|row| row / 100)), "another one in each place");
        assert!(are_few(Arc::new(Int64Array::from(vec![1; 5000]))), "numbers");
        assert!(!are_few(Arc::new(Float64Array::from(vec![1.0; 5000]))), "others");
    }

    #[test]
    fn what_many_rows_told_holds_for_more_files_than_what_few_did() {
        let rows = |column: ArrayRef| RecordBatch::try_from_iter([("c", column)]).unwrap();
        let unlike = |count: i64| rows(Arc::new(Int64Array::from_iter_values(0..count)));
        let alike = |count: usize| rows(Arc::new(Int64Array::from(vec![1; count])));
        for (count, files) in [(5000, 64), (160, 10), (64, 4)] {
            let mut encodings = Encodings::of(EncodingChoice::All);
            let mut has_one = |rows: &RecordBatch| without_dictionary(&mut encodings, rows).is_none();
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
            let mut encodings = Encodings::of(EncodingChoice::All);
            let mut told = |column: ArrayRef| {
                let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
                without_dictionary(&mut encodings, &rows).is_none()
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
        let mut encodings = Encodings::of(EncodingChoice::All);
        for name in ["a", "b"] {
            assert!(without_dictionary(&mut encodings, &rows(name)).is_some());
        }
    }
}
