//! Transactions in progress, kept until they commit: a little in memory, the rest on disk.

mod log;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use millstream_core::{Error, ErrorKind, Result};

use self::log::{Log, Reading};

/// Keeps the messages of transactions by the number of the topmost one, in at most `budget`
/// bytes of memory for all of them together; then the largest goes to a file in `folder`.
///
/// The files have no names, and are gone with the process: the server sends a transaction that
/// did not commit, or that the target does not hold, from its beginning again.
///
/// Reads and writes of the files block. They are sequential and a quarter of a mebibyte or more
/// each, so that the page cache takes most of them.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    budget: usize,
    logs: HashMap<u32, Log>,
    reading: Option<Reading>,
    /// What [`Log::in_memory`] says of all of them.
    in_memory: usize,
    meters: Meters,
}

/// What an operator sees.
#[derive(Debug)]
struct Meters {
    transactions: metrics::Gauge,
    on_disk: metrics::Gauge,
    written: metrics::Counter,
}

impl Spool {
    /// An empty spool of `source`. The folder is made if it is missing.
    ///
    /// # Errors
    /// PG0041 if no file can be made in `folder`.
    pub(super) fn open(source: &str, folder: PathBuf, budget: usize) -> Result<Self> {
        let meters = Meters {
            transactions: metrics::gauge!("millstream_postgres_streamed_transactions", "source" => source.to_owned()),
            on_disk: metrics::gauge!("millstream_postgres_spilled_bytes", "source" => source.to_owned()),
            written: metrics::counter!("millstream_postgres_spilled_bytes_total", "source" => source.to_owned()),
        };
        let spool = Self {
            folder,
            budget,
            logs: HashMap::new(),
            reading: None,
            in_memory: 0,
            meters,
        };
        // Better now than in the midst of the first large transaction.
        std::fs::create_dir_all(&spool.folder)
            .and_then(|()| tempfile::tempfile_in(&spool.folder))
            .map_err(|error| spool.failed(error))?;
        spool.measure();
        Ok(spool)
    }

    /// Begins a transaction anew.
    pub(super) fn begin(&mut self, xid: u32) {
        self.forget(xid);
        self.logs.insert(xid, Log::default());
        self.measure();
    }

    pub(super) fn contains(&self, xid: u32) -> bool {
        self.logs.contains_key(&xid)
    }

    /// Appends a message of `subxid`, a subtransaction of `xid` or that itself, which was begun.
    ///
    /// # Errors
    /// PG0041 if the disk does not take what memory has no room for.
    pub(super) fn append(&mut self, xid: u32, subxid: u32, tag: u8, body: &[u8]) -> Result<()> {
        let Some(log) = self.logs.get_mut(&xid) else {
            return Ok(());
        };
        let (memory, file) = (log.in_memory(), log.in_file());
        let appended = if body.len() > self.budget / 4 {
            log.append_to_file(&self.folder, subxid, tag, body)
        } else {
            log.append(subxid, tag, body);
            Ok(())
        };
        self.in_memory = self.in_memory - memory + log.in_memory();
        let written = log.in_file() - file;
        appended.map_err(|error| self.failed(error))?;
        if written > 0 {
            self.meters.written.increment(written);
            self.measure();
        }
        while self.in_memory > self.budget && self.spill_largest()? {}
        Ok(())
    }

    /// Returns whether there was something to spill.
    fn spill_largest(&mut self) -> Result<bool> {
        let largest = self.logs.values_mut().max_by_key(|log| log.in_memory());
        let Some(log) = largest.filter(|log| log.in_memory() > 0) else {
            return Ok(false);
        };
        let (memory, file) = (log.in_memory(), log.in_file());
        let spilled = log.spill(&self.folder);
        self.in_memory = self.in_memory - memory + log.in_memory();
        let written = log.in_file() - file;
        spilled.map_err(|error| self.failed(error))?;
        self.meters.written.increment(written);
        self.measure();
        Ok(true)
    }

    /// Takes back the messages of a subtransaction of `xid`.
    ///
    /// # Errors
    /// PG0041 if the file cannot be made shorter.
    pub(super) fn roll_back(&mut self, xid: u32, subxid: u32) -> Result<()> {
        if let Some(log) = self.logs.get_mut(&xid) {
            log.roll_back(subxid).map_err(|error| self.failed(error))?;
            self.measure();
        }
        Ok(())
    }

    /// Forgets a transaction, if it is known.
    pub(super) fn forget(&mut self, xid: u32) {
        if let Some(log) = self.logs.remove(&xid) {
            self.in_memory -= log.in_memory();
            self.measure();
        }
    }

    /// Forgets all of them, and what is being read.
    pub(super) fn clear(&mut self) {
        self.logs.clear();
        self.reading = None;
        self.in_memory = 0;
        self.measure();
    }

    /// Begins to read a transaction, to which nothing will be appended. There is one at a time.
    pub(super) fn read(&mut self, xid: u32) {
        self.reading = self.logs.remove(&xid).map(Reading::of);
        self.measure();
    }

    /// Goes to the next message of the transaction that is read. Returns whether there is one;
    /// if not, the transaction is forgotten.
    ///
    /// # Errors
    /// PG0041 if the file cannot be read.
    pub(super) fn advance(&mut self) -> Result<bool> {
        let Some(reading) = &mut self.reading else {
            return Ok(false);
        };
        match reading.advance() {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.in_memory -= reading.log().in_memory();
                self.reading = None;
                self.measure();
                Ok(false)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The message that [`advance`](Self::advance) went to.
    pub(super) fn message(&self) -> &[u8] {
        self.reading.as_ref().map_or(&[], Reading::message)
    }

    fn measure(&self) {
        let reading = self.reading.iter().map(Reading::log);
        let all = || self.logs.values().chain(reading.clone());
        self.meters.transactions.set(all().count() as f64);
        self.meters.on_disk.set(all().map(Log::in_file).sum::<u64>() as f64);
    }

    fn failed(&self, error: io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Config,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "a transaction in progress cannot be kept on disk")
            .code("PG0041")
            .with("spool", self.folder.display())
            .hint("make room there, or name another folder with `spool:`, one that the daemon may write to")
            .caused_by(error)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
