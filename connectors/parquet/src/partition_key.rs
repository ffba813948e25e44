//! Partition values of columns: computing them for a batch, and their text for a folder's name.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType,
};
use arrow_array::{Array, ArrayRef, Int32Array, PrimitiveArray};
use arrow_cast::cast;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use chrono::{DateTime, NaiveDate};

use crate::partition::{PartitionExpr, PartitionFault};

const SECONDS_PER_HOUR: i64 = 3600;

/// Whether `expr` can be applied to a column of this type.
pub(crate) fn suits(expr: &PartitionExpr, data_type: &DataType) -> bool {
    let timestamp = matches!(data_type, DataType::Timestamp(_, _));
    let text = matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Dictionary(_, _)
    );
    let discrete = data_type.is_integer() || text || matches!(data_type, DataType::Date32);
    match expr {
        PartitionExpr::Value(_) => discrete || matches!(data_type, DataType::Boolean),
        PartitionExpr::Day(_) => timestamp || matches!(data_type, DataType::Date32),
        PartitionExpr::Hour(_) => timestamp,
        PartitionExpr::Bucket(_, _) => {
            let binary = matches!(
                data_type,
                DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_)
            );
            let exact = matches!(data_type, DataType::Decimal128(_, _));
            (discrete && *data_type != DataType::UInt64) || timestamp || binary || exact
        }
    }
}

/// The partition value of every row: `Date32` for days, `Int64` hours since the epoch, `Int32`
/// buckets, or the column itself.
pub(crate) fn keys(expr: &PartitionExpr, column: &ArrayRef) -> Result<ArrayRef, PartitionFault> {
    let plain = match column.data_type() {
        DataType::Dictionary(_, value) => cast(column, value)?,
        _ => column.clone(),
    };
    let unsuitable = || PartitionFault::Unsuitable {
        expr: expr.to_string(),
        found: column.data_type().to_string(),
    };
    match expr {
        PartitionExpr::Value(_) => Ok(plain),
        PartitionExpr::Day(_) if *plain.data_type() == DataType::Date32 => Ok(plain),
        PartitionExpr::Day(_) => {
            let day = 24 * SECONDS_PER_HOUR;
            // Even the largest second count makes a day number of 48 bits; only nonsense is clamped.
            let narrow = |days: i64| i32::try_from(days).unwrap_or(if days < 0 { i32::MIN } else { i32::MAX });
            let periods = periods(&plain, day).ok_or_else(unsuitable)?;
            Ok(Arc::new(periods.unary::<_, Date32Type>(narrow)))
        }
        PartitionExpr::Hour(_) => Ok(Arc::new(periods(&plain, SECONDS_PER_HOUR).ok_or_else(unsuitable)?)),
        PartitionExpr::Bucket(count, _) => Ok(Arc::new(buckets(&plain, *count)?.ok_or_else(unsuitable)?)),
    }
}

/// How many whole periods of `seconds` lie between the epoch and each timestamp.
fn periods(column: &ArrayRef, seconds: i64) -> Option<PrimitiveArray<Int64Type>> {
    Some(match column.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => column
            .as_primitive::<TimestampMillisecondType>()
            .unary(|value| value.div_euclid(seconds * 1000)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => column
            .as_primitive::<TimestampMicrosecondType>()
            .unary(|value| value.div_euclid(seconds * 1_000_000)),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => column
            .as_primitive::<TimestampNanosecondType>()
            .unary(|value| value.div_euclid(seconds * 1_000_000_000)),
        _ => return None,
    })
}

fn buckets(column: &ArrayRef, count: u32) -> Result<Option<Int32Array>, ArrowError> {
    // The specification: (hash & Integer.MAX_VALUE) % N.
    let bucket = |bytes: &[u8]| (murmur3_32(bytes) & 0x7fff_ffff) % count;
    let small = |bytes: &[u8]| i32::try_from(bucket(bytes)).unwrap_or(0);
    let long = |value: i64| small(&value.to_le_bytes());
    let hashed = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary => {
            let bytes = cast(column, &DataType::LargeBinary)?;
            bytes.as_binary::<i64>().iter().map(|value| value.map(small)).collect()
        }
        DataType::LargeBinary => column.as_binary::<i64>().iter().map(|value| value.map(small)).collect(),
        DataType::FixedSizeBinary(_) => column
            .as_fixed_size_binary()
            .iter()
            .map(|value| value.map(small))
            .collect(),
        DataType::Decimal128(_, _) => {
            let minimal = |value: i128| {
                // Two's complement, big-endian, in the fewest bytes.
                let bytes = value.to_be_bytes();
                let fill = if value < 0 { 0xff } else { 0 };
                let redundant = |i: usize| bytes[i] == fill && (bytes[i + 1] ^ fill) & 0x80 == 0;
                let start = (0..15).take_while(|&i| redundant(i)).count();
                small(&bytes[start..])
            };
            column
                .as_primitive::<Decimal128Type>()
                .iter()
                .map(|value| value.map(minimal))
                .collect()
        }
        // Dates hash as days, timestamps as microseconds (nanoseconds floored), integers as longs.
        DataType::Date32 => column
            .as_primitive::<Date32Type>()
            .unary::<_, Int32Type>(|days| long(i64::from(days))),
        DataType::Timestamp(TimeUnit::Millisecond, _) => column
            .as_primitive::<TimestampMillisecondType>()
            .unary::<_, Int32Type>(|millis| long(millis.saturating_mul(1000))),
        DataType::Timestamp(TimeUnit::Microsecond, _) => column
            .as_primitive::<TimestampMicrosecondType>()
            .unary::<_, Int32Type>(long),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => column
            .as_primitive::<TimestampNanosecondType>()
            .unary::<_, Int32Type>(|nanos| long(nanos.div_euclid(1000))),
        integer if integer.is_integer() => cast(column, &DataType::Int64)?
            .as_primitive::<Int64Type>()
            .unary::<_, Int32Type>(long),
        _ => return Ok(None),
    };
    Ok(Some(hashed))
}

/// MurmurHash3 x86 32-bit with seed 0, by Austin Appleby (public domain algorithm).
fn murmur3_32(bytes: &[u8]) -> u32 {
    let mix = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0u32;
    let mut blocks = bytes.chunks_exact(4);
    for block in &mut blocks {
        let k = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        hash = (hash ^ mix(k))
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }
    let tail = blocks.remainder();
    if !tail.is_empty() {
        hash ^= mix(tail.iter().rev().fold(0, |k, byte| (k << 8) | u32::from(*byte)));
    }
    hash ^= u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// The text of one partition value; `None` for null.
pub(crate) fn text(expr: &PartitionExpr, keys: &ArrayRef, row: usize) -> Result<Option<String>, PartitionFault> {
    if keys.is_null(row) {
        return Ok(None);
    }
    let beyond = |negative: bool| {
        if negative {
            "-infinity".to_owned()
        } else {
            "infinity".to_owned()
        }
    };
    let text = match expr {
        _ if *keys.data_type() == DataType::Date32 => {
            let days = keys.as_primitive::<Date32Type>().value(row);
            // PostgreSQL's infinite dates lie outside of the calendar.
            let date = NaiveDate::from_epoch_days(days);
            date.map_or_else(|| beyond(days < 0), |date| date.format("%Y-%m-%d").to_string())
        }
        PartitionExpr::Hour(_) => {
            let hours = keys.as_primitive::<Int64Type>().value(row);
            let time = hours
                .checked_mul(SECONDS_PER_HOUR)
                .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
            time.map_or_else(|| beyond(hours < 0), |time| time.format("%Y-%m-%d-%H").to_string())
        }
        _ => ArrayFormatter::try_new(keys, &FormatOptions::default())?
            .value(row)
            .to_string(),
    };
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use arrow_array::{Date32Array, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    /// The hash itself: a bucket count of 2^31 leaves all bits but the sign.
    fn hash(column: ArrayRef) -> i32 {
        buckets(&column, 1 << 31).unwrap().unwrap().value(0)
    }

    fn sign_cut(hash: i32) -> i32 {
        hash & 0x7fff_ffff
    }

    /// Expected values from the Apache Iceberg specification, appendix B.
    #[test]
    fn hashes_are_those_of_iceberg() {
        assert_eq!(hash(Arc::new(Int32Array::from(vec![34]))), sign_cut(2_017_239_379));
        assert_eq!(hash(Arc::new(Int64Array::from(vec![34]))), sign_cut(2_017_239_379));
        assert_eq!(
            hash(Arc::new(StringArray::from(vec!["iceberg"]))),
            sign_cut(1_210_000_089)
        );
        assert_eq!(hash(Arc::new(Date32Array::from(vec![17_486]))), sign_cut(-653_330_422));
        let micros = 1_510_871_468_000_000;
        assert_eq!(
            hash(Arc::new(TimestampMicrosecondArray::from(vec![micros]))),
            sign_cut(-2_047_944_441)
        );
        let decimal = Decimal128Array::from(vec![1420])
            .with_precision_and_scale(9, 2)
            .unwrap();
        assert_eq!(hash(Arc::new(decimal)), sign_cut(-500_754_589));
        assert_eq!(
            hash(Arc::new(arrow_array::BinaryArray::from(vec![&[0u8, 1, 2, 3][..]]))),
            sign_cut(-188_683_207)
        );
    }

    #[test]
    fn days_and_hours_are_utc_and_floored() {
        let column: ArrayRef = Arc::new(
            TimestampMicrosecondArray::from(vec![
                Some(1_769_867_107_000_000),
                Some(-1),
                Some(i64::MAX),
                Some(i64::MIN),
                None,
            ])
            .with_timezone("UTC"),
        );
        let texts = |expr: PartitionExpr| -> Vec<Option<String>> {
            let keys = keys(&expr, &column).unwrap();
            (0..keys.len()).map(|row| text(&expr, &keys, row).unwrap()).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            texts(PartitionExpr::Day("t".into())),
            [
                some("2026-01-31"),
                some("1969-12-31"),
                some("infinity"),
                some("-infinity"),
                None
            ]
        );
        assert_eq!(
            texts(PartitionExpr::Hour("t".into())),
            [
                some("2026-01-31-13"),
                some("1969-12-31-23"),
                some("infinity"),
                some("-infinity"),
                None
            ]
        );
    }
}
