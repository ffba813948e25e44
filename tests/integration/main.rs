//! The integration tests: the engine on memory connectors, and the daemon on real servers.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod bad_input;
mod broker;
mod caught_up;
mod copies;
mod daemon;
mod demo;
mod documents;
mod engine;
mod faults;
mod kafka_to_parquet;
mod lake;
mod memory;
mod object_store;
mod postgres_to_parquet;
mod project;
mod readers;
mod recopied;
mod reload;
mod service;
mod setup;
mod shutdown;
mod target_away;
