//! What rows were before a change.

use arrow_array::StructArray;
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{ArrowError, Fields};

use super::column::ColumnBuilder;
use super::value_error::ValueError;
use super::{ColumnType, Tuple};

/// Builds the column `__before`.
pub(super) struct BeforeImage {
    columns: Vec<ColumnBuilder>,
    nulls: NullBufferBuilder,
}

impl BeforeImage {
    /// Without rows, of a table whose columns have these types.
    pub(super) fn new(types: &[ColumnType]) -> Self {
        Self {
            columns: types.iter().map(ColumnBuilder::new).collect(),
            nulls: NullBufferBuilder::new(0),
        }
    }

    /// Appends the row number `at`; a null where there is none, or none that can be decoded.
    pub(super) fn append(&mut self, image: Option<&Tuple<'_>>, at: usize) {
        if image.is_some_and(|image| self.append_values(image).is_ok()) {
            return self.nulls.append_non_null();
        }
        for column in &mut self.columns {
            if column.len() == at {
                column.append_null();
            }
        }
        self.nulls.append_null();
    }

    fn append_values(&mut self, image: &Tuple<'_>) -> Result<(), ValueError> {
        let mut pairs = self.columns.iter_mut().zip(image.iter());
        pairs.try_for_each(|(column, value)| column.append(value))
    }

    /// The column of `rows` rows, with the table's fields; the builder is empty afterwards.
    ///
    /// # Errors
    /// If the fields do not fit.
    pub(super) fn finish(&mut self, fields: &Fields, rows: usize) -> Result<StructArray, ArrowError> {
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        StructArray::try_new_with_length(fields.clone(), columns, self.nulls.finish(), rows)
    }
}
