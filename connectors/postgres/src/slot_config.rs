//! How the slot is made and watched, from the configuration.

use std::time::Duration;

use millstream_core::config::{Period, Size};
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

/// How much the slot may hold back before it is told.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalBudget {
    /// Bytes of WAL that the server keeps for the slot.
    #[serde(default)]
    pub bytes: Option<Size>,
    /// For how long the log may be ahead of what is confirmed.
    #[serde(default)]
    pub time: Option<Period>,
}

/// The same, read and checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotCare {
    pub(crate) look_every: Duration,
    pub(crate) heartbeat_every: Option<Duration>,
    pub(crate) budget: Option<WalBudget>,
    /// Whether the slot is one that standbys keep a copy of.
    pub(crate) failover: bool,
}

impl SlotCare {
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn read(
        governor: GovernorConfig,
        heartbeat: Option<HeartbeatConfig>,
        budget: Option<WalBudget>,
        failover: bool,
    ) -> Result<Self, &'static str> {
        if governor.every.0.is_zero() || heartbeat.is_some_and(|heartbeat| heartbeat.every.0.is_zero()) {
            return Err("`governor.every` and `heartbeat.every` must be above 0");
        }
        if budget.is_some_and(|budget| budget.bytes.is_none() && budget.time.is_none()) {
            return Err("`wal_budget` needs `bytes`, `time` or both");
        }
        Ok(Self {
            look_every: governor.every.0,
            heartbeat_every: heartbeat.map(|heartbeat| heartbeat.every.0),
            budget,
            failover,
        })
    }
}
