//! Parquet sink on object stores, with atomic commits of files and positions.
//!
//! A table is a folder:
//!
//! ```text
//! <url>/<table>/_commits/00000000000000000001.json   one record per commit: files, schema, positions
//! <url>/<table>/_commits/_last.json                  a hint where the newest commit is, left at every hundredth; never trusted
//! <url>/<table>/data/[day_placed_at=2026-01-31/]g00000001-1a2b3c4d-000001.parquet
//! <url>/<table>/_quarantine/g00000001-1a2b3c4d-000002.parquet    rejected rows
//! ```
//!
//! A commit is one conditional create of the next record. What the record lists is the table;
//! other files under `data/` belong to an epoch that was not committed. The decisions of the
//! protocol are pure functions in [`decision`]; the other modules carry them out.

mod backlog;
mod chunk;
mod commit_log;
mod config;
mod data_file;
pub mod decision;
mod dictionary;
mod differences;
mod durable_folder;
mod encoder;
mod encoding;
mod evolution;
mod failpoint;
mod fault;
mod hybrid;
mod names;
mod numbers;
mod open_files;
mod pages;
mod partition;
mod partition_key;
mod probe;
mod reader;
mod record;
mod runs;
mod sink;
mod storage;
mod stored_schema;
mod sweep;
mod upload;
mod words;
mod writer;

pub use config::{Compression, EncodingChoice, FileTarget, ParquetConfig};
pub use failpoint::FAILPOINTS;
pub use names::DataFileName;
pub use partition::PartitionExpr;
pub use reader::{CommittedFile, CommittedTable, committed_files};
pub use record::{CommitKind, CommitRecord, DataFile};
pub use sink::ParquetSink;
pub use stored_schema::{StoredColumn, StoredSchema};
