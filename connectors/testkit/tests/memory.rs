//! The memory connectors pass the suites that every connector passes.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use millstream_core::{Checkpoint, Sink, Source};
use millstream_testkit::memory_log::{Change, MemoryLog, MemoryRow, transactions};
use millstream_testkit::memory_sink::{MemorySink, MemoryStore};
use millstream_testkit::memory_source::{MemorySource, MemorySourceOptions};
use millstream_testkit::sink_suite::{self, SinkSubject};
use millstream_testkit::source_suite::{self, SourceSubject};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

struct Memory {
    log: Arc<MemoryLog>,
    options: MemorySourceOptions,
    rows: usize,
}

impl Memory {
    fn new(options: MemorySourceOptions) -> Self {
        let log = MemoryLog::new("mem", &["orders", "customers"]);
        let mut runner = TestRunner::deterministic();
        for changes in transactions(2, 30).new_tree(&mut runner).unwrap().current() {
            log.commit(changes);
        }
        // One that is larger than a batch, and one that cannot be decoded.
        let label = Some("x".repeat(100));
        log.commit(
            (100..140)
                .map(|id| {
                    Change::Create(
                        0,
                        MemoryRow {
                            id,
                            value: None,
                            label: label.clone(),
                        },
                    )
                })
                .collect(),
        );
        log.commit(vec![Change::Poison(1, b"{".to_vec()), Change::Delete(0, 100)]);
        log.commit(vec![Change::UpdateValue(0, 101, Some(7))]);
        let rows = if options.copy_chunk.is_some() {
            log.expected(0).len() + log.expected(1).len()
        } else {
            (1..=log.len()).map(|n| log.transaction_len(n)).sum()
        };
        Self { log, options, rows }
    }
}

#[async_trait]
impl SourceSubject for Memory {
    async fn source(&self) -> Box<dyn Source> {
        Box::new(MemorySource::new(self.log.clone(), self.options.clone()))
    }

    fn is_complete(&self, read: &Checkpoint) -> bool {
        let copied =
            self.options.copy_chunk.is_none()
                || self.log.tables().iter().all(|table| {
                    *read.position(&MemorySource::copy_partition(table)) == millstream_core::Position::End
                });
        copied && *read.position(&self.log.partition()) == MemoryLog::position(self.log.len())
    }

    fn rows(&self) -> usize {
        self.rows
    }
}

#[tokio::test]
async fn the_memory_source_conforms() {
    source_suite::run(&Memory::new(MemorySourceOptions::default())).await;
}

#[tokio::test]
async fn the_memory_source_conforms_transaction_by_transaction() {
    let options = MemorySourceOptions {
        batch_rows: 1,
        transactions_per_boundary: 1,
        ..Default::default()
    };
    source_suite::run(&Memory::new(options)).await;
}

#[tokio::test]
async fn the_memory_source_conforms_with_a_first_copy() {
    source_suite::run(&Memory::new(MemorySourceOptions {
        copy_chunk: Some(4),
        ..Default::default()
    }))
    .await;
}

struct Stored(MemoryStore);

#[async_trait]
impl SinkSubject for Stored {
    async fn sink(&self) -> Box<dyn Sink> {
        Box::new(MemorySink::new(self.0.clone()))
    }

    async fn committed(&self, table: &str) -> Vec<RecordBatch> {
        self.0.table(table).rows
    }

    async fn quarantined(&self, table: &str) -> Vec<RecordBatch> {
        self.0.table(table).quarantine
    }
}

#[tokio::test]
async fn the_memory_sink_conforms() {
    sink_suite::run(&Stored(MemoryStore::default())).await;
}
