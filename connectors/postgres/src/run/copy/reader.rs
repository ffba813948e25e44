//! A session that reads ranges, one after the other, and hands them on in pieces.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::{CopyBoard, Error, ErrorKind, Position, Result, SourceEvent};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Message;
use super::job::{Learned, TableJob};
use super::pace::Pace;
use super::piece::{Addresses, Piece, most};
use super::place::{Places, Tid};
use super::purpose::Purpose;
use super::ranges::Range;
use super::statement::{Selection, statement};
use super::stride::{MOST_ROWS_OF_A_BLOCK, Stride};
use crate::catalog::TableFile as File;
use crate::config::Settings;
use crate::decode::Lsn;
use crate::fault;
use crate::wire::Connection;

/// What the sessions of one snapshot share.
pub(super) struct Round {
    pub(super) settings: Arc<Settings>,
    /// The last commit that the snapshot includes.
    pub(super) held: Lsn,
    pub(super) queue: Mutex<VecDeque<(Arc<TableJob>, Task)>>,
    /// First copies that have not ended.
    pub(super) unfinished: Mutex<usize>,
    /// When the snapshot is to be given up, if it may be.
    pub(super) until: Option<Instant>,
    pub(super) block_bytes: u64,
    pub(super) pace: Arc<Pace>,
    pub(super) board: CopyBoard,
    pub(super) messages: mpsc::Sender<Message>,
    /// Up to where the stream was handed on.
    pub(super) settled: watch::Receiver<Lsn>,
}

/// One step of a table's copy.
pub(super) enum Task {
    /// Read this range.
    Read(Range),
    /// All ranges were read: end the copy.
    End,
}

impl Round {
    /// Works until nothing is left to do or the snapshot is to be given up. Returns the session,
    /// whose transaction may hold locks for others.
    pub(super) async fn work(self: Arc<Self>, mut sql: Connection) -> Result<Connection> {
        // What the stream tells up to the snapshot comes first, so that rows of one key arrive
        // in the order of their places as far as they can.
        let mut settled = self.settled.clone();
        settled
            .wait_for(|lsn| *lsn >= self.held)
            .await
            .map_err(|_| stopping())?;
        // However short the time, every session reads a piece.
        let mut next = self.next();
        while let Some((job, task)) = next {
            let ended = match task {
                Task::End => true,
                Task::Read(range) => {
                    if !self.read(&mut sql, &job, range).await? {
                        break;
                    }
                    job.finish_range()
                }
            };
            if ended {
                self.end(&mut sql, &job).await?;
            }
            next = if self.is_over() { None } else { self.next() };
        }
        Ok(sql)
    }

    fn next(&self) -> Option<(Arc<TableJob>, Task)> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Whether no range is left that nobody reads.
    pub(super) fn is_all_taken(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Reads a range. Returns whether all of it: `false` once the snapshot is to be given up.
    ///
    /// The address of a row costs the server some of what the row does, so that a range is read some blocks at
    /// a time, and which rows lie there need not be known. But where few blocks may stand for very much,
    /// a piece ends with any row.
    async fn read(&self, sql: &mut Connection, job: &TableJob, mut range: Range) -> Result<bool> {
        let most = most(&self.settings.batch);
        let places = Places::new(self.held, range.file.node);
        let mut learned = job.learned();
        let mut decoder = job.decoder(&range.partition);
        decoder.begin_with(learned.room.clone());
        let mut piece = Piece::new(decoder, &range.partition, places, range.read, most);
        let failed = |error| explain(error, &self.settings, job);
        let file = &range.file;
        // A block's rows fit into a batch, and their values are in the block.
        let by_blocks = file.addressable && !file.toasted && most.rows >= MOST_ROWS_OF_A_BLOCK;
        let known = || learned.stride.clone();
        let mut stride = by_blocks.then(|| known().unwrap_or_else(|| Stride::new(most, self.block_bytes)));
        let mut step = Step::of(&range, stride.as_ref());
        sql.begin_copy_out(&step.statement(job, &range)).await.map_err(failed)?;
        loop {
            piece.begin(step.addresses);
            let mut decoder = job.copy_decoder(step.addresses);
            let mut stream = sql.copy_out().await.map_err(failed)?;
            while let Some(mut messages) = stream.next().await.map_err(failed)? {
                while piece.take_some(&mut messages, &mut decoder)? {
                    if stride.is_some() {
                        piece.end_batch()?;
                        continue;
                    }
                    self.pace.take(piece.total().bytes).await;
                    let blocks = range.reach(piece.last);
                    self.hand_on(job, &mut piece, range.read, blocks).await?;
                    learned.room = piece.room().cloned();
                    if self.is_over() {
                        return Ok(false);
                    }
                }
            }
            decoder.finish()?;
            if let Some(stride) = &mut stride {
                stride.learn(1 + step.last - range.next_block(), piece.total());
            }
            self.pace.take(piece.total().bytes).await;
            let blocks = range.reach(Tid::end_of(step.last));
            let next = (!range.is_done() && !self.is_over()).then(|| Step::of(&range, stride.as_ref()));
            if let Some(next) = &next {
                // The server reads on while this is handed on.
                sql.begin_copy_out(&next.statement(job, &range)).await.map_err(failed)?;
            }
            self.hand_on(job, &mut piece, range.read, blocks).await?;
            match next {
                Some(next) => {
                    // Not of the rest of a range, which may be small.
                    learned = Learned {
                        stride: stride.clone().or(learned.stride),
                        room: piece.room().cloned(),
                    };
                    step = next;
                }
                None => break,
            }
        }
        job.learn(learned);
        Ok(range.is_done())
    }

    /// Ends a copy: reads once more what has moved behind the readers' backs, and says that
    /// everything is there.
    ///
    /// A row that was changed after its range was to be read may have moved to a range that was
    /// read before, under an earlier snapshot. The stream tells the change, but leaves out large
    /// values that the change left alone (TOAST), and the target never had them.
    async fn end(&self, sql: &mut Connection, job: &TableJob) -> Result<()> {
        if job.is_keyed() {
            let mut stale: Vec<_> = job.stale.iter().collect();
            stale.sort_by_key(|(file, first, _)| (file.node, *first));
            for (file, first, last) in stale {
                self.read_moved(sql, job, file, *first, *last).await?;
            }
        }
        self.board.finish(&job.table.id);
        self.measure(job);
        tracing::info!(table = %job.table.id, kind = ?job.purpose.kind(), as_of = %self.held, "copy read");
        let place = self.messages.reserve().await.map_err(|_| stopping())?;
        // Held until it is sent, so that the end that counts as the last is behind all others.
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(job.purpose, Purpose::First) {
            *unfinished -= 1;
        }
        place.send(Message::Piece(vec![job.ending(*unfinished == 0)]));
        Ok(())
    }

    async fn read_moved(&self, sql: &mut Connection, job: &TableJob, file: &File, first: u32, last: Tid) -> Result<()> {
        let selection = Selection::Moved(Tid::start_of(first), last, job.horizon);
        let places = Places::moved(self.held, file.node);
        let most = most(&self.settings.batch);
        let mut piece = Piece::new(job.decoder(&job.root), &job.root, places, Tid::start_of(first), most);
        let failed = |error| explain(error, &self.settings, job);
        let mut decoder = job.copy_decoder(Addresses::Sent);
        let statement = statement(job, file, &selection, Addresses::Sent);
        sql.begin_copy_out(&statement).await.map_err(failed)?;
        let mut stream = sql.copy_out().await.map_err(failed)?;
        while let Some(mut messages) = stream.next().await.map_err(failed)? {
            while piece.take_some(&mut messages, &mut decoder)? {
                self.pace.take(piece.total().bytes).await;
                let up_to = piece.last;
                self.hand_on(job, &mut piece, up_to, 0).await?;
            }
        }
        decoder.finish()?;
        self.pace.take(piece.total().bytes).await;
        self.hand_on(job, &mut piece, last, 0).await
    }

    /// Hands on what was read up to and including `up_to`, `blocks` more than before.
    async fn hand_on(&self, job: &TableJob, piece: &mut Piece, up_to: Tid, blocks: u32) -> Result<()> {
        let total = piece.total();
        let (mut events, place) = piece.finish(up_to)?;
        events.push(job.boundary(&piece.partition, Position::at(place)));
        self.send(events).await?;
        job.rows.increment(total.rows);
        self.board
            .advance(&job.table.id, total.rows, u64::from(blocks) * self.block_bytes);
        self.measure(job);
        Ok(())
    }

    fn measure(&self, job: &TableJob) {
        let Some(progress) = self.board.get(&job.table.id) else {
            return;
        };
        let set = |name: &'static str, value: f64| {
            let source = job.table.id.source.to_string();
            metrics::gauge!(name, "source" => source, "table" => job.table.id.within_source()).set(value);
        };
        set("millstream_copy_read_rows", progress.rows as f64);
        set("millstream_copy_read_bytes", progress.bytes as f64);
        set("millstream_copy_total_bytes", progress.total_bytes as f64);
        set("millstream_copy_ratio", progress.ratio);
        let left = progress.seconds_left.map_or(f64::NAN, |seconds| seconds as f64);
        set(
            "millstream_copy_left_seconds",
            if progress.finished { 0.0 } else { left },
        );
    }

    async fn send(&self, events: Vec<SourceEvent>) -> Result<()> {
        self.messages.send(Message::Piece(events)).await.map_err(|_| stopping())
    }
}

/// What one statement reads of a range, from where that stands.
struct Step {
    /// The last block.
    last: u32,
    addresses: Addresses,
}

impl Step {
    /// All that is left of the range, or so many blocks of it.
    fn of(range: &Range, stride: Option<&Stride>) -> Self {
        let file = &range.file;
        let Some(stride) = stride else {
            let addresses = match file.addressable {
                true => Addresses::Sent,
                false => Addresses::Counted,
            };
            return Self {
                last: range.last,
                addresses,
            };
        };
        let first = range.next_block();
        let last = stride.last(range);
        let end = last.min(file.blocks.saturating_sub(1)).max(first);
        Self {
            last,
            addresses: Addresses::UpTo(end),
        }
    }

    fn statement(&self, job: &TableJob, range: &Range) -> String {
        let selection = Selection::Behind(range.read, self.last);
        statement(job, &range.file, &selection, self.addresses)
    }
}

fn explain(error: crate::wire::WireError, settings: &Settings, job: &TableJob) -> Error {
    fault::explain(error, "the copy failed", &settings.connect).with("table", &job.table.id)
}

fn stopping() -> Error {
    Error::new(ErrorKind::Cancelled, "the source is stopping")
}
