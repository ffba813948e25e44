//! Kafka source: manual assignment from committed offsets, JSON decoded straight into Arrow.
//!
//! ```text
//! librdkafka ──poll──► Partition ──► RowDecoder ──► ChangeBatch, Rejected, Boundary ──► pipeline
//!  (its own threads)      (the reader's thread)            (one round at a time)
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
mod gathered;
mod layout;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
mod offsets;
mod partition;
mod reader;
mod sample;
mod source;
mod topic_rows;

pub use config::{Batch, Decode, Json, KafkaConfig, Mechanism, OptionValue, Sasl, Security, Start, Tls};
pub use decode::column_type::{ColumnType, UnknownType};
#[cfg(feature = "benching")]
#[doc(hidden)]
pub use decode::row::RowDecoder;
pub use source::KafkaSource;

#[cfg(test)]
mod on_mock;
