//! What the tables of a run are as it begins.

use millstream_core::{Error, ErrorKind, Result, TableId};

use super::snapshot::LONGEST_LOCK;
use super::{connect, read_tables};
use crate::catalog::{self, CatalogTable};
use crate::config::Settings;
use crate::decode::Catalog;
use crate::fault;
use crate::shape::{Shape, TypeNames};
use crate::wire::Connection;

/// The tables' present columns, and the types they have, as `sql` tells.
///
/// # Errors
/// Those of [`read_tables`].
pub(crate) async fn describe(
    settings: &Settings,
    sql: &mut Connection,
    wanted: &[TableId],
) -> Result<(Vec<Shape>, TypeNames)> {
    let (found, types) = read(settings, sql, wanted).await?;
    shapes(settings, wanted, found.iter(), types)
}

/// The same, where a snapshot has `locked` tables: of those it is what the snapshot found, and of all
/// others what a session of its own is told.
///
/// The server locks a table to tell what of it is published. Whoever waits for our snapshot's locks, to
/// change a table, lets nobody pass: without a limit we would wait for him, and he for us, in two
/// sessions of which the server cannot know that they are one.
///
/// # Errors
/// Those of [`read_tables`]; `Unavailable` if another table's lock is not to be had soon.
pub(super) async fn describe_beside(
    settings: &Settings,
    wanted: &[TableId],
    (locked, locked_types): (&[CatalogTable], &Catalog),
) -> Result<(Vec<Shape>, TypeNames)> {
    let is_locked = |id: &TableId| locked.iter().any(|table| table.id == *id);
    let others: Vec<TableId> = wanted.iter().filter(|id| !is_locked(id)).cloned().collect();
    let (mut found, mut types) = (Vec::new(), Catalog::default());
    if !others.is_empty() {
        let failed = |error| fault::explain(error, "cannot read the catalog", &settings.connect);
        let mut sql = connect(settings).await?;
        let limit = format!("SET lock_timeout = {}", LONGEST_LOCK.as_millis());
        sql.query(&limit).await.map_err(failed)?;
        (found, types) = read(settings, &mut sql, &others).await?;
        sql.close().await;
    }
    types.extend(locked_types.clone());
    shapes(settings, wanted, locked.iter().chain(&found), types)
}

async fn read(settings: &Settings, sql: &mut Connection, wanted: &[TableId]) -> Result<(Vec<CatalogTable>, Catalog)> {
    let found = read_tables(settings, sql, wanted).await?;
    let used = found.iter().flat_map(CatalogTable::types);
    let types = catalog::read_types(sql, used)
        .await
        .map_err(|error| fault::explain(error, "cannot read the catalog", &settings.connect))?;
    Ok((found, types))
}

fn shapes<'a>(
    settings: &Settings,
    wanted: &[TableId],
    found: impl Iterator<Item = &'a CatalogTable> + Clone,
    catalog: Catalog,
) -> Result<(Vec<Shape>, TypeNames)> {
    let mut types = TypeNames {
        catalog,
        ..TypeNames::default()
    };
    let mut shapes = Vec::with_capacity(wanted.len());
    for id in wanted {
        let table = found.clone().find(|table| table.id == *id).ok_or_else(|| {
            // `read_tables` has an error for each that is missing.
            Error::new(ErrorKind::Internal, "a table was read and is not among those read").with("table", id)
        })?;
        types.learn(&table.columns);
        shapes.push(Shape::of(table, settings.forms));
    }
    Ok((shapes, types))
}
