//! What the server says about the slot and about what holds it back. PostgreSQL manual, 53.19
//! `pg_replication_slots`, 27.2.3 `pg_stat_activity` and 53.16 `pg_prepared_xacts`.

use postgres_protocol::escape::escape_literal;

use crate::decode::Lsn;
use crate::wire::{Connection, Row, WireError};

/// `conflicting` came with this version: the slot of a standby lost rows that it needed.
const CONFLICTS: u32 = 160_000;
/// `invalidation_reason`, `inactive_since`, `failover` and `synced` came with this version.
const REASONS: u32 = 170_000;

/// One look at the server. Bytes and numbers of transactions are as the server counts them.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SlotFacts {
    /// Whether the server is a standby.
    pub(crate) in_recovery: bool,
    /// Where the log ends: what was written, or on a standby what was replayed.
    pub(crate) log_end: Lsn,
    /// `None` if there is no such slot.
    pub(crate) slot: Option<SlotState>,
    /// The oldest transaction that writes.
    pub(crate) oldest_transaction: Age,
    /// The oldest transaction that waits for its COMMIT PREPARED.
    pub(crate) oldest_prepared: Age,
}

/// The state of a slot.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SlotState {
    /// From `restart_lsn` to the log's end; `None` once the server keeps nothing for it.
    pub(crate) retained_bytes: Option<f64>,
    pub(crate) confirmed: Option<Lsn>,
    /// How much may still be written before the slot may be lost; `None` if there is no limit.
    pub(crate) safe_bytes: Option<f64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(crate) wal_status: String,
    /// Why the slot can no longer be read: `wal_removed`, `rows_removed`,
    /// `wal_level_insufficient`, `idle_timeout`; on version 16 `conflict`, which says no more.
    pub(crate) invalidation: Option<String>,
    /// How long nobody has read it; 0 while somebody does, or where that is not known.
    pub(crate) inactive_seconds: f64,
    pub(crate) catalog_xmin_age: f64,
    pub(crate) failover: bool,
    /// Whether it is a standby's copy of the primary's.
    pub(crate) synced: bool,
}

/// How old a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Age {
    /// Transactions that were begun since; 0 if there is none.
    pub(crate) xids: f64,
    /// `None` if our role may not see it, which `pg_read_all_stats` allows.
    pub(crate) seconds: Option<f64>,
}

/// Looks at the slot called `slot` and at what may hold it back.
pub(crate) async fn read_slot_facts(sql: &mut Connection, slot: &str) -> Result<SlotFacts, WireError> {
    let rows = sql.query(&facts_query(slot, sql.server_version())).await?;
    let row = rows
        .first()
        .ok_or_else(|| WireError::Protocol("no answer to a catalog query".to_owned()))?;
    let log_end = lsn(row, 1).unwrap_or_default();
    let age = |xids: usize| match number(row, xids) {
        None => Age {
            xids: 0.0,
            seconds: Some(0.0),
        },
        Some(count) => Age {
            xids: count,
            seconds: number(row, xids + 1),
        },
    };
    let slot = row.get(2).map(|wal_status| SlotState {
        retained_bytes: lsn(row, 3).map(|restart| bytes_between(restart, log_end)),
        confirmed: lsn(row, 4),
        safe_bytes: number(row, 5),
        wal_status: wal_status.to_owned(),
        invalidation: row.get(6).map(str::to_owned),
        inactive_seconds: number(row, 7).unwrap_or_default(),
        catalog_xmin_age: number(row, 8).unwrap_or_default(),
        failover: row.is_true(9),
        synced: row.is_true(10),
    });
    Ok(SlotFacts {
        in_recovery: row.is_true(0),
        log_end,
        slot,
        oldest_transaction: age(11),
        oldest_prepared: age(13),
    })
}

/// The bytes of log from `from` to `to`, none if `to` is before it.
pub(crate) fn bytes_between(from: Lsn, to: Lsn) -> f64 {
    to.0.saturating_sub(from.0) as f64
}

fn number(row: &Row, index: usize) -> Option<f64> {
    row.get(index)?.parse().ok()
}

fn lsn(row: &Row, index: usize) -> Option<Lsn> {
    row.get(index)?.parse().ok()
}

/// The SQL of the reason why a slot `s` can no longer be read. NULL if it can, or if the server
/// does not say.
pub(super) fn invalidation_column(version: u32) -> &'static str {
    match version {
        ..CONFLICTS => "NULL",
        CONFLICTS..REASONS => "CASE WHEN s.conflicting THEN 'conflict' END",
        REASONS.. => "s.invalidation_reason",
    }
}

fn facts_query(slot: &str, version: u32) -> String {
    let invalidation = invalidation_column(version);
    let (inactive, failover, synced) = if version >= REASONS {
        (
            "CASE WHEN NOT s.active THEN extract(epoch FROM pg_catalog.clock_timestamp() - s.inactive_since) END",
            "s.failover",
            "s.synced",
        )
    } else {
        ("NULL", "false", "false")
    };
    // The status is NULL for a slot that keeps nothing yet.
    format!(
        "SELECT pg_catalog.pg_is_in_recovery(), w.lsn, \
         CASE WHEN s.slot_name IS NOT NULL THEN COALESCE(s.wal_status, '') END, s.restart_lsn, \
         s.confirmed_flush_lsn, s.safe_wal_size, {invalidation}, {inactive}, pg_catalog.age(s.catalog_xmin), \
         {failover}, {synced}, t.xids, t.seconds, p.xids, p.seconds \
         FROM (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
         ELSE pg_catalog.pg_current_wal_lsn() END AS lsn) w \
         LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = {} \
         CROSS JOIN (SELECT max(pg_catalog.age(backend_xid)) AS xids, \
         extract(epoch FROM pg_catalog.clock_timestamp() - min(xact_start)) AS seconds \
         FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL) t \
         CROSS JOIN (SELECT max(pg_catalog.age(transaction)) AS xids, \
         extract(epoch FROM pg_catalog.clock_timestamp() - min(prepared)) AS seconds \
         FROM pg_catalog.pg_prepared_xacts) p",
        escape_literal(slot)
    )
}
