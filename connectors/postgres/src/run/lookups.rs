//! What is asked of the catalog while the stream waits for the answer.

use super::tables::UnknownTypes;
use crate::catalog::{self, RelationLook};
use crate::config::Settings;
use crate::decode::Catalog;
use crate::wire::{Connection, Session, WireError};

/// Looks at relations, in a session that is kept from one look to the next.
#[derive(Default)]
pub(super) struct Lookups {
    sql: Option<Connection>,
}

impl Lookups {
    /// Looks at the relation `oid`.
    pub(super) async fn relation(&mut self, settings: &Settings, oid: u32) -> Result<RelationLook, WireError> {
        // One that was idle for long may be gone: only a new one is believed when it fails.
        if let Some(mut sql) = self.sql.take()
            && let Ok(look) = look(&mut sql, settings, oid).await
        {
            self.sql = Some(sql);
            return Ok(look);
        }
        let mut sql = Connection::open(&settings.connect, Session::Sql).await?;
        let look = look(&mut sql, settings, oid).await?;
        self.sql = Some(sql);
        Ok(look)
    }

    /// The names of types in the order asked for, and those of them that are not built in.
    pub(super) async fn types(
        settings: &Settings,
        unknown: &UnknownTypes,
    ) -> Result<(Vec<String>, Catalog), WireError> {
        let mut sql = Connection::open(&settings.connect, Session::Sql).await?;
        let names = catalog::format_types(&mut sql, &unknown.0).await?;
        let catalog = catalog::read_types(&mut sql, unknown.0.iter().map(|(oid, _)| *oid)).await?;
        sql.close().await;
        Ok((names, catalog))
    }
}

async fn look(sql: &mut Connection, settings: &Settings, oid: u32) -> Result<RelationLook, WireError> {
    catalog::look_at_relation(sql, &settings.publications, &settings.slot, oid).await
}
