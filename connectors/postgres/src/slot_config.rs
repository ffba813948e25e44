//! How the slot is made and watched, from the configuration.

use std::path::PathBuf;
use std::time::Duration;

use millstream_core::config::{Period, Size, Text};
use serde::Deserialize;

/// How the server is looked at beside the stream.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GovernorConfig {
    /// How often.
    pub every: Period,
}

impl Default for GovernorConfig {
    fn default() -> Self {
        Self {
            every: Period(Duration::from_secs(10)),
        }
    }
}

/// A message in the log now and then, so that it moves on though nothing is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// How often.
    pub every: Period,
}

/// How much the slot may hold back before it is told, or the log is taken off the server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalBudget {
    /// Bytes of WAL that the server keeps for the slot.
    #[serde(default)]
    pub bytes: Option<Size>,
    /// For how long the log may be ahead of what is confirmed.
    #[serde(default)]
    pub time: Option<Period>,
    /// Where the log is kept that is taken off the server then; it is left there if absent.
    #[serde(default)]
    pub backlog: Option<BacklogConfig>,
}

/// A backlog of the log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BacklogConfig {
    /// The folder, which has one of its own for each slot.
    pub folder: Text,
    /// How much of a slot's log it may have.
    pub size: Size,
}

/// What the slot may hold back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) bytes: Option<u64>,
    pub(crate) time: Option<Duration>,
}

/// A backlog, read and checked.
#[derive(Debug, Clone)]
pub(crate) struct BacklogPlace {
    /// Of this source alone.
    pub(crate) folder: PathBuf,
    /// Bytes.
    pub(crate) size: u64,
}

/// The same, read and checked.
#[derive(Debug, Clone)]
pub(crate) struct SlotCare {
    pub(crate) look_every: Duration,
    pub(crate) heartbeat_every: Option<Duration>,
    pub(crate) budget: Option<Budget>,
    pub(crate) backlog: Option<BacklogPlace>,
    /// Whether the slot is one that standbys keep a copy of.
    pub(crate) failover: bool,
}

/// A backlog has room for many blocks, in bytes.
const LEAST_BACKLOG: u64 = 16 << 20;

impl SlotCare {
    /// `owner` is the name that the source's backlog has in its folder.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn read(
        governor: GovernorConfig,
        heartbeat: Option<HeartbeatConfig>,
        budget: Option<WalBudget>,
        failover: bool,
        owner: &str,
    ) -> Result<Self, &'static str> {
        if governor.every.0.is_zero() || heartbeat.is_some_and(|heartbeat| heartbeat.every.0.is_zero()) {
            return Err("`governor.every` and `heartbeat.every` must be above 0");
        }
        if budget
            .as_ref()
            .is_some_and(|budget| budget.bytes.is_none() && budget.time.is_none())
        {
            return Err("`wal_budget` needs `bytes`, `time` or both");
        }
        let backlog = budget.as_ref().and_then(|budget| budget.backlog.as_ref());
        if backlog.is_some_and(|backlog| backlog.size.0 < LEAST_BACKLOG) {
            return Err("`wal_budget.backlog.size` must be at least 16MiB");
        }
        Ok(Self {
            look_every: governor.every.0,
            heartbeat_every: heartbeat.map(|heartbeat| heartbeat.every.0),
            backlog: backlog.map(|backlog| BacklogPlace {
                folder: PathBuf::from(&*backlog.folder).join(owner),
                size: backlog.size.0,
            }),
            budget: budget.map(|budget| Budget {
                bytes: budget.bytes.map(|bytes| bytes.0),
                time: budget.time.map(|time| time.0),
            }),
            failover,
        })
    }
}
