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

use arrow_schema::{DataType, Field, Schema, TimeUnit};

mod builder;
mod positions;

pub use builder::EnvelopeBuilder;
pub use positions::columns_of_positions;

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
