//! What the governor sees, as metrics. Each has the label `source`; the daemon describes them.

use std::time::Duration;

use metrics::{Gauge, gauge};

use crate::catalog::{Age, SlotFacts, SlotState};

/// The states of `wal_status`.
const STATES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];
/// The reasons why a slot can no longer be read; see [`SlotState::invalidation`].
const REASONS: [&str; 5] = [
    "wal_removed",
    "rows_removed",
    "wal_level_insufficient",
    "idle_timeout",
    "conflict",
];

/// The gauges of one source, registered once.
pub(super) struct Gauges {
    answered: Gauge,
    retained: Gauge,
    unconfirmed: Gauge,
    unconfirmed_seconds: Gauge,
    over_budget: Gauge,
    safe: Gauge,
    states: [(&'static str, Gauge); 4],
    reasons: [(&'static str, Gauge); 5],
    inactive: Gauge,
    catalog_xmin: Gauge,
    failover: Gauge,
    synced: Gauge,
    transaction: (Gauge, Gauge),
    prepared: (Gauge, Gauge),
}

impl Gauges {
    pub(super) fn of(source: &str) -> Self {
        let of = |name: &'static str| gauge!(name, "source" => source.to_owned());
        let state = |state| {
            let gauge = gauge!("millstream_postgres_slot_wal_status", "source" => source.to_owned(), "status" => state);
            (state, gauge)
        };
        let reason = |reason| {
            let gauge =
                gauge!("millstream_postgres_slot_invalidated", "source" => source.to_owned(), "reason" => reason);
            (reason, gauge)
        };
        Self {
            answered: of("millstream_postgres_governor_up"),
            retained: of("millstream_postgres_retained_wal_bytes"),
            unconfirmed: of("millstream_postgres_unconfirmed_wal_bytes"),
            unconfirmed_seconds: of("millstream_postgres_unconfirmed_seconds"),
            over_budget: of("millstream_postgres_wal_over_budget"),
            safe: of("millstream_postgres_safe_wal_bytes"),
            states: STATES.map(state),
            reasons: REASONS.map(reason),
            inactive: of("millstream_postgres_slot_inactive_seconds"),
            catalog_xmin: of("millstream_postgres_slot_catalog_xmin_xids"),
            failover: of("millstream_postgres_slot_failover"),
            synced: of("millstream_postgres_slot_synced"),
            transaction: (
                of("millstream_postgres_oldest_transaction_seconds"),
                of("millstream_postgres_oldest_transaction_xids"),
            ),
            prepared: (
                of("millstream_postgres_oldest_prepared_seconds"),
                of("millstream_postgres_oldest_prepared_xids"),
            ),
        }
    }

    /// Whether the server answered at the last look. Where it did not the others stand still.
    pub(super) fn answered(&self, answered: bool) {
        self.answered.set(number(answered));
    }

    /// Shows what was seen. A slot that does not exist shows as none of the states.
    pub(super) fn show(&self, facts: &SlotFacts, unconfirmed_bytes: f64, unconfirmed_for: Duration, over: bool) {
        let missing = SlotState::default();
        let slot = facts.slot.as_ref().unwrap_or(&missing);
        self.retained.set(slot.retained_bytes.unwrap_or_default());
        self.unconfirmed.set(unconfirmed_bytes);
        self.unconfirmed_seconds.set(unconfirmed_for.as_secs_f64());
        self.over_budget.set(number(over));
        self.safe.set(slot.safe_bytes.unwrap_or(f64::INFINITY));
        for (state, gauge) in &self.states {
            gauge.set(number(slot.wal_status == *state));
        }
        for (reason, gauge) in &self.reasons {
            gauge.set(number(slot.invalidation.as_deref() == Some(reason)));
        }
        self.inactive.set(slot.inactive_seconds);
        self.catalog_xmin.set(slot.catalog_xmin_age);
        self.failover.set(number(slot.failover));
        self.synced.set(number(slot.synced));
        show_age(&self.transaction, facts.oldest_transaction);
        show_age(&self.prepared, facts.oldest_prepared);
    }
}

fn show_age((seconds, xids): &(Gauge, Gauge), age: Age) {
    seconds.set(age.seconds.unwrap_or(f64::NAN));
    xids.set(age.xids);
}

fn number(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}
