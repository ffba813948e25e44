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

/// A slot, and what a backlog has of the log before it.
#[derive(Debug)]
pub(super) struct Relief {
    pub(super) backlog: Option<Arc<Backlog>>,
    /// What it has, if that and the slot's log have no gap between them.
    range: Option<Range>,
}

impl Relief {
    /// `slot` has to be looked at before the backlog: both go on meanwhile.
    pub(super) fn of(backlog: Option<Arc<Backlog>>, slot: Option<&Slot>, server: &Identity) -> Self {
        let range = backlog.as_ref().zip(slot).and_then(|(backlog, slot)| {
            let (range, token) = (backlog.range()?, backlog.server()?);
            let is_lost = slot.wal_status.as_deref() == Some("lost");
            let adjoins = slot.confirmed.is_some_and(|confirmed| confirmed.0 <= range.end.0 + 1);
            (!is_lost && adjoins && server.has_log(&token, range.end)).then_some(range)
        });
        Self { backlog, range }
    }

    /// The slot as far as both together go back.
    pub(super) fn extend(&self, slot: Slot) -> Slot {
        let begins = self.range.map(|range| Lsn(range.begins.0 + 1));
        Slot {
            confirmed: slot
                .confirmed
                .map(|confirmed| begins.map_or(confirmed, |begins| begins.min(confirmed))),
            ..slot
        }
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
            let range = self.range.and(backlog.range());
            let is_filled = backlog.phase() != Phase::Closed;
            let is_new = is_filled && backlog.range().is_none();
            let serves = |held: Lsn| is_new || range.is_some_and(|range| is_filled || held < range.end);
            if held.is_some_and(serves) {
                return Ok(Some(backlog.clone()));
            }
            if backlog.clear()? {
                return Ok(None);
            }
            let mut news = backlog.news();
            backlog.ask_to_close();
            let closed = timeout(PATIENCE, news.wait_for(|(phase, _)| *phase == Phase::Closed));
            if closed.await.is_err() {
                return Err(
                    Error::new(ErrorKind::Unavailable, "the backlog of the log is still being filled").code("PG0056"),
                );
            }
        }
    }
}
