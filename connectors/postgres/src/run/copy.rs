//! The first copy of one table.

use millstream_core::{Boundary, Error, EventSender, Position, Result, SourceEvent};

use super::outbox::Outbox;
use super::snapshot::{Snapshot, copy_statement};
use super::tables::{rows_counter, take_batches};
use crate::catalog::CatalogTable;
use crate::config::Settings;
use crate::decode::{Catalog, ChangeContext, CopyDecoder, Lsn, TableDecoder};
use crate::fault;
use crate::plan::{copy_partition, position_of, wal_partition};
use crate::shape::Shape;

/// Copies `table` as `snapshot` sees it, and ends with a boundary that raises the table to
/// `held`, the last commit that the snapshot includes.
pub(super) async fn copy_table(
    settings: &Settings,
    snapshot: &mut Snapshot,
    table: &CatalogTable,
    types: &Catalog,
    held: Lsn,
    events: &EventSender,
) -> Result<()> {
    let shape = Shape::of(table, settings.forms);
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
        raises: vec![(wal_partition(&table.id.source), position_of(held))],
        committed_at: None,
        urgent: false,
    }));
    tracing::info!(table = %table.id, rows = ordinal, "first copy read");
    outbox.drive().await
}
