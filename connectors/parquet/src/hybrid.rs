//! The hybrid of run lengths and bit packing that Parquet keeps levels and the indexes of dictionaries in:
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/#RLE>.

/// Values that are packed together.
const GROUP: usize = 8;

/// Appends `values` of at most `width` bits, which is 16 at most.
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
    write_varint(bytes, (values.len().div_ceil(GROUP) as u64) << 1 | 1);
    for group in values.chunks(GROUP) {
        let packed = group
            .iter()
            .rev()
            .fold(0u128, |packed, value| packed << width | u128::from(*value));
        bytes.extend_from_slice(&packed.to_le_bytes()[..width as usize]);
    }
}

fn write_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
