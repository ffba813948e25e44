//! The integration tests: the engine on memory connectors, and the daemon on real servers.

mod daemon;
mod engine;
mod lake;
mod postgres_to_parquet;
mod project;
