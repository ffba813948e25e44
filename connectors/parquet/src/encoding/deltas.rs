//! How far the numbers of a column are from their neighbours.

use arrow_array::{Array, ArrayRef, downcast_primitive_array};
use arrow_buffer::ArrowNativeType;
use arrow_schema::DataType;

use super::SAMPLE;

/// Twice as many values as we give one width, with the one before them.
const NEIGHBOURS: usize = 65;

/// Bits of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deltas {
    /// As a difference from the value before, about: too few where values fall back now and then.
    pub(super) bits: u32,
    /// As it is.
    pub(super) plain_bits: u32,
}

impl Deltas {
    /// Looks at a column; `None` if its type is not encoded so, or it has no neighbours.
    pub(super) fn of(column: &ArrayRef) -> Option<Self> {
        let plain_bits = plain_bits(column.data_type())?;
        let places = SAMPLE / NEIGHBOURS;
        let far = column.len().saturating_sub(NEIGHBOURS);
        let part = (far / places).max(NEIGHBOURS);
        let widths = (0..=far)
            .step_by(part)
            .filter_map(|first| width(column, first, NEIGHBOURS.min(column.len() - first)));
        let (count, sum) = widths.fold((0, 0), |(count, sum), width| (count + 1, sum + width));
        (count > 0).then(|| Self {
            bits: sum.div_ceil(count),
            plain_bits,
        })
    }
}

/// Bits of the physical type that the `parquet` crate writes for numbers of a type, if that is an integer.
fn plain_bits(r#type: &DataType) -> Option<u32> {
    use DataType::{
        Date32, Decimal32, Decimal64, Decimal128, Int8, Int16, Int32, Int64, Time32, Time64, Timestamp, UInt8, UInt16,
        UInt32, UInt64,
    };
    match r#type {
        Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 | Date32 | Time32(_) => Some(32),
        Int64 | UInt64 | Time64(_) | Timestamp(..) => Some(64),
        Decimal32(precision, _) | Decimal64(precision, _) | Decimal128(precision, _) => match precision {
            2..=9 => Some(32),
            1 | 10..=18 => Some(64),
            _ => None,
        },
        _ => None,
    }
}

/// The bits that the differences of neighbours take, if there are any.
fn width(column: &ArrayRef, first: usize, count: usize) -> Option<u32> {
    let slice = column.slice(first, count);
    let rows = slice.as_ref();
    let values: Vec<i64> = downcast_primitive_array!(
        rows => rows.iter().flatten().filter_map(ArrowNativeType::to_i64).collect(),
        _ => return None
    );
    let deltas = values.windows(2).map(|pair| i128::from(pair[1]) - i128::from(pair[0]));
    let (least, most) = deltas.fold((i128::MAX, i128::MIN), |(least, most), delta| {
        (least.min(delta), most.max(delta))
    });
    (least <= most).then(|| i128::BITS - (most - least).leading_zeros())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Decimal128Array, Float64Array, Int32Array, Int64Array};

    use super::*;

    fn bits(column: ArrayRef) -> Option<(u32, u32)> {
        Deltas::of(&column).map(|deltas| (deltas.bits, deltas.plain_bits))
    }

    #[test]
    fn differences_take_the_bits_of_their_range() {
        for rows in [2, 64, 65, 66, 1000, 50_000] {
            assert_eq!(
                bits(Arc::new(Int64Array::from_iter_values(7..7 + rows))),
                Some((0, 64)),
                "{rows}"
            );
            let jumping = (0..rows).map(|row| row as i32 % 2 * 100);
            let expected = if rows == 2 { 0 } else { 8 };
            assert_eq!(
                bits(Arc::new(Int32Array::from_iter_values(jumping))),
                Some((expected, 32)),
                "{rows}"
            );
        }
        let far = (0..1000).map(|row| if row % 2 == 0 { i64::MIN } else { i64::MAX });
        assert_eq!(bits(Arc::new(Int64Array::from_iter_values(far))), Some((65, 64)));
    }

    #[test]
    fn nulls_have_no_neighbours() {
        let sparse: Int64Array = (0..500).map(|row| (row % 3 == 0).then_some(row)).collect();
        assert_eq!(bits(Arc::new(sparse)), Some((0, 64)));
        assert_eq!(bits(Arc::new(Int64Array::new_null(500))), None);
        assert_eq!(bits(Arc::new(Int64Array::from(vec![1]))), None);
    }

    #[test]
    fn what_is_no_integer_in_the_file_has_none() {
        let decimal = |precision| -> ArrayRef {
            let values = Decimal128Array::from_iter_values(0..100);
            Arc::new(values.with_precision_and_scale(precision, 2).unwrap())
        };
        assert_eq!(bits(decimal(9)), Some((0, 32)));
        assert_eq!(bits(decimal(12)), Some((0, 64)));
        assert_eq!(bits(decimal(19)), None);
        assert_eq!(bits(Arc::new(Float64Array::from(vec![1.0; 100]))), None);
    }
}
