//! The reserved columns of rows of which each has a position of its own.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array,
};

use super::{Op, fields};
use crate::PartitionId;

/// The columns in the order of [`fields`], for a source whose rows are each alone at a position of `partition`:
/// their ordinals are 0, and all of each was sent.
///
/// `ops`, `positions` and `committed_at` have as many values: the positions are texts of
/// [`Position::At`](crate::Position::At), the times have the zone UTC.
pub fn columns_of_positions(
    ops: &[Op],
    partition: &PartitionId,
    positions: StringArray,
    committed_at: TimestampMicrosecondArray,
) -> Vec<ArrayRef> {
    let rows = ops.len();
    let names = StringArray::from_iter_values([partition.as_str()]);
    let partitions: DictionaryArray<Int32Type> = DictionaryArray::new(Int32Array::from_value(0, rows), Arc::new(names));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ops.iter().map(|op| op.letter()))),
        Arc::new(partitions),
        Arc::new(positions),
        Arc::new(Int64Array::from_value(0, rows)),
        Arc::new(committed_at),
    ];
    // `__unchanged`
    columns.extend(
        fields()
            .skip(columns.len())
            .map(|field| new_null_array(field.data_type(), rows)),
    );
    columns
}

#[cfg(test)]
mod tests {
    use arrow_array::RecordBatch;
    use arrow_schema::Schema;

    use super::*;
    use crate::{EnvelopeBuilder, envelope};

    #[test]
    fn the_columns_are_those_that_rows_appended_one_by_one_have() {
        let partition = PartitionId::new("s", "t/0");
        let rows = [
            (Op::Create, "07", Some(5)),
            (Op::Update, "08", None),
            (Op::Delete, "12", Some(-1)),
        ];
        for rows in [&rows[..], &[]] {
            let mut builder = EnvelopeBuilder::default();
            for (op, position, committed_at) in rows {
                builder.append(*op, &partition, position, 0, *committed_at);
            }
            let ops: Vec<Op> = rows.iter().map(|(op, _, _)| *op).collect();
            let positions = StringArray::from_iter_values(rows.iter().map(|(_, position, _)| position));
            let committed_at: TimestampMicrosecondArray = rows.iter().map(|(_, _, at)| *at).collect();
            let columns = columns_of_positions(&ops, &partition, positions, committed_at.with_timezone("UTC"));
            let schema = Arc::new(Schema::new(envelope::fields().collect::<Vec<_>>()));
            let appended = RecordBatch::try_new(schema.clone(), builder.finish()).unwrap();
            assert_eq!(RecordBatch::try_new(schema, columns).unwrap(), appended);
        }
    }
}
