//! Change batches: the only form in which rows travel.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{DictionaryArray, Int64Array, RecordBatch, StringArray};

use crate::{BytePermit, Error, ErrorKind, Result, TableSchema, envelope};

/// Changes of one table, one row each, in Arrow.
///
/// `rows` has the columns of [`TableSchema::batch_schema`]: the user's, then the reserved
/// ones of [`envelope`], then `__before` where the table has a before-image. Rows are in the
/// source's order. On a delete the key alone may be filled.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    schema: Arc<TableSchema>,
    rows: RecordBatch,
    permits: Vec<BytePermit>,
}

impl ChangeBatch {
    /// Pairs rows with the schema they follow.
    ///
    /// # Errors
    /// `Internal` if the columns are not those of `schema.batch_schema()`.
    pub fn try_new(schema: Arc<TableSchema>, rows: RecordBatch) -> Result<Self> {
        let expected = schema.batch_schema();
        let same = expected.fields().len() == rows.num_columns()
            && expected
                .fields()
                .iter()
                .zip(rows.schema_ref().fields())
                .all(|(want, have)| want.name() == have.name() && want.data_type() == have.data_type());
        if same {
            Ok(Self {
                schema,
                rows,
                permits: Vec::new(),
            })
        } else {
            Err(
                Error::new(ErrorKind::Internal, "a change batch does not have its table's columns")
                    .with("table", &schema.id)
                    .with("expected", &expected)
                    .with("found", rows.schema_ref()),
            )
        }
    }

    /// The table's columns and key when these rows were written.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// All columns.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// How many changes there are.
    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// Bytes of memory that the columns hold.
    pub fn bytes(&self) -> usize {
        self.rows.get_array_memory_size()
    }

    /// Makes the batch hold `permit` until it is dropped.
    pub fn hold(&mut self, permit: BytePermit) {
        self.permits.push(permit);
    }

    /// The same permits, for a batch that was derived from this one.
    pub fn permits(&self) -> &[BytePermit] {
        &self.permits
    }

    /// Other rows of the same or another table that stand for these and hold their permits.
    ///
    /// # Errors
    /// As [`try_new`](Self::try_new).
    pub fn derive(&self, schema: Arc<TableSchema>, rows: RecordBatch) -> Result<Self> {
        Ok(Self {
            permits: self.permits.clone(),
            ..Self::try_new(schema, rows)?
        })
    }

    /// The `__op` column.
    pub fn ops(&self) -> &StringArray {
        self.reserved(envelope::OP).as_string()
    }

    /// The `__partition` column.
    pub fn partitions(&self) -> &DictionaryArray<Int32Type> {
        self.reserved(envelope::PARTITION).as_dictionary()
    }

    /// The `__position` column.
    pub fn positions(&self) -> &StringArray {
        self.reserved(envelope::POSITION).as_string()
    }

    /// The `__ordinal` column.
    pub fn ordinals(&self) -> &Int64Array {
        self.reserved(envelope::ORDINAL).as_primitive::<Int64Type>()
    }

    fn reserved(&self, name: &str) -> &arrow_array::ArrayRef {
        self.rows
            .column_by_name(name)
            .expect("try_new checked that the reserved columns are there")
    }
}
