//! From pgoutput messages to events: which rows share a batch, and where the stream may be
//! cut. Knows no socket.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_core::{Boundary, PartitionId, Position, Result, SourceEvent, TableId};
use tokio::time::Instant;

use super::outbox::Outbox;
use super::tables::{Need, Tables};
use crate::clock;
use crate::config::BatchLimits;
use crate::decode::gaps;
use crate::decode::pgoutput::{self, Message, OldTuple};
use crate::decode::{ChangeContext, Lsn, ProtocolError, TableDecoder};
use crate::owed::{Why, owed_partition, owed_position};
use crate::plan::position_of;

/// Under a steady load small transactions share a batch for at most this long.
const LONGEST_LINGER: Duration = Duration::from_millis(100);
/// Changes that were committed longer ago, in microseconds, are of a log that is caught up with.
const LAGGING: i64 = 1_000_000;
/// How often at least a log in which nothing is ours moves the position on where the server asks
/// for a reply, as it does while it shuts down.
const IDLE_ADVANCE_ASKED: Duration = Duration::from_millis(500);

/// Collects rows per table and says when they are handed on.
///
/// Rows are handed on with a boundary at the end of the last complete transaction, or, inside a
/// transaction that outgrows the limits, without one. No batch ever holds rows of a complete
/// transaction together with later ones of an incomplete one and is followed by a boundary
/// between them: once an incomplete transaction was handed on, the next boundary is its own.
pub(super) struct Assembler {
    pub(super) partition: PartitionId,
    limits: BatchLimits,
    pub(super) tables: Tables,
    pub(super) outbox: Outbox,
    pub(super) transaction: Option<Transaction>,
    /// Rows that were decoded and not handed on.
    rows: usize,
    /// Their bytes on the wire, as often as they are stored.
    bytes: usize,
    /// When the first of them came.
    oldest: Option<Instant>,
    /// The last complete transaction with rows of ours that no boundary tells of yet.
    complete: Option<(Lsn, i64)>,
    /// The last boundary's position, or what was held at the start.
    announced: Lsn,
    /// Every transaction that commits before this was read.
    reached: Lsn,
    /// Whether rows were handed on that no boundary followed yet.
    open: bool,
    /// Whether the server asked for a reply since the last idle advance.
    asked: bool,
    last_advance: Instant,
    /// What every boundary raises: as the server that is read from.
    raises: Vec<(PartitionId, Position)>,
    /// What the target is owed, which every boundary tells too.
    owed: BTreeMap<TableId, (Lsn, Why)>,
    leaving: Leaving,
}

/// Whether the source asks to be started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// It will, behind the transaction that is read.
    AtCommit,
    Asked,
}

pub(super) struct Transaction {
    pub(super) commit: Lsn,
    xid: u32,
    position: String,
    committed_at: i64,
    /// The next row's ordinal; also whether there was a row.
    ordinal: i64,
}

impl Assembler {
    /// `held` is the last commit LSN that need not be announced.
    pub(super) fn new(partition: PartitionId, limits: BatchLimits, tables: Tables, outbox: Outbox, held: Lsn) -> Self {
        Self {
            partition,
            limits,
            tables,
            outbox,
            transaction: None,
            rows: 0,
            bytes: 0,
            oldest: None,
            complete: None,
            announced: held,
            reached: Lsn(0),
            open: false,
            asked: false,
            last_advance: Instant::now(),
            raises: Vec::new(),
            owed: BTreeMap::new(),
            leaving: Leaving::No,
        }
    }

    /// Has the target remember that it is owed a copy of `table`: since the transaction that is
    /// read, or `since`. Once it was for the loss of rows, it never again is for less.
    pub(super) fn owe(&mut self, table: &TableId, why: Why, since: Option<Lsn>) {
        let since = since.or(self.transaction.as_ref().map(|begun| begun.commit));
        let since = since.unwrap_or(self.reached).max(Lsn(1));
        let (known_since, known) = self.owed.entry(table.clone()).or_insert((since, why));
        (*known_since, *known) = (since.max(*known_since), why.max(*known));
    }

    /// Has every boundary from here on raise a partition to this.
    pub(super) fn remember(&mut self, (partition, position): (PartitionId, Position)) {
        match self.raises.iter_mut().find(|(raised, _)| *raised == partition) {
            Some((_, known)) => *known = position,
            None => self.raises.push((partition, position)),
        }
    }

    /// Asks to be started anew as soon as the stream can be cut, with what is [owed](Self::owe) told.
    pub(super) fn ask_to_be_started_anew(&mut self) -> Result<()> {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::AtCommit;
            if self.transaction.is_none() {
                return self.leave();
            }
        }
        Ok(())
    }

    /// Whether it asks to be started anew.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    fn leave(&mut self) -> Result<()> {
        self.leaving = Leaving::Asked;
        if self.complete.is_some() {
            self.hand_on_with_boundary()?;
        }
        self.advance();
        // There may have been nothing to announce it with.
        for (table, (since, why)) in &self.owed {
            self.outbox.push(SourceEvent::Boundary(Boundary {
                partition: owed_partition(table),
                from: Position::Beginning,
                position: owed_position(*since, *why),
                table: Some(table.clone()),
                raises: Vec::new(),
                committed_at: None,
                urgent: false,
            }));
        }
        self.outbox.push(SourceEvent::TablesChanged);
        Ok(())
    }

    /// Takes one pgoutput message. After `Some`, that need is to be met and the same message
    /// given again.
    ///
    /// # Errors
    /// `Corrupt` for a message that breaks the protocol, `SchemaChange` for a table that was renamed
    /// or replaced, or whose columns or key cannot be read on.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<Option<Need>> {
        if let Some(relation) = self.tables.ignores(data) {
            return self.refused(relation);
        }
        match pgoutput::parse(data)? {
            Message::Begin(begin) => {
                // What waited long enough is not kept waiting by a transaction of unknown length.
                if let Some((_, committed_at)) = self.complete
                    && self
                        .oldest
                        .is_none_or(|oldest| oldest.elapsed() > self.patience(committed_at))
                {
                    self.hand_on_with_boundary()?;
                }
                let position = begin.final_lsn.padded();
                self.transaction = Some(Transaction {
                    commit: begin.final_lsn,
                    xid: begin.xid,
                    position,
                    committed_at: begin.committed_at,
                    ordinal: 0,
                });
            }
            Message::Commit(commit) => {
                let transaction = self
                    .transaction
                    .take()
                    .ok_or(ProtocolError::UnknownContent("a commit"))?;
                self.reached = self.reached.max(Lsn(commit.commit_lsn.0 + 1));
                if transaction.ordinal > 0 {
                    self.complete = Some((commit.commit_lsn, commit.committed_at));
                }
                if self.is_full() || self.age() > LONGEST_LINGER.max(self.limits.linger.0) {
                    self.hand_on_with_boundary()?;
                }
                if self.complete.is_none() && self.last_advance.elapsed() >= self.limits.idle.0 {
                    // Others' traffic may never pause.
                    self.advance();
                }
                if self.leaving == Leaving::AtCommit {
                    self.leave()?;
                }
            }
            Message::Relation(relation) => {
                // The table's columns may have changed, which may end the pipeline: what came
                // before can be committed then, and is not read again after the next start.
                if self.complete.is_some() && self.transaction.as_ref().is_some_and(|begun| begun.ordinal == 0) {
                    self.hand_on_with_boundary()?;
                }
                let begun = self.transaction.as_ref();
                let begun = begun.ok_or(ProtocolError::UnknownContent("a relation outside a transaction"))?;
                let before = self.outbox.len();
                let need = self.tables.describe(&relation, begun.commit, &mut self.outbox)?;
                self.open |= self.outbox.len() > before;
                return Ok(need);
            }
            Message::Insert { relation, new } => {
                return self.change(relation, new.wire_bytes(), |decoder, context| {
                    decoder.insert(context, &new)
                });
            }
            Message::Update { relation, old, new } => {
                let bytes = new.wire_bytes() + old.as_ref().map_or(0, stored_bytes);
                return self.change(relation, bytes, |decoder, context| {
                    decoder.update(context, old.as_ref(), &new)
                });
            }
            Message::Delete { relation, old } => {
                return self.change(relation, stored_bytes(&old), |decoder, context| {
                    decoder.delete(context, &old)
                });
            }
            Message::Truncate { relations } => {
                // The message is given again after a need: none of it may have been taken.
                for relation in relations.iter() {
                    if let Some(need) = self.refused(relation)? {
                        return Ok(Some(need));
                    }
                }
                for relation in relations.iter() {
                    self.change(relation, 0, |decoder, context| decoder.truncate(context))?;
                }
            }
            Message::Logical(message) => return self.take_logical(&message),
            Message::Other => {}
        }
        Ok(None)
    }

    /// Takes the news that every transaction that commits before `wal_end` was sent. `asked`
    /// says that the server wants to hear soon how far we are.
    pub(super) fn reached(&mut self, wal_end: Lsn, asked: bool) {
        // Inside a transaction the server means the log it decodes, not what it has sent.
        if self.transaction.is_none() {
            self.reached = self.reached.max(wal_end);
            self.asked |= asked;
        }
    }

    /// Whether everything that was handed on ends at a boundary, so that a piece of a copy may follow.
    pub(super) fn is_at_boundary(&self) -> bool {
        !self.open
    }

    /// The last commit up to which all rows of ours were handed on.
    pub(super) fn settled(&self) -> Lsn {
        let nothing_waits = self.transaction.is_none() && self.rows == 0 && self.complete.is_none();
        let read = if nothing_waits {
            self.reached.0.saturating_sub(1)
        } else {
            0
        };
        self.announced.max(Lsn(read))
    }

    /// The last commit LSN up to which all was read, apart from the transaction that is.
    pub(super) fn last_whole(&self) -> Lsn {
        Lsn(self.reached.0.saturating_sub(1)).max(self.announced)
    }

    /// When something is to be handed on if nothing more comes.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.transaction.is_some() {
            return None;
        }
        if self.complete.is_some() {
            // Without a row the transaction was handed on while it was read, and waits for its boundary alone.
            return Some(
                self.oldest
                    .map_or(self.last_advance, |oldest| oldest + self.limits.linger.0),
            );
        }
        if !self.is_ahead() {
            return None;
        }
        let idle = self.limits.idle.0;
        let pause = if self.asked { idle.min(IDLE_ADVANCE_ASKED) } else { idle };
        Some(self.last_advance + pause)
    }

    /// Hands on what [`due`](Self::due) promised, if its time has come.
    pub(super) fn hand_on_when_due(&mut self, now: Instant) -> Result<()> {
        if self.due().is_none_or(|due| due > now) {
            return Ok(());
        }
        if self.complete.is_some() {
            return self.hand_on_with_boundary();
        }
        self.advance();
        Ok(())
    }

    /// Whether more was read than was announced. Positions are inclusive and a commit may begin
    /// at `reached` itself.
    fn is_ahead(&self) -> bool {
        self.reached.0 > self.announced.0 + 1
    }

    /// Announces how far a log was read in which nothing was ours. At once if the server asked:
    /// one that shuts down waits until all that it has sent is confirmed.
    fn advance(&mut self) {
        self.last_advance = Instant::now();
        let urgent = std::mem::take(&mut self.asked);
        if self.is_ahead() {
            self.announce(Lsn(self.reached.0 - 1), None, urgent);
        }
    }

    /// What a change of a relation of the past needs.
    fn refused(&mut self, relation: u32) -> Result<Option<Need>> {
        match &self.transaction {
            Some(begun) => self.tables.refuse_past(relation, begun.commit),
            None => Ok(None),
        }
    }

    fn change<T>(&mut self, relation: u32, bytes: usize, decode: T) -> Result<Option<Need>>
    where
        T: FnOnce(&mut TableDecoder, &ChangeContext<'_>) -> Result<i64>,
    {
        let transaction = self
            .transaction
            .as_mut()
            .ok_or(ProtocolError::UnknownContent("a change outside a transaction"))?;
        let Some((decoder, counter, held)) = self.tables.decoder(relation)? else {
            return self.tables.refuse_past(relation, transaction.commit);
        };
        let context = ChangeContext {
            position: &transaction.position,
            ordinal: transaction.ordinal,
            committed_at: Some(transaction.committed_at),
        };
        if self.outbox.completes() {
            // The engine leaves out what the target holds.
            let is_new = transaction.commit > held;
            decoder.note_gaps(is_new.then_some(gaps::Transaction {
                xid: transaction.xid,
                commit: transaction.commit,
            }));
        }
        let rows = decode(decoder, &context)?;
        transaction.ordinal += rows;
        counter.increment(rows.unsigned_abs());
        self.rows += usize::try_from(rows).unwrap_or(0);
        self.bytes += bytes;
        self.oldest.get_or_insert_with(Instant::now);
        if self.is_full() {
            self.hand_on()?;
        }
        Ok(None)
    }

    fn is_full(&self) -> bool {
        self.rows >= self.limits.rows || self.bytes as u64 >= self.limits.bytes.0
    }

    /// How long a change that was committed then may wait for others before the next transaction. Large
    /// batches are cheaper, and to one that is late already the difference is nothing. Where the server's
    /// clock is behind ours all seem late, and wait no longer than that.
    fn patience(&self, committed_at: i64) -> Duration {
        let linger = self.limits.linger.0;
        if clock::unix_micros().saturating_sub(committed_at) > LAGGING {
            LONGEST_LINGER.max(linger)
        } else {
            linger
        }
    }

    fn age(&self) -> Duration {
        self.oldest.map_or(Duration::ZERO, |oldest| oldest.elapsed())
    }

    fn hand_on(&mut self) -> Result<()> {
        (self.rows, self.bytes, self.oldest) = (0, 0, None);
        self.open = true;
        self.tables.hand_on(&mut self.outbox)
    }

    fn hand_on_with_boundary(&mut self) -> Result<()> {
        self.hand_on()?;
        if let Some((lsn, committed_at)) = self.complete.take() {
            self.announce(lsn, Some(committed_at), false);
        }
        Ok(())
    }

    fn announce(&mut self, lsn: Lsn, committed_at: Option<i64>, urgent: bool) {
        let from = position_of(std::mem::replace(&mut self.announced, lsn));
        self.open = false;
        let owed = self.owed.iter();
        let owed = owed.map(|(table, (since, why))| (owed_partition(table), owed_position(*since, *why)));
        self.outbox.push(SourceEvent::Boundary(Boundary {
            partition: self.partition.clone(),
            from,
            position: position_of(lsn),
            table: None,
            raises: self.raises.iter().cloned().chain(owed).collect(),
            committed_at,
            urgent,
        }));
    }
}

/// Bytes that are stored of an old row: a whole one is the before-image, and also fills the
/// columns of a delete, or those of an update that were not sent.
fn stored_bytes(old: &OldTuple<'_>) -> usize {
    match old {
        OldTuple::Key(tuple) => tuple.wire_bytes(),
        OldTuple::Full(tuple) => tuple.wire_bytes() * 2,
    }
}

#[cfg(test)]
#[path = "assembler_tests.rs"]
mod tests;
