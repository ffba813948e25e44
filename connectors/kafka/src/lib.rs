//! Kafka source: manual assignment from committed offsets, JSON decoded straight into Arrow.

pub mod codes;
mod config;
mod decode;
mod layout;
