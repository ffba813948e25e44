//! Partition expressions, and the grouping of rows by them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema};
use millstream_core::config::Text;
use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};

use crate::partition_key;

/// What Hive, DuckDB and pyarrow call the partition of null values.
pub(crate) const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// The longest name of a folder, in bytes; file systems allow 255.
const MAX_FOLDER_BYTES: usize = 240;
/// The longest path of partition folders, in bytes. S3 allows 1024 for the whole key, of which
/// the sink's prefix, the table and the file's name need their share.
const MAX_PATH_BYTES: usize = 600;

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
    /// Two expressions name their folders alike, so that neither readers nor rows could tell them apart.
    #[error("the partition expressions `{first}` and `{second}` both make folders named `{folder}=`")]
    Twice {
        first: String,
        second: String,
        folder: String,
    },
    /// A fault of the computation.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// Rows that go into the same folder.
#[derive(Debug)]
pub(crate) struct Group {
    /// `day_a=2026-01-31/b=x`, escaped.
    pub folder: String,
    /// Values by folder name, not escaped.
    pub values: BTreeMap<String, Option<String>>,
    /// Batch and row number of each, in their order.
    pub rows: Vec<(usize, usize)>,
}

/// All that speaks against applying `expressions` to a table of `schema`.
pub(crate) fn faults(expressions: &[PartitionExpr], schema: &Schema) -> Vec<PartitionFault> {
    let mut faults = Vec::new();
    for (number, expr) in expressions.iter().enumerate() {
        match schema.field_with_name(expr.column()) {
            Err(_) => faults.push(PartitionFault::Missing {
                column: expr.column().to_owned(),
                expr: expr.to_string(),
            }),
            Ok(field) if !partition_key::suits(expr, field.data_type()) => faults.push(PartitionFault::Unsuitable {
                expr: expr.to_string(),
                found: field.data_type().to_string(),
            }),
            Ok(_) => {}
        }
        let folder = expr.folder_name();
        if let Some(first) = expressions[..number].iter().find(|first| first.folder_name() == folder) {
            faults.push(PartitionFault::Twice {
                first: first.to_string(),
                second: expr.to_string(),
                folder,
            });
        }
    }
    faults
}

/// Groups the rows of `batches`, which have one schema, by `expressions`: in the order in which
/// the groups first appear. Every row is in exactly one group.
pub(crate) fn group(expressions: &[PartitionExpr], batches: &[RecordBatch]) -> Result<Vec<Group>, PartitionFault> {
    let keys = batches
        .iter()
        .map(|rows| expressions.iter().map(|expr| keys_of(expr, rows)).collect())
        .collect::<Result<Vec<Vec<ArrayRef>>, _>>()?;
    let Some(first) = keys.first() else {
        return Ok(Vec::new());
    };
    let fields = first
        .iter()
        .map(|key| SortField::new(key.data_type().clone()))
        .collect();
    let converter = RowConverter::new(fields)?;
    let encoded = keys
        .iter()
        .map(|keys| converter.convert_columns(keys))
        .collect::<Result<Vec<_>, _>>()?;
    let mut groups: Vec<Group> = Vec::new();
    let mut by_key: HashMap<&[u8], usize> = HashMap::new();
    let mut previous: Option<(&[u8], usize)> = None;
    for (batch, rows) in encoded.iter().enumerate() {
        for (number, row) in rows.iter().enumerate() {
            let key = row.data();
            // Neighbours mostly share a partition; this saves them the hashing.
            let index = match previous {
                Some((last, index)) if last == key => index,
                _ => match by_key.get(key) {
                    Some(index) => *index,
                    None => {
                        let (folder, values) = folder_of(expressions, &keys[batch], number)?;
                        groups.push(Group {
                            folder,
                            values,
                            rows: Vec::new(),
                        });
                        by_key.insert(key, groups.len() - 1);
                        groups.len() - 1
                    }
                },
            };
            previous = Some((key, index));
            groups[index].rows.push((batch, number));
        }
    }
    Ok(groups)
}

fn keys_of(expr: &PartitionExpr, rows: &RecordBatch) -> Result<ArrayRef, PartitionFault> {
    let column = rows
        .column_by_name(expr.column())
        .ok_or_else(|| PartitionFault::Missing {
            column: expr.column().to_owned(),
            expr: expr.to_string(),
        })?;
    partition_key::keys(expr, column)
}

type Folder = (String, BTreeMap<String, Option<String>>);

fn folder_of(expressions: &[PartitionExpr], keys: &[ArrayRef], row: usize) -> Result<Folder, PartitionFault> {
    // Two fifths for the name, the rest for `=` and the value.
    let limit = (MAX_PATH_BYTES / expressions.len()).clamp(60, MAX_FOLDER_BYTES);
    let name_limit = limit * 2 / 5;
    let mut folder = String::new();
    let mut values = BTreeMap::new();
    for (expr, key) in expressions.iter().zip(keys) {
        let value = partition_key::text(expr, key, row)?;
        let name = expr.folder_name();
        if !folder.is_empty() {
            folder.push('/');
        }
        folder.push_str(&shortened(&name, name_limit));
        folder.push('=');
        match value.as_deref() {
            None => folder.push_str(NULL_PARTITION),
            // The text of this name is not a null.
            Some(NULL_PARTITION) => folder.push_str(&NULL_PARTITION.replacen('_', "%5F", 1)),
            Some(text) => folder.push_str(&shortened(text, limit - name_limit - 1)),
        }
        values.insert(name, value);
    }
    Ok((folder, values))
}

/// `text` escaped, and where that takes more than `limit` bytes, its beginning and a hash of all
/// of it after a `~`, which no escaped text contains.
fn shortened(text: &str, limit: usize) -> String {
    let mut escaped = escape(text);
    if escaped.len() > limit {
        let hash = hex::encode(&Sha256::digest(text)[..8]);
        let mut end = limit - 1 - hash.len();
        // Not within `%2F`.
        while escaped[..end].bytes().rev().take(2).any(|byte| byte == b'%') {
            end -= 1;
        }
        escaped.truncate(end);
        escaped.push('~');
        escaped.push_str(&hash);
    }
    escaped
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

    fn folders(values: Vec<Option<&str>>) -> Vec<String> {
        let groups = group(&["place".parse().unwrap()], &[batch(values)]).unwrap();
        groups.into_iter().map(|group| group.folder).collect()
    }

    #[test]
    fn values_are_escaped_and_nulls_have_their_own_folder() {
        let rows = batch(vec![Some("a/b=ü"), None, Some("a/b=ü"), Some("")]);
        let groups = group(&["place".parse().unwrap()], &[rows]).unwrap();
        let folders: Vec<_> = groups.iter().map(|group| group.folder.as_str()).collect();
        assert_eq!(
            folders,
            ["place=a%2Fb%3D%C3%BC", "place=__HIVE_DEFAULT_PARTITION__", "place="]
        );
        assert_eq!(groups[0].rows, [(0, 0), (0, 2)]);
        assert_eq!(groups[0].values["place"].as_deref(), Some("a/b=ü"));
    }

    #[test]
    fn the_text_of_the_null_folder_is_not_a_null() {
        let folders = folders(vec![None, Some(NULL_PARTITION)]);
        assert_eq!(
            folders,
            ["place=__HIVE_DEFAULT_PARTITION__", "place=%5F_HIVE_DEFAULT_PARTITION__"]
        );
    }

    #[test]
    fn long_values_share_no_folder_and_fit_the_limits_of_names_and_keys() {
        let values: Vec<_> = ["x", "y", "z/"]
            .map(|end| "ü".repeat(2_000) + end)
            .into_iter()
            .chain(["a".repeat(2_000)])
            .collect();
        let rows = batch(values.iter().map(|value| Some(value.as_str())).collect());
        let name = "ö".repeat(63);
        let mut fields = rows.schema().fields().to_vec();
        let mut columns = rows.columns().to_vec();
        fields.push(Arc::new(Field::new(&name, DataType::Utf8, true)));
        columns.push(columns[1].clone());
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        for by in [vec!["place"], vec!["place", &name, "bucket(4, id)", "id"]] {
            let by: Vec<PartitionExpr> = by.iter().map(|expr| expr.parse().unwrap()).collect();
            let groups = group(&by, std::slice::from_ref(&rows)).unwrap();
            let folders: std::collections::BTreeSet<_> = groups.iter().map(|group| &group.folder).collect();
            assert_eq!(folders.len(), values.len());
            for (group, value) in groups.iter().zip(&values) {
                assert_eq!(
                    group.values["place"].as_ref(),
                    Some(value),
                    "the record has the whole value"
                );
                assert!(group.folder.len() <= MAX_PATH_BYTES + by.len());
                let parts = group
                    .folder
                    .split('/')
                    .inspect(|part| assert!(part.len() <= MAX_FOLDER_BYTES));
                assert!(parts.flat_map(|part| part.split('=')).all(|text| {
                    let escapes = text.split('%').skip(1);
                    escapes
                        .into_iter()
                        .all(|rest| rest.len() >= 2 && rest.is_char_boundary(2) && !rest[..2].contains('~'))
                }));
            }
        }
    }

    #[test]
    fn what_does_not_go_with_the_table_is_found_before_any_row_and_all_at_once() {
        let schema = batch(vec![]).schema();
        let by = ["nowhere", "day(place)", "bucket(3, id)", "bucket(4, id)"].map(|expr| expr.parse().unwrap());
        assert!(matches!(
            &faults(&by, &schema)[..],
            [
                PartitionFault::Missing { .. },
                PartitionFault::Unsuitable { .. },
                PartitionFault::Twice { .. }
            ]
        ));
        assert!(faults(&by[2..3], &schema).is_empty());
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_group_in_its_order(
            values in proptest::collection::vec(proptest::option::of("[ab]"), 1..50), cut in 0usize..50,
        ) {
            let rows = batch(values.iter().map(Option::as_deref).collect());
            let cut = cut.min(rows.num_rows());
            let batches = [rows.slice(0, cut), rows.slice(cut, rows.num_rows() - cut)];
            let groups = group(&["place".parse().unwrap(), "bucket(2, id)".parse().unwrap()], &batches).unwrap();
            let mut seen = Vec::new();
            for group in &groups {
                prop_assert!(group.rows.is_sorted());
                for (batch, row) in &group.rows {
                    let id = batches[*batch].column(0).as_primitive::<Int32Type>().value(*row);
                    prop_assert_eq!(&values[id as usize], &group.values["place"]);
                    seen.push(id);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..values.len() as i32).collect::<Vec<_>>());
        }
    }
}
