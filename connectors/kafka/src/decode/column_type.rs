//! The types a JSON column can be declared with, and their text in a configuration.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};

/// How a JSON value becomes an Arrow value. Every conversion is exact or refused, with one
/// exception that is the meaning of the type: a decimal fraction in a `float32` or `float64`
/// column becomes the nearest number of that type. An integer that such a column cannot hold
/// exactly is refused.
///
/// | text                                       | JSON                                        | Arrow |
/// |--------------------------------------------|---------------------------------------------|-------|
/// | `bool`                                     | `true`, `false`                             | Boolean |
/// | `int8` … `int64`, `uint8` … `uint64`       | an integer in range                         | the same |
/// | `float32`, `float64`                       | a number                                    | the same |
/// | `decimal(p,s)`                             | a number, or a string that holds one        | Decimal128(p, s) |
/// | `utf8`                                     | a string                                    | Utf8 |
/// | `json`                                     | anything, kept as the text it was sent in   | Utf8 |
/// | `date`                                     | a string `2026-01-31`                       | Date32 |
/// | `timestamp`                                | a string of RFC 3339, with its UTC offset   | Timestamp(µs, UTC) |
/// | `timestamp_s`, `timestamp_ms`, `timestamp_us` | an integer since the Unix epoch          | Timestamp(µs, UTC) |
/// | `timestamp_local`                          | a string `2026-01-31T10:00:00` without offset | Timestamp(µs) |
/// | `list<T>`                                  | an array                                    | List(T) |
/// | `struct<a: T, b: U>`                       | an object                                   | Struct |
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// `bool`
    Bool,
    /// `int8` to `int64`, by bits.
    Int(u8),
    /// `uint8` to `uint64`, by bits.
    UInt(u8),
    /// `float32`
    Float32,
    /// `float64`
    Float64,
    /// `decimal(precision,scale)`
    Decimal(u8, u8),
    /// `utf8`
    Utf8,
    /// `json`
    Json,
    /// `date`
    Date,
    /// `timestamp`: text with an offset.
    Timestamp,
    /// `timestamp_s`, `timestamp_ms`, `timestamp_us`: how many microseconds one unit is.
    Epoch(i64),
    /// `timestamp_local`: text without an offset.
    LocalTimestamp,
    /// `list<T>`
    List(Box<ColumnType>),
    /// `struct<name: T, …>`
    Struct(Vec<(String, ColumnType)>),
}

impl ColumnType {
    /// The Arrow type of the column. Everything inside is nullable.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int(8) => DataType::Int8,
            Self::Int(16) => DataType::Int16,
            Self::Int(32) => DataType::Int32,
            Self::Int(_) => DataType::Int64,
            Self::UInt(8) => DataType::UInt8,
            Self::UInt(16) => DataType::UInt16,
            Self::UInt(32) => DataType::UInt32,
            Self::UInt(_) => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            // At most 38, so that it fits an i8 too.
            Self::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale as i8),
            Self::Utf8 | Self::Json => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::Timestamp | Self::Epoch(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::LocalTimestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::List(item) => DataType::List(Arc::new(Field::new_list_field(item.data_type(), true))),
            Self::Struct(fields) => DataType::Struct(struct_fields(fields)),
        }
    }
}

/// The Arrow fields of named columns, all nullable.
pub fn struct_fields(columns: &[(String, ColumnType)]) -> Fields {
    columns
        .iter()
        .map(|(name, column)| Field::new(name, column.data_type(), true))
        .collect()
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int(bits) => write!(f, "int{bits}"),
            Self::UInt(bits) => write!(f, "uint{bits}"),
            Self::Float32 => f.write_str("float32"),
            Self::Float64 => f.write_str("float64"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
            Self::Utf8 => f.write_str("utf8"),
            Self::Json => f.write_str("json"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Epoch(1) => f.write_str("timestamp_us"),
            Self::Epoch(1_000) => f.write_str("timestamp_ms"),
            Self::Epoch(_) => f.write_str("timestamp_s"),
            Self::LocalTimestamp => f.write_str("timestamp_local"),
            Self::List(item) => write!(f, "list<{item}>"),
            Self::Struct(fields) => {
                f.write_str("struct<")?;
                for (index, (name, column)) in fields.iter().enumerate() {
                    write!(f, "{}{name}: {column}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str(">")
            }
        }
    }
}

/// The text names no column type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a column type: expected bool, int8 to int64, uint8 to uint64, float32, float64, decimal(p,s), utf8, \
     json, date, timestamp, timestamp_s, timestamp_ms, timestamp_us, timestamp_local, list<T> or struct<name: T, …>"
)]
pub struct UnknownType(String);

impl FromStr for ColumnType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.trim(), 0).ok_or_else(|| UnknownType(text.to_owned()))
    }
}

/// Types nest at most this deep; it bounds the recursion of the decoder.
const DEEPEST: usize = 16;

fn parse(text: &str, depth: usize) -> Option<ColumnType> {
    if depth > DEEPEST {
        return None;
    }
    Some(match text {
        "bool" => ColumnType::Bool,
        "int8" => ColumnType::Int(8),
        "int16" => ColumnType::Int(16),
        "int32" => ColumnType::Int(32),
        "int64" => ColumnType::Int(64),
        "uint8" => ColumnType::UInt(8),
        "uint16" => ColumnType::UInt(16),
        "uint32" => ColumnType::UInt(32),
        "uint64" => ColumnType::UInt(64),
        "float32" => ColumnType::Float32,
        "float64" => ColumnType::Float64,
        "utf8" => ColumnType::Utf8,
        "json" => ColumnType::Json,
        "date" => ColumnType::Date,
        "timestamp" => ColumnType::Timestamp,
        "timestamp_s" => ColumnType::Epoch(1_000_000),
        "timestamp_ms" => ColumnType::Epoch(1_000),
        "timestamp_us" => ColumnType::Epoch(1),
        "timestamp_local" => ColumnType::LocalTimestamp,
        _ => return parse_compound(text, depth),
    })
}

fn parse_compound(text: &str, depth: usize) -> Option<ColumnType> {
    let inside = |start: &str, end: &str| text.strip_prefix(start)?.strip_suffix(end).map(str::trim);
    if let Some(digits) = inside("decimal(", ")") {
        let (precision, scale) = digits.split_once(',')?;
        let (precision, scale): (u8, u8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
        return (1..=38)
            .contains(&precision)
            .then_some(())
            .and_then(|()| (scale <= precision).then_some(ColumnType::Decimal(precision, scale)));
    }
    if let Some(item) = inside("list<", ">") {
        return Some(ColumnType::List(Box::new(parse(item, depth + 1)?)));
    }
    let mut fields: Vec<(String, ColumnType)> = Vec::new();
    for field in split_at_top_level(inside("struct<", ">")?) {
        let (name, column) = field.split_once(':')?;
        let name = name.trim();
        if name.is_empty() || fields.iter().any(|(other, _)| other == name) {
            return None;
        }
        fields.push((name.to_owned(), parse(column.trim(), depth + 1)?));
    }
    Some(ColumnType::Struct(fields))
}

/// Splits at the commas that stand inside no bracket.
fn split_at_top_level(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    text.split(move |c| {
        match c {
            '<' | '(' => depth += 1,
            '>' | ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_its_text() {
        for text in [
            "bool",
            "int8",
            "uint64",
            "float32",
            "decimal(18,2)",
            "utf8",
            "json",
            "date",
            "timestamp",
            "timestamp_s",
            "timestamp_ms",
            "timestamp_us",
            "timestamp_local",
            "list<list<utf8>>",
            "struct<a: decimal(38,0), b: struct<c: list<int8>, d: bool>>",
        ] {
            assert_eq!(text.parse::<ColumnType>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_type_is_refused() {
        let deep = format!("{}int8{}", "list<".repeat(40), ">".repeat(40));
        for text in [
            "int",
            "decimal(39,0)",
            "decimal(5,6)",
            "list<>",
            "struct<a>",
            "struct<a: int8, a: int8>",
            &deep,
        ] {
            assert!(text.parse::<ColumnType>().is_err(), "{text}");
        }
    }
}
