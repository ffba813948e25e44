//! Rows of a partitioned table that wait in memory for their files.
//!
//! Rows come in the order of their source, which has little to do with partitions. Were each
//! partition's share of a batch written at once, a batch that touches a thousand partitions
//! would want a thousand open encoders, or leave a thousand files of a row or two behind.

use arrow_array::{Array, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave_record_batch;

use crate::partition::{Group, PartitionExpr, PartitionFault, group};

/// Batches of fewer rows are joined, so that the cost of a batch does not outweigh its rows.
const SMALL_BATCH_ROWS: usize = 8 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    expressions: Vec<PartitionExpr>,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

/// Partitions taken out of the backlog, the largest first.
pub(crate) struct Taken {
    pub batches: Vec<RecordBatch>,
    pub groups: Vec<Group>,
    /// What one row takes, roughly.
    pub row_bytes: usize,
}

impl Taken {
    /// Some rows of a group.
    pub(crate) fn rows(&self, places: &[(usize, usize)]) -> Result<RecordBatch, ArrowError> {
        gather(&self.batches, places)
    }
}

impl Backlog {
    pub(crate) fn new(expressions: Vec<PartitionExpr>) -> Self {
        Self {
            expressions,
            ..Self::default()
        }
    }

    /// Whether rows are split at all; where not, nothing needs to wait.
    pub(crate) fn is_partitioned(&self) -> bool {
        !self.expressions.is_empty()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes rows, all of one schema until the backlog is empty again.
    pub(crate) fn push(&mut self, rows: RecordBatch) -> Result<(), ArrowError> {
        self.batches.push(rows);
        while let [.., before, last] = &self.batches[..]
            && before.num_rows() <= last.num_rows()
            && before.num_rows() < SMALL_BATCH_ROWS
        {
            let joined = concat_batches(&before.schema(), [before, last])?;
            self.batches.truncate(self.batches.len() - 2);
            self.batches.push(joined);
        }
        self.bytes = self.batches.iter().map(bytes).sum();
        Ok(())
    }

    /// Takes the largest partitions out, until at most `keep` bytes wait on. At least one goes.
    pub(crate) fn take(&mut self, keep: usize) -> Result<Taken, PartitionFault> {
        let batches = std::mem::take(&mut self.batches);
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let row_bytes = std::mem::take(&mut self.bytes).div_ceil(rows.max(1));
        let mut groups = group(&self.expressions, &batches)?;
        // Of equal ones the first seen is first, so that the same rows make the same files.
        groups.sort_by_key(|group| std::cmp::Reverse(group.rows.len()));
        let mut left = rows;
        let taken = groups
            .iter()
            .take_while(|group| {
                let goes_on = left == rows || left * row_bytes > keep;
                left -= group.rows.len();
                goes_on
            })
            .count();
        let mut staying: Vec<_> = groups
            .split_off(taken)
            .into_iter()
            .flat_map(|group| group.rows)
            .collect();
        if !staying.is_empty() {
            staying.sort_unstable();
            let rest = gather(&batches, &staying)?;
            self.bytes = bytes(&rest);
            self.batches.push(rest);
        }
        Ok(Taken {
            batches,
            groups,
            row_bytes,
        })
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }
}

fn gather(batches: &[RecordBatch], places: &[(usize, usize)]) -> Result<RecordBatch, ArrowError> {
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    interleave_record_batch(&batches, places)
}

/// What the rows themselves take. A batch may be a slice of a larger one, whose memory must not
/// be counted for each slice.
fn bytes(rows: &RecordBatch) -> usize {
    let column_bytes = |column: &arrow_array::ArrayRef| {
        let whole = || column.get_array_memory_size();
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| whole())
    };
    rows.columns().iter().map(column_bytes).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Int64Array, RecordBatch};
    use proptest::prelude::*;

    use super::*;

    fn batch(values: &[i64]) -> RecordBatch {
        let values = Int64Array::from(values.to_vec());
        RecordBatch::try_from_iter([("a", Arc::new(values) as arrow_array::ArrayRef)]).unwrap()
    }

    fn values(rows: &RecordBatch) -> Vec<i64> {
        rows.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    proptest! {
        #[test]
        fn every_row_leaves_once_and_the_largest_partitions_leave_first(
            batches in proptest::collection::vec(proptest::collection::vec(0i64..6, 0..20), 0..8),
            keep in 0usize..400,
        ) {
            let mut backlog = Backlog::new(vec!["a".parse().unwrap()]);
            for values in &batches {
                backlog.push(batch(values)).unwrap();
            }
            let mut expected: Vec<_> = batches.concat();
            let mut found = Vec::new();
            let mut last = usize::MAX;
            for keep in [keep, 0] {
                let taken = backlog.take(keep).unwrap();
                prop_assert!(backlog.bytes() <= keep);
                for group in &taken.groups {
                    prop_assert!(group.rows.len() <= last);
                    last = group.rows.len();
                    found.extend(values(&taken.rows(&group.rows).unwrap()));
                }
            }
            prop_assert_eq!(backlog.bytes(), 0);
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn many_small_batches_become_few() {
        let mut backlog = Backlog::new(vec!["a".parse().unwrap()]);
        for number in 0..10_000 {
            backlog.push(batch(&[number])).unwrap();
        }
        assert!(backlog.batches.len() < 16, "{}", backlog.batches.len());
    }
}
