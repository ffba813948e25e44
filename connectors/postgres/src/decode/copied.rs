//! The fields of a copy into a column: the type is chosen once for many values.

use arrow_array::builder::{PrimitiveBuilder, StringBuilder};
use arrow_array::{ArrowPrimitiveType, StringArray};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use super::column::{ColumnBuilder, MAX_COLUMN_BYTES, append_str};
use super::column_type::TextForm;
use super::text_form::{exactly, utf8};
use super::value_error::{Result, ValueError};
use super::{ColumnType, TupleValue, calendar, numeric};

/// Appends each of `fields` to a column of type `r#type`, as a value or as a null. One that is
/// refused is told to `refuse` with its number, and a null stands in its place.
pub(super) fn append_copied<'a>(
    column: &mut ColumnBuilder,
    r#type: &ColumnType,
    fields: impl Iterator<Item = Option<&'a [u8]>> + Clone,
    refuse: impl FnMut(usize, ValueError),
) {
    // Types that most tables consist of, none of which is copied as text. A value must become what `append_binary` makes of it.
    match column {
        ColumnBuilder::Int32(values) => {
            append_each(values, fields, refuse, |bytes| exactly(bytes).map(i32::from_be_bytes));
        }
        ColumnBuilder::Int64(values) => {
            append_each(values, fields, refuse, |bytes| exactly(bytes).map(i64::from_be_bytes));
        }
        ColumnBuilder::Float64(values) => {
            append_each(values, fields, refuse, |bytes| exactly(bytes).map(f64::from_be_bytes));
        }
        ColumnBuilder::Date(values) => append_each(values, fields, refuse, |bytes| {
            calendar::days_from_wire(i32::from_be_bytes(exactly(bytes)?))
        }),
        ColumnBuilder::Timestamp(values) => append_each(values, fields, refuse, |bytes| {
            calendar::micros_from_wire(i64::from_be_bytes(exactly(bytes)?))
        }),
        ColumnBuilder::Decimal128 {
            values,
            precision,
            scale,
        } => append_each(values, fields, refuse, |bytes| {
            numeric::unscaled_from_wire(bytes, *precision, *scale)
        }),
        ColumnBuilder::Text {
            values,
            form: TextForm::Verbatim,
            ..
        } => append_texts(values, fields, refuse),
        other => append_others(other, r#type, fields, refuse),
    }
}

/// A field as it was sent.
pub(super) fn value<'a>(field: Option<&'a [u8]>, r#type: &ColumnType) -> TupleValue<'a> {
    match field {
        None => TupleValue::Null,
        Some(bytes) if r#type.needs_text() => TupleValue::Text(bytes),
        Some(bytes) => TupleValue::Binary(bytes),
    }
}

fn append_others<'a>(
    column: &mut ColumnBuilder,
    r#type: &ColumnType,
    fields: impl Iterator<Item = Option<&'a [u8]>>,
    mut refuse: impl FnMut(usize, ValueError),
) {
    for (number, field) in fields.enumerate() {
        if let Err(error) = column.append(value(field, r#type)) {
            column.append_null();
            refuse(number, error);
        }
    }
}

fn append_each<'a, T: ArrowPrimitiveType>(
    values: &mut PrimitiveBuilder<T>,
    fields: impl Iterator<Item = Option<&'a [u8]>>,
    mut refuse: impl FnMut(usize, ValueError),
    read: impl Fn(&[u8]) -> Result<T::Native>,
) {
    // Put aside first: to append many at once costs less than each by itself.
    let count = fields.size_hint().0;
    let (mut natives, mut valid) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (number, field) in fields.enumerate() {
        let value = field.map(&read).transpose().unwrap_or_else(|error| {
            refuse(number, error);
            None
        });
        valid.push(value.is_some());
        natives.push(value.unwrap_or_default());
    }
    values.append_values(&natives, &valid);
}

/// Texts are put together first, since most are too short for a check of each to be fast.
fn append_texts<'a>(
    values: &mut StringBuilder,
    fields: impl Iterator<Item = Option<&'a [u8]>> + Clone,
    refuse: impl FnMut(usize, ValueError),
) {
    let count = fields.size_hint().0;
    let mut bytes = Vec::with_capacity(count * TYPICAL_TEXT);
    let (mut ends, mut valid) = (Vec::with_capacity(count + 1), Vec::with_capacity(count));
    ends.push(0);
    for field in fields.clone() {
        bytes.extend_from_slice(field.unwrap_or_default());
        ends.push(bytes.len());
        valid.push(field.is_some());
    }
    let bytes = Buffer::from_vec(bytes);
    if !bytes.is_ascii() || append_at_once(values, &bytes, &ends, &valid).is_none() {
        append_checked(values, &bytes, fields, refuse);
    }
}

/// Appends texts of ASCII whose ends in `bytes` are `ends`, behind the beginning of the first. `None` if the
/// column has no room for all of them, and none was appended.
fn append_at_once(values: &mut StringBuilder, bytes: &Buffer, ends: &[usize], valid: &[bool]) -> Option<()> {
    if values.values_slice().len() + bytes.len() > MAX_COLUMN_BYTES {
        return None;
    }
    let ends: Option<ScalarBuffer<i32>> = ends.iter().map(|end| i32::try_from(*end).ok()).collect();
    let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
    let texts = StringArray::try_new(OffsetBuffer::new(ends?), bytes.clone(), nulls).ok()?;
    values.append_array(&texts).ok()
}

/// Appends the texts that make up `bytes`.
fn append_checked<'a>(
    values: &mut StringBuilder,
    bytes: &[u8],
    fields: impl Iterator<Item = Option<&'a [u8]>>,
    mut refuse: impl FnMut(usize, ValueError),
) {
    let all = simdutf8::basic::from_utf8(bytes).unwrap_or_default();
    let mut start = 0;
    for (number, field) in fields.enumerate() {
        let Some(field) = field else {
            values.append_null();
            continue;
        };
        // Not there where something is wrong, or where a character begins in one text and ends in the next.
        let checked = all.get(start..start + field.len());
        start += field.len();
        let text = checked.map_or_else(|| utf8(field), Ok);
        if let Err(error) = text.and_then(|text| append_str(values, text)) {
            values.append_null();
            refuse(number, error);
        }
    }
}

/// For how many bytes of each text there is room from the beginning.
const TYPICAL_TEXT: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Catalog;
    use super::*;

    proptest! {
        /// Values of the right length, of others, and nulls.
        #[test]
        fn a_column_at_once_is_what_its_values_are_one_by_one(
            fields in proptest::collection::vec(
                proptest::option::of(prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..12),
                    proptest::collection::vec(any::<u8>(), 4),
                    proptest::collection::vec(any::<u8>(), 8),
                    "[aé]{0,4}".prop_map(String::into_bytes),
                    // The halves of a character.
                    prop::sample::select(vec![vec![b'a', 0xC3], vec![0xA9, b'a']]),
                    (-99_999_999i64..99_999_999).prop_map(|number| numeric::encode(&format!("{}.{:02}", number / 100, number.abs() % 100))),
                ]),
                0..40,
            ),
        ) {
            for oid in [16, 17, 20, 21, 23, 25, 26, 700, 701, 790, 1082, 1083, 1114, 1184, 1700, 1007] {
                let r#type = ColumnType::resolve(oid, (20 << 16 | 2) + 4, &Catalog::new());
                let (mut at_once, mut one_by_one) = (ColumnBuilder::new(&r#type), ColumnBuilder::new(&r#type));
                let (mut refused, mut expected) = (Vec::new(), Vec::new());
                let values = fields.iter().map(|field| field.as_deref());
                append_copied(&mut at_once, &r#type, values.clone(), |number, error| refused.push((number, error)));
                for (number, field) in values.enumerate() {
                    let appended = match field {
                        None => {
                            one_by_one.append_null();
                            continue;
                        }
                        Some(text) if r#type.needs_text() => one_by_one.append_text(text),
                        Some(bytes) => one_by_one.append_binary(bytes),
                    };
                    if let Err(error) = appended {
                        one_by_one.append_null();
                        expected.push((number, error));
                    }
                }
                prop_assert_eq!(refused, expected);
                prop_assert_eq!(&at_once.finish(), &one_by_one.finish());
            }
        }
    }
}
