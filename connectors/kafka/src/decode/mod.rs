//! Messages into Arrow columns.
//!
//! JSON is parsed once, by `serde_json`, which hands over each member's text; the text goes
//! straight into the column. Arrow's own JSON decoder was not used: it reads integers beyond
//! an `i64` as floats, drops fields that the schema lacks, and cannot take back a message
//! that fails half way without decoding the batch again.

pub mod column;
pub mod column_type;
pub mod infer;
pub mod row;
pub mod scalar;
