//! When an epoch is cut.

use std::time::Duration;

/// What one commit may hold at most, and how long rows may wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPolicy {
    /// Rows become visible at most this long after they arrived, boundaries permitting.
    pub every: Duration,
    /// Cut at the first boundary after this many rows.
    pub rows: u64,
    /// Cut at the first boundary after this many bytes of Arrow memory.
    pub bytes: u64,
    /// A table without rows records its position this often, so that the source can let go
    /// of its log.
    pub idle_every: Duration,
}

impl Default for CommitPolicy {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(10),
            rows: 5_000_000,
            bytes: 1 << 30,
            idle_every: Duration::from_secs(60),
        }
    }
}

/// What has gathered since the last commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Rows that a commit is owed for: written, quarantined or dropped.
    pub rows: u64,
    /// Bytes of Arrow memory of those written or quarantined.
    pub bytes: u64,
    /// Time since the first of these rows; zero without rows.
    pub age: Duration,
    /// Whether any table's position moved without rows, and for how long that is unrecorded.
    pub idle: Option<Duration>,
}

impl CommitPolicy {
    /// Whether the epoch is to be cut at the next boundary.
    pub fn wants_cut(&self, gathered: &Gathered) -> bool {
        let full = gathered.rows >= self.rows || gathered.bytes >= self.bytes;
        let due = gathered.rows > 0 && gathered.age >= self.every;
        let idle = gathered.idle.is_some_and(|idle| idle >= self.idle_every);
        full || due || idle
    }

    /// How long until [`wants_cut`](Self::wants_cut) turns true by time alone; `None` if never.
    pub fn time_left(&self, gathered: &Gathered) -> Option<Duration> {
        let rows = (gathered.rows > 0).then(|| self.every.saturating_sub(gathered.age));
        let idle = gathered.idle.map(|idle| self.idle_every.saturating_sub(idle));
        rows.into_iter().chain(idle).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rows_bytes_age_or_idleness_cut_an_epoch() {
        let policy = CommitPolicy {
            every: SECOND,
            rows: 10,
            bytes: 100,
            idle_every: SECOND * 5,
        };
        let cut = |rows, bytes, age, idle| policy.wants_cut(&Gathered { rows, bytes, age, idle });
        assert!(!cut(9, 99, SECOND / 2, None));
        assert!(cut(10, 0, Duration::ZERO, None));
        assert!(cut(1, 100, Duration::ZERO, None));
        assert!(cut(1, 1, SECOND, None));
        assert!(!cut(0, 0, SECOND * 9, Some(SECOND)));
        assert!(cut(0, 0, Duration::ZERO, Some(SECOND * 5)));
    }

    #[test]
    fn the_wait_is_the_shorter_of_both() {
        let policy = CommitPolicy {
            every: SECOND,
            rows: 10,
            bytes: 100,
            idle_every: SECOND * 5,
        };
        assert_eq!(policy.time_left(&Gathered::default()), None);
        let gathered = Gathered {
            rows: 1,
            bytes: 1,
            age: SECOND / 4,
            idle: Some(SECOND),
        };
        assert_eq!(policy.time_left(&gathered), Some(SECOND * 3 / 4));
    }
}
