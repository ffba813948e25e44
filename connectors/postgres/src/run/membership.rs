//! Looks now and then whether the publications still send what is read, and nothing else that is
//! selected: neither is told by the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, ErrorKind, TableId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::partitions::Partitions;
use crate::arrivals::Came;
use crate::catalog;
use crate::config::Settings;
use crate::selection::published;
use crate::wire::{Connection, Session, WireError};

/// How long the server may take to answer, a login included.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);

/// So many looks may fail one after the other, as while a server is started anew.
const LOUD_FAILURES: u32 = 5;

/// What changed.
pub(super) enum Notice {
    /// Other tables are selected than when the run was planned.
    TablesChanged,
    /// A table that is read has left the publications.
    Left(Error),
    /// What a look showed that goes on.
    Seen(Seen),
}

/// What a look showed of the tables that are read.
#[derive(Default)]
pub(super) struct Seen {
    /// The relations that have their names: at first, and when they change.
    pub(super) relations: Option<Vec<(TableId, u32)>>,
    /// The partitions that came to them with rows, and were not told of before.
    pub(super) came: Vec<Came>,
    /// Every transaction before this one had ended by the time of the look; zero where no table has
    /// partitions.
    pub(super) horizon: u64,
}

/// Watches until it is dropped, or until the run cannot go on as it is.
pub(super) struct Membership {
    notices: mpsc::Receiver<Notice>,
    /// Ends with it.
    _watcher: JoinSet<()>,
}

impl Membership {
    /// Watches, for a run that reads `used`, and that was planned when `planned` were selected:
    /// as of the first look if that is not known. Earlier looks `saw` all attachments of partitions to
    /// these tables by transactions before these.
    pub(super) fn watch(
        settings: &Arc<Settings>,
        planned: Option<Vec<TableId>>,
        used: Vec<TableId>,
        saw: BTreeMap<TableId, u64>,
    ) -> Self {
        let (sender, notices) = mpsc::channel(1);
        let watcher = Watcher {
            settings: settings.clone(),
            planned: planned.map(|tables| tables.into_iter().collect()),
            used,
            seen: None,
            relations: Vec::new(),
            partitions: Partitions::new(saw),
            sql: None,
            failures: 0,
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
    /// Looks in a row that failed.
    failures: u32,
    notices: mpsc::Sender<Notice>,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            match timeout(LONGEST_ANSWER, self.look()).await {
                Ok(Ok(Some(notice))) => {
                    self.failures = 0;
                    let is_last = !matches!(notice, Notice::Seen(_));
                    // A stream that has ended hears nothing.
                    if self.notices.send(notice).await.is_err() || is_last {
                        return;
                    }
                }
                Ok(Ok(None)) => self.failures = 0,
                Ok(Err(error)) => self.failed(&error.to_string()),
                Err(_) => self.failed("no answer"),
            }
            sleep(self.settings.care.look_every).await;
        }
    }

    /// Tells of a look that failed: loudly once, since the stream tells of a server that is away.
    fn failed(&mut self, reason: &str) {
        self.failures += 1;
        if self.failures == LOUD_FAILURES {
            tracing::warn!(
                reason,
                looks = self.failures,
                "the publications and partitions cannot be looked at"
            );
        } else {
            tracing::debug!(reason, "the publications and partitions cannot be looked at");
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
        if !settings.selection.patterns.is_empty() {
            let selected: BTreeSet<TableId> = published(&mut sql, &settings).await?.0.into_iter().collect();
            // What comes alone seldom stays so: a script makes many tables. The second look that sees
            // the same is the one that tells.
            let settled = self.seen.replace(selected.clone()).is_some_and(|seen| seen == selected);
            if *self.planned.get_or_insert_with(|| selected.clone()) != selected && settled {
                return Ok(Some(Notice::TablesChanged));
            }
        }
        // Last: what it shows is not shown again.
        let look = catalog::read_partitions(&mut sql, &found, &settings.slot).await?;
        let horizon = look.horizon;
        let came = self.partitions.look(&mut sql, &found, look.partitions).await?;
        self.sql = Some(sql);
        let relations: Vec<(TableId, u32)> = found.into_iter().map(|table| (table.id, table.oid)).collect();
        let relations = (relations != self.relations).then(|| {
            self.relations.clone_from(&relations);
            relations
        });
        let goes_on = relations.is_some() || horizon > 0;
        Ok(goes_on.then_some(Notice::Seen(Seen {
            relations,
            came,
            horizon,
        })))
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
