//! Transactions that the server sends before they commit.
//!
//! # In-progress transactions (protocol 2)
//! The server sends parts of a large transaction as it decodes them, among whole transactions
//! and parts of others. They are kept in the [`Spool`] until `Stream Commit`, which comes where
//! the transaction's commit is in the log, and are then read as if the transaction were sent
//! whole there: `Begin`, its messages in order, `Commit`. So it has the position, the ordinals
//! and the place among the others that it would have without. A rolled-back subtransaction or
//! transaction leaves nothing.
//!
//! `Relation` messages are kept with the rest. The server sends them once for each transaction
//! in progress, apart from what it knows that it has sent outside; it takes them for sent when
//! the transaction commits, which is when they are read here; and sends them again after any
//! abort in the transaction (`cleanup_rel_sync_cache` in `pgoutput.c`).
//!
//! Nothing of this needs to survive: the server keeps the log that a transaction in progress
//! needs (`restart_lsn`), and sends it from its beginning to the next connection.
//!
//! # Two-phase commit (protocol 3)
//! With `two_phase` a prepared transaction comes where its `PREPARE TRANSACTION` is in the log,
//! and is kept until `COMMIT PREPARED`, at whose position it is read. Positions are therefore in
//! the order of commits as ever. But the server does not send the transaction again to whoever
//! starts behind its `PREPARE`: then `COMMIT PREPARED` comes alone. So
//! - nothing past the oldest `PREPARE` is confirmed whose transaction the target does not hold,
//!   nor past what was read, since one may follow ([`confirmable`](InProgress::confirmable)),
//!   though positions go on;
//! - a stream begins where the slot is, not where the target is, and what all of the target
//!   holds is passed over here, but for `Relation` messages, which come once;
//! - a `COMMIT PREPARED` without its transaction ends the stream.
//!
//! The server takes a `Relation` for sent that came with a transaction that was prepared whole,
//! and does not send it with others. It is therefore also kept apart, and given before the first
//! change that needs it; a prepared transaction that needs it gets it among its own messages, in the
//! order in which they came, since it may describe the table anew further on. It is the right one: a
//! prepared transaction has its tables locked, so that no other can change their columns; and after
//! a change of its own the server describes the table again.
//!
//! Without `two_phase` the server sends a prepared transaction at its `COMMIT PREPARED`, as any
//! other.

use std::collections::{HashMap, VecDeque};

use millstream_core::{Error, ErrorKind, Result};

use super::spool::Spool;
use crate::decode::pgoutput::control::{Committed, Control, streamed};
use crate::decode::{Lsn, ProtocolError};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is to be taken now.
    Pass,
    /// It was kept, passed over, or said something about those that were. Messages may be ready
    /// to be [read](InProgress::next).
    Kept,
}

/// Follows the messages of a stream, and gives those of each transaction together.
#[derive(Debug)]
pub(super) struct InProgress {
    spool: Spool,
    section: Section,
    /// Where the slot of a stream with two-phase commit is confirmed.
    two_phase: Option<Lsn>,
    /// Every commit and every `PREPARE` before this was read.
    read: Lsn,
    /// Transactions that the target does not hold, by number.
    prepared: HashMap<u32, Prepared>,
    reading: Option<Reading>,
    /// `Relation` messages that came with prepared transactions alone, by OID.
    apart: HashMap<u32, Apart>,
    /// Messages that are given before others.
    ready: VecDeque<Vec<u8>>,
    /// The last of them that was given.
    given: Vec<u8>,
    /// Transactions that commit up to here are passed over.
    held: Lsn,
    /// Whether such a one is coming.
    passing_over: bool,
}

/// What the messages that come belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    /// A whole transaction, or none.
    Whole,
    /// A part of a transaction in progress.
    Part(u32),
    /// A transaction that is being prepared.
    Preparing(u32),
}

/// A `Relation` message, and the last transaction that has it among its own.
#[derive(Debug)]
struct Apart {
    xid: u32,
    message: Vec<u8>,
}

#[derive(Debug)]
struct Prepared {
    /// Where the record of `PREPARE TRANSACTION` begins.
    at: Lsn,
    committed: Option<Lsn>,
}

/// A kept transaction that is read.
#[derive(Debug)]
struct Reading {
    stage: Stage,
    begin: Vec<u8>,
    commit: Vec<u8>,
    /// Whether the target holds it all.
    held: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Messages,
    Commit,
}

impl InProgress {
    /// `held` is the last commit LSN that all of the target holds; `two_phase` is where the slot
    /// is confirmed, if it has two-phase commit.
    pub(super) fn new(spool: Spool, held: Lsn, two_phase: Option<Lsn>) -> Self {
        Self {
            spool,
            section: Section::Whole,
            two_phase,
            read: Lsn(0),
            prepared: HashMap::new(),
            reading: None,
            apart: HashMap::new(),
            ready: VecDeque::new(),
            given: Vec::new(),
            held,
            passing_over: false,
        }
    }

    /// Transactions that commit up to here are passed over.
    pub(super) fn held(&self) -> Lsn {
        self.held
    }

    /// Whether the messages that come belong to no part of a transaction.
    pub(super) fn is_between_parts(&self) -> bool {
        self.section == Section::Whole
    }

    /// Whether messages are to be [read](Self::next) before others are taken.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some() || !self.ready.is_empty()
    }

    /// Takes the news that everything that ends before `wal_end` was sent.
    pub(super) fn reached(&mut self, wal_end: Lsn) {
        self.read = self.read.max(wal_end);
    }

    /// How far the log may be confirmed of which `durable` is one past what the target holds.
    pub(super) fn confirmable(&mut self, durable: Lsn) -> Lsn {
        let Some(confirmed) = &mut self.two_phase else {
            return durable;
        };
        let is_held = |commit: Lsn| commit < durable;
        self.prepared
            .retain(|_, prepared| !prepared.committed.is_some_and(is_held));
        let oldest = self.prepared.values().map(|prepared| prepared.at).min();
        let most = oldest.map_or(self.read, |oldest| oldest.min(self.read));
        // A server may take less than before at its word.
        *confirmed = (*confirmed).max(durable.min(most));
        *confirmed
    }

    /// Prepares for a new stream of the same slot. Transactions that commit up to `held` are
    /// passed over in it.
    pub(super) fn begin_again(&mut self, held: Lsn, two_phase: Option<Lsn>) {
        self.spool.clear();
        self.apart.clear();
        self.ready.clear();
        (self.section, self.reading, self.passing_over) = (Section::Whole, None, false);
        self.prepared.clear();
        (self.two_phase, self.read) = (two_phase, Lsn(0));
        // The last one may have been left where something was passed over.
        self.held = self.held.max(held);
    }

    /// Looks at one message, while none are to be read.
    ///
    /// # Errors
    /// `Corrupt` for what breaks the protocol, PG0041 for the disk, PG0043 for the commit of a
    /// transaction that never came.
    pub(super) fn take(&mut self, message: &[u8]) -> Result<Turn> {
        if let Some(control) = Control::parse(message)? {
            self.control(control)?;
            return Ok(Turn::Kept);
        }
        match (self.section, message) {
            (Section::Whole, _) => Ok(self.whole(message)),
            (Section::Preparing(xid), [tag, body @ ..]) => {
                self.keep_apart(xid, message)?;
                self.spool.append(xid, xid, *tag, body)?;
                Ok(Turn::Kept)
            }
            (Section::Part(xid), _) => {
                // Of all messages this one has no number.
                if message.first() != Some(&b'O') {
                    let (tag, subxid, body) = streamed(message)?;
                    self.spool.append(xid, subxid, tag, body)?;
                }
                Ok(Turn::Kept)
            }
            (_, []) => Err(ProtocolError::Truncated.into()),
        }
    }

    /// Takes note of a message of a transaction that is being prepared, before it is kept.
    fn keep_apart(&mut self, xid: u32, message: &[u8]) -> Result<()> {
        if let Some(oid) = described(message) {
            let message = message.to_vec();
            self.apart.insert(oid, Apart { xid, message });
        }
        for oid in changed(message) {
            let of_another = self.apart.get_mut(&oid).filter(|apart| apart.xid != xid);
            if let Some(Apart { xid: last, message }) = of_another
                && let [tag, body @ ..] = message.as_slice()
            {
                *last = xid;
                self.spool.append(xid, xid, *tag, body)?;
            }
        }
        Ok(())
    }

    /// A message of a transaction that is sent whole.
    fn whole(&mut self, message: &[u8]) -> Turn {
        match message {
            [b'B', a, b, c, d, e, f, g, h, ..] => {
                let commit = Lsn(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
                self.passing_over = commit <= self.held;
                self.has_read(commit);
                Turn::Pass
            }
            [b'C', ..] => {
                self.passing_over = false;
                Turn::Pass
            }
            message if self.passing_over && is_content(message) => Turn::Kept,
            message if self.make_ready(message) => Turn::Kept,
            _ => Turn::Pass,
        }
    }

    /// Makes a message that is about to be given ready behind the relations [`apart`](Self::apart)
    /// that it needs. Returns whether there are any; if not, the message is to be given as it is.
    fn make_ready(&mut self, message: &[u8]) -> bool {
        if self.apart.is_empty() {
            return false;
        }
        if let Some(oid) = described(message) {
            self.apart.remove(&oid);
            return false;
        }
        let needed = changed(message).filter_map(|oid| self.apart.remove(&oid));
        self.ready.extend(needed.map(|apart| apart.message));
        if self.ready.is_empty() {
            return false;
        }
        self.ready.push_back(message.to_vec());
        true
    }

    fn control(&mut self, control: Control<'_>) -> Result<()> {
        let misplaced = || Err(ProtocolError::UnknownContent("the order of parts of transactions").into());
        match (self.section, control) {
            (Section::Part(_), Control::StreamStop) => self.section = Section::Whole,
            (Section::Preparing(xid), Control::Prepare { xid: same, at }) if xid == same => {
                self.section = Section::Whole;
                self.prepared(xid, at);
            }
            (Section::Part(_) | Section::Preparing(_), _) => return misplaced(),
            (Section::Whole, control) => match control {
                Control::StreamStart { xid, first } => {
                    if first {
                        self.spool.begin(xid);
                    } else if !self.spool.contains(xid) {
                        return misplaced();
                    }
                    self.section = Section::Part(xid);
                }
                Control::StreamCommit { xid, committed } if self.spool.contains(xid) => self.read(xid, &committed),
                Control::StreamAbort { xid, subxid } if xid == subxid => self.spool.forget(xid),
                Control::StreamAbort { xid, subxid } => self.spool.roll_back(xid, subxid)?,
                Control::BeginPrepare { xid } => {
                    self.spool.begin(xid);
                    self.section = Section::Preparing(xid);
                }
                Control::StreamPrepare { xid, at } if self.spool.contains(xid) => self.prepared(xid, at),
                Control::CommitPrepared { xid, committed } => self.commit_prepared(xid, &committed)?,
                Control::RollbackPrepared { xid } => {
                    self.spool.forget(xid);
                    self.prepared.remove(&xid);
                }
                Control::StreamStop
                | Control::StreamCommit { .. }
                | Control::Prepare { .. }
                | Control::StreamPrepare { .. } => return misplaced(),
            },
        }
        Ok(())
    }

    /// Nothing else begins where a record does.
    fn has_read(&mut self, record: Lsn) {
        self.reached(Lsn(record.0.saturating_add(1)));
    }

    fn prepared(&mut self, xid: u32, at: Lsn) {
        let committed = None;
        self.has_read(at);
        self.prepared.insert(xid, Prepared { at, committed });
    }

    fn commit_prepared(&mut self, xid: u32, committed: &Committed<'_>) -> Result<()> {
        self.has_read(committed.lsn);
        if let Some(prepared) = self.prepared.get_mut(&xid) {
            prepared.committed = Some(committed.lsn);
        }
        if self.spool.contains(xid) {
            self.read(xid, committed);
        } else if committed.lsn > self.held {
            return Err(Error::new(
                ErrorKind::PositionLost,
                "a prepared transaction commits that was not sent when it was prepared",
            )
            .code("PG0043")
            .with("transaction", xid)
            .with("commit", committed.lsn)
            .hint("drop the slot and this source's tables in the target, so that they are copied anew"));
        }
        Ok(())
    }

    fn read(&mut self, xid: u32, committed: &Committed<'_>) {
        let (begin, commit) = committed.frame(xid);
        self.spool.read(xid);
        self.reading = Some(Reading {
            stage: Stage::Begin,
            begin,
            commit,
            held: committed.lsn <= self.held,
        });
    }

    /// The next message of the transaction that is read, as if it were sent whole; `None` at its end.
    ///
    /// # Errors
    /// PG0041 if the disk does not give back what it took.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>> {
        if let Some(ready) = self.ready.pop_front() {
            self.given = ready;
            return Ok(Some(&self.given));
        }
        let Some(reading) = &mut self.reading else {
            return Ok(None);
        };
        if reading.stage == Stage::Begin {
            reading.stage = Stage::Messages;
            return Ok(self.reading.as_ref().map(|reading| reading.begin.as_slice()));
        }
        if reading.stage == Stage::Messages {
            while self.spool.advance()? {
                if reading.held && is_content(self.spool.message()) {
                    continue;
                }
                let message = self.spool.message();
                if let Some(oid) = described(message)
                    && self.apart.get(&oid).is_some_and(|apart| apart.message == message)
                {
                    self.apart.remove(&oid);
                }
                return Ok(Some(self.spool.message()));
            }
            reading.stage = Stage::Commit;
            return Ok(self.reading.as_ref().map(|reading| reading.commit.as_slice()));
        }
        self.reading = None;
        Ok(None)
    }
}

/// The relation that a message describes.
fn described(message: &[u8]) -> Option<u32> {
    match message {
        [b'R', oid @ ..] => oid.first_chunk().map(|oid| u32::from_be_bytes(*oid)),
        _ => None,
    }
}

/// The relations that a message is a change of.
fn changed(message: &[u8]) -> impl Iterator<Item = u32> {
    let oids = match message {
        [b'I' | b'U' | b'D', oid @ ..] => oid.get(..4),
        // Their number and a byte of options are before them.
        [b'T', rest @ ..] => rest.get(5..),
        _ => None,
    };
    let oids = oids.unwrap_or_default().as_chunks::<4>().0;
    oids.iter().map(|oid| u32::from_be_bytes(*oid))
}

/// Whether a message is a change or was written by somebody, and does not say how to read others.
fn is_content(message: &[u8]) -> bool {
    matches!(message, [b'I' | b'U' | b'D' | b'T' | b'M', ..])
}

#[cfg(test)]
#[path = "in_progress_tests.rs"]
mod tests;
