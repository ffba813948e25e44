//! Wire bytes into Arrow: what PostgreSQL sends, in text or binary format, goes straight into
//! column builders. Nothing here does I/O.
//!
//! | module | what it knows |
//! |---|---|
//! | [`catalog_type`], [`column_type`], [`forms`] | which Arrow type a PostgreSQL column becomes |
//! | [`column`], [`list`] | builders that take one wire value at a time |
//! | [`numeric`], [`calendar`], [`text_form`], [`network`] | the values themselves |
//! | [`pgoutput`], [`tuple`] | messages of logical replication |
//! | [`copy`] | the `COPY … (FORMAT binary)` stream |
//! | [`rows`], [`raw_row`] | changes of one table, and the rows that were rejected |

pub(crate) mod calendar;
pub(crate) mod catalog_type;
mod column;
pub(crate) mod column_type;
pub(crate) mod copy;
pub(crate) mod forms;
mod list;
pub(crate) mod lsn;
mod network;
mod numeric;
pub(crate) mod pgoutput;
mod protocol_error;
mod raw_row;
mod reader;
pub(crate) mod rows;
mod text_form;
pub(crate) mod tuple;
mod value_error;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
mod server_tests;

pub(crate) use catalog_type::{Catalog, CatalogType, TypeKind};
pub(crate) use column_type::ColumnType;
pub(crate) use copy::{CopyDecoder, CopyRow};
pub(crate) use forms::Forms;
pub(crate) use lsn::Lsn;
pub(crate) use protocol_error::ProtocolError;
pub(crate) use rows::{ChangeContext, TableDecoder};
pub(crate) use tuple::{Tuple, TupleValue};
