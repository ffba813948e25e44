//! From the server to a backlog of its log, and back.

use std::future::pending;
use std::sync::Arc;

use millstream_core::Result;
use tokio::sync::watch;

use super::feed::Feed;
use super::start_command::Mode;
use super::stream::Stream;
use crate::backlog::{Backlog, Phase, Reader};
use crate::decode::Lsn;

/// Waits for news, if there may be any.
pub(super) async fn told(news: &mut Option<watch::Receiver<(Phase, u64)>>) {
    match news {
        // The stream has a part in the backlog, which therefore lives.
        Some(news) => drop(news.changed().await),
        None => pending().await,
    }
}

impl Stream<'_> {
    /// Leaves the slot to whoever wants to take the log off the server, and reads what that keeps.
    pub(super) async fn make_room_for_a_filler(&mut self) {
        let filled = |backlog: &&Arc<Backlog>| backlog.phase() == Phase::Filling;
        let Some(backlog) = self.backlog.as_ref().filter(filled).filter(|_| self.wire.is_server()) else {
            return;
        };
        let reader = Reader::new(backlog.clone(), self.before_the_next());
        tracing::info!(slot = %self.settings.slot, "the stream goes on from the backlog");
        self.wire.close().await;
        self.wire = Feed::Backlog(reader);
        self.mode = Mode::OF_A_BACKLOG;
        self.begin_again(None);
        self.assembler.tables.read_text();
    }

    /// Leaves the backlog, which was read to its end and is not filled any more.
    pub(super) async fn return_to_the_server(&mut self) -> Result<()> {
        self.mode = Mode {
            binary: self.assembler.tables.read_binary(),
            in_parts: self.settings.streaming,
        };
        self.restart("from the server").await
    }

    /// Takes the news of what the target holds to the backlog. Returns what the server may have been
    /// told before: less is not to be confirmed, which some versions would believe.
    pub(super) fn settle_backlog(&mut self, held: Lsn) -> Result<Option<Lsn>> {
        let Some(backlog) = &self.backlog else {
            return Ok(None);
        };
        backlog.held(held)?;
        let end = backlog.range().map(|range| range.end);
        match &mut self.wire {
            Feed::Backlog(reader) => reader.held(held),
            Feed::Server(_) if backlog.phase() == Phase::Closed && end.is_some_and(|end| end <= held) => {
                backlog.clear(Some(held))?;
            }
            Feed::Server(_) => {}
        }
        Ok(end.map(|end| Lsn(end.0 + 1)))
    }
}
