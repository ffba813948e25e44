//! One column under construction, filled from the text of JSON values.
//!
//! Unlike Arrow's own builders these can be cut back, which is how a message that fails half
//! way leaves no trace in the columns that it had reached.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{ArrayRef, BooleanArray, ListArray, PrimitiveArray, StringArray, StructArray};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::column_type::{ColumnType, struct_fields};
use super::scalar::{self, Misfit};

/// A column under construction.
pub struct Column {
    r#type: ColumnType,
    values: Values,
    nulls: NullBufferBuilder,
    /// It is asked for with each row, and the builder's own is a call.
    len: usize,
}

enum Values {
    Bool(BooleanBufferBuilder),
    /// All integers but `uint64`, whose values an `i64` may not hold.
    Int(Vec<i64>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>),
    Text(Text),
    List {
        offsets: Vec<i32>,
        items: Box<Column>,
    },
    /// Never empty: a struct type names at least one field.
    Struct(Vec<(String, Column)>),
}

struct Text {
    /// Where each value ends.
    ends: Vec<i32>,
    bytes: Vec<u8>,
}

/// What became of a value that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// All of it is in the column.
    Whole,
    /// An object in it has fields that the column's type does not name.
    WithUnknownFields,
}

const OUT_OF_RANGE: Misfit = "found a number out of range";

/// Arrow counts the bytes of a text column in 32 bits.
const MOST_TEXT: usize = i32::MAX as usize;

impl Column {
    /// An empty column, which has room for `rows` rows.
    pub fn new(r#type: &ColumnType, rows: usize) -> Self {
        let values = match r#type {
            ColumnType::Bool => Values::Bool(BooleanBufferBuilder::new(rows)),
            ColumnType::UInt(64) => Values::UInt64(Vec::with_capacity(rows)),
            ColumnType::Int(_)
            | ColumnType::UInt(_)
            | ColumnType::Date
            | ColumnType::Timestamp
            | ColumnType::Epoch(_)
            | ColumnType::LocalTimestamp => Values::Int(Vec::with_capacity(rows)),
            ColumnType::Float32 => Values::Float32(Vec::with_capacity(rows)),
            ColumnType::Float64 => Values::Float64(Vec::with_capacity(rows)),
            ColumnType::Decimal(..) => Values::Decimal(Vec::with_capacity(rows)),
            ColumnType::Utf8 | ColumnType::Json => Values::Text(Text::with_room(rows)),
            ColumnType::List(item) => Values::List {
                offsets: vec![0],
                items: Box::new(Self::new(item, rows)),
            },
            ColumnType::Struct(fields) => Values::Struct(
                fields
                    .iter()
                    .map(|(name, field)| (name.clone(), Self::new(field, rows)))
                    .collect(),
            ),
        };
        Self {
            r#type: r#type.clone(),
            values,
            nulls: NullBufferBuilder::new(rows),
            len: 0,
        }
    }

    /// The type it was made for.
    pub fn r#type(&self) -> &ColumnType {
        &self.r#type
    }

    /// Rows in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the last row is null.
    pub fn last_is_null(&self) -> bool {
        self.len().checked_sub(1).is_some_and(|last| !self.nulls.is_valid(last))
    }

    /// Appends a null.
    pub fn append_null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::Int(values) => values.push(0),
            Values::UInt64(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Text(text) => text.end(),
            Values::List { offsets, .. } => offsets.push(offsets[offsets.len() - 1]),
            Values::Struct(fields) => fields.iter_mut().for_each(|(_, field)| field.append_null()),
        }
        self.nulls.append_null();
        self.len += 1;
    }

    /// Appends a value from its JSON text, which a JSON parser has delimited and checked.
    ///
    /// # Errors
    /// If the value does not fit the type. The column, or its children, may then hold a part
    /// of it: the caller cuts back with [`truncate`](Self::truncate).
    pub fn append(&mut self, json: &str) -> Result<Appended, Misfit> {
        if json == "null" {
            self.append_null();
            return Ok(Appended::Whole);
        }
        let mut appended = Appended::Whole;
        match (&mut self.values, &self.r#type) {
            (Values::Bool(values), _) => values.append(match json {
                "true" => true,
                "false" => false,
                _ => return Err(found(json)),
            }),
            (Values::Int(values), r#type) => values.push(integer(json, r#type)?),
            (Values::UInt64(values), _) => {
                let value = scalar::integer(number(json)?)?;
                values.push(value.try_into().map_err(|_| OUT_OF_RANGE)?);
            }
            (Values::Float32(values), _) => values.push(scalar::float32(number(json)?)?),
            (Values::Float64(values), _) => values.push(scalar::float64(number(json)?)?),
            (Values::Decimal(values), ColumnType::Decimal(precision, scale)) => {
                let text = if json.starts_with('"') {
                    string(json)?
                } else {
                    number(json)?.into()
                };
                values.push(scalar::decimal(&text, *precision, *scale)?);
            }
            (Values::Decimal(_), _) => return Err("is not a decimal column"),
            (Values::Text(text), ColumnType::Json) => text.push(json)?,
            (Values::Text(text), _) => text.push(&string(json)?)?,
            (Values::List { offsets, items }, _) => {
                appended = append_items(items, json)?;
                offsets.push(i32::try_from(items.len()).map_err(|_| "found more items than a list column holds")?);
            }
            (Values::Struct(fields), _) => appended = append_fields(fields, json)?,
        }
        self.nulls.append_non_null();
        self.len += 1;
        Ok(appended)
    }

    /// Appends text as it is; for `utf8` and `json` columns.
    pub fn append_text(&mut self, value: &str) -> Result<(), Misfit> {
        let Values::Text(text) = &mut self.values else {
            return Err("is not a text column");
        };
        text.push(value)?;
        self.nulls.append_non_null();
        self.len += 1;
        Ok(())
    }

    /// Appends a number that is whole; for columns of `int`, of `uint` up to 32 bits, and of epochs.
    ///
    /// # Errors
    /// If it does not fit the type; nothing was appended then.
    pub fn append_whole(&mut self, value: i64) -> Result<(), Misfit> {
        let Values::Int(values) = &mut self.values else {
            return Err("is not a column of whole numbers");
        };
        values.push(fitting(value, &self.r#type)?);
        self.nulls.append_non_null();
        self.len += 1;
        Ok(())
    }

    /// Cuts the column back to its first `rows` rows.
    pub fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Bool(values) => values.truncate(rows),
            Values::Int(values) => values.truncate(rows),
            Values::UInt64(values) => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal(values) => values.truncate(rows),
            Values::Text(text) => text.truncate(rows),
            Values::List { offsets, items } => {
                offsets.truncate(rows + 1);
                items.truncate(offsets[offsets.len() - 1] as usize);
            }
            Values::Struct(fields) => fields.iter_mut().for_each(|(_, field)| field.truncate(rows)),
        }
        self.nulls.truncate(rows);
        self.len = self.nulls.len();
    }

    /// The array; the column is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        let nulls = self.nulls.finish();
        self.len = 0;
        match &mut self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int(values) => finish_integers(std::mem::take(values), nulls, &self.r#type),
            Values::UInt64(values) => primitive::<UInt64Type>(std::mem::take(values), nulls),
            Values::Float32(values) => primitive::<Float32Type>(std::mem::take(values), nulls),
            Values::Float64(values) => primitive::<Float64Type>(std::mem::take(values), nulls),
            Values::Decimal(values) => {
                let array = PrimitiveArray::<Decimal128Type>::new(std::mem::take(values).into(), nulls);
                Arc::new(array.with_data_type(self.r#type.data_type()))
            }
            Values::Text(text) => text.finish(nulls),
            Values::List { offsets, items } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                let item = Arc::new(Field::new_list_field(items.r#type.data_type(), true));
                Arc::new(ListArray::new(item, offsets, items.finish(), nulls))
            }
            Values::Struct(fields) => {
                let rows = fields[0].1.len();
                let arrays: Vec<ArrayRef> = fields.iter_mut().map(|(_, field)| field.finish()).collect();
                let ColumnType::Struct(named) = &self.r#type else {
                    unreachable!("only a struct has struct values")
                };
                let array = StructArray::try_new_with_length(struct_fields(named), arrays, nulls, rows);
                Arc::new(array.expect("the children have one value per row"))
            }
        }
    }
}

impl Text {
    fn with_room(rows: usize) -> Self {
        Self {
            ends: Vec::with_capacity(rows),
            bytes: Vec::new(),
        }
    }

    fn end(&mut self) {
        self.ends.push(self.bytes.len() as i32);
    }

    fn push(&mut self, value: &str) -> Result<(), Misfit> {
        if self.bytes.len() + value.len() > MOST_TEXT {
            return Err("found text that is too long for its batch");
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.end();
        Ok(())
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> ArrayRef {
        let mut offsets = Vec::with_capacity(self.ends.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.ends);
        let bytes = Buffer::from_vec(std::mem::take(&mut self.bytes));
        // The bytes were gathered from `str`, each value whole; the check costs little beside the parsing.
        Arc::new(StringArray::new(OffsetBuffer::new(offsets.into()), bytes, nulls))
    }
}

/// The number that `json` is, as its text.
fn number(json: &str) -> Result<&str, Misfit> {
    match json.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => Ok(json),
        _ => Err(found(json)),
    }
}

/// The content of the string that `json` is; borrowed unless it has escapes.
fn string(json: &str) -> Result<Cow<'_, str>, Misfit> {
    let inner = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .ok_or_else(|| found(json))?;
    if !inner.as_bytes().contains(&b'\\') {
        return Ok(inner.into());
    }
    serde_json::from_str::<String>(json)
        .map(Cow::Owned)
        .map_err(|_| "found a string with an invalid escape")
}

/// Names the kind of value that was found, from its first byte.
fn found(json: &str) -> Misfit {
    match json.as_bytes().first() {
        Some(b'"') => "found a string",
        Some(b'{') => "found an object",
        Some(b'[') => "found an array",
        Some(b't' | b'f') => "found a boolean",
        Some(b'n') => "found null",
        _ => "found a number",
    }
}

fn integer(json: &str, r#type: &ColumnType) -> Result<i64, Misfit> {
    match r#type {
        ColumnType::Date => scalar::date(&string(json)?).map(i64::from),
        ColumnType::Timestamp => scalar::timestamp(&string(json)?),
        ColumnType::LocalTimestamp => scalar::local_timestamp(&string(json)?),
        _ => {
            let value = match number(json)?.parse::<i64>() {
                Ok(value) => value,
                Err(_) => scalar::integer(json)?.try_into().map_err(|_| OUT_OF_RANGE)?,
            };
            fitting(value, r#type)
        }
    }
}

/// What a column of this type has for a number.
fn fitting(value: i64, r#type: &ColumnType) -> Result<i64, Misfit> {
    let bounds = match r#type {
        ColumnType::Int(bits) => i64::MIN >> (64 - bits)..=i64::MAX >> (64 - bits),
        ColumnType::UInt(bits) => 0..=(1i64 << bits) - 1,
        ColumnType::Epoch(micros) => return value.checked_mul(*micros).ok_or(OUT_OF_RANGE),
        _ => return Err("is not a column of whole numbers"),
    };
    if bounds.contains(&value) {
        Ok(value)
    } else {
        Err(OUT_OF_RANGE)
    }
}

fn finish_integers(values: Vec<i64>, nulls: Option<NullBuffer>, r#type: &ColumnType) -> ArrayRef {
    // Every value was checked against the type's range when it was appended.
    match r#type.data_type() {
        DataType::Int8 => primitive::<Int8Type>(values.into_iter().map(|v| v as i8).collect(), nulls),
        DataType::Int16 => primitive::<Int16Type>(values.into_iter().map(|v| v as i16).collect(), nulls),
        DataType::Int32 => primitive::<Int32Type>(values.into_iter().map(|v| v as i32).collect(), nulls),
        DataType::UInt8 => primitive::<UInt8Type>(values.into_iter().map(|v| v as u8).collect(), nulls),
        DataType::UInt16 => primitive::<UInt16Type>(values.into_iter().map(|v| v as u16).collect(), nulls),
        DataType::UInt32 => primitive::<UInt32Type>(values.into_iter().map(|v| v as u32).collect(), nulls),
        DataType::Date32 => primitive::<Date32Type>(values.into_iter().map(|v| v as i32).collect(), nulls),
        DataType::Timestamp(_, zone) => {
            Arc::new(PrimitiveArray::<TimestampMicrosecondType>::new(values.into(), nulls).with_timezone_opt(zone))
        }
        _ => primitive::<Int64Type>(values, nulls),
    }
}

fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls))
}

/// Runs `visit` over the array or object in `json`.
fn walk<'a>(json: &'a str, visit: impl DeserializeSeed<'a>) -> bool {
    visit.deserialize(&mut serde_json::Deserializer::from_str(json)).is_ok()
}

const MALFORMED: Misfit = "found a malformed value";

fn append_items(items: &mut Column, json: &str) -> Result<Appended, Misfit> {
    if !json.starts_with('[') {
        return Err(found(json));
    }
    let (mut misfit, mut appended) = (None, Appended::Whole);
    let whole = walk(
        json,
        Items {
            items,
            misfit: &mut misfit,
            appended: &mut appended,
        },
    );
    if whole {
        Ok(appended)
    } else {
        Err(misfit.unwrap_or(MALFORMED))
    }
}

struct Items<'c> {
    items: &'c mut Column,
    misfit: &'c mut Option<Misfit>,
    appended: &'c mut Appended,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<&RawValue>()? {
            match self.items.append(item.get()) {
                Ok(Appended::Whole) => {}
                Ok(Appended::WithUnknownFields) => *self.appended = Appended::WithUnknownFields,
                Err(misfit) => {
                    *self.misfit = Some(misfit);
                    return Err(de::Error::custom(""));
                }
            }
        }
        Ok(())
    }
}

fn append_fields(fields: &mut [(String, Column)], json: &str) -> Result<Appended, Misfit> {
    if !json.starts_with('{') {
        return Err(found(json));
    }
    let (mut misfit, mut appended) = (None, Appended::Whole);
    let row = fields[0].1.len();
    if !walk(
        json,
        Members {
            fields,
            row,
            misfit: &mut misfit,
            appended: &mut appended,
        },
    ) {
        return Err(misfit.unwrap_or(MALFORMED));
    }
    fields
        .iter_mut()
        .filter(|(_, field)| field.len() == row)
        .for_each(|(_, field)| field.append_null());
    Ok(appended)
}

struct Members<'c> {
    fields: &'c mut [(String, Column)],
    row: usize,
    misfit: &'c mut Option<Misfit>,
    appended: &'c mut Appended,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<FieldName<'de>, &'de RawValue>()? {
            let Some((_, field)) = self.fields.iter_mut().find(|(name, _)| *name == key.0) else {
                *self.appended = Appended::WithUnknownFields;
                continue;
            };
            let outcome = if field.len() > self.row {
                Err("found an object that names a field twice")
            } else {
                field.append(value.get())
            };
            match outcome {
                Ok(Appended::Whole) => {}
                Ok(Appended::WithUnknownFields) => *self.appended = Appended::WithUnknownFields,
                Err(misfit) => {
                    *self.misfit = Some(misfit);
                    return Err(de::Error::custom(""));
                }
            }
        }
        Ok(())
    }
}

/// An object's field name, borrowed from the text unless it has escapes.
pub struct FieldName<'de>(pub Cow<'de, str>);

impl<'de> de::Deserialize<'de> for FieldName<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = FieldName<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a field name")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(FieldName(Cow::Borrowed(name)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(FieldName(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}
