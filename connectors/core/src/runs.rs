//! Rows that follow each other with the same text.

use std::iter;
use std::ops::Range;

use arrow_array::{Array, StringArray};

/// So many rows are compared in one go at most.
const MOST_AT_ONCE: usize = 256;

/// The rows of `texts` in runs of the same text, in their order. Nulls are not looked at: what lies in their place counts.
///
/// Rows of one transaction have their position in common: many of them are compared at once.
pub fn text_runs(texts: &StringArray) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    iter::from_fn(move || {
        let run = (start < texts.len()).then(|| start..run_end(texts, start))?;
        start = run.end;
        Some(run)
    })
}

/// Where the run ends that begins at `start`: looks ahead in longer and longer steps, then halves the last one.
fn run_end(texts: &StringArray, start: usize) -> usize {
    let (mut end, mut step, mut growing) = (start + 1, 1, true);
    while end < texts.len() && step > 0 {
        let ahead = (end + step).min(texts.len());
        let same = are_same(texts, end, ahead);
        if same {
            end = ahead;
        }
        growing &= same;
        step = if growing {
            (step * 2).min(MOST_AT_ONCE)
        } else {
            step / 2
        };
    }
    end
}

/// Whether the rows from `first` to `end` each have the text of the one before.
fn are_same(texts: &StringArray, first: usize, end: usize) -> bool {
    let offsets = texts.value_offsets();
    let place = |row: usize| offsets[row] as usize;
    let length = offsets[first] - offsets[first - 1];
    // Texts of one length that are each like the one before, are the same bytes that many places further on.
    offsets[first..=end].windows(2).all(|pair| pair[1] - pair[0] == length)
        && texts.value_data()[place(first - 1)..place(end - 1)] == texts.value_data()[place(first)..place(end)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_as_long_as_can_be(
            given in prop::collection::vec(("[ab]{0,2}", 1_usize..600), 0..20),
            (from, part) in (0.0..1.0, 0.0..1.0),
        ) {
            let rows: Vec<&str> = given.iter().flat_map(|(text, rows)| vec![text.as_str(); *rows]).collect();
            let all = StringArray::from(rows);
            let from = (all.len() as f64 * from) as usize;
            let texts = all.slice(from, ((all.len() - from) as f64 * part) as usize);
            let runs: Vec<_> = text_runs(&texts).collect();
            prop_assert_eq!(runs.first().map_or(0, |run| run.start), 0);
            prop_assert_eq!(runs.last().map_or(0, |run| run.end), texts.len());
            for run in &runs {
                prop_assert!(run.clone().all(|row| texts.value(row) == texts.value(run.start)));
            }
            for pair in runs.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert_ne!(texts.value(pair[0].start), texts.value(pair[1].start));
            }
        }
    }
}
