//! The hybrid of run lengths and bit packing that Parquet keeps levels and the indexes of dictionaries in:
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/#RLE>.

/// Values that are packed together.
const GROUP: usize = 8;

/// The bits of an index of a dictionary with so many values.
pub(crate) fn width(values: usize) -> u32 {
    u32::BITS - (values as u32).saturating_sub(1).leading_zeros()
}

/// Appends `values` of at most `width` bits, which is 32 at most.
pub(crate) fn write(bytes: &mut Vec<u8>, width: u32, values: &[u32]) {
    let mut packed = 0..0;
    let mut at = 0;
    while at < values.len() {
        let rest = &values[at..];
        let run = rest.iter().take_while(|value| **value == rest[0]).count();
        if run >= GROUP {
            write_packed(bytes, width, &values[packed.clone()]);
            write_run(bytes, rest[0], width.div_ceil(8) as usize, run);
            at += run;
            packed = at..at;
        } else {
            at += GROUP.min(rest.len());
            packed.end = at;
        }
    }
    write_packed(bytes, width, &values[packed]);
}

/// Appends a run of one value: the count, shifted, then the value in whole bytes.
pub(crate) fn write_run(bytes: &mut Vec<u8>, value: u32, value_bytes: usize, count: usize) {
    write_varint(bytes, (count as u64) << 1);
    bytes.extend_from_slice(&value.to_le_bytes()[..value_bytes]);
}

/// Appends values bit by bit: the number of groups, shifted, and one, then the values from their lowest bit
/// on. The last group is filled with zeros.
fn write_packed(bytes: &mut Vec<u8>, width: u32, values: &[u32]) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(GROUP);
    write_varint(bytes, (groups as u64) << 1 | 1);
    let end = bytes.len() + groups * width as usize;
    // Bits that have no byte yet: less than 32 before a value is added, which has 32 at most.
    let (mut waiting, mut bits) = (0u64, 0);
    for value in values {
        waiting |= u64::from(*value) << bits;
        bits += width;
        if bits >= 32 {
            bytes.extend_from_slice(&(waiting as u32).to_le_bytes());
            waiting >>= 32;
            bits -= 32;
        }
    }
    bytes.extend_from_slice(&waiting.to_le_bytes()[..bits.div_ceil(8) as usize]);
    bytes.resize(end, 0);
}

/// Appends a whole number in as many times seven bits as it has, the lowest first (ULEB128).
pub(crate) fn write_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the format describes it.
    fn read(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let (mut header, mut shift) = (0u64, 0);
            loop {
                let (byte, rest) = bytes.split_first().unwrap();
                bytes = rest;
                header |= u64::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            if header & 1 == 0 {
                let (value, rest) = bytes.split_at(width.div_ceil(8) as usize);
                bytes = rest;
                let mut whole = [0; 4];
                whole[..value.len()].copy_from_slice(value);
                values.extend(std::iter::repeat_n(u32::from_le_bytes(whole), (header >> 1) as usize));
                continue;
            }
            let groups = (header >> 1) as usize;
            let (packed, rest) = bytes.split_at(groups * width as usize);
            bytes = rest;
            let bit = |at: usize| u32::from(packed[at / 8] >> (at % 8) & 1);
            let value = |number: usize| {
                (0..width as usize)
                    .map(|at| bit(number * width as usize + at) << at)
                    .sum::<u32>()
            };
            values.extend((0..groups * GROUP).map(value));
        }
        assert!(bytes.is_empty(), "nothing follows");
        assert!(values.len() - count < GROUP, "the last group alone is filled");
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(
            runs in proptest::collection::vec((any::<u32>(), prop_oneof![4 => 1usize..4, 1 => 5usize..600]), 0..60),
            width in 0u32..=32,
        ) {
            let most = u32::MAX.checked_shr(32 - width).unwrap_or(0);
            let values: Vec<u32> = runs.iter().flat_map(|(value, count)| vec![value & most; *count]).collect();
            let mut bytes = Vec::new();
            write(&mut bytes, width, &values);
            prop_assert_eq!(read(&bytes, width, values.len()), values);
        }
    }
}
