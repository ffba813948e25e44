//! The backlog: the log that was taken off the server ahead of the target, on a disk of ours.
//!
//! A target that is away for long makes the slot hold back the log on the server's disk. Where the
//! configuration says so, and the slot is over its budget, the log is read into the backlog
//! ([`fill`]), and what is durable there is confirmed to the server. The stream then reads the
//! backlog ([`Reader`]), and goes back to the server once it has read all and the target holds what
//! it held back. Positions are those of the log either way, so that it does not matter from where a
//! change was read.
//!
//! What is confirmed is in the target or in the backlog. If the backlog is lost, the slot is ahead of
//! the target: that is found out at the next start (PG0025), as with any slot that is ahead.
//!
//! The stream that fills it sends text and whole transactions in the order of their commits. A
//! message therefore can be read whatever its types have become, nothing in it has to be sent again
//! in another form, and a place between two transactions is all there is to remember.

mod block;
mod fill;
mod reader;
mod segments;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use millstream_core::{Error, ErrorKind, Result};
use tokio::sync::watch;

pub(crate) use self::fill::{blocking, fill};
pub(crate) use self::reader::{Entry, Reader};
use self::segments::Segment;
use crate::config::Settings;
use crate::decode::Lsn;

/// A segment is followed by another one once it has so many bytes.
const SEGMENT: u64 = 256 << 20;

/// What a backlog has: everything that commits after `begins`, up to and including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) begins: Lsn,
    pub(crate) end: Lsn,
}

/// Whether the log is being read into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No.
    Closed,
    /// Yes, or it is about to be.
    Filling,
    /// Still, and it is to end.
    Closing,
}

/// A backlog, shared by what fills it and what reads it.
#[derive(Debug)]
pub(crate) struct Backlog {
    folder: PathBuf,
    /// Bytes that it may have.
    most: u64,
    segment: u64,
    _lock: File,
    state: Mutex<State>,
    /// Held by who writes, until what was written is durable.
    writing: Mutex<()>,
    /// Changes with every block and every phase.
    news: watch::Sender<(Phase, u64)>,
    meters: Meters,
}

#[derive(Debug, Default)]
struct State {
    /// In order; of the last one as much as is durable.
    segments: Vec<Segment>,
    end: Lsn,
    server: Option<String>,
    /// How often it was announced that it is filled: a write of an earlier time is none any more.
    turn: u64,
    /// Whether what fills it has come close to the log's end.
    is_level: bool,
}

/// What an operator sees.
#[derive(Debug)]
struct Meters {
    bytes: metrics::Gauge,
    filling: metrics::Gauge,
    written: metrics::Counter,
}

/// Those that somebody uses, by their folders.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Backlog>>> = Mutex::new(BTreeMap::new());

impl Backlog {
    /// The backlog of a slot, if it may have one.
    ///
    /// # Errors
    /// `Config` or `Unavailable` (PG0056) where the folder cannot be used.
    pub(crate) fn of(settings: &Settings, source: &str) -> Result<Option<Arc<Self>>> {
        let Some(config) = &settings.care.backlog else {
            return Ok(None);
        };
        let folder = config.folder.clone();
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&folder).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        let found = segments::open(&folder).map_err(|error| failed(&folder, error))?;
        let meters = Meters {
            bytes: metrics::gauge!("millstream_postgres_backlog_bytes", "source" => source.to_owned()),
            filling: metrics::gauge!("millstream_postgres_backlog_filling", "source" => source.to_owned()),
            written: metrics::counter!("millstream_postgres_backlog_written_bytes_total", "source" => source.to_owned()),
        };
        let backlog = Arc::new(Self {
            folder: folder.clone(),
            most: config.size,
            segment: config.size.div_ceil(4).min(SEGMENT),
            _lock: found.lock,
            state: Mutex::new(State {
                segments: found.segments,
                end: found.end,
                server: found.server,
                ..State::default()
            }),
            writing: Mutex::new(()),
            news: watch::Sender::new((Phase::Closed, 0)),
            meters,
        });
        backlog.measure();
        open.retain(|_, known| known.strong_count() > 0);
        open.insert(folder, Arc::downgrade(&backlog));
        Ok(Some(backlog))
    }

    /// What it has; `None` if there is no backlog.
    pub(crate) fn range(&self) -> Option<Range> {
        let state = self.lock();
        let begins = state.segments.first()?.begins;
        Some(Range { begins, end: state.end })
    }

    /// Whose log it is: the token of an [`Identity`](crate::identity::Identity).
    pub(crate) fn server(&self) -> Option<String> {
        self.lock().server.clone()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.news.borrow().0
    }

    /// Hears of every block and every phase.
    pub(crate) fn news(&self) -> watch::Receiver<(Phase, u64)> {
        self.news.subscribe()
    }

    /// Announces that it is about to be filled, so that whoever reads the slot leaves it. `false` if it
    /// is filled already, or has no room.
    pub(crate) fn announce(&self) -> bool {
        let has_room = self.bytes() < self.most / 10 * 9;
        has_room
            && self.change(|phase| {
                let mut state = self.lock();
                if phase != Phase::Closed {
                    return None;
                }
                state.turn += 1;
                state.is_level = false;
                Some(Phase::Filling)
            })
    }

    /// How often it was announced.
    fn turn(&self) -> u64 {
        self.lock().turn
    }

    /// Takes the news that what fills it has come close to the log's end.
    pub(crate) fn is_level_now(&self) {
        self.lock().is_level = true;
    }

    fn is_level(&self) -> bool {
        self.lock().is_level
    }

    /// Asks whoever fills it to end soon.
    pub(crate) fn ask_to_close(&self) {
        self.change(|phase| (phase == Phase::Filling).then_some(Phase::Closing));
    }

    fn closed(&self) {
        self.change(|phase| (phase != Phase::Closed).then_some(Phase::Closed));
    }

    fn change(&self, next: impl FnOnce(Phase) -> Option<Phase>) -> bool {
        let changed = self.news.send_if_modified(|(phase, _)| match next(*phase) {
            Some(next) => {
                *phase = next;
                true
            }
            None => false,
        });
        self.meters
            .filling
            .set(f64::from(u8::from(self.phase() != Phase::Closed)));
        changed
    }

    /// Whether another segment may begin, once the last one has so many bytes more.
    fn is_long_with(&self, more: usize) -> bool {
        let state = self.lock();
        state
            .segments
            .last()
            .is_some_and(|segment| segment.len + more as u64 >= self.segment)
    }

    /// Bytes on disk.
    fn bytes(&self) -> u64 {
        self.lock().segments.iter().map(|segment| segment.len).sum()
    }

    /// Begins it, if there is none: with what commits after `begins`. What there is and what is added
    /// is of the server with this token.
    fn begin(&self, begins: Lsn, server: &str, turn: u64) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = self.range().is_none();
        let begin = || {
            self.refuse_earlier(turn)?;
            if is_new {
                segments::sweep(&self.folder)?;
                segments::add(&self.folder, begins)?;
            }
            segments::begin(&self.folder, server)
        };
        begin().map_err(|error| failed(&self.folder, error))?;
        let mut state = self.lock();
        if is_new {
            (state.segments, state.end) = (vec![Segment { begins, len: 0 }], begins);
        }
        state.server = Some(server.to_owned());
        Ok(())
    }

    /// Refuses what was begun to be written before another turn.
    fn refuse_earlier(&self, turn: u64) -> io::Result<()> {
        if self.turn() == turn {
            return Ok(());
        }
        Err(io::Error::other("it was given up"))
    }

    /// Appends a block, with which everything up to `end` is in the backlog, and returns when it is
    /// durable. With `last` the next one begins another segment, if this one is long enough; says
    /// whether it will.
    ///
    /// Blocks.
    fn append(&self, block: &[u8], end: Lsn, last: bool, turn: u64) -> Result<bool> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = || {
            self.refuse_earlier(turn)?;
            let Some(segment) = self.lock().segments.last().copied() else {
                return Err(io::Error::other("it was given up"));
            };
            let file = segments::open_segment(&self.folder, segment.begins)?;
            file.write_all_at(block, segment.len)?;
            file.sync_data()?;
            let len = segment.len + block.len() as u64;
            let rotates = last && len >= self.segment && end > segment.begins;
            if rotates {
                segments::add(&self.folder, end)?;
            }
            let mut state = self.lock();
            state.end = end;
            if let Some(segment) = state.segments.last_mut() {
                segment.len = len;
            }
            if rotates {
                state.segments.push(Segment { begins: end, len: 0 });
            }
            Ok(rotates)
        };
        let rotates = appended().map_err(|error| failed(&self.folder, error))?;
        self.meters.written.increment(block.len() as u64);
        self.measure();
        self.news.send_modify(|(_, blocks)| *blocks += 1);
        Ok(rotates)
    }

    /// Removes what nobody will read, now that the target holds everything up to `held`.
    ///
    /// # Errors
    /// PG0056 if that cannot be done.
    pub(crate) fn held(&self, held: Lsn) -> Result<()> {
        let done: Vec<Segment> = {
            let mut state = self.lock();
            let following = state.segments.iter().skip(1);
            let done = following.take_while(|next| next.begins <= held).count();
            state.segments.drain(..done).collect()
        };
        if done.is_empty() {
            return Ok(());
        }
        let removed = segments::remove(&self.folder, &done);
        self.measure();
        removed.map_err(|error| failed(&self.folder, error))
    }

    /// Gives everything up, unless somebody fills it, or it has more than what is up to `held`. Returns
    /// whether it did.
    ///
    /// # Errors
    /// PG0056 if that cannot be done.
    pub(crate) fn clear(&self, held: Option<Lsn>) -> Result<bool> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = None;
        // While it looks at the phase nobody can announce another.
        self.news.send_if_modified(|(phase, _)| {
            let mut state = self.lock();
            if *phase == Phase::Closed && held.is_none_or(|held| state.end <= held) {
                let turn = state.turn;
                done = Some(std::mem::take(&mut *state));
                state.turn = turn;
            }
            false
        });
        let Some(state) = done else {
            return Ok(false);
        };
        if state.server.is_some() || !state.segments.is_empty() {
            let cleared = segments::clear(&self.folder, &state.segments);
            self.measure();
            cleared.map_err(|error| failed(&self.folder, error))?;
        }
        Ok(true)
    }

    /// The segment to read for what commits after `after`, if there is one.
    fn segment_after(&self, after: Lsn) -> Option<Segment> {
        let state = self.lock();
        let before = state.segments.iter().take_while(|segment| segment.begins <= after);
        before.last().copied()
    }

    /// How much of the segment that begins at `begins` is durable, `None` if it is no longer there; and
    /// where the next one begins.
    fn around(&self, begins: Lsn) -> (Option<u64>, Option<Lsn>) {
        let state = self.lock();
        let this = state.segments.iter().find(|segment| segment.begins == begins);
        let next = state.segments.iter().find(|segment| segment.begins > begins);
        (this.map(|segment| segment.len), next.map(|segment| segment.begins))
    }

    fn measure(&self) {
        self.meters.bytes.set(self.bytes() as f64);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(folder: &std::path::Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Config
        }
        _ => ErrorKind::Unavailable,
    };
    let hint = if error.kind() == io::ErrorKind::WouldBlock {
        "another process has it: a slot has one reader"
    } else {
        "make room there, or name another folder with `wal_budget.backlog.folder`, one that the daemon may write to"
    };
    Error::new(kind, "the backlog of the log cannot be kept")
        .code("PG0056")
        .with("backlog", folder.display())
        .hint(hint)
        .caused_by(error)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
