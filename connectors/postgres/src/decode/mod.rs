//! Wire bytes into Arrow: what PostgreSQL sends, in text or binary format, goes straight into
//! column builders. Nothing here does I/O.
//!
//! | module | what it knows |
//! |---|---|
//! | [`catalog_type`], [`column_type`], [`built_in`], [`resolve`], [`forms`] | which Arrow type a PostgreSQL column becomes |
//! | [`column`], [`list`], [`vector`] | builders that take one wire value at a time |
//! | [`numeric`], [`calendar`], [`network`] | the values themselves |
//! | [`text_form`], [`float`], [`geometry`], [`search`], [`nested`], [`extension`] | their text, as PostgreSQL writes it |
//! | [`pgoutput`], [`tuple`] | messages of logical replication |
//! | [`copy`], [`copied`] | the `COPY … (FORMAT binary)` stream, and its columns |
//! | [`rows`], [`before_image`], [`raw_row`] | changes of one table, what rows were before, and those that were rejected |
//! | [`gaps`] | values that were left out of them |

mod before_image;
#[cfg(feature = "benching")]
pub mod benching;
mod built_in;
pub(crate) mod calendar;
pub(crate) mod catalog_type;
mod column;
pub(crate) mod column_type;
mod copied;
pub(crate) mod copy;
mod extension;
mod float;
pub(crate) mod forms;
#[cfg(any(feature = "fuzzing", test))]
pub mod fuzzing;
pub(crate) mod gaps;
mod geometry;
mod list;
pub(crate) mod lsn;
mod nested;
mod network;
mod numeric;
pub(crate) mod pgoutput;
mod protocol_error;
mod raw_row;
mod reader;
mod resolve;
pub(crate) mod rows;
mod search;
mod text_form;
mod texts;
pub(crate) mod tuple;
mod value_error;
mod vector;

#[cfg(test)]
mod documented_tests;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
mod server_tests;

pub(crate) use catalog_type::{Catalog, CatalogType};
pub(crate) use column_type::ColumnType;
pub(crate) use copy::{CopyDecoder, CopyRows};
pub(crate) use forms::Forms;
pub(crate) use lsn::Lsn;
pub(crate) use protocol_error::ProtocolError;
pub(crate) use rows::{ChangeContext, Room, TableDecoder};
pub(crate) use tuple::{Tuple, TupleValue};
