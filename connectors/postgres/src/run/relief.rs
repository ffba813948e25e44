//! A backlog at the start of a run: whether it has what the target lacks.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use crate::backlog::{Backlog, Phase, Range};
use crate::catalog::Slot;
use crate::decode::Lsn;
use crate::identity::Identity;

/// How long whoever fills a backlog may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A slot, and the backlog of the log before it.
#[derive(Debug)]
pub(super) struct Relief {
    pub(super) backlog: Option<Arc<Backlog>>,
    server: Identity,
    /// Where the slot was confirmed, if it can be read.
    confirmed: Option<Lsn>,
}

impl Relief {
    /// `slot` has to be looked at before the backlog: both go on meanwhile.
    pub(super) fn of(backlog: Option<Arc<Backlog>>, slot: Option<&Slot>, server: &Identity) -> Self {
        let readable = slot.filter(|slot| slot.wal_status.as_deref() != Some("lost"));
        Self {
            backlog,
            server: server.clone(),
            confirmed: readable.and_then(|slot| slot.confirmed),
        }
    }

    /// What the backlog has now, if that and the slot's log have no gap between them.
    fn range(&self) -> Option<Range> {
        let backlog = self.backlog.as_ref()?;
        let (range, token) = (backlog.range()?, backlog.server()?);
        let adjoins = self.confirmed.is_some_and(|confirmed| confirmed.0 <= range.end.0 + 1);
        (adjoins && self.server.has_log(&token, range.end)).then_some(range)
    }

    /// The slot as far as both together go back.
    pub(super) fn extend(&self, slot: Slot) -> Slot {
        let begins = self.range().map(|range| Lsn(range.begins.0 + 1));
        Slot {
            confirmed: slot
                .confirmed
                .map(|confirmed| begins.map_or(confirmed, |begins| begins.min(confirmed))),
            ..slot
        }
    }

    /// Refuses to go on with another server while the backlog of the one before has changes that a
    /// target which stands at `held` lacks.
    ///
    /// # Errors
    /// `PositionLost` (PG0056).
    pub(super) fn refuse_unread(&self, held: Option<Lsn>) -> Result<()> {
        let range = self.backlog.as_ref().and_then(|backlog| backlog.range());
        if range.is_none_or(|range| held.is_none_or(|held| range.end <= held)) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::PositionLost,
            "the backlog has changes of the server before that the target does not hold",
        )
        .code("PG0056")
        .hint("connect to the server before once more, until `millstream_postgres_backlog_bytes` is 0"))
    }

    /// The backlog, if it is to be read by a stream that begins behind `held`. Otherwise it is given up,
    /// since the server has all that is needed.
    ///
    /// # Errors
    /// PG0056 if it cannot be given up.
    pub(super) async fn for_stream(&self, held: Option<Lsn>) -> Result<Option<Arc<Backlog>>> {
        let Some(backlog) = &self.backlog else {
            return Ok(None);
        };
        loop {
            // Before the look at what it has: that may grow until it is closed.
            let is_filled = backlog.phase() != Phase::Closed;
            let range = self.range();
            let is_new = is_filled && backlog.range().is_none();
            let serves = |held: Lsn| {
                is_new || range.is_some_and(|range| range.begins <= held && (is_filled || held < range.end))
            };
            if held.is_some_and(serves) {
                return Ok(Some(backlog.clone()));
            }
            // What is not the log before the slot's is of no use to anybody.
            if backlog.clear(held.filter(|_| range.is_some()))? {
                return Ok(None);
            }
            let mut news = backlog.news();
            backlog.ask_to_close();
            let closed = timeout(PATIENCE, news.wait_for(|(phase, _)| *phase == Phase::Closed));
            if closed.await.is_err() {
                return Err(
                    Error::new(ErrorKind::Unavailable, "the backlog of the log is still being filled")
                        .code("PG0056")
                        .hint("the pipeline starts again by itself; see the log for what fills it"),
                );
            }
        }
    }
}
