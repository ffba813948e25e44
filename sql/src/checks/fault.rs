//! Faults of checks that are found before a pipeline runs.

use arrow_schema::SchemaRef;
use millstream_core::{Error, ErrorKind, TableSchema, envelope};

use super::program::ProgramFault;
use super::suggest::closest;
use crate::mixed;

/// A column is not in the table.
pub(super) const UNKNOWN_COLUMN: &str = "CK0001";
/// A column's type does not fit the check.
pub(super) const WRONG_TYPE: &str = "CK0002";
/// A value or bound in the check cannot be used.
pub(super) const BAD_VALUE: &str = "CK0003";
/// A pattern is no regular expression.
pub(super) const BAD_PATTERN: &str = "CK0004";
/// A condition is no SQL condition.
pub(super) const BAD_SQL: &str = "CK0005";
/// A condition depends on more than the row.
pub(super) const NOT_REPEATABLE: &str = "CK0006";
/// Options contradict each other or the kind of check.
pub(super) const BAD_OPTIONS: &str = "CK0007";
/// Two checks of a table share a name.
pub(super) const SAME_NAME: &str = "CK0008";
/// The table is not what a `schema_match` asks for.
pub(super) const SCHEMA_DIFFERS: &str = "CK0009";
/// An epoch failed its checks.
pub(super) const EPOCH_FAILED: &str = "CK0101";
/// Checks cannot be planned on a table's new schema.
pub(super) const SCHEMA_CHANGED: &str = "CK0102";
/// A `freshness` check with `then: fail` was tripped.
pub(super) const STALE: &str = "CK0103";

/// The table and the check that a fault belongs to.
pub(super) struct Scope<'a> {
    pub(super) table: &'a TableSchema,
    /// The columns that conditions may use: the user's and the reserved ones.
    pub(super) batch: SchemaRef,
    pub(super) check: &'a str,
}

impl Scope<'_> {
    /// An error about this check.
    pub(super) fn fault(&self, code: &'static str, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, message)
            .code(code)
            .with("table", &self.table.id)
            .with("check", self.check)
    }

    /// Where a user column stands in the batch.
    pub(super) fn column(&self, name: &str) -> Result<usize, Error> {
        self.table.columns.index_of(name).map_err(|_| self.unknown_column(name))
    }

    /// Says that `name` is no column, and what is.
    pub(super) fn unknown_column(&self, name: &str) -> Error {
        let known = self.table.columns.fields().iter().map(|field| field.name().as_str());
        let error = self.fault(UNKNOWN_COLUMN, format!("the table has no column `{name}`"));
        match closest(name, known.clone()) {
            // SQL folds names to lower case, so the same letters mean missing quotes.
            Some(near) if near.to_lowercase() == name.to_lowercase() => error.hint(format!(
                "the column is `{near}`: names keep their case, and in SQL they need double quotes"
            )),
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("its columns are {}", known.collect::<Vec<_>>().join(", "))),
        }
    }

    /// Says why the condition under `key` cannot be used.
    pub(super) fn condition(&self, key: &str, fault: ProgramFault) -> Error {
        match fault {
            ProgramFault::UnknownColumn(name) => self.unknown_column(&name),
            ProgramFault::NotRepeatable(function) => self
                .fault(
                    NOT_REPEATABLE,
                    format!("`{key}` calls `{function}`, whose answer changes from call to call"),
                )
                .hint(format!(
                    "a change that is read again must pass or fail as before: use `{}`, the time of the change",
                    envelope::COMMITTED_AT
                )),
            ProgramFault::Mixed(mixed) => self
                .fault(
                    WRONG_TYPE,
                    format!("`{key}` compares text with a number: `{}`", mixed.text),
                )
                .hint(mixed::HINT),
            ProgramFault::Invalid(why) => self
                .fault(
                    BAD_SQL,
                    format!("`{key}` is not a condition that can be checked: {why}"),
                )
                .hint("write one SQL condition over the columns of a row, for example \"amount >= discount\""),
        }
    }
}
