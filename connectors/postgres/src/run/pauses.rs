//! When the socket is read again.
//!
//! A walsender sends a message for each row. Who reads each at once wakes for each, and has the
//! server's kernel carry each in a packet of its own, which was seen to cost the walsender half as
//! much again. So the socket is left alone after a read, for a bounded time: what an idle server sends
//! is read at once.
//!
//! Where the server has an address of this host more can be had. The socket has little room there
//! (`wire/socket.rs`), so that rows wait with the sender and go together as long as there are more
//! of them than have room. The clock is the same, unless a tunnel ends here, and each message tells
//! when it was sent (PostgreSQL manual, 55.4, `XLogData`): the age of the newest row that a read
//! found is how long rows wait. The pause is chosen to keep that at some milliseconds, whatever the
//! speed of either side: where nothing waits it is long enough for the room to be used up, and where
//! rows wait for long there is none.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock;
use crate::wire::LOCAL_ROOM;

/// A read that returned less than this left little behind.
const SMALL_READ: usize = 128 * 1024;
/// The same where the socket has little room.
const SMALL_LOCAL_READ: usize = LOCAL_ROOM / 2;
/// How long the socket is left alone after a small read, at least.
const PAUSE: Duration = Duration::from_millis(1);
/// How long it is left alone at most, where the server is on this host.
const LONGEST_PAUSE: Duration = Duration::from_millis(6);
/// Rows that waited less than this are young: the longest pause.
const YOUNG: Duration = Duration::from_millis(5);
/// Rows that waited longer than this are old: the shortest pause.
const OLD: Duration = Duration::from_millis(15);

/// Chooses pauses between reads.
#[derive(Debug)]
pub(crate) struct Pauses {
    was_small: bool,
    /// Whether it came from this host.
    was_local: bool,
    /// Whether a message came from the future.
    has_other_clock: bool,
    read: Instant,
    /// When it was read and when the newest message of it was sent, in microseconds since the Unix epoch.
    read_at: i64,
    sent_at: i64,
}

impl Pauses {
    /// Begins without one.
    pub(crate) fn new() -> Self {
        Self {
            was_small: false,
            was_local: false,
            has_other_clock: false,
            read: Instant::now(),
            read_at: 0,
            sent_at: 0,
        }
    }

    /// A read found so many bytes, which a server of this host sent or not.
    pub(crate) fn found(&mut self, bytes: usize, is_local: bool, now: Instant) {
        self.was_small = bytes < if is_local { SMALL_LOCAL_READ } else { SMALL_READ };
        self.was_local = is_local;
        self.read = now;
        self.read_at = clock::unix_micros();
    }

    /// A message of them was sent at this time, in microseconds since the Unix epoch.
    pub(crate) fn sent(&mut self, at: i64) {
        self.sent_at = at;
        // By a clock that is ahead no row would ever be old, and none read without a pause.
        self.has_other_clock |= at > self.read_at;
    }

    /// When the socket is to be read again, once all that was found is decoded.
    pub(crate) fn next(&self) -> Instant {
        let mut pause = if self.was_small { PAUSE } else { Duration::ZERO };
        if self.was_local && !self.has_other_clock {
            let waited = self.read_at.saturating_sub(self.sent_at);
            pause = pause.max(pause_after(Duration::from_micros(waited.unsigned_abs())));
        }
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

    /// The pause after a read of so many bytes, whose newest row had waited so many microseconds.
    fn pause(pauses: &mut Pauses, is_local: bool, bytes: usize, waited: i64) -> Duration {
        let now = Instant::now();
        pauses.found(bytes, is_local, now);
        pauses.sent(pauses.read_at.saturating_sub(waited));
        pauses.next() - now
    }

    #[test]
    fn the_clock_of_another_host_is_not_asked() {
        for (is_local, bytes, waited, expected) in [
            (true, 100, 0, LONGEST_PAUSE),
            (true, 100, 60_000_000, PAUSE),
            (true, SMALL_LOCAL_READ, 60_000_000, Duration::ZERO),
            (true, SMALL_LOCAL_READ, i64::MAX, Duration::ZERO),
            (false, 100, 0, PAUSE),
            (false, SMALL_READ, 0, Duration::ZERO),
        ] {
            let found = pause(&mut Pauses::new(), is_local, bytes, waited);
            assert_eq!(found, expected, "{is_local} {bytes} {waited}");
        }
    }

    #[test]
    fn a_clock_that_is_ahead_behind_a_tunnel_is_not_asked_again() {
        let mut pauses = Pauses::new();
        assert_eq!(pause(&mut pauses, true, SMALL_LOCAL_READ, 0), LONGEST_PAUSE);
        assert_eq!(pause(&mut pauses, true, SMALL_LOCAL_READ, -2_000_000), Duration::ZERO);
        assert_eq!(pause(&mut pauses, true, SMALL_LOCAL_READ, 0), Duration::ZERO);
        assert_eq!(pause(&mut pauses, true, 100, 0), PAUSE);
    }
}
