//! A session that reads ranges, one after the other, and hands them on in pieces.

use std::collections::VecDeque;
use std::iter;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::{CopyBoard, Error, ErrorKind, PartitionId, Position, Result, SourceEvent};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Message;
use super::job::TableJob;
use super::pace::Pace;
use super::place::{LAST_BLOCK, Places, Tid};
use super::purpose::Purpose;
use super::ranges::Range;
use super::statement::{Selection, statement};
use crate::catalog::TableFile as File;
use crate::config::{BatchLimits, Settings};
use crate::decode::{CopyDecoder, CopyRows, Lsn, ProtocolError, TableDecoder};
use crate::fault;
use crate::run::tables::batches;
use crate::wire::{Connection, CopyMessages};

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

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Reads a range. Returns whether all of it: `false` once the snapshot is to be given up.
    async fn read(&self, sql: &mut Connection, job: &TableJob, mut range: Range) -> Result<bool> {
        let selection = Selection::Behind(range.read, range.last);
        let places = Places::new(self.held, range.file.node);
        let mut piece = Piece::new(job, &range.partition, places, range.read);
        let failed = |error| explain(error, &self.settings, job);
        let mut decoder = job.copy_decoder();
        let mut stream = sql
            .copy_out(&statement(job, &range.file, &selection))
            .await
            .map_err(failed)?;
        while let Some(mut messages) = stream.next().await.map_err(failed)? {
            while piece.take_some(&mut messages, &mut decoder, &range.file, &self.settings.batch)? {
                let before = range.blocks_read();
                range.read = piece.last;
                self.pace.take(piece.bytes).await;
                let blocks = range.blocks_read() - before;
                self.hand_on(job, &mut piece, range.read, u64::from(blocks)).await?;
                if self.is_over() {
                    return Ok(false);
                }
            }
        }
        decoder.finish()?;
        let before = range.blocks_read();
        range.read = Tid::end_of(range.last);
        self.pace.take(piece.bytes).await;
        let blocks = range.blocks_read() - before;
        self.hand_on(job, &mut piece, range.read, u64::from(blocks)).await?;
        Ok(true)
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
        let mut piece = Piece::new(job, &job.root, places, Tid::start_of(first));
        let failed = |error| explain(error, &self.settings, job);
        let mut decoder = job.copy_decoder();
        let mut stream = sql.copy_out(&statement(job, file, &selection)).await.map_err(failed)?;
        while let Some(mut messages) = stream.next().await.map_err(failed)? {
            while piece.take_some(&mut messages, &mut decoder, file, &self.settings.batch)? {
                self.pace.take(piece.bytes).await;
                let up_to = piece.last;
                self.hand_on(job, &mut piece, up_to, 0).await?;
            }
        }
        decoder.finish()?;
        self.hand_on(job, &mut piece, last, 0).await
    }

    /// Hands on what was read up to and including `up_to`, `blocks` more than before.
    async fn hand_on(&self, job: &TableJob, piece: &mut Piece, up_to: Tid, blocks: u64) -> Result<()> {
        let rows = piece.rows;
        let mut events = piece.finish()?;
        let position = Position::at(piece.places.up_to(up_to, piece.behind(up_to.block)));
        events.push(job.boundary(&piece.partition, position));
        piece.cut = up_to;
        self.send(events).await?;
        job.rows.increment(rows);
        self.board.advance(&job.table.id, rows, blocks * self.block_bytes);
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

/// The rows that were read since the last boundary.
struct Piece {
    decoder: TableDecoder,
    partition: PartitionId,
    places: Places,
    /// The place of the rows of the present block, and the block.
    place: (u32, String),
    /// The last boundary.
    cut: Tid,
    /// The last row.
    last: Tid,
    /// The numbers of rows of the last row's block that the decoder is still to take.
    ordinals: Vec<i64>,
    rows: u64,
    bytes: usize,
}

impl Piece {
    fn new(job: &TableJob, partition: &PartitionId, places: Places, from: Tid) -> Self {
        Self {
            decoder: job.decoder(partition),
            partition: partition.clone(),
            places,
            place: (LAST_BLOCK, String::new()),
            cut: from,
            last: from,
            ordinals: Vec::new(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Takes rows of `messages`, and tells whether the piece is full. If not, the next messages are to be
    /// asked for: some of these may be left, and come again.
    fn take_some(
        &mut self,
        messages: &mut CopyMessages<'_>,
        decoder: &mut CopyDecoder,
        file: &File,
        limits: &BatchLimits,
    ) -> Result<bool> {
        // Several sessions have a piece each, in the place of the stream's one batch.
        let most_bytes = limits.bytes.0.div_ceil(2) as usize;
        let room = limits.rows.saturating_sub(self.rows as usize);
        let mut bytes = self.bytes;
        let next = || {
            let message = (bytes < most_bytes).then(|| messages.next()).flatten()?;
            bytes += message.len();
            Some(message)
        };
        // PostgreSQL's messages have one row at most. Of others the limit is passed by a message's rows.
        decoder.feed(iter::from_fn(next).take(room), |rows| self.take(&rows, file))?;
        self.bytes = bytes;
        Ok(self.rows >= limits.rows as u64 || self.bytes >= most_bytes)
    }

    /// Takes rows that begin with their address. In a file without addresses the rows are counted instead.
    fn take(&mut self, rows: &CopyRows<'_>, file: &File) -> Result<()> {
        let values = rows.without_first()?;
        // Where the rows of the present block begin.
        let mut begin = 0;
        for (index, address) in rows.column(0).enumerate() {
            let tid = self.address(address, file)?;
            if tid <= self.last {
                return Err(
                    Error::new(ErrorKind::Internal, "the server sent rows of a copy out of their order")
                        .hint("report it, with what EXPLAIN says of the statement"),
                );
            }
            if tid.block != self.last.block {
                self.take_of_block(&values.slice(begin..index))?;
                begin = index;
            }
            self.ordinals.push(tid.row.into());
            self.last = tid;
        }
        self.take_of_block(&values.slice(begin..rows.len()))
    }

    /// The address of the next row.
    fn address(&self, sent: Option<&[u8]>, file: &File) -> Result<Tid> {
        if file.addressable {
            let parts = sent.and_then(|bytes| bytes.split_first_chunk::<4>());
            let (block, rest) = parts.ok_or(ProtocolError::UnknownContent("a row's address"))?;
            let row = rest.try_into().map(u16::from_be_bytes);
            return Ok(Tid {
                block: u32::from_be_bytes(*block),
                row: row.map_err(|_| ProtocolError::UnknownContent("a row's address"))?,
            });
        }
        Ok(if self.last.row == u16::MAX - 1 {
            Tid {
                block: self.last.block + 1,
                row: 1,
            }
        } else {
            Tid {
                row: self.last.row + 1,
                ..self.last
            }
        })
    }

    /// Takes rows of the block of the last row, whose numbers are in `ordinals`.
    fn take_of_block(&mut self, rows: &CopyRows<'_>) -> Result<()> {
        if rows.len() == 0 {
            return Ok(());
        }
        let block = self.last.block;
        if self.place.0 != block || self.rows == 0 {
            self.place = (block, self.places.rows(block, self.behind(block)));
        }
        self.decoder.copy(&self.place.1, &self.ordinals, rows)?;
        self.ordinals.clear();
        self.rows += rows.len() as u64;
        Ok(())
    }

    /// The row of `block` that the last boundary was behind; 0 if it was not inside the block.
    fn behind(&self, block: u32) -> u16 {
        if self.cut.block == block && self.cut.row < u16::MAX {
            self.cut.row
        } else {
            0
        }
    }

    fn finish(&mut self) -> Result<Vec<SourceEvent>> {
        (self.rows, self.bytes) = (0, 0);
        batches(&mut self.decoder)
    }
}

fn explain(error: crate::wire::WireError, settings: &Settings, job: &TableJob) -> Error {
    fault::explain(error, "the copy failed", &settings.connect).with("table", &job.table.id)
}

fn stopping() -> Error {
    Error::new(ErrorKind::Cancelled, "the source is stopping")
}
