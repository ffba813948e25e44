//! Partition expressions, and the split of a batch by them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema};
use arrow_select::take::take_record_batch;
use millstream_core::config::Text;
use serde::{Deserialize, Deserializer, de};

use crate::partition_key;

/// What Hive, DuckDB and pyarrow call the partition of null values.
pub(crate) const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// The longest escaped value in a folder's name, in bytes; file systems allow 255 for the whole name.
const MAX_VALUE_BYTES: usize = 180;

/// How one level of partition folders follows from a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionExpr {
    /// The column's value: folder `col=value`.
    Value(String),
    /// The UTC day of a date or timestamp: folder `day_col=2026-01-31`.
    Day(String),
    /// The UTC hour of a timestamp: folder `hour_col=2026-01-31-13`.
    Hour(String),
    /// The value's hash modulo `n`: folder `bucket_col=7`. The hash is that of Apache Iceberg's
    /// bucket transform (specification, appendix B).
    Bucket(u32, String),
}

impl PartitionExpr {
    /// The column it reads.
    pub fn column(&self) -> &str {
        match self {
            Self::Value(column) | Self::Day(column) | Self::Hour(column) | Self::Bucket(_, column) => column,
        }
    }

    /// The name before `=` in the folder's name.
    pub fn folder_name(&self) -> String {
        match self {
            Self::Value(column) => column.clone(),
            Self::Day(column) => format!("day_{column}"),
            Self::Hour(column) => format!("hour_{column}"),
            Self::Bucket(_, column) => format!("bucket_{column}"),
        }
    }
}

impl fmt::Display for PartitionExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(column) => f.write_str(column),
            Self::Day(column) => write!(f, "day({column})"),
            Self::Hour(column) => write!(f, "hour({column})"),
            Self::Bucket(count, column) => write!(f, "bucket({count}, {column})"),
        }
    }
}

/// The text is not a partition expression.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a partition expression, expected `col`, `day(col)`, `hour(col)` or `bucket(n, col)`")]
pub struct NotAPartitionExpr(String);

impl FromStr for PartitionExpr {
    type Err = NotAPartitionExpr;

    fn from_str(text: &str) -> Result<Self, NotAPartitionExpr> {
        let parse = || {
            let column = |name: &str| {
                let name = name.trim();
                (!name.is_empty() && !name.contains(['(', ')', ','])).then(|| name.to_owned())
            };
            let Some((function, rest)) = text.split_once('(') else {
                return column(text).map(Self::Value);
            };
            let arguments = rest.trim_end().strip_suffix(')')?;
            match function.trim() {
                "day" => column(arguments).map(Self::Day),
                "hour" => column(arguments).map(Self::Hour),
                "bucket" => {
                    let (count, name) = arguments.split_once(',')?;
                    let count = count.trim().parse().ok().filter(|count| (1..=65_536).contains(count))?;
                    column(name).map(|name| Self::Bucket(count, name))
                }
                _ => None,
            }
        };
        parse().ok_or_else(|| NotAPartitionExpr(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for PartitionExpr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why rows cannot be partitioned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartitionFault {
    /// The table has no such column.
    #[error("the table has no column `{column}` for the partition expression `{expr}`")]
    Missing { column: String, expr: String },
    /// The column's type does not go with the expression.
    #[error("the partition expression `{expr}` cannot be applied to a column of type {found}")]
    Unsuitable { expr: String, found: String },
    /// The value would not fit in a folder's name. The value itself is not named.
    #[error("a value of the partition expression `{expr}` is too long for the name of a folder")]
    TooLong { expr: String },
    /// A fault of the computation.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// The rows of a batch that go into the same folder.
#[derive(Debug)]
pub(crate) struct Slice {
    /// `day_a=2026-01-31/b=x`, escaped; empty without partitioning.
    pub folder: String,
    /// Values by folder name, not escaped.
    pub values: BTreeMap<String, Option<String>>,
    /// The rows, in the batch's order.
    pub rows: RecordBatch,
}

impl Slice {
    /// All rows, without partitioning.
    pub(crate) fn whole(rows: RecordBatch) -> Self {
        Self {
            folder: String::new(),
            values: BTreeMap::new(),
            rows,
        }
    }
}

/// Checks that `expressions` can be applied to a table of `schema`.
pub(crate) fn check(expressions: &[PartitionExpr], schema: &Schema) -> Result<(), PartitionFault> {
    for expr in expressions {
        let field = schema
            .field_with_name(expr.column())
            .map_err(|_| PartitionFault::Missing {
                column: expr.column().to_owned(),
                expr: expr.to_string(),
            })?;
        if !partition_key::suits(expr, field.data_type()) {
            return Err(PartitionFault::Unsuitable {
                expr: expr.to_string(),
                found: field.data_type().to_string(),
            });
        }
    }
    Ok(())
}

/// Splits `rows` by `expressions`; every row is in exactly one slice.
pub(crate) fn split(expressions: &[PartitionExpr], rows: RecordBatch) -> Result<Vec<Slice>, PartitionFault> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    if expressions.is_empty() {
        return Ok(vec![Slice {
            folder: String::new(),
            values: BTreeMap::new(),
            rows,
        }]);
    }
    let keys = expressions
        .iter()
        .map(|expr| {
            let column = rows
                .column_by_name(expr.column())
                .ok_or_else(|| PartitionFault::Missing {
                    column: expr.column().to_owned(),
                    expr: expr.to_string(),
                })?;
            partition_key::keys(expr, column)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let groups = group(&keys)?;
    let mut slices = Vec::with_capacity(groups.len());
    let whole = groups.len() == 1;
    for indices in groups {
        let (folder, values) = folder_of(expressions, &keys, indices[0] as usize)?;
        let rows = if whole {
            rows.clone()
        } else {
            take_record_batch(&rows, &UInt32Array::from(indices))?
        };
        slices.push(Slice { folder, values, rows });
    }
    Ok(slices)
}

/// The row numbers of each distinct key, in the order of first appearance.
fn group(keys: &[ArrayRef]) -> Result<Vec<Vec<u32>>, ArrowError> {
    let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
    let converter = RowConverter::new(fields)?;
    let encoded = converter.convert_columns(keys)?;
    let mut groups: Vec<Vec<u32>> = Vec::new();
    let mut by_key: HashMap<&[u8], usize> = HashMap::new();
    let mut previous: Option<(&[u8], usize)> = None;
    for (number, row) in (0u32..).zip(encoded.iter()) {
        let key = row.data();
        // Neighbours mostly share a partition; this saves them the hashing.
        let index = match previous {
            Some((last, index)) if last == key => index,
            _ => *by_key.entry(key).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            }),
        };
        previous = Some((key, index));
        groups[index].push(number);
    }
    Ok(groups)
}

type Folder = (String, BTreeMap<String, Option<String>>);

fn folder_of(expressions: &[PartitionExpr], keys: &[ArrayRef], row: usize) -> Result<Folder, PartitionFault> {
    let mut folder = String::new();
    let mut values = BTreeMap::new();
    for (expr, key) in expressions.iter().zip(keys) {
        let value = partition_key::text(expr, key, row)?;
        let escaped = match &value {
            Some(value) => escape(value),
            None => NULL_PARTITION.to_owned(),
        };
        if escaped.len() > MAX_VALUE_BYTES {
            return Err(PartitionFault::TooLong { expr: expr.to_string() });
        }
        let name = expr.folder_name();
        if !folder.is_empty() {
            folder.push('/');
        }
        folder.push_str(&escape(&name));
        folder.push('=');
        folder.push_str(&escaped);
        values.insert(name, value);
    }
    Ok((folder, values))
}

/// Percent-encodes all but the characters that are safe in a file's name, an object's key and a
/// URL. DuckDB and pyarrow decode it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.push(char::from(HEX[usize::from(byte >> 4)]));
            escaped.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    escaped
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::Int32Type;
    use arrow_array::{Int32Array, StringArray, cast::AsArray};
    use arrow_schema::{DataType, Field};
    use proptest::prelude::*;

    use super::*;

    fn batch(values: Vec<Option<&str>>) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int32, true),
            Field::new("place", DataType::Utf8, true),
        ]);
        let ids = Int32Array::from_iter_values(0..i32::try_from(values.len()).unwrap());
        RecordBatch::try_new(
            Arc::new(schema),
            vec![Arc::new(ids), Arc::new(StringArray::from(values))],
        )
        .unwrap()
    }

    #[test]
    fn expressions_are_parsed() {
        for (text, expr) in [
            ("placed_at", PartitionExpr::Value("placed_at".into())),
            ("day(placed_at)", PartitionExpr::Day("placed_at".into())),
            (" hour( placed_at ) ", PartitionExpr::Hour("placed_at".into())),
            ("bucket(16,id)", PartitionExpr::Bucket(16, "id".into())),
        ] {
            assert_eq!(text.parse::<PartitionExpr>().unwrap(), expr);
        }
        for text in ["", "day()", "day(a", "bucket(0, a)", "bucket(a)", "month(a)", "day(a)b"] {
            assert!(text.parse::<PartitionExpr>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_escaped_and_nulls_have_their_own_folder() {
        let slices = split(
            &["place".parse().unwrap()],
            batch(vec![Some("a/b=ü"), None, Some("a/b=ü"), Some("")]),
        )
        .unwrap();
        let folders: Vec<_> = slices.iter().map(|slice| slice.folder.as_str()).collect();
        assert_eq!(
            folders,
            ["place=a%2Fb%3D%C3%BC", "place=__HIVE_DEFAULT_PARTITION__", "place="]
        );
        assert_eq!(slices[0].rows.num_rows(), 2);
        assert_eq!(slices[0].values["place"].as_deref(), Some("a/b=ü"));
    }

    #[test]
    fn a_long_value_is_refused_without_being_shown() {
        let long = "secret".repeat(50);
        let error = split(&["place".parse().unwrap()], batch(vec![Some(&long)])).unwrap_err();
        assert!(matches!(error, PartitionFault::TooLong { .. }) && !error.to_string().contains("secret"));
    }

    #[test]
    fn a_missing_or_unsuitable_column_is_found_before_any_row() {
        let schema = batch(vec![]).schema();
        let check = |text: &str| check(&[text.parse().unwrap()], &schema);
        assert!(matches!(check("nowhere"), Err(PartitionFault::Missing { .. })));
        assert!(matches!(check("day(place)"), Err(PartitionFault::Unsuitable { .. })));
        check("bucket(3, id)").unwrap();
    }

    proptest! {
        #[test]
        fn a_split_keeps_every_row_and_its_order(values in proptest::collection::vec(proptest::option::of("[ab]"), 1..50)) {
            let rows = batch(values.iter().map(Option::as_deref).collect());
            let slices = split(&["place".parse().unwrap(), "bucket(2, id)".parse().unwrap()], rows).unwrap();
            let mut seen = Vec::new();
            for slice in &slices {
                let ids = slice.rows.column(0).as_primitive::<Int32Type>().values();
                prop_assert!(ids.is_sorted());
                for id in ids {
                    prop_assert_eq!(&values[*id as usize], &slice.values["place"]);
                }
                seen.extend_from_slice(ids);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..values.len() as i32).collect::<Vec<_>>());
        }
    }
}
