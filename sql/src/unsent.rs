//! Which columns the source did not send, by row.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use millstream_core::envelope;

/// The columns named in `__unchanged`, and the rows that name them.
#[derive(Debug)]
pub(crate) struct Unsent(HashMap<String, BooleanBuffer>);

impl Unsent {
    pub(crate) fn of(rows: &RecordBatch) -> Self {
        let mut masks: HashMap<String, BooleanBufferBuilder> = HashMap::new();
        let lists = rows
            .column_by_name(envelope::UNCHANGED)
            .and_then(|column| column.as_list_opt::<i32>())
            .filter(|lists| lists.null_count() < lists.len());
        let Some(lists) = lists else {
            return Self(HashMap::new());
        };
        let names = lists.values().as_string::<i32>();
        for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
            let span = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
            for name in span.map(|place| names.value(place)) {
                if !masks.contains_key(name) {
                    let mut empty = BooleanBufferBuilder::new(lists.len());
                    empty.append_n(lists.len(), false);
                    masks.insert(name.to_owned(), empty);
                }
                if let Some(mask) = masks.get_mut(name) {
                    mask.set_bit(row, true);
                }
            }
        }
        let finished = masks.into_iter().map(|(name, mut mask)| (name, mask.finish()));
        Self(finished.collect())
    }

    /// The rows in which `column` was not sent; `None` if there is no such row.
    pub(crate) fn rows(&self, column: &str) -> Option<&BooleanBuffer> {
        self.0.get(column)
    }

    /// Whether the source left `column` out of `row`.
    pub(crate) fn is(&self, column: &str, row: usize) -> bool {
        self.0.get(column).is_some_and(|rows| rows.value(row))
    }
}
