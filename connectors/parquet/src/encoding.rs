//! Which columns of a file are worth a dictionary.
//!
//! A dictionary pays where values repeat. Where they do not, the encoder looks each one up in vain
//! until the dictionary is full, and begins anew with every row group. The first rows of a file tell
//! which columns are so; what they do not show costs a little space or time, and nothing else.

use std::collections::HashSet;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::ArrowError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// How many of the first rows are looked at.
const SAMPLE: usize = 1024;
/// With fewer values than this nothing is said.
const LEAST: usize = 64;

/// The settings for a file that begins with `rows`: without dictionaries for columns most of whose
/// first values are different ones.
pub(crate) fn with_dictionaries(properties: WriterProperties, rows: &RecordBatch) -> WriterProperties {
    let fields = rows.schema_ref().fields().iter();
    let unlike = fields
        .zip(rows.columns())
        .filter(|(_, column)| mostly_unlike(column).unwrap_or(false));
    let begin = WriterPropertiesBuilder::from(properties);
    let builder = unlike.fold(begin, |builder, (field, _)| {
        builder.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), false)
    });
    builder.build()
}

fn mostly_unlike(column: &ArrayRef) -> Result<bool, ArrowError> {
    let sample = column.slice(0, column.len().min(SAMPLE));
    let values = sample.len() - sample.null_count();
    // A nested column's values are those of columns below it.
    if sample.data_type().is_nested() || values < LEAST {
        return Ok(false);
    }
    let converter = RowConverter::new(vec![SortField::new(sample.data_type().clone())])?;
    let rows = converter.convert_columns(&[sample])?;
    let distinct: HashSet<&[u8]> = rows.iter().map(|row| row.data()).collect();
    Ok(distinct.len() * 2 > values)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};

    use super::*;

    fn has_dictionary(column: ArrayRef) -> bool {
        let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let properties = with_dictionaries(WriterProperties::default(), &rows);
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
        assert!(has_dictionary(Arc::new(Int64Array::new_null(5000))));
    }
}
