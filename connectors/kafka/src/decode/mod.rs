//! Messages into Arrow columns.
//!
//! JSON is parsed once: each member's text goes straight into its column. Objects that are plainly written are taken
//! apart here, all else by `serde_json`. Arrow's own JSON decoder was not used: it reads integers beyond
//! an `i64` as floats, drops fields that the schema lacks, and cannot take back a message
//! that fails half way without decoding the batch again.

pub mod column;
pub mod column_type;
pub mod infer;
mod plain;
pub mod row;
pub mod scalar;
