//! The backlog on disk: a folder with a file that says whose log it is, and segments, each named by
//! the last commit before it.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::block::{HEADER, Header};
use crate::decode::Lsn;

/// The file that tells the server whose log this is.
const SERVER: &str = "server";
/// The file whose lock says that a process has the backlog.
const LOCK: &str = "lock";
const ENDING: &str = ".wal";

/// A segment: everything that commits after `begins`, and up to where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) begins: Lsn,
    /// Bytes that are durable.
    pub(super) len: u64,
}

/// What a folder had in it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) lock: File,
    /// In order.
    pub(super) segments: Vec<Segment>,
    /// Up to here everything is there that commits after the first segment's beginning.
    pub(super) end: Lsn,
    /// Whose log it is; `None` if there is no backlog.
    pub(super) server: Option<String>,
}

/// Opens a folder, which is made if it is missing. What was written last and is not whole, as after
/// a crash, is cut off.
///
/// # Errors
/// `WouldBlock` if another process has it.
pub(super) fn open(folder: &Path) -> io::Result<Found> {
    fs::create_dir_all(folder)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(LOCK))?;
    lock.try_lock().map_err(io::Error::from)?;
    let server = match fs::read_to_string(folder.join(SERVER)) {
        Ok(server) => Some(server),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut segments = list(folder)?;
    if server.is_none() {
        // It was being given up.
        remove(folder, &segments)?;
        segments.clear();
    }
    let mut end = Lsn(0);
    if let Some(last) = segments.last_mut() {
        (last.len, end) = whole(folder, last.begins)?;
    }
    Ok(Found {
        lock,
        segments,
        end,
        server,
    })
}

/// Cuts the segment off behind its last whole block. Returns its length, and up to where everything
/// is there.
fn whole(folder: &Path, begins: Lsn) -> io::Result<(u64, Lsn)> {
    let file = File::options().read(true).write(true).open(path(folder, begins))?;
    let (mut len, mut end) = (0, begins);
    while let Some((header, messages)) = read_block(&file, len)? {
        len += (HEADER + messages.len()) as u64;
        end = header.end;
    }
    if file.metadata()?.len() > len {
        file.set_len(len)?;
        file.sync_data()?;
    }
    Ok((len, end))
}

/// The block at `at`, if there is a whole one.
pub(super) fn read_block(file: &File, at: u64) -> io::Result<Option<(Header, Vec<u8>)>> {
    let left = file.metadata()?.len().saturating_sub(at);
    if left < HEADER as u64 {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, at)?;
    let Some(header) = Header::parse(header).filter(|header| left >= (HEADER + header.len) as u64) else {
        return Ok(None);
    };
    let mut messages = vec![0; header.len];
    file.read_exact_at(&mut messages, at + HEADER as u64)?;
    Ok(header.is_of(&messages).then_some((header, messages)))
}

/// Says whose log this is.
pub(super) fn begin(folder: &Path, server: &str) -> io::Result<()> {
    // The file is the old one or the new one, whatever happens.
    let new = folder.join("server.new");
    fs::write(&new, server)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, folder.join(SERVER))?;
    sync(folder)
}

/// Removes what was left of an earlier backlog.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    remove(folder, &list(folder)?)
}

/// The segments that are there, in order.
fn list(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let begins = name.to_str().and_then(|name| name.strip_suffix(ENDING));
        if let Some(begins) = begins.and_then(Lsn::from_padded) {
            let len = entry.metadata()?.len();
            segments.push(Segment { begins, len });
        }
    }
    segments.sort_by_key(|segment| segment.begins);
    Ok(segments)
}

/// Makes an empty segment.
pub(super) fn add(folder: &Path, begins: Lsn) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path(folder, begins))?;
    sync(folder)?;
    Ok(file)
}

/// Opens a segment that is there.
pub(super) fn open_segment(folder: &Path, begins: Lsn) -> io::Result<File> {
    File::options().read(true).write(true).open(path(folder, begins))
}

/// Gives everything up.
pub(super) fn clear(folder: &Path, segments: &[Segment]) -> io::Result<()> {
    // Without it the segments mean nothing, whatever is left of them.
    match fs::remove_file(folder.join(SERVER)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => sync(folder)?,
    }
    remove(folder, segments)
}

/// Removes segments.
pub(super) fn remove(folder: &Path, segments: &[Segment]) -> io::Result<()> {
    for segment in segments {
        match fs::remove_file(path(folder, segment.begins)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn path(folder: &Path, begins: Lsn) -> PathBuf {
    folder.join(format!("{}{ENDING}", begins.padded()))
}

/// Has the folder's entries on disk.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
