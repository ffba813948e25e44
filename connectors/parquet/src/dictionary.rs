//! The different numbers of a column chunk, where they are few.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

use crate::differences::Number;
use crate::hybrid;

/// Numbers by their index, and the other way round.
pub(crate) struct Dictionary<T> {
    numbers: Vec<T>,
    indexes: HashMap<T, u32, RandomState>,
    /// Numbers that were looked up, each where its bits have it.
    recent: Box<[(T, u32); SLOTS]>,
}

const SLOTS: usize = 512;
/// The index in a slot that has no number yet.
const NONE: u32 = u32::MAX;

impl<T: Number + Hash> Dictionary<T> {
    pub(crate) fn new() -> Self {
        Self {
            numbers: Vec::new(),
            indexes: HashMap::default(),
            recent: Box::new([(T::default(), NONE); SLOTS]),
        }
    }

    /// The index of a number, which gets one if it has none.
    pub(crate) fn index_of(&mut self, number: T) -> u32 {
        let slot = &mut self.recent[slot(number)];
        if slot.0 == number && slot.1 != NONE {
            return slot.1;
        }
        let next = self.numbers.len() as u32;
        let index = *self.indexes.entry(number).or_insert(next);
        if index == next {
            self.numbers.push(number);
        }
        *slot = (number, index);
        index
    }

    /// The numbers by their index.
    pub(crate) fn numbers(&self) -> &[T] {
        &self.numbers
    }

    /// The bits of an index.
    pub(crate) fn width(&self) -> u32 {
        hybrid::width(self.numbers.len())
    }

    /// The memory that it takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        size_of_val(&*self.recent) + 3 * self.numbers.capacity() * size_of::<(T, u32)>()
    }
}

fn slot<T: Number>(number: T) -> usize {
    // An odd number with bits all over spreads what is multiplied over the upper bits.
    let mixed = number.widened().cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> (u64::BITS - SLOTS.ilog2())) as usize
}
