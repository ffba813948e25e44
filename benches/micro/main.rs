//! How long each stage takes by itself: `cargo bench -p millstream-benches`.
//!
//! Throughput is of rows. What the stages cost beside each other stands in docs/performance.md.

mod json;
mod lake;
mod postgres;
mod quality;

use criterion::{criterion_group, criterion_main};

/// Rows of a batch.
const ROWS: usize = 8192;

criterion_group!(
    stages,
    postgres::copy,
    postgres::stream,
    json::messages,
    quality::checks,
    lake::encode,
    lake::commit
);
criterion_main!(stages);
