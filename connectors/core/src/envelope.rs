//! The reserved columns that every change batch carries beside the user's own.
//!
//! | column           | Arrow type                  | meaning |
//! |------------------|-----------------------------|---------|
//! | `__op`           | Utf8                        | `r` first copy, `c` create, `u` update, `d` delete, `t` truncate |
//! | `__partition`    | Dictionary(Int32, Utf8)     | the [`PartitionId`] that the row came from |
//! | `__position`     | Utf8                        | the row's place in the partition, as in [`Position::At`] |
//! | `__ordinal`      | Int64                       | the row's place among those of one position, from 0 |
//! | `__committed_at` | Timestamp(µs, UTC), nullable | when the source committed the change |
//! | `__unchanged`    | List(Utf8), nullable        | columns that the source did not send because they did not change; these are NOT nulls |
//! | `__before`       | Struct of the user's columns, nullable, optional | the row before the change |
//!
//! `(__partition, __position, __ordinal)` is unique, and orders the changes of a partition.
//!
//! A column in `__unchanged` has the value that it had in the row with the same key. A change of
//! key is a `d` of the old and a `c` of the new row; a `c` with `__unchanged` takes those columns
//! from the row that the `d` just before it removed: the one with the same partition and
//! position, and an ordinal less by one. Only such a `c` may have `__unchanged`, and whoever
//! derives changes from others keeps the two next to each other.
//!
//! A source may put a value beside the name, which it read later: newer than the change, or NULL if
//! there is none. It counts where the row had nothing that was sent, and does not move to another key.
//!
//! Letters are Debezium's. The unchanged columns are named, not numbered, so that they keep
//! their meaning through projections and schema changes.
//!
//! [`Position::At`]: crate::Position::At

use std::sync::{Arc, LazyLock};

use arrow_array::builder::{ArrayBuilder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use crate::PartitionId;

/// Name of the operation column.
pub const OP: &str = "__op";
/// Name of the partition column.
pub const PARTITION: &str = "__partition";
/// Name of the position column.
pub const POSITION: &str = "__position";
/// Name of the ordinal column.
pub const ORDINAL: &str = "__ordinal";
/// Name of the commit-time column.
pub const COMMITTED_AT: &str = "__committed_at";
/// Name of the column that lists what the source did not send.
pub const UNCHANGED: &str = "__unchanged";
/// Name of the before-image column.
pub const BEFORE: &str = "__before";
/// Names that begin so are reserved.
pub const RESERVED_PREFIX: &str = "__";

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Read by a first copy or a backfill.
    Read,
    /// Inserted.
    Create,
    /// Updated, with the key unchanged.
    Update,
    /// Deleted; the key alone may be filled.
    Delete,
    /// The whole table was emptied; every user column is null.
    Truncate,
}

impl Op {
    /// The letter stored in the `__op` column.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Truncate => "t",
        }
    }

    /// The operation of a letter; `None` for a letter that is none.
    pub fn from_letter(letter: &str) -> Option<Self> {
        [Self::Read, Self::Create, Self::Update, Self::Delete, Self::Truncate]
            .into_iter()
            .find(|op| op.letter() == letter)
    }
}

static FIELDS: LazyLock<[Arc<Field>; 6]> = LazyLock::new(|| {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let names = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    [
        Field::new(OP, DataType::Utf8, false),
        Field::new(PARTITION, dictionary, false),
        Field::new(POSITION, DataType::Utf8, false),
        Field::new(ORDINAL, DataType::Int64, false),
        Field::new(
            COMMITTED_AT,
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
        Field::new(UNCHANGED, names, true),
    ]
    .map(Arc::new)
});

/// The reserved fields, in their order, without `__before`.
pub fn fields() -> impl Iterator<Item = Arc<Field>> {
    FIELDS.iter().cloned()
}

/// The field of the before-image of a table with these user columns.
pub fn before_field(columns: &Schema) -> Arc<Field> {
    Arc::new(Field::new(BEFORE, DataType::Struct(columns.fields().clone()), true))
}

/// Whether `column` is a reserved name.
pub fn is_reserved(column: &str) -> bool {
    column.starts_with(RESERVED_PREFIX)
}

/// Builds the six reserved columns, one row at a time.
pub struct EnvelopeBuilder {
    op: StringBuilder,
    partition: Partitions,
    position: StringBuilder,
    ordinal: Int64Builder,
    committed_at: TimestampMicrosecondBuilder,
    unchanged: ListBuilder<StringBuilder>,
}

impl Default for EnvelopeBuilder {
    fn default() -> Self {
        Self {
            op: StringBuilder::new(),
            partition: Partitions::default(),
            position: StringBuilder::new(),
            ordinal: Int64Builder::new(),
            committed_at: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            unchanged: ListBuilder::new(StringBuilder::new()),
        }
    }
}

impl EnvelopeBuilder {
    /// Appends a row. `position` is the text of a [`Position::At`](crate::Position::At);
    /// `committed_at` counts microseconds since the Unix epoch.
    pub fn append(&mut self, op: Op, partition: &PartitionId, position: &str, ordinal: i64, committed_at: Option<i64>) {
        self.append_partial(op, partition, position, ordinal, committed_at, &[]);
    }

    /// Appends a row in which the columns named by `unchanged` were not sent by the source. A
    /// create has such columns only right behind the delete of the row that it moves.
    pub fn append_partial(
        &mut self,
        op: Op,
        partition: &PartitionId,
        position: &str,
        ordinal: i64,
        committed_at: Option<i64>,
        unchanged: &[&str],
    ) {
        self.op.append_value(op.letter());
        self.partition.append(partition);
        self.position.append_value(position);
        self.ordinal.append_value(ordinal);
        self.committed_at.append_option(committed_at);
        for name in unchanged {
            self.unchanged.values().append_value(name);
        }
        self.unchanged.append(!unchanged.is_empty());
    }

    /// Rows appended since the last [`finish`](Self::finish).
    pub fn len(&self) -> usize {
        self.op.len()
    }

    /// Whether no row was appended since the last [`finish`](Self::finish).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns in the order of [`fields`]; the builder is empty afterwards.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.op.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.ordinal.finish()),
            Arc::new(self.committed_at.finish()),
            Arc::new(self.unchanged.finish()),
        ]
    }
}

/// Builds the partition column. Rows of one partition follow each other, so that nothing need be
/// looked up for nearly all of them.
#[derive(Default)]
struct Partitions {
    keys: Vec<i32>,
    named: Vec<PartitionId>,
    last: usize,
}

impl Partitions {
    fn append(&mut self, partition: &PartitionId) {
        if self.named.get(self.last) != Some(partition) {
            let known = self.named.iter().position(|named| named == partition);
            self.last = known.unwrap_or(self.named.len());
            if known.is_none() {
                self.named.push(partition.clone());
            }
        }
        self.keys.push(self.last as i32);
    }

    fn finish(&mut self) -> DictionaryArray<Int32Type> {
        let Self { keys, named, .. } = std::mem::take(self);
        let names = StringArray::from_iter_values(named.iter().map(PartitionId::as_str));
        DictionaryArray::new(Int32Array::from(keys), Arc::new(names))
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::{Array, RecordBatch};

    use super::*;

    #[test]
    fn built_columns_have_the_declared_types() {
        let mut envelope = EnvelopeBuilder::default();
        let partition = PartitionId::new("shop", "wal");
        envelope.append(Op::Create, &partition, "01", 0, Some(7));
        envelope.append_partial(Op::Update, &partition, "01", 1, None, &["body"]);
        let schema = Arc::new(Schema::new(fields().collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, envelope.finish()).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert!(batch.column_by_name(UNCHANGED).unwrap().is_null(0));
        assert!(envelope.is_empty());
    }

    #[test]
    fn each_row_has_its_partition() {
        let mut envelope = EnvelopeBuilder::default();
        for round in 0..2 {
            let names = ["t/0", "t/1", "t/1", "t/0", "t/2"];
            for name in &names[round..] {
                envelope.append(Op::Create, &PartitionId::new("s", name), "01", 0, None);
            }
            let columns = envelope.finish();
            let partitions = columns[1].as_dictionary::<Int32Type>();
            let found: Vec<_> = partitions
                .downcast_dict::<StringArray>()
                .unwrap()
                .into_iter()
                .flatten()
                .collect();
            let expected: Vec<_> = names[round..].iter().map(|name| format!("s/{name}")).collect();
            assert_eq!(found, expected);
        }
    }
}
