//! What the tables of a run are as it begins.

use millstream_core::{Error, ErrorKind, Result, TableId};

use super::read_tables;
use super::snapshot::LONGEST_LOCK;
use crate::catalog::{self, CatalogTable};
use crate::config::Settings;
use crate::decode::Catalog;
use crate::fault;
use crate::shape::{Shape, TypeNames};
use crate::wire::Connection;

/// The tables' present columns, and the types they have: of those that a snapshot has `locked` what it
/// found, of all others what `sql` tells.
///
/// The server locks a table to tell what of it is published. Whoever waits for our snapshot's locks, to
/// change a table, lets nobody pass: without a limit we would wait for him, and he for us, in two
/// sessions of which the server cannot know that they are one.
///
/// # Errors
/// Those of [`read_tables`]; `Unavailable` if another table's lock is not to be had soon.
pub(crate) async fn describe(
    settings: &Settings,
    sql: &mut Connection,
    wanted: &[TableId],
    locked: Option<(&[CatalogTable], &Catalog)>,
) -> Result<(Vec<Shape>, TypeNames)> {
    let failed = |error| fault::explain(error, "cannot read the catalog", &settings.connect);
    let known = locked.map_or(&[][..], |(tables, _)| tables);
    let is_known = |id: &TableId| known.iter().any(|table| table.id == *id);
    let others: Vec<TableId> = wanted.iter().filter(|id| !is_known(id)).cloned().collect();
    let mut types = TypeNames::default();
    let mut found = Vec::new();
    if !others.is_empty() {
        if locked.is_some() {
            let limit = format!("SET lock_timeout = {}", LONGEST_LOCK.as_millis());
            sql.query(&limit).await.map_err(failed)?;
        }
        found = read_tables(settings, sql, &others).await?;
        let used = found.iter().flat_map(CatalogTable::types);
        types.catalog = catalog::read_types(sql, used).await.map_err(failed)?;
    }
    if let Some((_, known)) = locked {
        types.catalog.extend(known.clone());
    }
    let mut shapes = Vec::with_capacity(wanted.len());
    for id in wanted {
        let mut tables = known.iter().chain(&found);
        let table = tables.find(|table| table.id == *id).ok_or_else(|| {
            // `read_tables` has an error for each that is missing.
            Error::new(ErrorKind::Internal, "a table was read and is not among those read").with("table", id)
        })?;
        types.learn(&table.columns);
        shapes.push(Shape::of(table, settings.forms));
    }
    Ok((shapes, types))
}
