//! How long a failed pipeline waits before it starts anew.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// A run that lasted this long counts as a recovery: the next failure waits shortly again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Pauses that grow from one second to one minute, with jitter so that pipelines which failed
/// together do not come back together.
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// The first pause is next.
    pub fn new() -> Self {
        Self(pauses())
    }

    /// The pause after a run that lasted `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE_AFTER {
            self.0 = pauses();
        }
        self.0.next().unwrap_or(STABLE_AFTER)
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(Duration::from_secs(60))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_start_again_after_a_stable_run() {
        let mut backoff = Backoff::new();
        let early: Duration = (0..2).map(|_| backoff.after(Duration::ZERO)).sum();
        let late: Duration = (0..8).map(|_| backoff.after(Duration::ZERO)).last().unwrap();
        assert!(
            early < Duration::from_secs(8) && late >= Duration::from_secs(60),
            "{early:?} {late:?}"
        );
        assert!(backoff.after(STABLE_AFTER) < Duration::from_secs(3));
    }
}
