//! Kafka's protocol, up to record batches: connections to brokers, and what they send.
//!
//! The messages are those of the crate `kafka-protocol`; what carries them, and the records in them, are ours
//! (docs/adr/0010).

mod batch;
mod compression;
mod connection;
mod fault;
mod fetch;
mod sasl;
#[cfg(test)]
pub mod testing;
mod tls;

pub use batch::{Damaged, Record, RecordBatch};
pub use connection::{Connection, Connector};
pub use fault::WireFault;
pub use fetch::{Cursor, HIGHEST as HIGHEST_FETCH, Part, Stop, request, take, topic_name};
