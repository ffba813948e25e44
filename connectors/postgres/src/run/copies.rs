//! The copies that run beside the stream, as the stream sees them.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_core::{Backfill, CopyBoard, Error, ErrorKind, Result, ResumePoints, TableId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::backfill;
use super::copy::{Begun, Copier, Message, Pace, Purpose, Wanted};
use super::snapshot::Snapshot;
use crate::attached::Debt;
use crate::config::Settings;
use crate::decode::Lsn;
use crate::owed::Why;

/// It is kept in every commit while the copy runs.
const LONGEST_CONDITION: usize = 4096;

/// The running copies. Dropping them ends them.
pub(super) struct Copies {
    settings: Arc<Settings>,
    /// The pipeline's tables, with the relations that the stream takes for them.
    tables: HashMap<TableId, u32>,
    resume: ResumePoints,
    board: CopyBoard,
    copiers: JoinSet<(Vec<TableId>, Result<()>)>,
    /// Why a copy ended before its time, until that is told.
    failure: Option<Error>,
    /// The tables that are being copied.
    busy: Vec<TableId>,
    /// Copies other than first ones run one at a time, in the order in which they were started: the target
    /// remembers the last that began. This ends with the last that was started.
    last: oneshot::Receiver<()>,
    /// The rate that all copies share.
    pace: Arc<Pace>,
    /// How many backfills of each table began since the start.
    asked: HashMap<TableId, u64>,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    settled: watch::Sender<Lsn>,
}

impl Copies {
    /// No copies yet of `tables`, of which the target holds what `resume` says, beside a stream that
    /// begins behind `held`.
    pub(super) fn new(
        settings: &Arc<Settings>,
        tables: HashMap<TableId, u32>,
        resume: ResumePoints,
        board: CopyBoard,
        held: Lsn,
    ) -> Self {
        // One waits while another is sent: each holds memory.
        let (sender, messages) = mpsc::channel(1);
        Self {
            settings: settings.clone(),
            tables,
            resume,
            board,
            copiers: JoinSet::new(),
            failure: None,
            busy: Vec::new(),
            last: oneshot::channel().1,
            pace: Arc::new(Pace::new(settings.copy.rate.map(|rate| rate.0))),
            asked: HashMap::new(),
            sender,
            messages,
            settled: watch::channel(held).0,
        }
    }

    /// Starts the first copies of `tables`; `snapshot` is their first, where the stream begins with it.
    pub(super) fn start_first(&mut self, tables: &[TableId], snapshot: Option<Snapshot>) {
        if tables.is_empty() {
            return;
        }
        let wanted = tables.iter().map(|table| Wanted {
            table: table.clone(),
            oid: self.tables[table],
            purpose: Purpose::First,
            begun: Begun::of(table, &self.resume),
            emptied: false,
            answer: None,
        });
        let copier = self.copier(wanted.collect(), self.settings.copy.workers, snapshot);
        self.start(copier, |mut copier| async move { copier.run().await });
    }

    /// Copies all of `table` anew, by itself: after what is copied already, and beside a first copy
    /// that still runs, whose rows come before it in the order of the log.
    pub(super) fn anew(&mut self, table: &TableId, why: Why) {
        count(table, why);
        tracing::warn!(%table, reason = why.name(), "the table is copied anew");
        let purpose = self.numbered(Purpose::anew(table, why, &self.resume), table);
        self.start_again(table, purpose, Begun::nothing(), None);
    }

    /// Copies `partitions` of `table`, which came to it with rows, after what is copied already: the last
    /// that are owed by `debt`.
    pub(super) fn attached(&mut self, table: &TableId, partitions: Vec<u32>, debt: &Debt) {
        count(table, Why::Attached);
        let purpose = Purpose::attached(table, partitions, debt, &self.resume);
        let purpose = self.numbered(purpose, table);
        self.start_again(table, purpose, Begun::nothing(), None);
    }

    /// Starts a copy of `table` that is not its first.
    fn start_again(
        &mut self,
        table: &TableId,
        purpose: Purpose,
        begun: Begun,
        answer: Option<oneshot::Sender<Result<()>>>,
    ) {
        let wanted = Wanted {
            oid: self.tables[table],
            table: table.clone(),
            purpose,
            begun,
            emptied: false,
            answer,
        };
        let copier = self.copier(vec![wanted], 1, None);
        self.start_in_turn(copier);
    }

    /// Whether `table` is copied, or waits for its turn.
    pub(super) fn is_busy(&mut self, table: &TableId) -> bool {
        self.reap();
        self.busy.contains(table)
    }

    /// Counts a backfill among those that began since the start.
    fn numbered(&mut self, mut purpose: Purpose, table: &TableId) -> Purpose {
        if let Purpose::Backfill { number, .. } = &mut purpose {
            let earlier = self.asked.entry(table.clone()).or_default();
            *number += *earlier;
            *earlier += 1;
        }
        purpose
    }

    /// Goes on with the backfills that had not ended, but for those of tables that are copied `anew`.
    pub(super) fn start_unfinished(&mut self, anew: &[(TableId, Why)]) {
        let unfinished = |table: &TableId| Some((table.clone(), Purpose::unfinished(table, &self.resume)?));
        let others = self
            .resume
            .tables()
            .filter(|table| anew.iter().all(|(anew, _)| anew != *table));
        let unfinished: Vec<_> = others.filter_map(unfinished).collect();
        for (table, (purpose, begun)) in unfinished {
            self.start_again(&table, purpose, begun, None);
        }
    }

    /// Takes a request for a copy.
    pub(super) fn ask(&mut self, request: Backfill) {
        let Backfill {
            table: name,
            condition,
            answer,
        } = request;
        self.reap();
        let mut found = self.tables.keys().filter(|table| is_named(table, &name)).cloned();
        let refused = match (found.next(), found.next()) {
            _ if condition.as_ref().is_some_and(|condition| condition.trim().is_empty()) => {
                backfill::refusal("the condition is empty").with("table", &name)
            }
            _ if condition
                .as_ref()
                .is_some_and(|condition| condition.len() > LONGEST_CONDITION) =>
            {
                backfill::refusal("the condition is longer than 4 KiB").with("table", &name)
            }
            (Some(table), None) if self.busy.contains(&table) => {
                backfill::refusal("the table is being copied already").with("table", &table)
            }
            (Some(table), None) => {
                let purpose = self.numbered(Purpose::asked(&table, condition, &self.resume), &table);
                return self.start_again(&table, purpose, Begun::nothing(), Some(answer));
            }
            (None, _) => backfill::refusal("the pipeline reads no such table").with("table", &name),
            (Some(_), Some(_)) => backfill::refusal("more than one table has this name").with("table", &name),
        };
        // Who asked may have gone.
        let _ = answer.send(Err(refused));
    }

    fn copier(&self, wanted: Vec<Wanted>, workers: u32, first: Option<Snapshot>) -> Copier {
        Copier {
            settings: self.settings.clone(),
            workers,
            wanted,
            first,
            board: self.board.clone(),
            pace: self.pace.clone(),
            messages: self.sender.clone(),
            settled: self.settled.subscribe(),
        }
    }

    fn start_in_turn(&mut self, copier: Copier) {
        let (ended, last) = oneshot::channel::<()>();
        let before = std::mem::replace(&mut self.last, last);
        self.start(copier, |copier| async move {
            // Nothing is sent: it ends with its sender.
            let _ = before.await;
            let outcome = backfill::run(copier).await;
            drop(ended);
            outcome
        });
    }

    fn start<F>(&mut self, copier: Copier, run: impl FnOnce(Copier) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let tables: Vec<TableId> = copier.wanted.iter().map(|wanted| wanted.table.clone()).collect();
        self.busy.extend(tables.iter().cloned());
        let running = run(copier);
        self.copiers.spawn(async move { (tables, running.await) });
    }

    /// Takes note of the copies that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.copiers.try_join_next() {
            self.note(ended);
        }
    }

    fn note(&mut self, ended: Result<(Vec<TableId>, Result<()>), JoinError>) {
        match ended {
            Ok((tables, outcome)) => {
                for table in &tables {
                    // It may be there twice.
                    if let Some(at) = self.busy.iter().position(|busy| busy == table) {
                        self.busy.swap_remove(at);
                    }
                }
                self.failure = self.failure.take().or(outcome.err());
            }
            Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
            Err(_) => self.failure = Some(gone()),
        }
    }

    /// Whether anything is copied, or has failed, or has left a last message.
    pub(super) fn are_running(&self) -> bool {
        !self.copiers.is_empty() || self.failure.is_some() || !self.messages.is_empty()
    }

    /// The next message; pending for ever if no copy runs.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// Why a copy ended before its time.
    pub(super) async fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            tokio::select! {
                biased;
                message = self.messages.recv() => return message.ok_or_else(gone),
                // Its last message may have come since the channel was looked at, which is looked
                // at again.
                Some(ended) = self.copiers.join_next(), if !self.copiers.is_empty() => self.note(ended),
            }
        }
    }

    /// Tells the copies up to where the stream was handed on.
    pub(super) fn settle(&self, lsn: Lsn) {
        self.settled.send_if_modified(|known| {
            let moved = *known < lsn;
            *known = lsn.max(*known);
            moved
        });
    }
}

/// Counts a copy that begins by itself.
fn count(table: &TableId, why: Why) {
    metrics::counter!("millstream_postgres_tables_recopied_total", "source" => table.source.to_string(),
        "table" => table.within_source(), "reason" => why.name())
    .increment(1);
}

/// Whether `name` may stand for `table`: with its schema and its source or without. `public.` is left out
/// behind the source too, as where a sink names its tables.
fn is_named(table: &TableId, name: &str) -> bool {
    let is_public = table.namespace.as_deref() == Some("public");
    *table.name == *name
        || table.within_source() == name
        || table.to_string() == name
        || is_public && format!("{}.{}", table.source, table.name) == name
}

fn gone() -> Error {
    Error::new(ErrorKind::Cancelled, "a copy was given up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_known_by_the_names_that_the_configuration_has_for_it() {
        let named = |schema, name| is_named(&TableId::new("shop", Some(schema), "orders"), name);
        for name in ["orders", "public.orders", "shop.orders", "shop.public.orders"] {
            assert!(named("public", name), "{name}");
        }
        assert!(named("sales", "orders") && named("sales", "sales.orders") && named("sales", "shop.sales.orders"));
        assert!(!named("sales", "shop.orders") && !named("sales", "public.orders"));
        assert!(!named("public", "order") && !named("public", "store.orders"));
    }
}
