//! What is asked of the catalog while the stream waits for the answer.

use std::time::Duration;

use tokio::time::timeout;

use super::tables::UnknownTypes;
use crate::catalog::{self, RelationLook};
use crate::config::Settings;
use crate::decode::Catalog;
use crate::wire::{Connection, Session, WireError};

/// A look that takes longer is given up; the server gives it up a little earlier.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Looks at relations, in a session that is kept from one look to the next.
#[derive(Default)]
pub(super) struct Lookups {
    sql: Option<Connection>,
}

impl Lookups {
    /// Looks at the relation `oid`. A look that fails or takes long, as behind an `ALTER TABLE` of any
    /// published table, shows nothing: the stream goes on by what it tells.
    pub(super) async fn relation(&mut self, settings: &Settings, oid: u32) -> RelationLook {
        loop {
            let is_new = self.sql.is_none();
            let reason = match timeout(LONGEST_LOOK, self.look(settings, oid)).await {
                Ok(Ok(look)) => return look,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            // One that was idle for long may be gone: only a new one is believed when it fails.
            if is_new {
                tracing::warn!(
                    oid,
                    reason,
                    "the catalog cannot be looked at: columns are taken by their names"
                );
                return RelationLook::default();
            }
        }
    }

    async fn look(&mut self, settings: &Settings, oid: u32) -> Result<RelationLook, WireError> {
        let mut sql = match self.sql.take() {
            Some(sql) => sql,
            None => Connection::open(&settings.connect, Session::Sql).await?,
        };
        let look = catalog::look_at_relation(&mut sql, &settings.publications, &settings.slot, oid).await?;
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
