//! Columns as a commit record stores them: names and type texts that belong to this sink, not
//! to a release of the Arrow crates.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use serde::{Deserialize, Serialize};

/// The columns of a table, with the number that data files refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSchema {
    /// Number of this schema in the table, from 1.
    pub id: u32,
    /// All columns, in order: the user's, then the reserved ones.
    pub columns: Vec<StoredColumn>,
}

/// One column, or one child of a nested column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredColumn {
    /// The column's name.
    pub name: String,
    /// Its type: `int64`, `utf8`, `decimal128(18,2)`, `timestamp(us,UTC)`, `list`, `struct` …
    pub r#type: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// Item of a list, fields of a struct, entries of a map.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<StoredColumn>,
}

/// A type that has no text, or a text that is no type.
#[derive(Debug, thiserror::Error)]
#[error("column `{column}` has the type `{found}`, which cannot be stored")]
pub(crate) struct UnknownType {
    pub column: String,
    pub found: String,
}

impl StoredSchema {
    /// Describes `schema`, whose types are those that [`crate::evolution::file_type`] yields.
    pub(crate) fn of(id: u32, schema: &Schema) -> Result<Self, UnknownType> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| column_of(field))
            .collect::<Result<_, _>>()?;
        Ok(Self { id, columns })
    }

    pub(crate) fn to_arrow(&self) -> Result<Schema, UnknownType> {
        let fields = self.columns.iter().map(field_of).collect::<Result<Vec<_>, _>>()?;
        Ok(Schema::new(fields))
    }
}

fn unit_text(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

fn column_of(field: &Field) -> Result<StoredColumn, UnknownType> {
    let mut children: Vec<&Arc<Field>> = Vec::new();
    let text = match field.data_type() {
        DataType::Boolean => "bool".to_owned(),
        DataType::Int8 => "int8".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Utf8 => "utf8".to_owned(),
        DataType::LargeUtf8 => "large_utf8".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::FixedSizeBinary(size) => format!("fixed_binary({size})"),
        DataType::Date32 => "date32".to_owned(),
        DataType::Time32(unit) => format!("time32({})", unit_text(*unit)),
        DataType::Time64(unit) => format!("time64({})", unit_text(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp({})", unit_text(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp({},{zone})", unit_text(*unit)),
        DataType::Duration(unit) => format!("duration({})", unit_text(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision},{scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision},{scale})"),
        DataType::Dictionary(key, value) if **key == DataType::Int32 && **value == DataType::Utf8 => {
            "dictionary(int32,utf8)".to_owned()
        }
        DataType::List(item) => {
            children.push(item);
            "list".to_owned()
        }
        DataType::LargeList(item) => {
            children.push(item);
            "large_list".to_owned()
        }
        DataType::FixedSizeList(item, size) => {
            children.push(item);
            format!("fixed_list({size})")
        }
        DataType::Struct(fields) => {
            children.extend(fields);
            "struct".to_owned()
        }
        DataType::Map(entries, sorted) => {
            children.push(entries);
            if *sorted {
                "sorted_map".to_owned()
            } else {
                "map".to_owned()
            }
        }
        other => {
            return Err(UnknownType {
                column: field.name().clone(),
                found: other.to_string(),
            });
        }
    };
    let children = children
        .into_iter()
        .map(|child| column_of(child))
        .collect::<Result<_, _>>()?;
    Ok(StoredColumn {
        name: field.name().clone(),
        r#type: text,
        nullable: field.is_nullable(),
        children,
    })
}

fn field_of(column: &StoredColumn) -> Result<Field, UnknownType> {
    let data_type = type_of(column)?.ok_or_else(|| UnknownType {
        column: column.name.clone(),
        found: column.r#type.clone(),
    })?;
    Ok(Field::new(&column.name, data_type, column.nullable))
}

/// `Ok(None)` where the text is no type.
fn type_of(column: &StoredColumn) -> Result<Option<DataType>, UnknownType> {
    let children = column.children.iter().map(field_of).collect::<Result<Vec<_>, _>>()?;
    let (name, arguments) = match column.r#type.split_once('(') {
        Some((name, rest)) => (name, rest.strip_suffix(')').unwrap_or(rest)),
        None => (column.r#type.as_str(), ""),
    };
    let (first, second) = match arguments.split_once(',') {
        Some((first, second)) => (first, Some(second)),
        None => (arguments, None),
    };
    let unit = match first {
        "s" => Some(TimeUnit::Second),
        "ms" => Some(TimeUnit::Millisecond),
        "us" => Some(TimeUnit::Microsecond),
        "ns" => Some(TimeUnit::Nanosecond),
        _ => None,
    };
    let size = first.parse::<i32>().ok();
    let decimal = first
        .parse::<u8>()
        .ok()
        .zip(second.and_then(|scale| scale.parse::<i8>().ok()));
    let only_child = || (children.len() == 1).then(|| Arc::new(children[0].clone()));
    Ok(match name {
        "bool" => Some(DataType::Boolean),
        "int8" => Some(DataType::Int8),
        "int16" => Some(DataType::Int16),
        "int32" => Some(DataType::Int32),
        "int64" => Some(DataType::Int64),
        "uint8" => Some(DataType::UInt8),
        "uint16" => Some(DataType::UInt16),
        "uint32" => Some(DataType::UInt32),
        "uint64" => Some(DataType::UInt64),
        "float32" => Some(DataType::Float32),
        "float64" => Some(DataType::Float64),
        "utf8" => Some(DataType::Utf8),
        "large_utf8" => Some(DataType::LargeUtf8),
        "binary" => Some(DataType::Binary),
        "large_binary" => Some(DataType::LargeBinary),
        "fixed_binary" => size.map(DataType::FixedSizeBinary),
        "date32" => Some(DataType::Date32),
        "time32" => unit.map(DataType::Time32),
        "time64" => unit.map(DataType::Time64),
        "timestamp" => unit.map(|unit| DataType::Timestamp(unit, second.map(Into::into))),
        "duration" => unit.map(DataType::Duration),
        "decimal128" => decimal.map(|(precision, scale)| DataType::Decimal128(precision, scale)),
        "decimal256" => decimal.map(|(precision, scale)| DataType::Decimal256(precision, scale)),
        "dictionary" => Some(DataType::Dictionary(
            Box::new(DataType::Int32),
            Box::new(DataType::Utf8),
        )),
        "list" => only_child().map(DataType::List),
        "large_list" => only_child().map(DataType::LargeList),
        "fixed_list" => only_child()
            .zip(size)
            .map(|(item, size)| DataType::FixedSizeList(item, size)),
        "struct" => Some(DataType::Struct(Fields::from(children))),
        "map" => only_child().map(|entries| DataType::Map(entries, false)),
        "sorted_map" => only_child().map(|entries| DataType::Map(entries, true)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_type_survives_its_text() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let entries = DataType::Struct(Fields::from(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Decimal256(50, -3), true),
        ]));
        let types = [
            DataType::Boolean,
            DataType::UInt64,
            DataType::FixedSizeBinary(16),
            DataType::Time64(TimeUnit::Microsecond),
            DataType::Timestamp(TimeUnit::Microsecond, None),
            DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into())),
            DataType::Duration(TimeUnit::Second),
            DataType::Decimal128(38, 9),
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            DataType::List(item(DataType::List(item(DataType::Date32)))),
            DataType::FixedSizeList(item(DataType::Float32), 3),
            DataType::Map(Arc::new(Field::new("entries", entries, false)), false),
        ];
        let fields: Vec<_> = types
            .into_iter()
            .enumerate()
            .map(|(i, t)| Field::new(format!("c{i}"), t, i % 2 == 0))
            .collect();
        let schema = Schema::new(fields);
        let stored = StoredSchema::of(3, &schema).unwrap();
        let json = serde_json::to_string(&stored).unwrap();
        assert_eq!(
            serde_json::from_str::<StoredSchema>(&json).unwrap().to_arrow().unwrap(),
            schema
        );
    }

    #[test]
    fn an_unknown_type_names_its_column() {
        let column = StoredColumn {
            name: "x".into(),
            r#type: "quaternion".into(),
            nullable: true,
            children: vec![],
        };
        let error = StoredSchema {
            id: 1,
            columns: vec![column],
        }
        .to_arrow()
        .unwrap_err();
        assert!(error.to_string().contains("`x`") && error.to_string().contains("quaternion"));
    }
}
