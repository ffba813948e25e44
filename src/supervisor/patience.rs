//! How long a pipeline that is told to stop may take.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Bounds for the end of a run, from the moment at which it is told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a run that is still starting: it holds nothing that is not committed.
    pub starting: Duration,
    /// For a run that has an epoch to commit.
    pub running: Duration,
}

impl Patience {
    /// Stays below the unit's `TimeoutStopSec`, so that systemd need not kill the daemon.
    pub const OF_THE_DAEMON: Self = Self {
        starting: Duration::from_secs(5),
        running: Duration::from_secs(90),
    };

    /// Returns when the patience with a run is at its end; never before `drain` fires.
    pub async fn ends(self, drain: &CancellationToken, is_starting: impl Fn() -> bool) {
        const LOOK: Duration = Duration::from_millis(100);
        drain.cancelled().await;
        let told = Instant::now();
        loop {
            let bound = if is_starting() { self.starting } else { self.running };
            if told.elapsed() >= bound {
                return;
            }
            sleep(LOOK.min(bound)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_run_that_starts_has_less_time_than_one_that_runs() {
        let patience = Patience {
            starting: Duration::ZERO,
            running: Duration::from_millis(300),
        };
        let drain = CancellationToken::new();
        let soon = tokio::time::timeout(Duration::from_millis(50), patience.ends(&drain, || true));
        assert!(soon.await.is_err(), "nobody has asked it to stop");
        drain.cancel();
        patience.ends(&drain, || true).await;
        let told = Instant::now();
        patience.ends(&drain, || false).await;
        assert!(told.elapsed() >= Duration::from_millis(300));
    }
}
