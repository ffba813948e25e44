//! Numbers as differences from the one before them (`DELTA_BINARY_PACKED`):
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/#DELTAENC>.
//!
//! `parquet` puts each difference into its bits by itself, of a width that it learns for each of them. Here those
//! of a miniblock, which have one width, are put together, by code for that width.

use crate::hybrid::write_varint;

/// Differences that have their least one in common: as few as the format allows.
const BLOCK: usize = 128;
/// Differences of one width.
const MINIBLOCK: usize = 32;
const MINIBLOCKS: usize = BLOCK / MINIBLOCK;

/// A number as a file stores it.
pub(crate) trait Number: Copy + Ord + Default {
    /// This minus `other`, in as many bits as both have.
    fn minus(self, other: Self) -> Self;
    /// How far this is above `least`, which may be further than the greatest number.
    fn above(self, least: Self) -> u64;
    /// The same number.
    fn widened(self) -> i64;
}

impl Number for i32 {
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    fn above(self, least: Self) -> u64 {
        u64::from(self.wrapping_sub(least).cast_unsigned())
    }

    fn widened(self) -> i64 {
        i64::from(self)
    }
}

impl Number for i64 {
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    fn above(self, least: Self) -> u64 {
        self.wrapping_sub(least).cast_unsigned()
    }

    fn widened(self) -> i64 {
        self
    }
}

/// Appends all of the values of a page.
pub(crate) fn write<T: Number>(bytes: &mut Vec<u8>, values: &[T]) {
    write_varint(bytes, BLOCK as u64);
    write_varint(bytes, MINIBLOCKS as u64);
    write_varint(bytes, values.len() as u64);
    write_zigzag(bytes, values.first().copied().unwrap_or_default().widened());
    let Some((_, later)) = values.split_first() else { return };
    for (later, earlier) in later.chunks(BLOCK).zip(values.chunks(BLOCK)) {
        let mut differences = [T::default(); BLOCK];
        let differences = &mut differences[..later.len()];
        for ((difference, later), earlier) in differences.iter_mut().zip(later).zip(earlier) {
            *difference = later.minus(*earlier);
        }
        write_block(bytes, differences);
    }
}

/// Appends the least difference, the width of each miniblock, and the miniblocks.
fn write_block<T: Number>(bytes: &mut Vec<u8>, differences: &[T]) {
    let least = differences.iter().copied().min().unwrap_or_default();
    write_zigzag(bytes, least.widened());
    let widths = bytes.len();
    bytes.extend_from_slice(&[0; MINIBLOCKS]);
    for (miniblock, differences) in differences.chunks(MINIBLOCK).enumerate() {
        // A miniblock that is not full is filled with zeros.
        let mut above = [0; MINIBLOCK];
        let mut bits = 0;
        for (above, difference) in above.iter_mut().zip(differences) {
            *above = difference.above(least);
            bits |= *above;
        }
        let width = u64::BITS - bits.leading_zeros();
        bytes[widths + miniblock] = width as u8;
        PACK[width as usize](bytes, &above);
    }
}

/// A number whose sign is its lowest bit, so that small ones are short.
fn write_zigzag(bytes: &mut Vec<u8>, value: i64) {
    write_varint(bytes, (value << 1 ^ value >> 63).cast_unsigned());
}

/// Appends the values of a miniblock from their lowest bit on, `WIDTH` bits of each.
fn pack<const WIDTH: usize>(bytes: &mut Vec<u8>, values: &[u64; MINIBLOCK]) {
    let mut words = [0; MINIBLOCK + 1];
    macro_rules! put {
        ($($at:literal)*) => { $( put::<WIDTH, $at>(&mut words, values); )* };
    }
    put!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    let mut packed = [0; MINIBLOCK * 8];
    for (packed, word) in packed.chunks_exact_mut(8).zip(words) {
        packed.copy_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&packed[..MINIBLOCK * WIDTH / 8]);
}

/// Puts one value into its place. Where that is, and whether it goes on in the next word, is known when this is
/// compiled.
#[inline(always)]
fn put<const WIDTH: usize, const AT: usize>(words: &mut [u64; MINIBLOCK + 1], values: &[u64; MINIBLOCK]) {
    let (word, shift) = (AT * WIDTH / 64, AT * WIDTH % 64);
    words[word] |= values[AT] << shift;
    if shift + WIDTH > 64 {
        words[word + 1] |= values[AT] >> (64 - shift);
    }
}

type Pack = fn(&mut Vec<u8>, &[u64; MINIBLOCK]);

/// By width.
const PACK: [Pack; 65] = {
    macro_rules! by_width {
        ($($width:literal)*) => { [ $( pack::<$width> ),* ] };
    }
    by_width!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
        33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64
    )
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Reader<'a>(&'a [u8]);

    impl Reader<'_> {
        fn varint(&mut self) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let (byte, rest) = self.0.split_first().unwrap();
                self.0 = rest;
                value |= u64::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        }

        fn zigzag(&mut self) -> i64 {
            let value = self.varint();
            (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
        }

        fn take(&mut self, count: usize) -> &[u8] {
            let (head, rest) = self.0.split_at(count);
            self.0 = rest;
            head
        }
    }

    /// As the format describes it; `wrap` takes sums back into the width of the numbers.
    fn read(bytes: &[u8], wrap: impl Fn(i64) -> i64) -> Vec<i64> {
        let mut reader = Reader(bytes);
        let (block, miniblocks, count) = (
            reader.varint() as usize,
            reader.varint() as usize,
            reader.varint() as usize,
        );
        assert_eq!((block % 128, block / miniblocks % 32), (0, 0));
        let mut last = reader.zigzag();
        let mut values = if count == 0 { Vec::new() } else { vec![last] };
        while values.len() < count {
            let least = reader.zigzag();
            let widths = reader.take(miniblocks).to_vec();
            for width in widths.into_iter().map(usize::from) {
                if values.len() >= count {
                    assert_eq!(width, 0, "a miniblock that is not there");
                    continue;
                }
                let per_miniblock = block / miniblocks;
                let packed = reader.take(per_miniblock * width / 8);
                let bit = |at: usize| u64::from(packed[at / 8] >> (at % 8) & 1);
                for number in 0..per_miniblock {
                    let above: u64 = (0..width).map(|at| bit(number * width + at) << at).sum();
                    last = wrap(last.wrapping_add(least).wrapping_add(above.cast_signed()));
                    values.push(last);
                }
            }
        }
        assert!(reader.0.is_empty(), "nothing follows");
        values.truncate(count);
        values
    }

    fn of_bits() -> impl Strategy<Value = Vec<i64>> {
        let run = (0u32..=64, prop_oneof![1usize..4, 30usize..35, 120usize..300]);
        proptest::collection::vec((run, any::<u64>()), 0..6).prop_map(|runs| {
            let mut values = Vec::new();
            for ((bits, count), seed) in runs {
                let mut state = seed | 1;
                for _ in 0..count {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    values.push(state.checked_shr(64 - bits).unwrap_or(0).cast_signed());
                }
            }
            values
        })
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(values in of_bits()) {
            let mut bytes = Vec::new();
            write(&mut bytes, &values);
            prop_assert_eq!(&read(&bytes, |value| value), &values);

            let short: Vec<i32> = values.iter().map(|value| *value as i32).collect();
            let mut bytes = Vec::new();
            write(&mut bytes, &short);
            let read = read(&bytes, |value| i64::from(value as i32));
            prop_assert_eq!(read, short.iter().copied().map(i64::from).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_width_has_its_bits() {
        for width in 0..=64u32 {
            let most = u64::MAX.checked_shr(64 - width).unwrap_or(0);
            let values: [u64; MINIBLOCK] =
                std::array::from_fn(|at| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) & most);
            let mut bytes = Vec::new();
            PACK[width as usize](&mut bytes, &values);
            assert_eq!(bytes.len(), 4 * width as usize);
            let bit = |at: usize| u64::from(bytes[at / 8] >> (at % 8) & 1);
            for (number, value) in values.iter().enumerate() {
                let read: u64 = (0..width as usize)
                    .map(|at| bit(number * width as usize + at) << at)
                    .sum();
                assert_eq!(read, *value, "{width} bits, value {number}");
            }
        }
    }

    #[test]
    fn a_progression_takes_next_to_nothing() {
        let mut bytes = Vec::new();
        write(&mut bytes, &(0..10_000i64).collect::<Vec<_>>());
        // Of each block its least difference and four widths.
        assert_eq!(bytes.len(), 6 + 79 * 5);
    }
}
