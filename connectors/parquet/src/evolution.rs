//! How a table's columns follow those of its source, as pure functions.
//!
//! - A new column is added as nullable; older files simply lack it.
//! - A column that the source dropped stays, and is null from then on.
//! - A type may widen without loss, in either direction: a wider type in the source widens the
//!   table from the next file on, a narrower one is cast up to the table's. Readers unite both
//!   (`union_by_name` in DuckDB, `unify_schemas(…, promote_options="permissive")` in pyarrow).
//! - Any other change of type is refused.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, GenericListArray, OffsetSizeTrait, RecordBatch, RecordBatchOptions, StructArray, new_null_array,
};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use millstream_core::envelope;

/// Why columns cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SchemaFault {
    /// The column's type changed in a way that would lose values.
    #[error("column `{column}` is {held} in the table, and {incoming} cannot be stored in it")]
    Incompatible {
        column: String,
        held: String,
        incoming: String,
    },
    /// No Parquet reader would understand the type.
    #[error("column `{column}` has the type {found}, which cannot be stored as Parquet")]
    Unsupported { column: String, found: String },
}

/// The type under which values of `data_type` are stored: itself, or one close to it that the
/// common Parquet readers understand (though DuckDB reads `Decimal256` as a double). `None` for a column that is null throughout and has no
/// type yet; it is left out until it gets one.
pub(crate) fn file_type(column: &str, data_type: &DataType) -> Result<Option<DataType>, SchemaFault> {
    let nested = |field: &FieldRef| -> Result<FieldRef, SchemaFault> {
        let inner = file_type(field.name(), field.data_type())?.unwrap_or(DataType::Utf8);
        Ok(Arc::new(Field::new(field.name(), inner, field.is_nullable())))
    };
    let item = |field: &FieldRef| -> Result<FieldRef, SchemaFault> {
        Ok(Arc::new(
            nested(field)?
                .as_ref()
                .clone()
                .with_name(Field::LIST_FIELD_DEFAULT_NAME),
        ))
    };
    Ok(Some(match data_type {
        DataType::Null => return Ok(None),
        DataType::Dictionary(_, _) if column == envelope::PARTITION => data_type.clone(),
        DataType::Dictionary(_, value) => return file_type(column, value),
        DataType::RunEndEncoded(_, values) => return file_type(column, values.data_type()),
        DataType::Float16 => DataType::Float32,
        DataType::Utf8View | DataType::Interval(_) => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Date64 => DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(field) | DataType::ListView(field) => DataType::List(item(field)?),
        DataType::LargeList(field) | DataType::LargeListView(field) => DataType::LargeList(item(field)?),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field)?, *size),
        DataType::Struct(fields) if !fields.is_empty() => {
            DataType::Struct(fields.iter().map(nested).collect::<Result<Fields, _>>()?)
        }
        DataType::Map(entries, sorted) => DataType::Map(nested(entries)?, *sorted),
        DataType::Struct(_) | DataType::Union(_, _) => {
            return Err(SchemaFault::Unsupported {
                column: column.to_owned(),
                found: data_type.to_string(),
            });
        }
        plain => plain.clone(),
    }))
}

/// The table's columns once rows of `incoming` have been stored. Equal to `held` where nothing changes.
pub(crate) fn evolve(held: Option<&Schema>, incoming: &Schema) -> Result<Schema, SchemaFault> {
    let mut fields: Vec<FieldRef> = held.map(|held| held.fields().to_vec()).unwrap_or_default();
    for field in incoming.fields() {
        let Some(data_type) = file_type(field.name(), field.data_type())? else {
            continue;
        };
        match fields.iter_mut().find(|held| held.name() == field.name()) {
            Some(held) => {
                let wider = unite(field.name(), held.data_type(), &data_type)?;
                if wider != *held.data_type() {
                    *held = Arc::new(held.as_ref().clone().with_data_type(wider));
                }
            }
            None => {
                let reserved = envelope::is_reserved(field.name());
                let nullable = !reserved || field.is_nullable();
                let new = Arc::new(Field::new(field.name(), data_type, nullable));
                // The user's columns stay before the reserved ones.
                let end = fields
                    .iter()
                    .position(|held| envelope::is_reserved(held.name()))
                    .unwrap_or(fields.len());
                fields.insert(if reserved { fields.len() } else { end }, new);
            }
        }
    }
    Ok(Schema::new(fields))
}

fn integer_bits(data_type: &DataType) -> Option<(bool, u8)> {
    Some(match data_type {
        DataType::Int8 => (true, 8),
        DataType::Int16 => (true, 16),
        DataType::Int32 => (true, 32),
        DataType::Int64 => (true, 64),
        DataType::UInt8 => (false, 8),
        DataType::UInt16 => (false, 16),
        DataType::UInt32 => (false, 32),
        DataType::UInt64 => (false, 64),
        _ => return None,
    })
}

/// Whether every value of `from` is a value of `to`.
fn fits(from: &DataType, to: &DataType) -> bool {
    if let (Some((from_signed, from_bits)), Some((to_signed, to_bits))) = (integer_bits(from), integer_bits(to)) {
        return if from_signed == to_signed {
            from_bits <= to_bits
        } else {
            to_signed && from_bits < to_bits
        };
    }
    let digits = |data_type: &DataType| match data_type {
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            Some((i16::from(*precision) - i16::from(*scale), *scale))
        }
        _ => None,
    };
    if let (Some((from_whole, from_scale)), Some((to_whole, to_scale))) = (digits(from), digits(to)) {
        let narrows = matches!((from, to), (DataType::Decimal256(_, _), DataType::Decimal128(_, _)));
        return from_whole <= to_whole && from_scale <= to_scale && !narrows;
    }
    from == to
        || matches!(
            (from, to),
            (DataType::Float32, DataType::Float64)
                | (DataType::Utf8, DataType::LargeUtf8)
                | (DataType::Binary, DataType::LargeBinary)
        )
}

/// The narrowest of both types that holds the values of both.
fn unite(column: &str, held: &DataType, incoming: &DataType) -> Result<DataType, SchemaFault> {
    let child = |held: &FieldRef, incoming: &FieldRef| -> Result<FieldRef, SchemaFault> {
        let data_type = unite(column, held.data_type(), incoming.data_type())?;
        Ok(Arc::new(Field::new(
            held.name(),
            data_type,
            held.is_nullable() || incoming.is_nullable(),
        )))
    };
    match (held, incoming) {
        _ if fits(incoming, held) => Ok(held.clone()),
        _ if fits(held, incoming) => Ok(incoming.clone()),
        (DataType::List(a), DataType::List(b)) => Ok(DataType::List(child(a, b)?)),
        (DataType::LargeList(a), DataType::LargeList(b)) => Ok(DataType::LargeList(child(a, b)?)),
        (DataType::Struct(a), DataType::Struct(b)) => {
            let mut fields = a.to_vec();
            for incoming in b {
                match fields.iter_mut().find(|held| held.name() == incoming.name()) {
                    Some(held) => {
                        let name = format!("{column}.{}", incoming.name());
                        let data_type = unite(&name, held.data_type(), incoming.data_type())?;
                        let nullable = held.is_nullable() || incoming.is_nullable();
                        *held = Arc::new(Field::new(held.name(), data_type, nullable));
                    }
                    None => fields.push(Arc::new(incoming.as_ref().clone().with_nullable(true))),
                }
            }
            Ok(DataType::Struct(fields.into()))
        }
        _ => Err(SchemaFault::Incompatible {
            column: column.to_owned(),
            held: held.to_string(),
            incoming: incoming.to_string(),
        }),
    }
}

/// `rows` with the table's columns: cast up where the table is wider, null where the rows lack
/// a column. `table` must be what [`evolve`] made of the rows' schema, or wider.
pub(crate) fn adapt(rows: &RecordBatch, table: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = table
        .fields()
        .iter()
        .map(|field| match rows.column_by_name(field.name()) {
            Some(column) => adapt_column(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    // The count is given, because a batch without columns cannot tell it.
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(table.clone(), columns, &options)
}

fn adapt_column(column: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    match (column.data_type(), target) {
        (from, to) if from == to => Ok(column.clone()),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let from = column.as_struct();
            let children = fields.iter().map(|field| match from.column_by_name(field.name()) {
                Some(child) => adapt_column(child, field.data_type()),
                None => Ok(new_null_array(field.data_type(), from.len())),
            });
            let children = children.collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new(
                fields.clone(),
                children,
                from.nulls().cloned(),
            )?))
        }
        (DataType::List(_), DataType::List(item)) => adapt_list::<i32>(column, item),
        (DataType::LargeList(_), DataType::LargeList(item)) => adapt_list::<i64>(column, item),
        (from, to) if can_cast_types(from, to) => {
            // Unsafe in Arrow's sense would turn what does not fit into nulls.
            cast_with_options(
                column,
                to,
                &CastOptions {
                    safe: false,
                    ..CastOptions::default()
                },
            )
        }
        (from, to) => Err(ArrowError::CastError(format!("cannot store {from} as {to}"))),
    }
}

fn adapt_list<O: OffsetSizeTrait>(column: &ArrayRef, item: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let list = column.as_list::<O>();
    let values = adapt_column(list.values(), item.data_type())?;
    Ok(Arc::new(GenericListArray::try_new(
        item.clone(),
        list.offsets().clone(),
        values,
        list.nulls().cloned(),
    )?))
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{Float64Type, Int64Type};
    use arrow_array::{Float32Array, Int16Array, Int32Array, IntervalMonthDayNanoArray, NullArray, StringArray};
    use arrow_buffer::IntervalMonthDayNano;
    use proptest::prelude::*;

    use super::*;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        Schema::new(
            columns
                .iter()
                .map(|(name, t)| Field::new(*name, t.clone(), true))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn new_columns_go_before_the_reserved_and_dropped_ones_stay() {
        let held = schema(&[("a", DataType::Int32), ("b", DataType::Utf8), ("__op", DataType::Utf8)]);
        let incoming = schema(&[
            ("c", DataType::Date32),
            ("a", DataType::Int32),
            ("__op", DataType::Utf8),
        ]);
        let evolved = evolve(Some(&held), &incoming).unwrap();
        let names: Vec<_> = evolved.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "__op"]);
    }

    #[test]
    fn types_widen_but_never_lose() {
        let one = |t: DataType| schema(&[("a", t)]);
        let decimal = DataType::Decimal128;
        for (held, incoming, expected) in [
            (DataType::Int16, DataType::Int64, Some(DataType::Int64)),
            (DataType::Int64, DataType::Int16, Some(DataType::Int64)),
            (DataType::Float32, DataType::Float64, Some(DataType::Float64)),
            (decimal(10, 2), decimal(12, 4), Some(decimal(12, 4))),
            (decimal(10, 2), decimal(10, 4), None),
            (DataType::Int64, DataType::Float64, None),
            (DataType::Int32, DataType::Utf8, None),
            (DataType::UInt32, DataType::Int32, None),
            (DataType::UInt32, DataType::Int64, Some(DataType::Int64)),
            (DataType::Utf8, DataType::Null, Some(DataType::Utf8)),
            (
                DataType::Utf8,
                DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
                Some(DataType::Utf8),
            ),
        ] {
            let evolved = evolve(Some(&one(held.clone())), &one(incoming.clone()));
            match expected {
                Some(expected) => assert_eq!(evolved.unwrap(), one(expected)),
                None => {
                    let fault = evolved.unwrap_err();
                    assert!(
                        matches!(&fault, SchemaFault::Incompatible { column, .. } if column == "a"),
                        "{held} {incoming}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_changed_field_of_a_before_image_is_named_with_its_path() {
        let before = |t: DataType| schema(&[("__before", DataType::Struct(schema(&[("a", t)]).fields().clone()))]);
        let fault = evolve(Some(&before(DataType::Int32)), &before(DataType::Utf8)).unwrap_err();
        assert!(fault.to_string().contains("`__before.a`"));
    }

    #[test]
    fn rows_take_the_tables_shape() {
        let incoming = schema(&[
            ("small", DataType::Int16),
            ("real", DataType::Float32),
            ("nothing", DataType::Null),
            ("span", DataType::Interval(arrow_schema::IntervalUnit::MonthDayNano)),
            (
                "row",
                DataType::Struct(schema(&[("x", DataType::Int32)]).fields().clone()),
            ),
        ]);
        let row = StructArray::try_new(
            schema(&[("x", DataType::Int32)]).fields().clone(),
            vec![Arc::new(Int32Array::from(vec![1, 2]))],
            None,
        )
        .unwrap();
        let rows = RecordBatch::try_new(
            Arc::new(incoming.clone()),
            vec![
                Arc::new(Int16Array::from(vec![7, 8])),
                Arc::new(Float32Array::from(vec![0.5, 1.5])),
                Arc::new(NullArray::new(2)),
                Arc::new(IntervalMonthDayNanoArray::from(vec![
                    IntervalMonthDayNano::new(1, 2, 3);
                    2
                ])),
                Arc::new(row),
            ],
        )
        .unwrap();
        let held = schema(&[
            ("small", DataType::Int64),
            ("real", DataType::Float64),
            ("gone", DataType::Utf8),
            (
                "row",
                DataType::Struct(
                    schema(&[("w", DataType::Utf8), ("x", DataType::Int64)])
                        .fields()
                        .clone(),
                ),
            ),
        ]);
        let table = Arc::new(evolve(Some(&held), &incoming).unwrap());
        let adapted = adapt(&rows, &table).unwrap();
        let column = |name: &str| adapted.column_by_name(name).unwrap();
        assert_eq!(column("small").as_primitive::<Int64Type>().values(), &[7, 8]);
        assert_eq!(column("real").as_primitive::<Float64Type>().values(), &[0.5, 1.5]);
        assert_eq!(column("gone").null_count(), 2);
        assert!(adapted.column_by_name("nothing").is_none());
        assert_eq!(
            column("span")
                .as_any()
                .downcast_ref::<StringArray>()
                .unwrap()
                .null_count(),
            0
        );
        assert_eq!(
            column("row")
                .as_struct()
                .column_by_name("x")
                .unwrap()
                .as_primitive::<Int64Type>()
                .values(),
            &[1, 2]
        );
    }

    fn any_type() -> impl Strategy<Value = DataType> {
        prop_oneof![
            Just(DataType::Int8),
            Just(DataType::Int16),
            Just(DataType::Int32),
            Just(DataType::Int64),
            Just(DataType::UInt8),
            Just(DataType::UInt32),
            Just(DataType::UInt64),
            Just(DataType::Float32),
            Just(DataType::Float64),
            Just(DataType::Utf8),
            Just(DataType::LargeUtf8),
            Just(DataType::Date32),
            Just(DataType::Null),
            (1u8..=38, 0i8..=10).prop_map(|(p, s)| DataType::Decimal128(p, s.min(p as i8))),
        ]
    }

    proptest! {
        #[test]
        fn an_evolved_table_holds_both_sides_and_evolves_no_further(
            held in proptest::collection::btree_map("[a-d]", any_type(), 0..4),
            incoming in proptest::collection::btree_map("[a-d]", any_type(), 0..4),
        ) {
            let build = |columns: std::collections::BTreeMap<String, DataType>| {
                Schema::new(columns.into_iter().map(|(name, t)| Field::new(name, t, true)).collect::<Vec<_>>())
            };
            let held = evolve(None, &build(held)).unwrap();
            let incoming = build(incoming);
            if let Ok(evolved) = evolve(Some(&held), &incoming) {
                prop_assert_eq!(&evolve(Some(&evolved), &incoming).unwrap(), &evolved);
                prop_assert_eq!(&evolve(Some(&evolved), &held).unwrap(), &evolved);
                for field in held.fields() {
                    prop_assert!(fits(field.data_type(), evolved.field_with_name(field.name()).unwrap().data_type()));
                }
                let rows = RecordBatch::new_empty(Arc::new(incoming));
                prop_assert!(adapt(&rows, &Arc::new(evolved)).is_ok());
            }
        }
    }
}
