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
    let mut keep = BooleanBufferBuilder::new(batch.num_rows());
    let mut kept = 0;
    let keys = partitions.keys().values();
    for of_position in text_runs(positions) {
        let position = positions.value(of_position.start);
        for of_place in keys[of_position].chunk_by(|one, next| one == next) {
            let reached = &reached[usize::try_from(of_place[0]).unwrap_or_default()];
            let new = !reached.iter().any(|reached| reached.holds(position));
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
