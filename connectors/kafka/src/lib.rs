//! Kafka source: manual assignment from committed offsets, JSON decoded straight into Arrow.
//!
//! ```text
//! broker ──► Fetcher ──► Partition ──► RowDecoder ──► ChangeBatch, Rejected, Boundary ──► pipeline
//!         (one for each)  (the reader)        (one round at a time, on a thread for it)
//! ```
//!
//! Invariants:
//! - The target is the authority on positions: nothing is committed to Kafka, and an offset
//!   that is out of range halts the source.
//! - Every message is a row or a rejected row, and every field of a row is in a column.
//! - A boundary follows the rows of its own partition only.

mod client;
pub mod codes;
mod config;
mod decode;
mod decoding;
mod fetcher;
mod gathered;
mod layout;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
mod offsets;
mod partition;
mod position_text;
mod reader;
mod sample;
mod source;
mod topic_rows;
mod wire;

pub use config::{Batch, Decode, Json, KafkaConfig, Mechanism, Sasl, Security, Start, Tls};
pub use decode::column_type::{ColumnType, UnknownType};
#[cfg(feature = "benching")]
#[doc(hidden)]
pub use decode::row::RowDecoder;
pub use source::KafkaSource;

#[cfg(test)]
mod on_mock;
