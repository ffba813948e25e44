//! Values written in a check's YAML, and what they are in a column's type.

use std::fmt;

use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A scalar as YAML has it. Numbers keep their kind; a number too long for a float is written
/// in quotes.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `true`
    Bool(bool),
    /// `42`
    Integer(i128),
    /// `0.5`
    Float(f64),
    /// `paid`, `"12345678901234567890.12"`, `2026-01-31`
    Text(String),
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

impl Literal {
    /// The value for a comparison with a column of type `column`, without any rounding: a bound
    /// that lies between two values of the column becomes a decimal of its own scale. Only a
    /// float is the nearest that the column can hold.
    ///
    /// # Errors
    /// In plain words, why it is no value of such a column.
    pub(super) fn for_column(&self, column: &DataType) -> Result<ScalarValue, String> {
        let column = match column {
            DataType::Dictionary(_, values) => values.as_ref(),
            other => other,
        };
        let wrong = || format!("`{self}` is not a value of type {}", super::type_name::of(column));
        let text = self.to_string();
        match column {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match self {
                Self::Text(_) => ScalarValue::try_from_string(text, column).map_err(|_| wrong()),
                // `007` would silently have become `7`, so the quotes are asked for.
                _ => Err(format!("{}: write it in quotes to compare texts", wrong())),
            },
            DataType::Boolean => match self {
                Self::Bool(value) => Ok(ScalarValue::Boolean(Some(*value))),
                _ => Err(wrong()),
            },
            integer if integer.is_integer() => match ScalarValue::try_from_string(text.clone(), integer) {
                Ok(value) if !matches!(self, Self::Bool(_)) => Ok(value),
                _ => decimal(&text).ok_or_else(wrong),
            },
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                decimal(&text).ok_or_else(wrong)
            }
            // `0.1` as the column has it: a real is never the double 0.1.
            DataType::Float32 => match text.parse::<f32>() {
                Ok(value) => Ok(ScalarValue::Float32(Some(value))),
                Err(_) => Err(wrong()),
            },
            float if float.is_floating() => match text.parse::<f64>() {
                Ok(value) => Ok(ScalarValue::Float64(Some(value))),
                Err(_) => Err(wrong()),
            },
            DataType::Date32
            | DataType::Date64
            | DataType::Timestamp(..)
            | DataType::Time32(_)
            | DataType::Time64(_) => match self {
                Self::Text(_) => match ScalarValue::try_from_string(text, column) {
                    Ok(value) if !value.is_null() => Ok(value),
                    _ => Err(wrong()),
                },
                _ => Err(wrong()),
            },
            _ => Err(format!(
                "columns of type {} cannot be compared with a value",
                super::type_name::of(column)
            )),
        }
    }
}

/// Whether a bound is meant as a number, though it may be written as text.
pub(super) fn is_number(literal: &Literal) -> bool {
    match literal {
        Literal::Integer(_) | Literal::Float(_) => true,
        Literal::Bool(_) => false,
        Literal::Text(text) => text.bytes().any(|byte| byte.is_ascii_digit()) && text.parse::<f64>().is_ok(),
    }
}

/// A decimal that holds exactly the digits of `text`; `None` if it is no plain decimal number
/// or has more than 38 digits.
fn decimal(text: &str) -> Option<ScalarValue> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let unscaled: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = i8::try_from(fraction.len()).ok()?;
    let precision = u8::try_from(unscaled.checked_ilog10().map_or(1, |log| log + 1).max(scale as u32)).ok()?;
    let signed = if text.starts_with('-') { -unscaled } else { unscaled };
    (precision <= 38).then_some(ScalarValue::Decimal128(Some(signed), precision, scale))
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LiteralVisitor)
    }
}

struct LiteralVisitor;

impl Visitor<'_> for LiteralVisitor {
    type Value = Literal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text or a boolean")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Literal, E> {
        Ok(Literal::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Literal, E> {
        Ok(Literal::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Literal, E> {
        Ok(Literal::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Literal, E> {
        Ok(Literal::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Literal, E> {
        Ok(Literal::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Literal, E> {
        Ok(Literal::Text(value.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Literal, E> {
        Err(E::custom(
            "NULL passes every check of values: use `not_null` to refuse it, and leave it out here",
        ))
    }

    fn visit_none<E: de::Error>(self) -> Result<Literal, E> {
        self.visit_unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_never_rounded_to_the_column() {
        let narrow = DataType::Decimal128(12, 2);
        assert_eq!(
            Literal::Float(0.005).for_column(&narrow).unwrap(),
            ScalarValue::Decimal128(Some(5), 3, 3)
        );
        assert_eq!(
            Literal::Text("-12.50".into()).for_column(&narrow).unwrap(),
            ScalarValue::Decimal128(Some(-125), 3, 1)
        );
        assert_eq!(
            Literal::Float(1.5).for_column(&DataType::Int64).unwrap(),
            ScalarValue::Decimal128(Some(15), 2, 1)
        );
        assert_eq!(
            Literal::Float(0.1).for_column(&DataType::Float32).unwrap(),
            ScalarValue::Float32(Some(0.1))
        );
        assert_eq!(
            Literal::Integer(7).for_column(&DataType::Int32).unwrap(),
            ScalarValue::Int32(Some(7))
        );
    }

    #[test]
    fn values_of_another_type_are_refused() {
        for (literal, column) in [
            (Literal::Text("abc".into()), DataType::Int64),
            (Literal::Integer(7), DataType::Utf8),
            (Literal::Text("yes".into()), DataType::Boolean),
            (Literal::Text("soon".into()), DataType::Date32),
            (Literal::Integer(7), DataType::Date32),
            (Literal::Bool(true), DataType::Int64),
        ] {
            assert!(literal.for_column(&column).is_err(), "{literal} {column}");
        }
        assert!(Literal::Text("2026-01-31".into()).for_column(&DataType::Date32).is_ok());
    }
}
