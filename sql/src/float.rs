//! Floats that compare as PostgreSQL compares them: every NaN equals every other and is greater
//! than all numbers, and the two zeros are equal. Arrow compares the bits: a NaN with its sign
//! set, which `inf - inf` gives, would be below all numbers.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType};
use arrow_schema::DataType;
use datafusion::common::ScalarValue;

/// What becomes of a zero with its sign set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Zeros {
    /// It stays, since it is a value of its own.
    Signed,
    /// It is made the other one, for a comparison.
    Equal,
}

/// The values with floats in their normal form; values of other types as they are.
pub(crate) fn normal(values: &ArrayRef, zeros: Zeros) -> ArrayRef {
    match values.data_type() {
        DataType::Float32 => each::<Float32Type>(values, |value| normal_32(value, zeros)),
        DataType::Float64 => each::<Float64Type>(values, |value| normal_64(value, zeros)),
        _ => values.clone(),
    }
}

/// As [`normal`], of one value.
pub(crate) fn normal_scalar(value: ScalarValue, zeros: Zeros) -> ScalarValue {
    match value {
        ScalarValue::Float32(Some(value)) => ScalarValue::Float32(Some(normal_32(value, zeros))),
        ScalarValue::Float64(Some(value)) => ScalarValue::Float64(Some(normal_64(value, zeros))),
        other => other,
    }
}

/// Whether the value is its own normal form.
pub(crate) fn is_normal(value: &ScalarValue) -> bool {
    // Scalars compare floats by their bits.
    normal_scalar(value.clone(), Zeros::Signed) == *value
}

fn each<T: ArrowPrimitiveType>(values: &ArrayRef, normal: impl Fn(T::Native) -> T::Native) -> ArrayRef {
    let floats = values.as_primitive::<T>();
    if floats.values().iter().all(|value| normal(*value).is_eq(*value)) {
        return values.clone();
    }
    Arc::new(floats.unary::<_, T>(normal))
}

fn normal_32(value: f32, zeros: Zeros) -> f32 {
    match value {
        nan if nan.is_nan() => f32::NAN,
        zero if zero == 0.0 && zeros == Zeros::Equal => 0.0,
        value => value,
    }
}

fn normal_64(value: f64, zeros: Zeros) -> f64 {
    match value {
        nan if nan.is_nan() => f64::NAN,
        zero if zero == 0.0 && zeros == Zeros::Equal => 0.0,
        value => value,
    }
}
