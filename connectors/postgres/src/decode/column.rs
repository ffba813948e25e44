//! Builders that take one wire value at a time, in either format.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, PrimitiveBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType};

use super::column_type::{ColumnType, Form, Scalar, TextForm};
use super::list::ListColumn;
use super::text_form::{exactly, utf8, versioned, write_char, write_text_form};
use super::texts::{MAX_COLUMN_BYTES, TextBuilder};
use super::value_error::{Result, ValueError};
use super::vector::VectorColumn;
use super::{TupleValue, calendar, numeric};

/// Collects the values of one column.
///
/// A call that returns an error has appended nothing; a null must then be appended in the
/// value's place before anything else.
pub(super) enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Oid(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Decimal128 {
        values: Decimal128Builder,
        precision: u8,
        scale: u8,
    },
    Decimal256 {
        values: Decimal256Builder,
        precision: u8,
        scale: u8,
    },
    Bytes {
        values: BinaryBuilder,
        /// What the text begins with, before the hex digits.
        prefix: &'static [u8],
        scratch: Vec<u8>,
    },
    Text {
        values: TextBuilder,
        form: TextForm,
        scratch: String,
    },
    List(Box<ListColumn>),
    Vector(VectorColumn),
}

impl ColumnBuilder {
    /// An empty builder for a column of this type.
    pub(super) fn new(r#type: &ColumnType) -> Self {
        match &r#type.form {
            Form::Scalar(scalar) => Self::scalar(scalar),
            Form::List(element) => Self::List(Box::new(ListColumn::new(element))),
            Form::Vector(width) => Self::Vector(VectorColumn::new(*width)),
        }
    }

    pub(super) fn scalar(scalar: &Scalar) -> Self {
        match *scalar {
            Scalar::Bool => Self::Bool(BooleanBuilder::new()),
            Scalar::Int2 => Self::Int16(Int16Builder::new()),
            Scalar::Int4 => Self::Int32(Int32Builder::new()),
            Scalar::Int8 => Self::Int64(Int64Builder::new()),
            Scalar::Oid => Self::Oid(Int64Builder::new()),
            Scalar::Float4 => Self::Float32(Float32Builder::new()),
            Scalar::Float8 => Self::Float64(Float64Builder::new()),
            Scalar::Date => Self::Date(Date32Builder::new()),
            Scalar::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Scalar::Timestamp { .. } => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(scalar.arrow()))
            }
            Scalar::Decimal128 { precision, scale } => {
                let values = Decimal128Builder::new().with_data_type(scalar.arrow());
                Self::Decimal128 {
                    values,
                    precision,
                    scale,
                }
            }
            Scalar::Decimal256 { precision, scale } => {
                let values = Decimal256Builder::new().with_data_type(scalar.arrow());
                Self::Decimal256 {
                    values,
                    precision,
                    scale,
                }
            }
            Scalar::Bytea => Self::Bytes {
                values: BinaryBuilder::new(),
                prefix: b"\\x",
                scratch: Vec::new(),
            },
            Scalar::Ewkb => Self::Bytes {
                values: BinaryBuilder::new(),
                prefix: b"",
                scratch: Vec::new(),
            },
            Scalar::Text(ref form) => Self::Text {
                values: TextBuilder::with_capacity(0, 0),
                form: form.clone(),
                scratch: String::new(),
            },
        }
    }

    /// Makes room for `rows` values, and for `bytes` of those of any length. Nothing may have been appended yet.
    pub(super) fn reserve(&mut self, rows: usize, bytes: usize) {
        fn primitive<T: ArrowPrimitiveType>(values: &mut PrimitiveBuilder<T>, rows: usize) {
            // The type may have a scale or a time zone.
            let data_type = values.finish().data_type().clone();
            *values = PrimitiveBuilder::with_capacity(rows).with_data_type(data_type);
        }
        match self {
            Self::Bool(values) => *values = BooleanBuilder::with_capacity(rows),
            Self::Int16(values) => primitive(values, rows),
            Self::Int32(values) => primitive(values, rows),
            Self::Int64(values) | Self::Oid(values) => primitive(values, rows),
            Self::Float32(values) => primitive(values, rows),
            Self::Float64(values) => primitive(values, rows),
            Self::Date(values) => primitive(values, rows),
            Self::Time(values) => primitive(values, rows),
            Self::Timestamp(values) => primitive(values, rows),
            Self::Decimal128 { values, .. } => primitive(values, rows),
            Self::Decimal256 { values, .. } => primitive(values, rows),
            Self::Bytes { values, .. } => *values = BinaryBuilder::with_capacity(rows, bytes),
            Self::Text { values, .. } => *values = TextBuilder::with_capacity(rows, bytes),
            Self::List(_) | Self::Vector(_) => {}
        }
    }

    /// Appends a value as it was sent; a null for one that was not.
    pub(super) fn append(&mut self, value: TupleValue<'_>) -> Result<()> {
        match value {
            TupleValue::Null | TupleValue::Unchanged => {
                self.append_null();
                Ok(())
            }
            TupleValue::Text(text) => self.append_text(text),
            TupleValue::Binary(bytes) => self.append_binary(bytes),
        }
    }

    /// Appends a value in its type's binary format.
    pub(super) fn append_binary(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Bool(values) => match bytes {
                [flag] => values.append_value(*flag != 0),
                _ => return Err(ValueError::Length),
            },
            Self::Int16(values) => values.append_value(i16::from_be_bytes(exactly(bytes)?)),
            Self::Int32(values) => values.append_value(i32::from_be_bytes(exactly(bytes)?)),
            Self::Int64(values) => values.append_value(i64::from_be_bytes(exactly(bytes)?)),
            Self::Oid(values) => values.append_value(i64::from(u32::from_be_bytes(exactly(bytes)?))),
            Self::Float32(values) => values.append_value(f32::from_be_bytes(exactly(bytes)?)),
            Self::Float64(values) => values.append_value(f64::from_be_bytes(exactly(bytes)?)),
            Self::Date(values) => {
                values.append_value(calendar::days_from_wire(i32::from_be_bytes(exactly(bytes)?))?);
            }
            Self::Time(values) => {
                values.append_value(calendar::time_from_wire(i64::from_be_bytes(exactly(bytes)?))?);
            }
            Self::Timestamp(values) => {
                values.append_value(calendar::micros_from_wire(i64::from_be_bytes(exactly(bytes)?))?);
            }
            Self::Decimal128 {
                values,
                precision,
                scale,
            } => {
                values.append_value(numeric::unscaled_from_wire(bytes, *precision, *scale)?);
            }
            Self::Decimal256 {
                values,
                precision,
                scale,
            } => {
                values.append_value(numeric::unscaled_from_wire(bytes, *precision, *scale)?);
            }
            Self::Bytes { values, .. } => append_bytes(values, bytes)?,
            Self::Text {
                values,
                form: TextForm::Verbatim,
                ..
            } => values.append(utf8(bytes)?)?,
            Self::Text {
                values,
                form: TextForm::Versioned,
                ..
            } => values.append(utf8(versioned(bytes)?)?)?,
            Self::Text { values, form, scratch } => {
                scratch.clear();
                write_text_form(scratch, form, bytes)?;
                values.append(scratch)?;
            }
            Self::List(list) => list.append_binary(bytes)?,
            Self::Vector(vectors) => vectors.append_binary(bytes)?,
        }
        Ok(())
    }

    /// Appends a value in its type's text format, with DateStyle ISO, IntervalStyle postgres,
    /// extra_float_digits 1 or more, bytea_output hex and client encoding UTF8.
    pub(super) fn append_text(&mut self, text: &[u8]) -> Result<()> {
        const NOT_A_NUMBER: ValueError = ValueError::Malformed("not a number of this type");
        match self {
            Self::Bool(values) => match text {
                b"t" => values.append_value(true),
                b"f" => values.append_value(false),
                _ => return Err(ValueError::Malformed("neither t nor f")),
            },
            Self::Int16(values) => values.append_value(parse_integer(text)?.try_into().map_err(|_| NOT_A_NUMBER)?),
            Self::Int32(values) => values.append_value(parse_integer(text)?.try_into().map_err(|_| NOT_A_NUMBER)?),
            Self::Int64(values) => values.append_value(parse_integer(text)?),
            Self::Oid(values) => {
                let oid = u32::try_from(parse_integer(text)?).map_err(|_| NOT_A_NUMBER)?;
                values.append_value(i64::from(oid));
            }
            Self::Float32(values) => values.append_value(utf8(text)?.parse().map_err(|_| NOT_A_NUMBER)?),
            Self::Float64(values) => values.append_value(utf8(text)?.parse().map_err(|_| NOT_A_NUMBER)?),
            Self::Date(values) => values.append_value(calendar::parse_date(text)?),
            Self::Time(values) => values.append_value(calendar::parse_time(text)?),
            Self::Timestamp(values) => values.append_value(calendar::parse_timestamp(text)?),
            Self::Decimal128 {
                values,
                precision,
                scale,
            } => {
                values.append_value(numeric::unscaled_from_text(text, *precision, *scale)?);
            }
            Self::Decimal256 {
                values,
                precision,
                scale,
            } => {
                values.append_value(numeric::unscaled_from_text(text, *precision, *scale)?);
            }
            Self::Bytes {
                values,
                prefix,
                scratch,
            } => {
                parse_hex(text, prefix, scratch)?;
                append_bytes(values, scratch)?;
            }
            Self::Text {
                values,
                form: TextForm::Char,
                scratch,
            } => {
                scratch.clear();
                write_char(scratch, text)?;
                values.append(scratch)?;
            }
            Self::Text { values, .. } => values.append(utf8(text)?)?,
            Self::List(list) => list.append_text(text)?,
            Self::Vector(vectors) => vectors.append_text(text)?,
        }
        Ok(())
    }

    /// Appends a null.
    pub(super) fn append_null(&mut self) {
        match self {
            Self::Bool(values) => values.append_null(),
            Self::Int16(values) => values.append_null(),
            Self::Int32(values) => values.append_null(),
            Self::Int64(values) | Self::Oid(values) => values.append_null(),
            Self::Float32(values) => values.append_null(),
            Self::Float64(values) => values.append_null(),
            Self::Date(values) => values.append_null(),
            Self::Time(values) => values.append_null(),
            Self::Timestamp(values) => values.append_null(),
            Self::Decimal128 { values, .. } => values.append_null(),
            Self::Decimal256 { values, .. } => values.append_null(),
            Self::Bytes { values, .. } => values.append_null(),
            Self::Text { values, .. } => values.append_null(),
            Self::List(list) => list.append_null(),
            Self::Vector(vectors) => vectors.append_null(),
        }
    }

    /// Values appended since the last [`finish`](Self::finish).
    pub(super) fn len(&self) -> usize {
        use arrow_array::builder::ArrayBuilder;
        match self {
            Self::Bool(values) => values.len(),
            Self::Int16(values) => values.len(),
            Self::Int32(values) => values.len(),
            Self::Int64(values) | Self::Oid(values) => values.len(),
            Self::Float32(values) => values.len(),
            Self::Float64(values) => values.len(),
            Self::Date(values) => values.len(),
            Self::Time(values) => values.len(),
            Self::Timestamp(values) => values.len(),
            Self::Decimal128 { values, .. } => values.len(),
            Self::Decimal256 { values, .. } => values.len(),
            Self::Bytes { values, .. } => values.len(),
            Self::Text { values, .. } => values.len(),
            Self::List(list) => list.len(),
            Self::Vector(vectors) => vectors.len(),
        }
    }

    /// The column; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(values) => Arc::new(values.finish()),
            Self::Int16(values) => Arc::new(values.finish()),
            Self::Int32(values) => Arc::new(values.finish()),
            Self::Int64(values) | Self::Oid(values) => Arc::new(values.finish()),
            Self::Float32(values) => Arc::new(values.finish()),
            Self::Float64(values) => Arc::new(values.finish()),
            Self::Date(values) => Arc::new(values.finish()),
            Self::Time(values) => Arc::new(values.finish()),
            Self::Timestamp(values) => Arc::new(values.finish()),
            Self::Decimal128 { values, .. } => Arc::new(values.finish()),
            Self::Decimal256 { values, .. } => Arc::new(values.finish()),
            Self::Bytes { values, .. } => Arc::new(values.finish()),
            Self::Text { values, .. } => Arc::new(values.finish()),
            Self::List(list) => list.finish(),
            Self::Vector(vectors) => vectors.finish(),
        }
    }
}

fn append_bytes(values: &mut BinaryBuilder, bytes: &[u8]) -> Result<()> {
    if values.values_slice().len() + bytes.len() > MAX_COLUMN_BYTES {
        return Err(ValueError::OutOfRange("the batch has no room for bytes of this length"));
    }
    values.append_value(bytes);
    Ok(())
}

fn parse_integer(text: &[u8]) -> Result<i64> {
    const NOT_AN_INTEGER: ValueError = ValueError::Malformed("not an integer of this type");
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(NOT_AN_INTEGER);
    }
    // Summed below zero, where the range is larger by one.
    let below = digits.iter().try_fold(0i64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_sub(digit)
    });
    let value = if negative {
        below
    } else {
        below.and_then(i64::checked_neg)
    };
    value.ok_or(NOT_AN_INTEGER)
}

/// Reads `0aff`, behind `prefix`, into `out`.
fn parse_hex(text: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<()> {
    const NOT_HEX: ValueError = ValueError::Malformed("bytes are not in hex format");
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or(NOT_HEX)
    };
    let (pairs, []) = text.strip_prefix(prefix).ok_or(NOT_HEX)?.as_chunks::<2>() else {
        return Err(NOT_HEX);
    };
    out.clear();
    for [high, low] in pairs {
        out.push(digit(*high)? << 4 | digit(*low)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    use arrow_cast::display::array_value_to_string;
    use arrow_schema::DataType;
    use proptest::prelude::*;

    use super::super::Catalog;
    use super::*;

    fn column(oid: u32, typmod: i32) -> ColumnBuilder {
        ColumnBuilder::new(&ColumnType::resolve(oid, typmod, &Catalog::new()))
    }

    /// Decodes both formats and checks that they agree; returns Arrow's display of the value.
    fn both(oid: u32, typmod: i32, binary: &[u8], text: &str) -> String {
        let mut builder = column(oid, typmod);
        builder.append_binary(binary).unwrap();
        builder.append_text(text.as_bytes()).unwrap();
        builder.append_null();
        assert_eq!(builder.len(), 3);
        let array = builder.finish();
        assert!(array.is_null(2));
        assert_eq!(
            array.slice(0, 1).as_ref(),
            array.slice(1, 1).as_ref(),
            "type {oid}: {text}"
        );
        match array.data_type() {
            // The display of a named zone would need its database.
            DataType::Timestamp(_, Some(_)) => array.as_primitive::<TimestampMicrosecondType>().value(0).to_string(),
            _ => array_value_to_string(&array, 0).unwrap(),
        }
    }

    #[test]
    fn each_type_reads_both_formats_alike() {
        assert_eq!(both(16, -1, &[1], "t"), "true");
        assert_eq!(both(21, -1, &[0xFF, 0xFE], "-2"), "-2");
        assert_eq!(both(23, -1, &[0x80, 0, 0, 0], "-2147483648"), "-2147483648");
        assert_eq!(
            both(20, -1, &i64::MIN.to_be_bytes(), "-9223372036854775808"),
            "-9223372036854775808"
        );
        assert_eq!(
            both(20, -1, &i64::MAX.to_be_bytes(), "9223372036854775807"),
            "9223372036854775807"
        );
        assert_eq!(both(26, -1, &[0xFF; 4], "4294967295"), "4294967295");
        assert_eq!(both(700, -1, &0.1f32.to_be_bytes(), "0.1"), "0.1");
        assert_eq!(both(701, -1, &1e23f64.to_be_bytes(), "1e+23"), "1e23");
        assert_eq!(both(701, -1, &f64::NEG_INFINITY.to_be_bytes(), "-Infinity"), "-inf");
        assert_eq!(both(17, -1, &[0, 0xAB], "\\x00ab"), "00ab");
        assert_eq!(both(25, -1, "é".as_bytes(), "é"), "é");
        assert_eq!(both(18, -1, b"x", "x"), "x");
        assert_eq!(both(3802, -1, b"\x01{}", "{}"), "{}");
        assert_eq!(both(1082, -1, &0i32.to_be_bytes(), "2000-01-01"), "2000-01-01");
        assert_eq!(
            both(1083, -1, &1i64.to_be_bytes(), "00:00:00.000001"),
            "00:00:00.000001"
        );
        assert_eq!(
            both(1114, -1, &0i64.to_be_bytes(), "2000-01-01 00:00:00"),
            "2000-01-01T00:00:00"
        );
        assert_eq!(
            both(1184, -1, &0i64.to_be_bytes(), "2000-01-01 00:00:00+00"),
            "946684800000000"
        );
        assert_eq!(
            both(1700, (10 << 16 | 2) + 4, &numeric::encode("-12.50"), "-12.50"),
            "-12.50"
        );
        assert_eq!(
            both(1700, (50 << 16 | 2) + 4, &numeric::encode("-12.50"), "-12.50"),
            "-12.50"
        );
        assert_eq!(both(1700, -1, &numeric::encode("12.500"), "12.500"), "12.500");
        assert_eq!(both(869, -1, &[2, 24, 0, 4, 10, 0, 0, 1], "10.0.0.1/24"), "10.0.0.1/24");
    }

    #[test]
    fn a_refused_value_appends_nothing() {
        for (oid, typmod, text) in [
            (16, -1, "yes"),
            (21, -1, "32768"),
            (20, -1, "9223372036854775808"),
            (20, -1, "-"),
            (26, -1, "-1"),
            (701, -1, "x"),
            (17, -1, "\\x0"),
            (17, -1, "00"),
            (17, -1, "\\xzz"),
            (1082, -1, "1/2/2000"),
            (1700, (5 << 16) + 4, "NaN"),
        ] {
            let mut builder = column(oid, typmod);
            assert!(builder.append_text(text.as_bytes()).is_err(), "{oid}: {text}");
            assert_eq!(builder.len(), 0);
        }
        let mut builder = column(25, -1);
        assert_eq!(builder.append_binary(&[0xFF]), Err(ValueError::NotUtf8));
        assert_eq!(builder.append_text(&[0xFF]), Err(ValueError::NotUtf8));
        assert_eq!(builder.len(), 0);
        assert_eq!(column(790, -1).append_binary(&[0; 8]), Err(ValueError::NoBinaryForm));
    }

    proptest! {
        #[test]
        fn no_value_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for oid in [16, 17, 18, 20, 21, 23, 25, 26, 700, 701, 869, 1082, 1083, 1114, 1231, 1266, 1560, 1700, 1009, 1005] {
                let mut builder = column(oid, (20 << 16 | 4) + 4);
                let accepted = usize::from(builder.append_binary(&bytes).is_ok()) + usize::from(builder.append_text(&bytes).is_ok());
                prop_assert_eq!(builder.len(), accepted);
                builder.append_null();
                prop_assert_eq!(builder.finish().len(), accepted + 1);
            }
        }
    }
}
