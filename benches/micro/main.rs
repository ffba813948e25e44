//! How long each stage takes by itself: `cargo bench -p millstream-benches`.
//!
//! Throughput is of rows. What the stages cost beside each other stands in docs/performance.md.

mod json;
mod lake;
mod model;
mod postgres;
mod quality;

use criterion::{Criterion, criterion_group};

/// Rows of a batch.
const ROWS: usize = 8192;

criterion_group!(
    stages,
    postgres::copy,
    postgres::stream,
    json::messages,
    quality::checks,
    model::apply,
    lake::encode,
    lake::encode_model,
    lake::commit,
    lake::commit_cpu
);

fn main() {
    stages();
    Criterion::default().configure_from_args().final_summary();
}
