//! Random transactions, a crash at each named failpoint, and the table that is left.

use std::sync::Arc;

use millstream_core::{
    ByteBudget, Checkpoint, Error, ErrorKind, Source, SourceContext, SourceEvent, TableWriter, event_channel,
};
use millstream_parquet::FAILPOINTS;
use millstream_testkit::change_log::{change_rows, fold};
use millstream_testkit::memory_log::{Change, MemoryLog, transactions};
use millstream_testkit::memory_source::{MemorySource, MemorySourceOptions};
use object_store::memory::InMemory;
use proptest::prelude::*;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lake::{self, Lake, open};

const TABLE: &str = "orders";

/// Which failpoint strikes, and how often it is passed before.
type Crash = (&'static str, usize);

fn crashes() -> impl Strategy<Value = Vec<Crash>> {
    proptest::collection::vec((proptest::sample::select(FAILPOINTS), 0usize..4), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_crash_loses_nothing_and_repeats_nothing_on_a_store(
        transactions in transactions(1, 16), crashes in crashes(), per_boundary in 1u64..4,
    ) {
        let lake = || Lake::on_with_failpoints(Arc::new(InMemory::new()));
        survive(lake, transactions, &crashes, per_boundary);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_crash_loses_nothing_and_repeats_nothing_in_a_folder(
        transactions in transactions(1, 16), crashes in crashes(), per_boundary in 1u64..4,
    ) {
        survive(Lake::in_folder_with_failpoints, transactions, &crashes, per_boundary);
    }
}

/// Each failpoint once, whatever the dice say.
#[test]
fn every_failpoint_is_reached() {
    let transactions: Vec<_> = (1..=6).map(|id| vec![Change::Delete(0, id)]).collect();
    for name in FAILPOINTS {
        let struck = survive(Lake::in_folder_with_failpoints, transactions.clone(), &[(name, 0)], 1);
        assert_eq!(struck, 1, "{name}");
    }
}

/// Runs the log into a lake with these crashes, checks what is left, and tells how many struck.
fn survive(lake: impl Fn() -> Lake, transactions: Vec<Vec<Change>>, crashes: &[Crash], per_boundary: u64) -> usize {
    let _alone = lake::FAILPOINTS.blocking_write();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut lake = lake();
    lake.config.file.rows = Some(3);
    let log = MemoryLog::new("mem", &[TABLE]);
    for changes in transactions {
        log.commit(changes);
    }
    let mut struck = 0;
    for &(name, passes) in crashes {
        fail::cfg(name, &format!("{passes}*off->1*return->off")).unwrap();
        let outcome = runtime.block_on(run(&lake, &log, per_boundary));
        fail::remove(name);
        if let Err(error) = outcome {
            assert!(error.summary().contains("failpoint"), "{}", error.summary());
            struck += 1;
        }
    }
    runtime.block_on(async {
        run(&lake, &log, per_boundary).await.unwrap();
        let rows = lake.rows(TABLE).await;
        assert_eq!(fold(&["id".to_owned()], &rows), log.expected(0));
        let mut changes = change_rows(&rows);
        changes.sort();
        assert!(
            changes.windows(2).all(|pair| pair[0].place() != pair[1].place()),
            "a change was committed twice"
        );
        assert_eq!(
            changes.len(),
            (1..=log.len()).map(|n| log.transaction_len(n)).sum::<usize>()
        );
        // The last start swept, so that nothing is left of the crashed ones.
        assert_eq!(lake.objects(TABLE, "data").await, lake.committed(TABLE).await);
        assert_eq!(lake.staging_files(), Vec::<std::path::PathBuf>::new());
    });
    struck
}

/// What the engine does, for one table: an epoch ends at each boundary. An error ends the
/// "process" on the spot, without an abort.
async fn run(lake: &Lake, log: &Arc<MemoryLog>, transactions_per_boundary: u64) -> Result<(), Error> {
    let schema = log.tables()[0].clone();
    let mut writer = open(&lake.sink(), &schema).await?;
    let (events, mut received) = event_channel(ByteBudget::new(1 << 20), 16);
    let resume = [(schema.id.clone(), writer.checkpoint().clone())];
    let options = MemorySourceOptions {
        transactions_per_boundary,
        ends: true,
        ..MemorySourceOptions::default()
    };
    let source = Box::new(MemorySource::new(log.clone(), options));
    let (_durable, durable) = watch::channel(Checkpoint::default());
    let reading = tokio::spawn(source.run(SourceContext::new(
        resume.into_iter().collect(),
        events,
        durable,
        CancellationToken::new(),
    )));
    while let Some(event) = received.recv().await {
        match event {
            SourceEvent::Changes(batch) => writer.write(batch).await?,
            SourceEvent::Boundary(boundary) => publish(&mut writer, boundary.partition, boundary.position).await?,
            SourceEvent::Rejected { .. } | SourceEvent::TablesChanged => {
                return Err(Error::new(ErrorKind::Internal, "the log holds no such thing"));
            }
        }
    }
    reading.await.expect("the source does not panic")
}

async fn publish(
    writer: &mut Box<dyn TableWriter>,
    partition: millstream_core::PartitionId,
    position: millstream_core::Position,
) -> Result<(), Error> {
    let mut target = writer.checkpoint().clone();
    target.set(partition, position);
    let advance = writer.checkpoint().delta_to(&target);
    let prepared = writer.prepare(advance).await?;
    writer.commit(prepared).await.map(drop)
}
