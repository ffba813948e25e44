//! When the socket is read again.
//!
//! A walsender sends a message for each row. Who reads each at once wakes for each, and has the
//! server's kernel carry each in a packet of its own, which was seen to double what the walsender
//! costs. So the socket is left alone after a read, for a bounded time: what an idle server sends
//! is read at once.
//!
//! On the server's own host more can be had. The socket has little room there
//! (`wire/socket.rs`), so that rows wait with the sender and go together as long as there are more
//! of them than have room. The clock is the same, and each message tells when it was sent
//! (PostgreSQL manual, 55.4, `XLogData`): the age of the newest row that a read found is how long
//! rows wait. The pause is chosen to keep that at some milliseconds, whatever the speed of either
//! side: where nothing waits it is long enough for the room to be used up, and where much waits
//! there is none.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock;

/// A read that returned less than this left nothing behind.
const SMALL_READ: usize = 128 * 1024;
/// How long the socket is left alone after a small read, at least.
const PAUSE: Duration = Duration::from_millis(1);
/// How long it is left alone at most, on the server's host.
const LONGEST_PAUSE: Duration = Duration::from_millis(6);
/// Rows that waited less than this are young: the longest pause.
const YOUNG: Duration = Duration::from_millis(5);
/// Rows that waited longer than this are old: the shortest pause.
const OLD: Duration = Duration::from_millis(15);

/// Chooses pauses between reads.
pub(crate) struct Pauses {
    is_local: bool,
    was_small: bool,
    read: Instant,
    /// When it was read and when the newest message of it was sent, in microseconds since the Unix epoch.
    read_at: i64,
    sent_at: i64,
}

impl Pauses {
    /// For a server of this host or not.
    pub(crate) fn new(is_local: bool) -> Self {
        Self {
            is_local,
            was_small: false,
            read: Instant::now(),
            read_at: 0,
            sent_at: 0,
        }
    }

    /// A read found so many bytes.
    pub(crate) fn found(&mut self, bytes: usize, now: Instant) {
        self.was_small = bytes < SMALL_READ;
        self.read = now;
        self.read_at = clock::unix_micros();
    }

    /// A message of them was sent at this time, in microseconds since the Unix epoch.
    pub(crate) fn sent(&mut self, at: i64) {
        self.sent_at = at;
    }

    /// When the socket is to be read again, once all that was found is decoded.
    pub(crate) fn next(&self) -> Instant {
        let least = if self.was_small { PAUSE } else { Duration::ZERO };
        let pause = if self.is_local {
            let waited = Duration::from_micros(u64::try_from(self.read_at - self.sent_at).unwrap_or(0));
            pause_after(waited).max(least)
        } else {
            least
        };
        self.read + pause
    }
}

/// The pause after a read whose newest row had waited so long.
fn pause_after(waited: Duration) -> Duration {
    let share = OLD.saturating_sub(waited).div_duration_f64(OLD - YOUNG);
    LONGEST_PAUSE.mul_f64(share.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_rows_wait_the_sooner_they_are_read() {
        let millis = Duration::from_millis;
        assert_eq!(pause_after(Duration::ZERO), LONGEST_PAUSE);
        assert_eq!(pause_after(YOUNG), LONGEST_PAUSE);
        assert_eq!(pause_after(millis(10)), LONGEST_PAUSE / 2);
        assert_eq!(pause_after(OLD), Duration::ZERO);
        assert_eq!(pause_after(millis(60_000)), Duration::ZERO);
    }

    #[test]
    fn the_clock_of_another_host_is_not_asked() {
        let now = Instant::now();
        for (is_local, bytes, waited, pause) in [
            (true, 100, 0, LONGEST_PAUSE),
            (true, 100, 60_000_000, PAUSE),
            (true, SMALL_READ, 60_000_000, Duration::ZERO),
            // The clock was set back meanwhile.
            (true, SMALL_READ, -60_000_000, LONGEST_PAUSE),
            (false, 100, 0, PAUSE),
            (false, SMALL_READ, 0, Duration::ZERO),
        ] {
            let mut pauses = Pauses::new(is_local);
            pauses.found(bytes, now);
            pauses.sent(pauses.read_at - waited);
            assert_eq!(pauses.next(), now + pause, "{is_local} {bytes} {waited}");
        }
    }
}
