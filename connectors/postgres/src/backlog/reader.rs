//! Reads a backlog, while it is filled.

use std::fs::File;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::block::first;
use super::segments::{open_segment, read_block};
use super::{Backlog, Phase};
use crate::decode::Lsn;

/// What a backlog gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// What the server sent in one CopyData message.
    Message(&'a [u8]),
    /// What follows was sent on another connection, which began behind the last whole transaction.
    Anew,
}

/// A place in a backlog from which it is read on.
#[derive(Debug)]
pub(crate) struct Reader {
    backlog: Arc<Backlog>,
    news: watch::Receiver<(Phase, u64)>,
    /// What is wanted commits after this.
    after: Lsn,
    /// The segment that is read, and up to where it was.
    place: Option<(Lsn, File, u64)>,
    /// Messages of the block that was read last, and up to where they were given.
    messages: Vec<u8>,
    given: usize,
    /// Up to here everything is in the blocks that were read of the segment.
    end: Lsn,
    /// What it had when everything was read, and whoever fills it was close to the log's end.
    caught_up: Option<Lsn>,
}

impl Reader {
    /// Reads what commits after `after`, and some of what does before.
    pub(crate) fn new(backlog: Arc<Backlog>, after: Lsn) -> Self {
        Self {
            news: backlog.news(),
            backlog,
            after,
            place: None,
            messages: Vec::new(),
            given: 0,
            end: after,
            caught_up: None,
        }
    }

    /// The next of the messages that were read already.
    pub(crate) fn next_buffered(&mut self) -> Option<Entry<'_>> {
        let (message, taken) = first(self.messages.get(self.given..)?)?;
        self.given += taken;
        Some(if message.is_empty() {
            Entry::Anew
        } else {
            Entry::Message(message)
        })
    }

    /// Waits until there are messages, and returns how many bytes of them; 0 once it is closed and all
    /// were given.
    ///
    /// Cancel safe. Reads of the files block.
    ///
    /// # Errors
    /// If they cannot be read, or are not what was written.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        loop {
            // Before the look at the files: what was written before it closed is seen.
            let (phase, _) = *self.news.borrow_and_update();
            if self.read()? {
                return Ok(self.messages.len());
            }
            if phase == Phase::Closed {
                return Ok(0);
            }
            if self.backlog.is_level() {
                self.caught_up = self.caught_up.or(self.backlog.range().map(|range| range.end));
            } else {
                self.caught_up = None;
            }
            // The backlog lives as long as its reader.
            let _ = self.news.changed().await;
        }
    }

    /// Takes the news of what the target holds. One that holds all that was there when it had been read
    /// keeps up: the log need not be taken off the server any more.
    pub(crate) fn held(&mut self, held: Lsn) {
        if self.backlog.is_level() && self.caught_up.is_some_and(|end| end <= held) {
            self.backlog.ask_to_close();
        }
    }

    /// Reads the next block. Returns whether there is one.
    fn read(&mut self) -> io::Result<bool> {
        loop {
            let Some((begins, file, at)) = &mut self.place else {
                let Some(segment) = self.backlog.segment_after(self.after) else {
                    return Ok(false);
                };
                self.open(segment.begins)?;
                continue;
            };
            let (len, next) = self.backlog.around(*begins);
            // What the target holds is removed, and has been read.
            if len.is_some_and(|len| *at < len) {
                let (header, messages) = read_block(file, *at)?.ok_or_else(damaged)?;
                self.end = header.end;
                *at += (super::block::HEADER + messages.len()) as u64;
                (self.messages, self.given) = (messages, 0);
                return Ok(true);
            }
            match next {
                // One between the two would be missing.
                Some(next) if len.is_some() && self.end != next => return Err(damaged()),
                Some(next) => self.open(next)?,
                None => return Ok(false),
            }
        }
    }

    fn open(&mut self, begins: Lsn) -> io::Result<()> {
        let file = open_segment(&self.backlog.folder, begins)?;
        self.place = Some((begins, file, 0));
        Ok(())
    }
}

fn damaged() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a block of the backlog is not what was written",
    )
}
