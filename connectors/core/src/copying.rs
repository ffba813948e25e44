//! Copies of source tables: how far they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::TableId;

/// How far the copy of one table is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Whether it is the table's first copy, or a later one.
    pub kind: CopyKind,
    /// Rows read since this copy was put up: since the source started, or the copy was asked for.
    pub rows: u64,
    /// Bytes of the table, as it is stored at the source, that were read, earlier runs included.
    pub bytes: u64,
    /// Bytes of the table, as far as they are known; large values that are stored apart may be missing.
    pub total_bytes: u64,
    /// The part that was read, from 0 to 1.
    #[serde(default)]
    pub ratio: f64,
    /// Seconds until the end at the present pace; `None` until there is one, and at the end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds_left: Option<u64>,
    /// Whether everything was read. The target may still have to commit the last of it.
    pub finished: bool,
}

/// Why a table is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyKind {
    /// The target holds nothing of the table yet.
    First,
    /// Somebody asked for it.
    Backfill,
    /// Parts came to it with rows of their own, which alone are copied.
    Attached,
    /// Another table has its name now.
    Replaced,
    /// Its columns changed, and the source does not tell what that made of older rows.
    Changed,
    /// Changes were lost, with the slot that kept them.
    LostSlot,
}

/// The copies of one source, shared between the source and those who show them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CopyBoard(Arc<Mutex<BTreeMap<TableId, Entry>>>);

#[derive(Debug)]
struct Entry {
    progress: CopyProgress,
    started: Instant,
    bytes_at_start: u64,
}

impl CopyBoard {
    /// Puts up a copy of `table`, of which `bytes` of `total_bytes` were read in earlier runs.
    pub fn start(&self, table: &TableId, kind: CopyKind, bytes: u64, total_bytes: u64) {
        let progress = CopyProgress {
            kind,
            rows: 0,
            bytes,
            total_bytes,
            ratio: 0.0,
            seconds_left: None,
            finished: false,
        };
        let entry = Entry {
            progress,
            started: Instant::now(),
            bytes_at_start: bytes,
        };
        self.lock().insert(table.clone(), entry);
    }

    /// Notes that `rows` more rows and `bytes` more bytes were read of a table that was put up.
    pub fn advance(&self, table: &TableId, rows: u64, bytes: u64) {
        if let Some(entry) = self.lock().get_mut(table) {
            entry.progress.rows += rows;
            entry.progress.bytes += bytes;
        }
    }

    /// Notes that the copy has ended.
    pub fn finish(&self, table: &TableId) {
        if let Some(entry) = self.lock().get_mut(table) {
            entry.progress.bytes = entry.progress.bytes.max(entry.progress.total_bytes);
            entry.progress.total_bytes = entry.progress.bytes;
            entry.progress.finished = true;
        }
    }

    /// Takes down a copy that was given up.
    pub fn give_up(&self, table: &TableId) {
        self.lock().remove(table);
    }

    /// The copy of `table`, if there is one.
    pub fn get(&self, table: &TableId) -> Option<CopyProgress> {
        let entries = self.lock();
        entries.get(table).map(|entry| entry.shown(entry.started.elapsed()))
    }

    /// The copies now, by table.
    pub fn read(&self) -> BTreeMap<TableId, CopyProgress> {
        let entries = self.lock();
        let shown = entries
            .iter()
            .map(|(table, entry)| (table.clone(), entry.shown(entry.started.elapsed())));
        shown.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TableId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn shown(&self, elapsed: Duration) -> CopyProgress {
        let mut progress = self.progress.clone();
        let (read, left) = (
            progress.bytes.saturating_sub(self.bytes_at_start),
            progress.total_bytes.saturating_sub(progress.bytes),
        );
        progress.ratio = match progress.total_bytes {
            _ if progress.finished => 1.0,
            0 => 0.0,
            total => (progress.bytes as f64 / total as f64).min(1.0),
        };
        if !progress.finished && read > 0 {
            let seconds = elapsed.as_secs_f64() * left as f64 / read as f64;
            progress.seconds_left = Some(seconds.ceil() as u64);
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_the_pace_of_this_run() {
        let board = CopyBoard::default();
        let table = TableId::new("s", None, "t");
        board.start(&table, CopyKind::First, 400, 1000);
        let shown = |elapsed| board.lock()[&table].shown(Duration::from_secs(elapsed));
        assert_eq!((shown(5).seconds_left, shown(5).ratio), (None, 0.4));
        board.advance(&table, 10, 200);
        let progress = shown(5);
        assert_eq!(
            (progress.seconds_left, progress.rows, progress.ratio),
            (Some(10), 10, 0.6)
        );
        board.finish(&table);
        assert_eq!(
            (shown(9).seconds_left, shown(9).ratio, shown(9).bytes),
            (None, 1.0, 1000)
        );
    }
}
