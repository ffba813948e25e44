//! The fields of a copy into a column: the type is chosen once for many values.

use arrow_array::ArrowPrimitiveType;
use arrow_array::builder::PrimitiveBuilder;

use super::column::ColumnBuilder;
use super::column_type::TextForm;
use super::text_form::exactly;
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
        } => values.append_each(fields, refuse),
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

/// Values that are appended at once.
const AT_ONCE: usize = 256;

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
    let (mut natives, mut valid) = ([T::Native::default(); AT_ONCE], [false; AT_ONCE]);
    let mut fields = fields.enumerate();
    loop {
        let mut count = 0;
        for ((native, valid), (number, field)) in natives.iter_mut().zip(&mut valid).zip(fields.by_ref()) {
            let value = field.map(&read).transpose().unwrap_or_else(|error| {
                refuse(number, error);
                None
            });
            *valid = value.is_some();
            *native = value.unwrap_or_default();
            count += 1;
        }
        values.append_values(&natives[..count], &valid[..count]);
        if count < AT_ONCE {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use proptest::prelude::*;

    use super::super::Catalog;
    use super::*;

    #[test]
    fn more_values_than_are_appended_at_once_are_all_there() {
        let r#type = ColumnType::resolve(20, -1, &Catalog::new());
        let numbers: Vec<[u8; 8]> = (0..2 * AT_ONCE as i64 + 3).map(i64::to_be_bytes).collect();
        let fields = numbers.iter().enumerate();
        let fields = fields.map(|(row, bytes)| {
            (row % 7 != 6).then_some(match row {
                // Too short, in the second part.
                301 => &bytes[1..],
                _ => &bytes[..],
            })
        });
        let mut column = ColumnBuilder::new(&r#type);
        let mut refused = Vec::new();
        append_copied(&mut column, &r#type, fields, |row, error| refused.push((row, error)));
        assert_eq!(refused, [(301, ValueError::Length)]);
        let expected = (0..numbers.len() as i64).map(|row| (row % 7 != 6 && row != 301).then_some(row));
        assert_eq!(
            column.finish().as_primitive::<Int64Type>(),
            &Int64Array::from_iter(expected)
        );
    }

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
