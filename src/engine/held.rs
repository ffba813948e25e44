//! Leaving out rows that a table already holds.

use arrow_array::BooleanArray;
use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::cast::AsArray;
use arrow_select::filter::filter_record_batch;
use millstream_core::{ChangeBatch, Checkpoint, Error, ErrorKind, PartitionId, Position, Result, TableId, text_runs};

use super::resume::of_input;

/// The rows of `batch`, which came for the source table `table`, that lie after `held`; `None` if
/// there are none.
///
/// Tables resume from the least position of all of them, so each meets rows again that its
/// own last commit already holds.
pub fn rows_after(batch: &ChangeBatch, table: &TableId, held: &Checkpoint) -> Result<Option<ChangeBatch>> {
    let partitions = batch.partitions();
    let reached: Vec<Vec<&Position>> = partitions
        .values()
        .as_string::<i32>()
        .iter()
        .map(|name| {
            let partition = PartitionId::from(name.unwrap_or_default());
            let positions = [held.position(&partition), held.position(&of_input(&partition, table))];
            let begun = positions
                .into_iter()
                .filter(|position| **position != Position::Beginning);
            begun.collect()
        })
        .collect();
    if reached.iter().all(Vec::is_empty) {
        return Ok(Some(batch.clone()));
    }
    let positions = batch.positions();
    // A table's rows of one partition are in order.
    if let [reached] = &reached[..]
        && positions
            .iter()
            .flatten()
            .next()
            .is_some_and(|first| !held_by(reached, first))
    {
        return Ok(Some(batch.clone()));
    }
    let mut keep = BooleanBufferBuilder::new(batch.num_rows());
    let mut kept = 0;
    let keys = partitions.keys().values();
    for of_position in text_runs(positions) {
        let position = positions.value(of_position.start);
        for of_place in keys[of_position].chunk_by(|one, next| one == next) {
            let reached = &reached[usize::try_from(of_place[0]).unwrap_or_default()];
            let new = !held_by(reached, position);
            keep.append_n(of_place.len(), new);
            kept += if new { of_place.len() } else { 0 };
        }
    }
    if kept == batch.num_rows() {
        return Ok(Some(batch.clone()));
    }
    if kept == 0 {
        return Ok(None);
    }
    let rows = filter_record_batch(batch.rows(), &BooleanArray::new(keep.finish(), None))
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot filter a change batch").caused_by(e))?;
    batch.derive(batch.schema().clone(), rows).map(Some)
}

fn held_by(reached: &[&Position], row: &str) -> bool {
    reached.iter().any(|reached| reached.holds(row))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use arrow_schema::{DataType, Field, Schema};
    use millstream_core::{EnvelopeBuilder, Op, TableSchema};

    use super::*;

    /// Rows of these partitions at these positions, numbered from 0.
    fn batch(places: &[(&str, &str)]) -> ChangeBatch {
        let schema = Arc::new(TableSchema {
            id: table(),
            columns: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)])),
            key: Vec::new(),
            not_null: Vec::new(),
            before_image: false,
        });
        let mut envelope = EnvelopeBuilder::default();
        for (partition, position) in places {
            envelope.append(Op::Create, &PartitionId::new("s", partition), position, 0, None);
        }
        let ids = Int64Array::from_iter_values(0..places.len() as i64);
        let columns = std::iter::once(Arc::new(ids) as ArrayRef).chain(envelope.finish());
        let rows = RecordBatch::try_new(schema.batch_schema(), columns.collect()).unwrap();
        ChangeBatch::try_new(schema, rows).unwrap()
    }

    fn table() -> TableId {
        TableId::new("s", None, "t")
    }

    fn held(places: &[(&str, &str)]) -> Checkpoint {
        let mut held = Checkpoint::default();
        for (partition, position) in places {
            held.set(PartitionId::new("s", partition), Position::at(*position));
        }
        held
    }

    fn left(places: &[(&str, &str)], given: &[(&str, &str)]) -> Vec<i64> {
        let left = rows_after(&batch(places), &table(), &held(given)).unwrap();
        let ids = left.map(|batch| batch.rows().column(0).clone());
        ids.iter()
            .flat_map(|ids| ids.as_primitive::<arrow_array::types::Int64Type>().values().to_vec())
            .collect()
    }

    #[test]
    fn rows_up_to_the_position_that_is_held_are_left_out() {
        let places = [("a", "1"), ("a", "2"), ("a", "2"), ("a", "4")];
        assert_eq!(left(&places, &[]), [0, 1, 2, 3]);
        assert_eq!(left(&places, &[("b", "9")]), [0, 1, 2, 3]);
        assert_eq!(left(&places, &[("a", "0")]), [0, 1, 2, 3]);
        assert_eq!(left(&places, &[("a", "1")]), [1, 2, 3]);
        assert_eq!(left(&places, &[("a", "2")]), [3]);
        assert!(left(&places, &[("a", "4")]).is_empty());
    }

    #[test]
    fn rows_of_each_partition_have_a_position_of_their_own() {
        let places = [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2")];
        assert_eq!(left(&places, &[("b", "1")]), [0, 2, 3]);
        assert_eq!(left(&places, &[("a", "1"), ("b", "2")]), [2]);
    }
}
