//! How fast rows come, printed: `cargo test -p millstream-postgres --test server throughput -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use millstream_core::SourceEvent;
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, source};

/// Takes events and drops them until `rows` changes came. Returns the time and the batches.
async fn take(run: &mut Running, rows: usize) -> (Duration, usize) {
    let start = Instant::now();
    let (mut taken, mut batches) = (0, 0);
    while taken < rows {
        match run.events.recv().await.expect("the source runs") {
            SourceEvent::Changes(batch) => {
                taken += batch.num_rows();
                batches += 1;
            }
            SourceEvent::Rejected { rows, .. } => taken += rows.num_rows(),
            SourceEvent::Boundary(_) | SourceEvent::TablesChanged => {}
        }
    }
    (start.elapsed(), batches)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn rows_a_second() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE wide (id bigint PRIMARY KEY, customer int, note text, price numeric(12,2), at timestamptz); \
             CREATE PUBLICATION p FOR ALL TABLES; \
             INSERT INTO wide SELECT i, i % 1000, 'note ' || i, i / 7.0, now() FROM generate_series(1, 2000000) i",
        )
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["wide"])), Target::of(&["wide"]));
    let (copy, batches) = take(&mut run, 2_000_000).await;
    println!("first copy: 2,000,000 rows in {copy:?}, {batches} batches");
    let target = run.target_after_copy().await;
    cluster
        .psql(
            "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN FOR t IN 1..10000 LOOP \
             UPDATE wide SET customer = customer + 1 WHERE id BETWEEN t * 100 AND t * 100 + 49; \
             INSERT INTO wide SELECT 3000000 + t * 50 + i, i, 'new', 1.25, now() FROM generate_series(0, 49) i; \
             COMMIT; END LOOP; END $$; CALL work();",
        )
        .unwrap();
    let mut run = Running::start(source(&config(&cluster, &["wide"])), target);
    let (stream, batches) = take(&mut run, 1_000_000).await;
    println!("stream: 1,000,000 changes in 10,000 transactions in {stream:?}, {batches} batches");
    run.stop().await;
}
