//! First copies.

use std::collections::HashMap;

use millstream_core::{Boundary, Error, EventSender, Position, Result, SourceEvent, TableId};

use super::outbox::Outbox;
use super::snapshot::{Snapshot, copy_statement};
use super::tables::{rows_counter, take_batches};
use crate::catalog::CatalogTable;
use crate::config::Settings;
use crate::decode::{ChangeContext, CopyDecoder, Lsn, TableDecoder};
use crate::fault;
use crate::plan::{Plan, copy_partition, position_of, relation_partition, relation_position, wal_partition};
use crate::shape::Shape;

/// What first copies hold.
pub(super) struct Copied {
    /// The last commit that is in them.
    pub(super) held: Lsn,
    /// The relations that they were made from.
    pub(super) oids: HashMap<TableId, u32>,
}

/// Copies the tables that need it, all as one snapshot sees them.
pub(super) async fn copy_tables(settings: &Settings, plan: &Plan, events: &EventSender) -> Result<Copied> {
    let mut snapshot = Snapshot::of(settings, &plan.copy, plan.create_slot).await?;
    // Every transaction whose commit record begins before the snapshot's point is in it.
    let held = Lsn(snapshot.point.0.saturating_sub(1));
    let tables = std::mem::take(&mut snapshot.tables);
    for table in &tables {
        copy_table(settings, &mut snapshot, table, held, events).await?;
    }
    snapshot.close().await;
    let oids = tables.into_iter().map(|table| (table.id, table.oid)).collect();
    Ok(Copied { held, oids })
}

/// Copies `table` as `snapshot` sees it, and ends with a boundary that raises the table to
/// `held`, the last commit that the snapshot includes.
async fn copy_table(
    settings: &Settings,
    snapshot: &mut Snapshot,
    table: &CatalogTable,
    held: Lsn,
    events: &EventSender,
) -> Result<()> {
    let shape = Shape::of(table, settings.forms);
    let types = &snapshot.types;
    let column_types = shape.column_types(types);
    let needs_text: Vec<bool> = column_types.iter().map(|r#type| r#type.needs_text()).collect();
    let partition = copy_partition(&table.id);
    let mut decoder = TableDecoder::new(shape.schema(types)?, column_types, partition.clone());
    let mut rows = CopyDecoder::default();
    let mut outbox = Outbox::new(events.clone());
    let counter = rows_counter(&table.id, "copy");
    let position = held.padded();
    let failed = |error| fault::explain(error, "the first copy failed", &settings.connect).with("table", &table.id);
    let (mut ordinal, mut pending, mut bytes) = (0i64, 0usize, 0usize);
    tracing::info!(table = %table.id, "first copy");
    let mut stream = snapshot
        .sql
        .copy_out(&copy_statement(table, &needs_text))
        .await
        .map_err(failed)?;
    while let Some(content) = stream.next().await.map_err(failed)? {
        bytes += content.len();
        rows.feed(content, |row| {
            let context = ChangeContext {
                position: &position,
                ordinal,
                committed_at: None,
            };
            decoder.copy(&context, &row)?;
            ordinal += 1;
            pending += 1;
            Ok::<_, Error>(())
        })?;
        if pending >= settings.batch.rows || bytes as u64 >= settings.batch.bytes.0 {
            take_batches(&mut decoder, &mut outbox)?;
            counter.increment(pending as u64);
            (pending, bytes) = (0, 0);
            outbox.drive().await?;
        }
    }
    rows.finish()?;
    take_batches(&mut decoder, &mut outbox)?;
    counter.increment(pending as u64);
    outbox.push(SourceEvent::Boundary(Boundary {
        partition,
        from: Position::Beginning,
        position: Position::End,
        table: Some(table.id.clone()),
        raises: vec![
            (wal_partition(&table.id.source), position_of(held)),
            (relation_partition(&table.id), relation_position(table.oid)),
        ],
        committed_at: None,
        urgent: false,
    }));
    tracing::info!(table = %table.id, rows = ordinal, "first copy read");
    outbox.drive().await
}
