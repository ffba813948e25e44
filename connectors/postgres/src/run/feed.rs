//! What the stream is read from: the server, or a backlog of its log.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use super::kept::Kept;
use super::start_command::Mode;
use crate::backlog::{Backlog, Entry, Phase, Reader};
use crate::config::Settings;
use crate::decode::Lsn;
use crate::identity::Identity;
use crate::wire::{ReplicationStream, WireError};

/// A stream of messages.
pub(super) enum Feed {
    Server(ReplicationStream),
    Backlog(Reader),
}

impl Feed {
    /// Reads what commits after `held` from the server, for whose slot it waits as long as it has
    /// `patience`; or from the backlog, where that takes the slot first. The stream comes by the connection that
    /// was `kept`, if there is one and it serves.
    ///
    /// Returns where the slot is confirmed too, if it has two-phase commit.
    ///
    /// # Errors
    /// If the server does not begin the stream.
    pub(super) async fn open(
        settings: &Settings,
        server: &Identity,
        held: Lsn,
        mode: Mode,
        patience: Duration,
        kept: Option<Kept>,
        backlog: Option<&Arc<Backlog>>,
    ) -> millstream_core::Result<(Self, Option<Lsn>)> {
        tokio::select! {
            biased;
            backlog = filled(backlog) => Ok((Self::Backlog(Reader::new(backlog, held)), None)),
            opened = super::replicate(settings, server, held, mode, patience, kept) => {
                let (stream, two_phase) = opened?;
                Ok((Self::Server(stream), two_phase))
            }
        }
    }

    /// Whether the server is read, which hears of us.
    pub(super) fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Whether it is the server that is read, at an address of this host.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Server(stream) if stream.is_local())
    }

    /// The next of what was read already.
    ///
    /// # Errors
    /// Why the stream ended.
    pub(super) fn next_buffered(&mut self) -> Result<Option<Entry<'_>>, WireError> {
        match self {
            Self::Server(stream) => Ok(stream.next_buffered()?.map(Entry::Message)),
            Self::Backlog(reader) => Ok(reader.next_buffered()),
        }
    }

    /// Waits until there is something, and returns how many bytes that is; 0 at the end of a backlog.
    ///
    /// Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<usize, WireError> {
        match self {
            Self::Server(stream) => stream.fill().await,
            Self::Backlog(reader) => reader.fill().await.map_err(WireError::Backlog),
        }
    }

    /// Has what arrives wake nobody until the next [`fill`](Self::fill).
    pub(super) fn rest(&mut self) {
        if let Self::Server(stream) = self {
            stream.rest();
        }
    }

    /// Tells the server something. Nobody hears it where a backlog is read.
    ///
    /// Cancel safe, as [`ReplicationStream::send`] is.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), WireError> {
        match self {
            Self::Server(stream) => stream.send(message).await,
            Self::Backlog(_) => Ok(()),
        }
    }

    /// Frees the slot.
    pub(super) async fn close(&mut self) {
        if let Self::Server(stream) = self {
            stream.close().await;
        }
    }
}

/// Waits until the backlog is about to be filled.
async fn filled(backlog: Option<&Arc<Backlog>>) -> Arc<Backlog> {
    if let Some(backlog) = backlog {
        let mut news = backlog.news();
        if news.wait_for(|(phase, _)| *phase == Phase::Filling).await.is_ok() {
            return backlog.clone();
        }
    }
    pending().await
}
