//! Waiting for the daemon to have committed what a source holds.

use std::time::Duration;

use millstream_core::{Checkpoint, PartitionId, Position};
use millstream_testkit::postgres::TestCluster;

use crate::daemon::Daemon;

/// Waits until `tables` hold all that the cluster has committed up to now. `marker` is a
/// statement that changes one of the published tables, so that there is something to read after it.
pub fn with_postgres(daemon: &mut Daemon, cluster: &TestCluster, source: &str, tables: &[&str], marker: &str) {
    let lsn = cluster.psql("SELECT pg_current_wal_insert_lsn()").unwrap();
    let (high, low) = lsn.trim().split_once('/').expect("an LSN");
    let target = Position::at(format!("{high:0>8}{low:0>8}"));
    cluster.psql(marker).unwrap();
    let goals: Vec<_> = tables
        .iter()
        .map(|table| ((*table).to_owned(), PartitionId::new(source, "wal"), target.clone()))
        .collect();
    at(daemon, &goals);
}

/// Waits until each table holds its partition up to the position beside it.
pub fn at(daemon: &mut Daemon, goals: &[(String, PartitionId, Position)]) {
    daemon.wait_until("caught up", Duration::from_secs(60), |status| {
        goals.iter().all(|(table, partition, position)| {
            let held = status[0].tables.get(table).map(|table| &table.positions);
            held.is_some_and(|held| held.position(partition) >= position && is_copied(held))
        })
    });
}

/// Whether the first copies of PostgreSQL's tables that a target table is fed by have ended.
pub fn is_copied(held: &Checkpoint) -> bool {
    let copies = held
        .iter()
        .filter(|(partition, _)| partition.within_source().starts_with("copy/"));
    copies
        .map(|(_, position)| position)
        .all(|position| *position == Position::End)
}
