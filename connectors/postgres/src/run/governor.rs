//! Looks after the slot beside the stream: what it holds back and why, as metrics; a warning
//! where that passes the budget; and the heartbeat. It has a session of its own and can neither
//! end nor delay the stream.

mod budget;
mod gauges;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use self::budget::{History, Verdict};
use self::gauges::Gauges;
use crate::catalog::{self, SlotFacts, bytes_between};
use crate::config::Settings;
use crate::slot_config::SlotCare;
use crate::wire::{ConnectOptions, Connection, Session, WireError};

/// How long the server may take to answer, a login included.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);
/// What the messages of the heartbeat are called in the log.
const HEARTBEAT_PREFIX: &str = "millstream.heartbeat";
/// From this version on a message can be flushed by itself.
const FLUSHED_MESSAGES: u32 = 170_000;

/// What earlier runs saw of each slot: a pipeline whose target is away starts anew again and
/// again, and the time for which nothing was confirmed goes on meanwhile. Lost with the process.
static HISTORIES: Mutex<BTreeMap<String, History>> = Mutex::new(BTreeMap::new());

/// Watches one slot.
pub(super) struct Governor {
    connect: ConnectOptions,
    slot: String,
    care: SlotCare,
    gauges: Gauges,
    history: History,
    sql: Option<Connection>,
}

impl Governor {
    pub(super) fn new(settings: &Settings, source: &str) -> Self {
        let mut governor = Self {
            connect: settings.connect.clone(),
            slot: settings.slot.clone(),
            care: settings.care,
            gauges: Gauges::of(source),
            history: History::default(),
            sql: None,
        };
        let key = governor.key();
        let mut histories = HISTORIES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = histories.remove(&key) {
            governor.history = earlier;
        }
        governor
    }

    /// Runs it on a task of its own, until what is returned is dropped.
    pub(super) fn watch(settings: &Settings, source: &str) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(Self::new(settings, source).run());
        tasks
    }

    async fn run(mut self) {
        let mut looks = interval(self.care.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = self.care.heartbeat_every.map(interval);
        loop {
            tokio::select! {
                _ = looks.tick() => self.look().await,
                () = next(&mut beats) => self.beat().await,
            }
        }
    }

    /// Looks once, and shows and judges what is seen.
    async fn look(&mut self) {
        let slot = self.slot.clone();
        let facts = self.ask(async |sql| catalog::read_slot_facts(sql, &slot).await).await;
        self.gauges.answered(facts.is_some());
        if let Some(facts) = facts {
            self.take(&facts, Instant::now());
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
        match self.history.judge(self.care.budget, retained, age) {
            Verdict::Unchanged => {}
            Verdict::Exceeded => tracing::warn!(
                slot = %self.slot,
                retained_bytes = retained,
                unconfirmed_seconds = age.as_secs(),
                "the slot holds back more of the log than its budget allows"
            ),
            Verdict::Met => tracing::info!(slot = %self.slot, "the slot is within its budget again"),
        }
        let unconfirmed = bytes_between(confirmed, facts.log_end);
        self.gauges.show(facts, unconfirmed, age, self.history.is_over());
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
                None => Connection::open(&self.connect, Session::Sql).await?,
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
                tracing::debug!(slot = %self.slot, %error, "the slot cannot be looked at");
                None
            }
            Err(_) => {
                tracing::debug!(slot = %self.slot, "the slot cannot be looked at: no answer");
                None
            }
        }
    }

    fn key(&self) -> String {
        format!("{} {}", self.connect.place(), self.slot)
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

impl Drop for Governor {
    fn drop(&mut self) {
        let mut histories = HISTORIES.lock().unwrap_or_else(PoisonError::into_inner);
        histories.insert(self.key(), std::mem::take(&mut self.history));
    }
}

#[cfg(test)]
#[path = "governor/tests.rs"]
mod tests;
