//! Where a table is that may have been renamed.

use millstream_core::{Error, ErrorKind, Result, TableId};

use super::stream::Stream;
use crate::catalog;
use crate::plan;
use crate::selection::missing_hint;
use crate::wire::{Connection, Session};

/// A relation that came under a name that is none of its table's, or under one of another relation's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) table: TableId,
    /// The relation that the table is.
    pub(super) oid: u32,
    /// The one that came, and its name.
    pub(super) relation: u32,
    pub(super) name: TableId,
}

/// Where a table was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Under one of its names.
    Here,
    /// Nowhere: another relation has its place.
    Replaced,
    /// Under a name that is none of its own, while nothing has its place.
    Elsewhere(String),
    /// Nowhere, and nothing has its place.
    Gone,
}

impl Whereabouts {
    /// Why a table that is called `renamed` in the configuration cannot be read on: neither it nor
    /// another one in its place is there, so that there is nothing to be copied either.
    pub(super) fn absence(&self, table: &TableId, renamed: &TableId) -> Option<Error> {
        match self {
            Self::Here | Self::Replaced => None,
            Self::Elsewhere(now) => Some(plan::renamed(table, now)),
            Self::Gone => Some(missing(table, Some(renamed))),
        }
    }
}

/// The error for a table that is not there, also not as `renamed`.
pub(super) fn missing(table: &TableId, renamed: Option<&TableId>) -> Error {
    let error = Error::new(ErrorKind::Config, "there is no such table")
        .code("PG0017")
        .with("table", table)
        .hint(missing_hint(renamed));
    renamed.iter().fold(error, |error, now| error.with("renamed", now))
}

impl Stream<'_> {
    /// Looks for the table that is in doubt.
    pub(super) async fn whereabouts(&mut self, doubt: &Doubt) -> Result<Whereabouts> {
        let (settings, oid, wanted) = (self.settings, doubt.oid, [doubt.table.clone()]);
        let looking = async {
            let mut sql = Connection::open(&settings.connect, Session::Sql).await?;
            let found = catalog::read_settled_tables(&mut sql, settings, &wanted).await?;
            let found = match found.first() {
                Some(table) if table.oid == oid => Whereabouts::Here,
                Some(table) if table.published => Whereabouts::Replaced,
                _ => catalog::name_of_relation(&mut sql, oid)
                    .await?
                    .map_or(Whereabouts::Gone, Whereabouts::Elsewhere),
            };
            sql.close().await;
            Ok(found)
        };
        self.look_up(looking).await
    }

    /// The published relation that has the table's name now, if there is one.
    pub(super) async fn present_relation(&mut self, table: &TableId) -> Result<Option<u32>> {
        let (settings, wanted) = (self.settings, [table.clone()]);
        let looking = async {
            let mut sql = Connection::open(&settings.connect, Session::Sql).await?;
            let found = catalog::read_settled_tables(&mut sql, settings, &wanted).await?;
            sql.close().await;
            Ok(found.iter().find(|table| table.published).map(|table| table.oid))
        };
        self.look_up(looking).await
    }
}
