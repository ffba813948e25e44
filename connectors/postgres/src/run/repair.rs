//! What is done at the start about a slot that was lost, and the changes with it.

use millstream_core::{Boundary, PartitionId, Position, Result, SourceEvent, TableId};
use postgres_protocol::escape::escape_literal;

use crate::config::Settings;
use crate::decode::Lsn;
use crate::fault;
use crate::owed::{Why, owed_partition, owed_position};
use crate::plan::{Plan, position_of, relation_partition, relation_position, wal_partition};
use crate::wire::Connection;

/// Says loudly that changes were lost, if they were.
pub(super) fn announce(settings: &Settings, source: &str, plan: &Plan) {
    let tables = plan.anew.iter().filter(|(_, why)| *why == Why::LostSlot).count();
    if tables == 0 && !plan.drop_slot {
        return;
    }
    metrics::counter!("millstream_postgres_slots_lost_total", "source" => source.to_owned()).increment(1);
    tracing::error!(slot = %settings.slot, tables, dropped = plan.drop_slot, made = plan.create_slot,
        "the slot was lost and changes with it: the tables are copied anew");
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

/// The boundary that moves a table, whose relation is `oid`, past changes that are lost: the stream
/// begins behind `held`, and from there on the table is owed a copy. Either both are committed or
/// neither.
pub(super) fn skip_what_is_lost(
    (table, oid, since): (&TableId, u32, Lsn),
    held: Lsn,
    system: (PartitionId, Position),
) -> SourceEvent {
    SourceEvent::Boundary(Boundary {
        partition: owed_partition(table),
        from: Position::Beginning,
        position: owed_position(since, Why::LostSlot),
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
