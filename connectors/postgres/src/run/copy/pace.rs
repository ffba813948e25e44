//! The rate at which copies may read.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes per second over all that share it.
#[derive(Debug)]
pub(in crate::run) struct Pace {
    rate: Option<u64>,
    /// When everything that was asked for so far will have had its time.
    free_at: Mutex<Instant>,
}

impl Pace {
    /// `rate` in bytes per second; unlimited if `None`.
    pub(in crate::run) fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes`, which were just read, and all before them, are within the rate.
    ///
    /// Cancel safe: the bytes count all the same.
    pub(super) async fn take(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let ready_at = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let from = (*free_at).max(Instant::now());
            *free_at = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *free_at
        };
        sleep_until(ready_at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_share_it_are_held_to_the_rate() {
        let pace = Pace::new(Some(10_000));
        let started = Instant::now();
        tokio::join!(pace.take(500), pace.take(1000));
        assert!(started.elapsed() >= Duration::from_millis(150));
        Pace::new(None).take(u64::MAX).await;
    }
}
