//! Looks after the slot for as long as its pipeline is kept, whether the stream runs or not: what the
//! slot holds back and why, as metrics; a warning where that passes the budget, and a backlog for it
//! where there may be one; and the heartbeat. It has a session of its own.

mod budget;
mod gauges;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use self::budget::{History, Verdict};
use self::gauges::Gauges;
use crate::backlog::{self, Backlog};
use crate::catalog::{self, SlotFacts, bytes_between};
use crate::config::Settings;
use crate::wire::{Connection, Session, WireError};

/// How long the server may take to answer, a login included.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);
/// How long the log is left on the server after it could not be taken off.
const PAUSE: Duration = Duration::from_secs(300);
/// What the messages of the heartbeat are called in the log.
const HEARTBEAT_PREFIX: &str = "millstream.heartbeat";
/// From this version on a message can be flushed by itself.
const FLUSHED_MESSAGES: u32 = 170_000;

/// Watches one slot.
pub(crate) struct Governor {
    settings: Arc<Settings>,
    source: String,
    backlog: Option<Arc<Backlog>>,
    gauges: Gauges,
    history: History,
    sql: Option<Connection>,
    /// What fills the backlog. Ends with the governor.
    fillers: JoinSet<bool>,
    /// When it may be filled again after it could not be.
    not_before: Option<Instant>,
    /// Whether the log is to be taken off the server, by the last look.
    relief_is_due: bool,
}

impl Governor {
    pub(crate) fn new(settings: Arc<Settings>, source: &str) -> Self {
        Self {
            gauges: Gauges::of(source),
            settings,
            source: source.to_owned(),
            backlog: None,
            history: History::default(),
            sql: None,
            fillers: JoinSet::new(),
            not_before: None,
            relief_is_due: false,
        }
    }

    /// Watches until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut looks = interval(self.settings.care.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = self.settings.care.heartbeat_every.map(interval);
        loop {
            tokio::select! {
                _ = looks.tick() => self.look().await,
                () = next(&mut beats) => self.beat().await,
            }
        }
    }

    /// Looks once, and shows and judges what is seen.
    async fn look(&mut self) {
        let slot = self.settings.slot.clone();
        let facts = self.ask(async |sql| catalog::read_slot_facts(sql, &slot).await).await;
        self.gauges.answered(facts.is_some());
        if let Some(facts) = facts {
            self.take(&facts, Instant::now());
        }
        if std::mem::take(&mut self.relief_is_due) && self.settings.care.backlog.is_some() {
            self.relieve().await;
        }
    }

    /// Takes what was seen at `now`.
    fn take(&mut self, facts: &SlotFacts, now: Instant) {
        let Some(slot) = &facts.slot else {
            self.history = History::default();
            self.gauges.show(facts, 0.0, Duration::ZERO, false);
            return;
        };
        let confirmed = slot.confirmed.unwrap_or_default();
        let age = self.history.unconfirmed_for(now, facts.log_end, confirmed);
        let retained = slot.retained_bytes.unwrap_or_default();
        match self.history.judge(self.settings.care.budget, retained, age) {
            Verdict::Unchanged => {}
            Verdict::Exceeded => tracing::warn!(
                slot = %self.settings.slot,
                retained_bytes = retained,
                unconfirmed_seconds = age.as_secs(),
                "the slot holds back more of the log than its budget allows"
            ),
            Verdict::Met => tracing::info!(slot = %self.settings.slot, "the slot is within its budget again"),
        }
        let unconfirmed = bytes_between(confirmed, facts.log_end);
        self.relief_is_due = self.settings.care.budget.is_some_and(|budget| {
            // What an open transaction holds back stays, wherever the log is read to.
            budget.bytes.is_some_and(|most| unconfirmed > most as f64)
                || budget.time.is_some_and(|longest| age > longest)
        });
        if let Some(backlog) = self.backlog.as_ref().filter(|_| !self.relief_is_due) {
            backlog.is_level_now();
        }
        self.gauges.show(facts, unconfirmed, age, self.history.is_over());
    }

    /// Has the log taken off the server, where there may be a backlog and none is being filled.
    async fn relieve(&mut self) {
        while let Some(ended) = self.fillers.try_join_next() {
            // Whoever reads the slot leaves it for each attempt.
            if !ended.unwrap_or(false) {
                self.not_before = Some(Instant::now() + PAUSE);
            }
        }
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        if self.backlog.is_none() {
            // Not before it is needed: another life of the pipeline may still be leaving it.
            let (settings, source) = (self.settings.clone(), self.source.clone());
            let opened = backlog::blocking(move || Backlog::of(&settings, &source)).await;
            self.backlog = opened.unwrap_or_else(|error| {
                tracing::warn!(error = %error.summary(), hint = error.hint_text(), "the log cannot be taken off the server");
                None
            });
        }
        if let Some(backlog) = self.backlog.as_ref().filter(|backlog| backlog.announce()) {
            self.fillers
                .spawn(backlog::fill(self.settings.clone(), backlog.clone()));
        }
    }

    /// Writes a message into the log, so that it moves on. A standby's log cannot be written to.
    async fn beat(&mut self) {
        self.ask(async |sql| {
            // The log's end is sent once it is on disk. Before version 17 only a commit puts it there.
            let arguments = if sql.server_version() >= FLUSHED_MESSAGES {
                format!("false, '{HEARTBEAT_PREFIX}', '', true")
            } else {
                format!("true, '{HEARTBEAT_PREFIX}', ''")
            };
            let beat = format!(
                "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
                 THEN pg_catalog.pg_logical_emit_message({arguments}) END"
            );
            sql.query(&beat).await
        })
        .await;
    }

    /// Has the server asked on the session that there is, or on a new one. `None` if it gives no
    /// answer: the stream tells of a server that is away, and here is nothing to be lost.
    async fn ask<T>(&mut self, question: impl AsyncFnOnce(&mut Connection) -> Result<T, WireError>) -> Option<T> {
        let asked = timeout(LONGEST_ANSWER, async {
            let mut sql = match self.sql.take() {
                Some(sql) => sql,
                None => Connection::open(&self.settings.connect, Session::Sql).await?,
            };
            let answer = question(&mut sql).await?;
            Ok::<_, WireError>((sql, answer))
        });
        match asked.await {
            Ok(Ok((sql, answer))) => {
                self.sql = Some(sql);
                Some(answer)
            }
            Ok(Err(error)) => {
                tracing::debug!(slot = %self.settings.slot, %error, "the slot cannot be looked at");
                None
            }
            Err(_) => {
                tracing::debug!(slot = %self.settings.slot, "the slot cannot be looked at: no answer");
                None
            }
        }
    }
}

/// The next heartbeat's time, if there are heartbeats.
async fn next(beats: &mut Option<Interval>) {
    match beats {
        Some(beats) => {
            beats.tick().await;
        }
        None => pending().await,
    }
}

#[cfg(test)]
#[path = "governor/tests.rs"]
mod server_tests;
