//! What is done at the start about a slot that was lost, and the changes with it.

use millstream_core::{Boundary, Error, ErrorKind, PartitionId, Position, Result, SourceEvent, TableId};
use postgres_protocol::escape::escape_literal;

use crate::config::Settings;
use crate::decode::Lsn;
use crate::fault;
use crate::owed::{Why, owed_partition, owed_position};
use crate::plan::{Plan, position_of, relation_partition, relation_position, wal_partition};
use crate::recopy::LostSlot;
use crate::wire::Connection;

/// Says loudly that changes were lost, if they were.
pub(super) fn announce(settings: &Settings, source: &str, plan: &Plan) {
    if !plan.lost && !plan.drop_slot {
        return;
    }
    let tables = plan.anew.iter().filter(|(_, why)| *why == Why::LostSlot).count();
    metrics::counter!("millstream_postgres_slots_lost_total", "source" => source.to_owned()).increment(1);
    tracing::error!(slot = %settings.slot, tables, dropped = plan.drop_slot, made = plan.create_slot,
        "the slot was lost and changes with it: the tables are copied anew");
}

/// The same error as one that passes, where the next start makes up for the loss of the slot.
pub(super) fn passing(settings: &Settings, error: Error) -> Error {
    let is_loss = matches!(error.error_code(), Some("PG0022" | "PG0025"));
    match error.error_code() {
        Some(code) if is_loss && settings.lost_slot == LostSlot::Recopy => {
            Error::new(ErrorKind::Unavailable, "the slot was lost, or moved by another reader")
                .code(code)
                .caused_by(error)
        }
        _ => error,
    }
}

/// Drops the slot, which the server can no longer read.
pub(super) async fn drop_slot(settings: &Settings, sql: &mut Connection) -> Result<()> {
    let drop = format!(
        "SELECT pg_catalog.pg_drop_replication_slot({})",
        escape_literal(&settings.slot).trim_start()
    );
    let dropped = sql.query(&drop).await;
    dropped.map(|_| ()).map_err(|error| {
        fault::explain(error, "cannot drop the lost slot", &settings.connect).with("slot", &settings.slot)
    })
}

/// The boundary by which the target remembers that it is owed a copy of a table, whose relation is
/// `oid`, before anything else is read. It moves target tables that are behind `held`, where the
/// stream begins, to there: those of which changes are lost, and those that have nothing yet. Either
/// both are committed or neither.
pub(super) fn owes(
    (table, oid, why, since): (&TableId, u32, Why, Lsn),
    held: Lsn,
    system: (PartitionId, Position),
) -> SourceEvent {
    SourceEvent::Boundary(Boundary {
        partition: owed_partition(table),
        from: Position::Beginning,
        position: owed_position(since, why),
        table: Some(table.clone()),
        raises: vec![
            (wal_partition(&table.source), position_of(held)),
            // Of a table whose first copy had not begun yet; others remember it.
            (relation_partition(table), relation_position(oid)),
            system,
        ],
        committed_at: None,
        urgent: true,
    })
}
