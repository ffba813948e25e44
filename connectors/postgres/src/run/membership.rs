//! Looks now and then whether the publications still send what is read, and nothing else that is
//! selected: neither is told by the stream.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, ErrorKind, TableId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::partitions::Partitions;
use crate::catalog;
use crate::config::Settings;
use crate::selection::published;
use crate::wire::{Connection, Session, WireError};

/// How long the server may take to answer, a login included.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);

/// What changed.
pub(super) enum Notice {
    /// Other tables are selected than when the run was planned.
    TablesChanged,
    /// A table that is read has left the publications.
    Left(Error),
    /// The relations that have the names of the tables that are read: at first, and when they change.
    Relations(Vec<(TableId, u32)>),
}

/// Watches until it is dropped, or until the run cannot go on as it is.
pub(super) struct Membership {
    notices: mpsc::Receiver<Notice>,
    /// Ends with it.
    _watcher: JoinSet<()>,
}

impl Membership {
    /// Watches, for a run that reads `used`, and that was planned when `planned` were selected:
    /// as of the first look if that is not known.
    pub(super) fn watch(settings: &Arc<Settings>, planned: Option<Vec<TableId>>, used: Vec<TableId>) -> Self {
        let (sender, notices) = mpsc::channel(1);
        let watcher = Watcher {
            settings: settings.clone(),
            planned: planned.map(|tables| tables.into_iter().collect()),
            used,
            seen: None,
            relations: Vec::new(),
            partitions: Partitions::default(),
            sql: None,
            notices: sender,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(watcher.run());
        Self {
            notices,
            _watcher: tasks,
        }
    }

    /// What changed; pending for ever once that was told.
    ///
    /// Cancel safe.
    pub(super) async fn changed(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            None => pending().await,
        }
    }
}

struct Watcher {
    settings: Arc<Settings>,
    planned: Option<BTreeSet<TableId>>,
    used: Vec<TableId>,
    /// What was selected at the last look.
    seen: Option<BTreeSet<TableId>>,
    /// What has the names of the tables that are read.
    relations: Vec<(TableId, u32)>,
    partitions: Partitions,
    sql: Option<Connection>,
    notices: mpsc::Sender<Notice>,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            match timeout(LONGEST_ANSWER, self.look()).await {
                Ok(Ok(Some(notice))) => {
                    let is_last = !matches!(notice, Notice::Relations(_));
                    // A stream that has ended hears nothing.
                    if self.notices.send(notice).await.is_err() || is_last {
                        return;
                    }
                }
                Ok(Ok(None)) => {}
                // The stream tells of a server that is away.
                Ok(Err(error)) => tracing::debug!(%error, "the publications cannot be looked at"),
                Err(_) => tracing::debug!("the publications cannot be looked at: no answer"),
            }
            sleep(self.settings.care.look_every).await;
        }
    }

    async fn look(&mut self) -> Result<Option<Notice>, WireError> {
        let settings = self.settings.clone();
        let mut sql = match self.sql.take() {
            Some(sql) => sql,
            None => Connection::open(&settings.connect, Session::Sql).await?,
        };
        let found = catalog::read_settled_tables(&mut sql, &settings, &self.used).await?;
        if let Some(table) = found.iter().find(|table| !table.published) {
            return Ok(Some(Notice::Left(left(&settings, &table.id))));
        }
        let partitions = catalog::read_partitions(&mut sql, &found, &settings.slot).await?;
        self.partitions.look(&found, partitions);
        if !settings.selection.patterns.is_empty() {
            let selected: BTreeSet<TableId> = published(&mut sql, &settings).await?.0.into_iter().collect();
            // What comes alone seldom stays so: a script makes many tables. The second look that sees
            // the same is the one that tells.
            let settled = self.seen.replace(selected.clone()).is_some_and(|seen| seen == selected);
            if *self.planned.get_or_insert_with(|| selected.clone()) != selected && settled {
                return Ok(Some(Notice::TablesChanged));
            }
        }
        self.sql = Some(sql);
        let relations: Vec<(TableId, u32)> = found.into_iter().map(|table| (table.id, table.oid)).collect();
        if relations != self.relations {
            self.relations.clone_from(&relations);
            return Ok(Some(Notice::Relations(relations)));
        }
        Ok(None)
    }
}

fn left(settings: &Settings, table: &TableId) -> Error {
    Error::new(ErrorKind::Config, "the table has left the publication while it is read")
        .code("PG0015")
        .with("table", table)
        .with("publication", settings.publications.join(", "))
        .hint(
            "what changed since it left is missing: put it back and drop it in the target, so that it is copied \
             anew; or take it out of `tables`",
        )
}
