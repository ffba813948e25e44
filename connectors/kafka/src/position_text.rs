//! The texts of positions, of which each row has one.

use std::ops::Deref;
use std::{mem, str};

use arrow_array::StringArray;
use arrow_buffer::OffsetBuffer;

/// Bytes of a text.
const LENGTH: usize = 20;

/// The text of the position at which an offset was read: 20 digits, so that it sorts as the log
/// does. The offset before the first message is -1, and `-` sorts before every digit.
///
/// Each row has one: the standard library's formatting took a tenth of a row's time.
pub struct PositionText([u8; LENGTH]);

impl PositionText {
    /// The text for `offset`.
    pub fn new(offset: i64) -> Self {
        let (mut digits, mut rest) = ([b'0'; LENGTH], offset.unsigned_abs());
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        if offset < 0 {
            digits[0] = b'-';
        }
        Self(digits)
    }

    /// Makes it the text of the offset behind its own, which is no message's if it is below 0.
    fn count_on(&mut self) {
        for digit in self.0.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
    }
}

impl Deref for PositionText {
    type Target = str;

    fn deref(&self) -> &str {
        str::from_utf8(&self.0).expect("digits are text")
    }
}

/// The texts of the positions of messages. Nearly all offsets are those behind the one before.
pub struct PositionBuilder {
    /// The texts, one behind the other.
    bytes: Vec<u8>,
    /// The offset that comes next, with its text.
    next: (i64, PositionText),
}

impl PositionBuilder {
    /// With room for so many.
    pub fn with_capacity(most: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(most * LENGTH),
            next: (0, PositionText::new(0)),
        }
    }

    /// Appends the position of the message at `offset`, which is not below 0.
    pub fn append(&mut self, offset: i64) {
        let (next, text) = &mut self.next;
        if *next != offset {
            *text = PositionText::new(offset);
        }
        self.bytes.extend_from_slice(&text.0);
        text.count_on();
        *next = offset.wrapping_add(1);
    }

    /// The texts; the builder is empty afterwards.
    pub fn finish(&mut self) -> StringArray {
        let bytes = mem::take(&mut self.bytes);
        let offsets = OffsetBuffer::from_repeated_length(LENGTH, bytes.len() / LENGTH);
        // The check of the digits is one for all of them.
        StringArray::new(offsets, bytes.into(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_sort_as_offsets_do_and_those_that_follow_are_counted() {
        let offsets = [0, 1, 9, 10, 99, 100, 57, 1_999, 2_000, i64::MAX, 3];
        let mut builder = PositionBuilder::with_capacity(2);
        for _ in 0..2 {
            offsets.iter().for_each(|offset| builder.append(*offset));
            let expected: Vec<String> = offsets.iter().map(|offset| format!("{offset:020}")).collect();
            assert_eq!(builder.finish(), StringArray::from(expected));
        }
        assert!(*PositionText::new(-1) < *PositionText::new(0));
    }
}
