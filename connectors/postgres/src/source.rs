//! The source, as the engine sees it.

use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{Finding, Result, Source, SourceContext, TableId, TableSchema};

use crate::config::{PostgresConfig, Settings};
use crate::run::{Governor, Kept};
use crate::setup::{self, Setup};
use crate::wire::{Connection, Session};
use crate::{fault, preflight, run, selection};

/// Tables of one PostgreSQL database, read through a publication and a replication slot.
#[derive(Debug)]
pub struct PostgresSource {
    name: String,
    settings: Settings,
    /// The tables that were selected when they were last asked for.
    planned: Option<Vec<TableId>>,
    /// The session that told them.
    kept: Option<Kept>,
}

/// Without the session.
impl Clone for PostgresSource {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            settings: self.settings.clone(),
            planned: self.planned.clone(),
            kept: None,
        }
    }
}

impl PostgresSource {
    /// Checks the configuration, without I/O. `pipeline` and `name` name the slot unless the
    /// configuration does.
    ///
    /// # Errors
    /// `Config` (PG0029) for what cannot work.
    pub fn new(pipeline: &str, name: &str, config: PostgresConfig) -> Result<Self> {
        let settings = Settings::read(pipeline, name, &config)?;
        Ok(Self {
            name: name.to_owned(),
            settings,
            planned: None,
            kept: None,
        })
    }

    /// The hosts and ports of the server that the slot is on.
    pub fn server(&self) -> String {
        let hosts: Vec<String> = self.settings.connect.hosts.iter().map(ToString::to_string).collect();
        hosts.join(",")
    }

    /// What an administrator has to run before this source can read its server.
    pub async fn setup(&self) -> Setup {
        setup::setup(&self.settings).await
    }

    /// The replication slot's name.
    pub fn slot(&self) -> &str {
        &self.settings.slot
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn preflight(&mut self) -> Result<Vec<Finding>> {
        Ok(preflight::preflight(&self.settings).await)
    }

    async fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        let mut sql = Connection::open(&self.settings.connect, Session::Sql)
            .await
            .map_err(|error| fault::explain(error, "cannot connect", &self.settings.connect))?;
        let tables = selection::resolve(&mut sql, &self.settings).await?;
        let (shapes, types) = run::describe(&self.settings, &mut sql, &tables).await?;
        self.planned = Some(tables);
        self.kept = Some(Kept::of(sql, Session::Sql));
        shapes.iter().map(|shape| shape.schema(&types.catalog)).collect()
    }

    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        run::run(self.settings, &self.name, self.planned, self.kept, context).await
    }

    async fn attend(self: Box<Self>) {
        Governor::new(Arc::new(self.settings), &self.name).run().await;
    }
}
