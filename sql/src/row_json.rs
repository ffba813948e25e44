//! A row as JSON, without loss: the form in which quarantine keeps what was rejected.
//!
//! Integers are numbers; decimals are strings, because readers of JSON round long numbers;
//! floats are numbers, or `"NaN"`, `"Infinity"`, `"-Infinity"`; times are ISO 8601, or
//! `"infinity"` and `"-infinity"`; binary is hexadecimal. A column that the source did not
//! send is absent, which is not the same as `null`.

use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type};
use arrow_array::{Array, Int64Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_json::EncoderOptions;
use arrow_json::writer::{Encoder, EncoderFactory, NullableEncoder, make_encoder};
use arrow_schema::{ArrowError, DataType, FieldRef};

/// Encodes rows of one batch.
pub(crate) struct RowEncoder<'a> {
    columns: Vec<(&'a str, Vec<u8>, NullableEncoder<'a>)>,
}

static OPTIONS: LazyLock<EncoderOptions> = LazyLock::new(|| {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(Exact))
});

impl<'a> RowEncoder<'a> {
    /// Prepares the `columns` of `rows`.
    ///
    /// # Errors
    /// If a column's type has no JSON form, such as a union.
    pub(crate) fn try_new(rows: &'a RecordBatch, columns: impl IntoIterator<Item = usize>) -> Result<Self, ArrowError> {
        let columns = columns.into_iter().map(|index| {
            let (field, array) = (&rows.schema_ref().fields()[index], rows.column(index));
            let mut label = serde_json::to_vec(field.name()).map_err(|e| ArrowError::JsonError(e.to_string()))?;
            label.push(b':');
            Ok((
                field.name().as_str(),
                label,
                make_encoder(field, array.as_ref(), &OPTIONS)?,
            ))
        });
        Ok(Self {
            columns: columns.collect::<Result<_, ArrowError>>()?,
        })
    }

    /// Writes `row` as a JSON object over what `out` held, without the columns that are `absent`.
    pub(crate) fn encode(&mut self, row: usize, absent: impl Fn(&str) -> bool, out: &mut Vec<u8>) {
        out.clear();
        out.push(b'{');
        for (name, label, encoder) in &mut self.columns {
            if absent(name) {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(label);
            if encoder.is_null(row) {
                out.extend_from_slice(b"null");
            } else {
                encoder.encode(row, out);
            }
        }
        out.push(b'}');
    }
}

/// Overrides the encodings that would lose something.
#[derive(Debug)]
struct Exact;

impl EncoderFactory for Exact {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                Box::new(Text(move |row, out: &mut String| {
                    float(values.value(row).into(), values.value(row), out)
                }))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                Box::new(Text(move |row, out: &mut String| {
                    float(values.value(row), values.value(row), out)
                }))
            }
            DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
            | DataType::Duration(_)
            | DataType::Interval(_) => {
                let formatter = formatter(array)?;
                Box::new(Text(move |row, out: &mut String| {
                    quoted(&formatter.value(row).to_string(), out)
                }))
            }
            r#type if r#type.is_temporal() => {
                let formatter = formatter(array)?;
                let counts = counts(array)?;
                Box::new(Text(move |row, out: &mut String| {
                    time(&formatter, counts.value(row), row, out)
                }))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

static ISO: LazyLock<FormatOptions<'static>> = LazyLock::new(FormatOptions::new);

fn formatter(array: &dyn Array) -> Result<ArrayFormatter<'_>, ArrowError> {
    ArrayFormatter::try_new(array, &ISO)
}

/// The numbers behind times, for those that no calendar reaches.
fn counts(array: &dyn Array) -> Result<Int64Array, ArrowError> {
    let narrow = matches!(array.data_type(), DataType::Date32 | DataType::Time32(_));
    let array = if narrow {
        arrow_cast::cast(array, &DataType::Int32)?
    } else {
        arrow_array::make_array(array.to_data())
    };
    let counts = arrow_cast::cast(&array, &DataType::Int64)?;
    Ok(counts.as_primitive::<Int64Type>().clone())
}

fn time(formatter: &ArrayFormatter<'_>, count: i64, row: usize, out: &mut String) {
    const DAYS: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);
    match formatter.value(row).try_to_string() {
        Ok(text) => quoted(&text, out),
        Err(_) if count == i64::MAX || count == DAYS.1 => out.push_str("\"infinity\""),
        Err(_) if count == i64::MIN || count == DAYS.0 => out.push_str("\"-infinity\""),
        Err(_) => out.push_str(&count.to_string()),
    }
}

fn float(wide: f64, shown: impl std::fmt::Debug, out: &mut String) {
    if wide.is_nan() {
        out.push_str("\"NaN\"");
    } else if wide.is_infinite() {
        out.push_str(if wide > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else {
        // The shortest digits that read back as the same float of the same width.
        out.push_str(&format!("{shown:?}"));
    }
}

/// Numbers, dates and signs need no escapes.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// An encoder that writes text.
struct Text<F>(F);

impl<F: FnMut(usize, &mut String)> Encoder for Text<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let mut text = String::new();
        (self.0)(row, &mut text);
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{Int32Builder, ListBuilder};
    use arrow_array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, StringArray,
        TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn nothing_is_lost() {
        let mut list = ListBuilder::new(Int32Builder::new());
        list.append_value([Some(1), None]);
        list.append_null();
        let decimals = Decimal128Array::from(vec![12_345_678_901_234_567_890_123_456_789_i128, -5]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("int", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
            ("dec", Arc::new(decimals.with_precision_and_scale(38, 2).unwrap())),
            ("f64", Arc::new(Float64Array::from(vec![0.1, f64::NAN]))),
            ("f32", Arc::new(Float32Array::from(vec![0.1, f32::NEG_INFINITY]))),
            ("text", Arc::new(StringArray::from(vec!["a\"\\\n\u{e9}", ""]))),
            ("bin", Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], b""]))),
            ("day", Arc::new(Date32Array::from(vec![0, i32::MAX]))),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(vec![1, i64::MAX]).with_timezone("UTC")),
            ),
            ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
            ("list", Arc::new(list.finish())),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut encoder = RowEncoder::try_new(&rows, 0..rows.num_columns()).unwrap();
        let mut out = Vec::new();
        encoder.encode(0, |_| false, &mut out);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"int":9223372036854775807,"dec":"123456789012345678901234567.89","f64":0.1,"f32":0.1,"text":"a\"\\\né","bin":"00ff","day":"1970-01-01","at":"1970-01-01T00:00:00.000001Z","flag":true,"list":[1,null]}"#
        );
        encoder.encode(1, |name| name == "text", &mut out);
        let parsed: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            parsed,
            serde_json::json!({"int": null, "dec": "-0.05", "f64": "NaN", "f32": "-Infinity", "bin": "",
                "day": "infinity", "at": "infinity", "flag": false, "list": null})
        );
    }
}
