//! Which keys and columns are asked for together.

use std::collections::{BTreeSet, HashMap};

use super::Answer;
use crate::decode::gaps::{Gap, KeyValue};

/// Gaps that are asked for together.
pub(super) struct Chunk<'a> {
    /// Each once.
    pub(super) keys: Vec<&'a [KeyValue]>,
    /// By gap: its key, if that is known.
    pub(super) places: Vec<Option<usize>>,
    /// Those that any of them lacks, ascending.
    pub(super) columns: Vec<usize>,
}

impl<'a> Chunk<'a> {
    /// The answers if none can be had.
    pub(super) fn nothing(&self) -> Vec<Answer> {
        self.keys.iter().map(|_| Answer::Nothing).collect()
    }

    /// The first of `gaps`, with at most so many keys.
    pub(super) fn of(gaps: &'a [Gap], most_keys: usize) -> Self {
        let (mut keys, mut places) = (Vec::new(), Vec::new());
        let mut numbers: HashMap<&[KeyValue], usize> = HashMap::new();
        let mut columns = BTreeSet::new();
        for gap in gaps {
            if gap.key.is_empty() {
                places.push(None);
                continue;
            }
            let key = gap.key.as_slice();
            let known = numbers.get(key).copied();
            if known.is_none() && keys.len() == most_keys {
                break;
            }
            let number = known.unwrap_or(keys.len());
            if known.is_none() {
                numbers.insert(key, number);
                keys.push(key);
            }
            places.push(Some(number));
            columns.extend(gap.columns.iter().copied());
        }
        Self {
            keys,
            places,
            columns: columns.into_iter().collect(),
        }
    }
}
