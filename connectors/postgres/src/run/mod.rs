//! A run: find out where to begin, make the first copies that are missing, then stream.

mod assembler;
mod copy;
mod messages;
mod outbox;
mod snapshot;
mod stream;
mod tables;

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result, SourceContext, TableId};
use tokio::time::{Instant, sleep};

use self::assembler::Assembler;
use self::outbox::Outbox;
use self::snapshot::Snapshot;
use self::stream::{Gauges, Stream};
use self::tables::Tables;
use crate::catalog::{self, CatalogTable};
use crate::config::Settings;
use crate::decode::Lsn;
use crate::fault;
use crate::plan::{lsn_of, plan, wal_partition};
use crate::shape::{Shape, TypeNames};
use crate::wire::{Connection, ReplicationStream, Session, WireError};

/// How long to wait for the slot's last reader to be missed by the server.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);
const SLOT_RETRY: Duration = Duration::from_millis(250);

/// Runs the source; see [`millstream_core::Source::run`].
pub(crate) async fn run(settings: &Settings, source: &str, context: SourceContext) -> Result<()> {
    let cancel = context.cancel.clone();
    let stream = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(()),
        started = start(settings, source, context) => started?,
    };
    stream.run().await
}

/// Everything before the first byte of the stream. Dropping it ends it: the server rolls back
/// the snapshot's transaction and drops a temporary slot.
async fn start<'a>(settings: &'a Settings, source: &str, context: SourceContext) -> Result<Stream<'a>> {
    let failed = |message: &'static str| move |error| fault::explain(error, message, &settings.connect);
    let mut sql = Connection::open(&settings.connect, Session::Sql)
        .await
        .map_err(failed("cannot connect"))?;
    let catalog_failed = failed("cannot read the catalog");
    let slot = catalog::read_slot(&mut sql, &settings.slot)
        .await
        .map_err(catalog_failed)?;
    let plan = plan(&settings.slot, slot.as_ref(), &settings.tables, &context.resume)?;
    let mut copied = None;
    if !plan.copy.is_empty() {
        // Before a slot is made that would hold back WAL for nothing.
        read_tables(settings, &mut sql, &settings.tables).await?;
        let mut snapshot = Snapshot::take(settings, plan.create_slot).await?;
        snapshot
            .lock(&plan.copy)
            .await
            .map_err(failed("cannot lock the tables for their first copy"))?;
        let tables = read_tables(settings, &mut sql, &plan.copy).await?;
        let types = catalog::read_types(&mut sql).await.map_err(catalog_failed)?;
        // Every transaction whose commit record begins before the snapshot's point is in it.
        let held = Lsn(snapshot.point.0.saturating_sub(1));
        for table in &tables {
            copy::copy_table(settings, &mut snapshot, table, &types, held, &context.events).await?;
        }
        snapshot.close().await;
        copied = Some(held);
    }
    let (shapes, types) = describe(settings, &mut sql).await?;
    let sender_timeout = wal_sender_timeout(&mut sql).await.map_err(catalog_failed)?;
    sql.close().await;
    let binary = shapes.iter().all(|shape| shape.binary_is_exact(&types.catalog));
    let held = plan.stream_after(copied).unwrap_or_default();
    let wire = replicate(settings, held, binary).await?;
    tracing::info!(slot = %settings.slot, after = %held, binary, "streaming");
    let partition = wal_partition(source);
    // Of several target tables of one source table the one that holds least needs the rows.
    let held_by = |table: &TableId| {
        let copied = copied.filter(|_| plan.copy.contains(table));
        let held = context.resume.least_held(table, &partition).and_then(lsn_of);
        copied.into_iter().chain(held).min()
    };
    let shapes = shapes.into_iter().map(|shape| {
        let held = held_by(&shape.id).unwrap_or_default();
        (shape, held)
    });
    let tables = Tables::new(partition.clone(), shapes.collect(), types, binary);
    let outbox = Outbox::new(context.events);
    Ok(Stream {
        options: &settings.connect,
        partition: partition.clone(),
        wire,
        assembler: Assembler::new(partition, settings.batch, tables, outbox, held),
        durable: context.durable,
        cancel: context.cancel,
        // While the engine takes nothing we read nothing, and would not see the server ask.
        status_every: sender_timeout.map_or(settings.status_interval, |limit| {
            settings.status_interval.min(limit / 3)
        }),
        gauges: Gauges::of(source),
    })
}

/// The tables as the catalog describes them; each must exist and be published.
pub(crate) async fn read_tables(
    settings: &Settings,
    sql: &mut Connection,
    wanted: &[TableId],
) -> Result<Vec<CatalogTable>> {
    let tables = catalog::read_tables(sql, &settings.publication, wanted)
        .await
        .map_err(|error| fault::explain(error, "cannot read the catalog", &settings.connect))?;
    let refused = |message: &str, code, table: &TableId| {
        Error::new(ErrorKind::Config, message)
            .code(code)
            .with("table", table)
            .with("publication", &settings.publication)
            .hint("`millstream check` names the statement that mends it")
    };
    for id in wanted {
        match tables.iter().find(|table| table.id == *id) {
            None => return Err(refused("there is no such table", "PG0017", id)),
            Some(table) if !table.published => {
                return Err(refused("the publication does not cover the table", "PG0015", id));
            }
            Some(_) => {}
        }
    }
    Ok(tables)
}

/// All tables' present columns, and the types they have.
pub(crate) async fn describe(settings: &Settings, sql: &mut Connection) -> Result<(Vec<Shape>, TypeNames)> {
    let tables = read_tables(settings, sql, &settings.tables).await?;
    let catalog = catalog::read_types(sql)
        .await
        .map_err(|error| fault::explain(error, "cannot read the catalog", &settings.connect))?;
    let mut types = TypeNames {
        catalog,
        ..TypeNames::default()
    };
    for table in &tables {
        types.learn(&table.columns);
    }
    Ok((
        tables.iter().map(|table| Shape::of(table, settings.forms)).collect(),
        types,
    ))
}

/// `wal_sender_timeout`; `None` if there is none.
async fn wal_sender_timeout(sql: &mut Connection) -> Result<Option<Duration>, WireError> {
    let rows = sql
        .query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'")
        .await?;
    let millis = rows.first().map_or(Ok(0), |row| row.parse(0))?;
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

/// Starts the stream with the first transaction whose commit record begins after `held`.
/// Waits a while for a reader that the server still believes in, such as our predecessor.
async fn replicate(settings: &Settings, held: Lsn, binary: bool) -> Result<ReplicationStream> {
    let quoted = |text: &str| text.replace('\'', "''");
    let publication = postgres_protocol::escape::escape_identifier(&settings.publication);
    let command = format!(
        "START_REPLICATION SLOT \"{}\" LOGICAL {} (proto_version '1', publication_names '{}', binary '{binary}')",
        settings.slot,
        Lsn(held.0 + 1),
        quoted(&publication),
    );
    let deadline = Instant::now() + SLOT_PATIENCE;
    loop {
        let attempt = async {
            Connection::open(&settings.connect, Session::Replication)
                .await?
                .replicate(&command)
                .await
        };
        match attempt.await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.sqlstate() == Some("55006") && Instant::now() < deadline => sleep(SLOT_RETRY).await,
            Err(error) => {
                return Err(
                    fault::explain(error, "cannot start replication", &settings.connect).with("slot", &settings.slot)
                );
            }
        }
    }
}
