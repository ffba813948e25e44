//! The messages of one transaction in progress, in order: the older ones in a file, the newest
//! in memory.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Length of the content (bytes), then the number of the subtransaction.
const HEADER: usize = 8;
/// What is read of a file at once, in bytes.
const WINDOW: usize = 256 * 1024;
/// How many runs are remembered: 1 MiB of them.
const MOST_RUNS: usize = 1 << 16;

/// Messages of a transaction, each with the number of the subtransaction that it belongs to.
///
/// What is rolled back is passed over when the log is read, and given back at once if it is at
/// the log's end. There it always is but for what an enclosing subtransaction, rolled back with
/// it, wrote behind it.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Has no name, so that nothing of it outlives the process.
    file: Option<File>,
    in_file: u64,
    tail: Vec<u8>,
    /// The last runs of messages of one subtransaction each.
    runs: VecDeque<Run>,
    /// The subtransaction that began last of those that have messages.
    newest: Option<u32>,
    rolled_back: HashSet<u32>,
}

#[derive(Debug)]
struct Run {
    xid: u32,
    from: u64,
    /// Whether the subtransaction certainly has no message before it.
    first: bool,
}

/// Whether `xid` was given out after `other`. Numbers go around.
fn is_after(xid: u32, other: u32) -> bool {
    xid.wrapping_sub(other).cast_signed() > 0
}

impl Log {
    /// Bytes on disk.
    pub(super) fn in_file(&self) -> u64 {
        self.in_file
    }

    /// Bytes in memory that [`spill`](Self::spill) frees.
    pub(super) fn in_memory(&self) -> usize {
        self.tail.capacity()
    }

    fn len(&self) -> u64 {
        self.in_file + self.tail.len() as u64
    }

    /// Appends a message of `xid`, which is the concatenation of `tag` and `body`.
    pub(super) fn append(&mut self, xid: u32, tag: u8, body: &[u8]) {
        self.begin_run(xid);
        self.tail.extend(header(xid, body));
        self.tail.push(tag);
        self.tail.extend(body);
    }

    /// The same, for a message that is not to be copied in memory.
    pub(super) fn append_to_file(&mut self, folder: &Path, xid: u32, tag: u8, body: &[u8]) -> io::Result<()> {
        self.append(xid, tag, &[]);
        let head = self.tail.len() - HEADER - 1;
        self.tail[head..head + HEADER].copy_from_slice(&header(xid, body));
        self.spill(folder)?;
        if let Some(file) = &self.file {
            file.write_all_at(body, self.in_file)?;
            self.in_file += body.len() as u64;
        }
        Ok(())
    }

    fn begin_run(&mut self, xid: u32) {
        if self.runs.back().is_some_and(|run| run.xid == xid) {
            return;
        }
        let first = self.newest.is_none_or(|newest| is_after(xid, newest));
        if first {
            self.newest = Some(xid);
        }
        if self.runs.len() == MOST_RUNS {
            self.runs.pop_front();
        }
        let from = self.len();
        self.runs.push_back(Run { xid, from, first });
    }

    /// Moves what is in memory to the file.
    pub(super) fn spill(&mut self, folder: &Path) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(folder)?),
        };
        file.write_all_at(&self.tail, self.in_file)?;
        self.in_file += self.tail.len() as u64;
        self.tail = Vec::new();
        Ok(())
    }

    /// Takes back the messages of the subtransaction `xid`.
    pub(super) fn roll_back(&mut self, xid: u32) -> io::Result<()> {
        if self.newest.is_none_or(|newest| is_after(xid, newest)) {
            // It has none.
            return Ok(());
        }
        self.rolled_back.insert(xid);
        while let Some(run) = self.runs.pop_back_if(|run| self.rolled_back.contains(&run.xid)) {
            self.truncate(run.from)?;
            if run.first {
                self.rolled_back.remove(&run.xid);
            }
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        match usize::try_from(len.saturating_sub(self.in_file)) {
            Ok(kept) if len >= self.in_file => self.tail.truncate(kept),
            _ => {
                if let Some(file) = &self.file {
                    file.set_len(len)?;
                }
                self.in_file = len;
                self.tail.clear();
            }
        }
        Ok(())
    }
}

fn header(xid: u32, body: &[u8]) -> [u8; HEADER] {
    // A message of the server has at most 2 GiB.
    let len = u32::try_from(body.len() + 1).expect("a message has a length of 32 bits");
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..].copy_from_slice(&xid.to_ne_bytes());
    header
}

/// Reads a log from its beginning.
#[derive(Debug)]
pub(super) struct Reading {
    log: Log,
    at: u64,
    /// A part of the file, and where it begins.
    window: Vec<u8>,
    window_at: u64,
    /// Where the present message is.
    present: (u64, usize),
}

impl Reading {
    pub(super) fn of(log: Log) -> Self {
        Self {
            log,
            at: 0,
            window: Vec::new(),
            window_at: 0,
            present: (0, 0),
        }
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Goes to the next message that was not rolled back. Returns whether there is one.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        while self.at < self.log.len() {
            self.load(self.at, HEADER)?;
            let [a, b, c, d, e, f, g, h] = *self
                .loaded(self.at, HEADER)
                .first_chunk::<HEADER>()
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let (len, xid) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
            let (content, len) = (self.at + HEADER as u64, len as usize);
            self.at = content + len as u64;
            if !self.log.rolled_back.contains(&xid) {
                self.load(content, len)?;
                self.present = (content, len);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The message that [`advance`](Self::advance) went to.
    pub(super) fn message(&self) -> &[u8] {
        self.loaded(self.present.0, self.present.1)
    }

    /// Has the file's bytes from `at` on in memory. A message never lies in both parts.
    fn load(&mut self, at: u64, len: usize) -> io::Result<()> {
        let window_end = self.window_at + self.window.len() as u64;
        if at >= self.log.in_file || (at >= self.window_at && at + len as u64 <= window_end) {
            return Ok(());
        }
        let Some(file) = &self.log.file else { return Ok(()) };
        let left = usize::try_from(self.log.in_file - at).unwrap_or(usize::MAX);
        if self.window.capacity() > 4 * WINDOW {
            // One huge message need not stay.
            self.window = Vec::new();
        }
        self.window.resize(len.max(WINDOW).min(left), 0);
        self.window_at = at;
        file.read_exact_at(&mut self.window, at)
    }

    fn loaded(&self, at: u64, len: usize) -> &[u8] {
        let (bytes, from) = if at >= self.log.in_file {
            (&self.log.tail, self.log.in_file)
        } else {
            (&self.window, self.window_at)
        };
        let from = usize::try_from(at - from).unwrap_or(usize::MAX);
        bytes.get(from..from.saturating_add(len)).unwrap_or_default()
    }
}
