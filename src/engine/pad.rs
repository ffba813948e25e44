//! Rows from before columns were added, in the shape that the table has now.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray, new_null_array};
use millstream_core::{ChangeBatch, Error, ErrorKind, Result, TableSchema, envelope};

/// Whether `older` is `newer` without some of its columns, and the same otherwise.
pub fn lacks_columns_only(older: &TableSchema, newer: &TableSchema) -> bool {
    let held = |name: &str| newer.columns.field_with_name(name).map(|field| field.data_type());
    older.id == newer.id
        && older.key == newer.key
        && older.before_image == newer.before_image
        && older.columns.fields().len() < newer.columns.fields().len()
        && older
            .columns
            .fields()
            .iter()
            .all(|field| held(field.name()).is_ok_and(|data_type| data_type == field.data_type()))
}

/// The rows of `batch` with the columns of `schema`: those that it lacks are NULL, in the
/// before-image, too.
///
/// # Errors
/// `Internal` unless [`lacks_columns_only`] holds.
pub fn pad(batch: &ChangeBatch, schema: &Arc<TableSchema>) -> Result<ChangeBatch> {
    let rows = batch.rows();
    let wanted = schema.batch_schema();
    let columns = wanted
        .fields()
        .iter()
        .map(|field| match rows.column_by_name(field.name()) {
            Some(before) if field.name() == envelope::BEFORE => padded_image(before.as_struct(), schema),
            Some(column) => column.clone(),
            None => new_null_array(field.data_type(), rows.num_rows()),
        });
    let columns = columns.collect();
    let rows = RecordBatch::try_new(wanted, columns)
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot add columns to older rows").caused_by(e))?;
    batch.derive(schema.clone(), rows)
}

fn padded_image(before: &StructArray, schema: &TableSchema) -> ArrayRef {
    let columns = schema.columns.fields().iter().map(|field| {
        before
            .column_by_name(field.name())
            .cloned()
            .unwrap_or_else(|| new_null_array(field.data_type(), before.len()))
    });
    let fields = schema.columns.fields().clone();
    Arc::new(StructArray::new(fields, columns.collect(), before.nulls().cloned()))
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;
    use arrow_array::types::Int64Type;
    use arrow_schema::{DataType, Field, Schema};
    use millstream_core::{EnvelopeBuilder, Op, PartitionId, TableId};

    use super::*;

    fn schema(columns: &[&str]) -> Arc<TableSchema> {
        let columns = columns.iter().map(|name| Field::new(*name, DataType::Int64, true));
        Arc::new(TableSchema {
            id: TableId::new("s", None, "t"),
            columns: Arc::new(Schema::new(columns.collect::<Vec<_>>())),
            key: vec!["id".to_owned()],
            not_null: Vec::new(),
            before_image: true,
        })
    }

    #[test]
    fn older_rows_get_the_new_column_as_null() {
        let (older, newer) = (schema(&["id"]), schema(&["new", "id"]));
        assert!(lacks_columns_only(&older, &newer));
        assert!(!lacks_columns_only(&newer, &older) && !lacks_columns_only(&older, &older));
        assert!(!lacks_columns_only(
            &schema(&["id", "old"]),
            &schema(&["id", "new", "more"])
        ));

        let mut envelope = EnvelopeBuilder::default();
        envelope.append(Op::Update, &PartitionId::new("s", "log"), "1", 0, None);
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let before = StructArray::new(older.columns.fields().clone(), vec![ids.clone()], None);
        let columns = [vec![ids], envelope.finish(), vec![Arc::new(before)]].concat();
        let rows = RecordBatch::try_new(older.batch_schema(), columns).unwrap();
        let padded = pad(&ChangeBatch::try_new(older, rows).unwrap(), &newer).unwrap();
        let before = padded.rows().column_by_name(envelope::BEFORE).unwrap().as_struct();
        for columns in [padded.rows().columns(), before.columns()] {
            assert!(columns[0].is_null(0));
            assert_eq!(columns[1].as_primitive::<Int64Type>().value(0), 7);
        }
    }
}
