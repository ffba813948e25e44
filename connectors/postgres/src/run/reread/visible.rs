//! Whether a session sees what the stream has told.
//!
//! The server sends a transaction once its commit is in the log, which is before other sessions
//! see it: longer before where it waits for a synchronous standby. A value that was read without
//! the change would be an old one, which no later change would mend.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::decode::Lsn;
use crate::decode::gaps::Gaps;
use crate::wire::{Connection, WireError};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

const QUERY: &str = "SELECT pg_catalog.pg_current_snapshot(), \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() END";

/// Waits until every later statement of `sql` sees the transactions that `gaps` come from, and
/// with them what was done before to the rows that they changed. Returns whether it does; not
/// after `patience`, because the wait may be for ourselves: a commit waits for a synchronous
/// standby, which may be us, or may never come.
pub(super) async fn wait(sql: &mut Connection, gaps: &Gaps, patience: Duration) -> Result<bool, WireError> {
    let (since, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let rows = sql.query(QUERY).await?;
        let row = rows.first();
        let snapshot = row.and_then(|row| row.get(0)).and_then(Snapshot::parse);
        let snapshot = snapshot.ok_or_else(|| WireError::Protocol("a snapshot of an unknown form".to_owned()))?;
        // A snapshot of a standby does not list what is in progress; there, what was replayed is seen.
        let replayed: Option<Lsn> = row.and_then(|row| row.get(1)?.parse().ok());
        let is_seen = match replayed {
            Some(replayed) => replayed > gaps.last_commit,
            None => gaps.written_by.iter().all(|xid| snapshot.sees(*xid)),
        };
        if is_seen || since.elapsed() >= patience {
            return Ok(is_seen);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A `pg_snapshot` (PostgreSQL manual, 9.27.6): `xmin:xmax:xip,…`.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    /// The first transaction that had not begun.
    end: u64,
    in_progress: BTreeSet<u64>,
}

impl Snapshot {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':').skip(1);
        let end = parts.next()?.parse().ok()?;
        let in_progress = parts.next()?.split(',').filter(|xid| !xid.is_empty());
        Some(Self {
            end,
            in_progress: in_progress.map(|xid| xid.parse().ok()).collect::<Option<_>>()?,
        })
    }

    /// Whether the effects of a transaction that has committed are seen. The log has the lower
    /// half of its number, which is less than 2^31 away from the snapshot's.
    fn sees(&self, xid: u32) -> bool {
        let behind = (self.end as u32).wrapping_sub(xid).cast_signed();
        let Ok(behind) = u64::try_from(behind) else {
            return false;
        };
        behind > 0 && !self.in_progress.contains(&self.end.saturating_sub(behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_progress_or_later_is_not_seen() {
        let snapshot = Snapshot::parse("10:15:10,12").unwrap();
        let seen: Vec<u32> = (8..18).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 13, 14]);
        assert_eq!(Snapshot::parse("7:7:").unwrap().in_progress.len(), 0);
        assert_eq!(Snapshot::parse("7"), None);
    }

    #[test]
    fn numbers_wrap_around() {
        let end = (3u64 << 32) + 4;
        let snapshot = Snapshot::parse(&format!("{}:{end}:{}", end - 6, end - 6)).unwrap();
        assert!(snapshot.sees(3) && snapshot.sees(u32::MAX));
        assert!(!snapshot.sees(4) && !snapshot.sees(u32::MAX - 1));
    }
}
