//! Places in a copy: which rows of a table were read, and as of when.
//!
//! A table's rows lie in blocks, and a row's `ctid` is its block and its number there
//! (PostgreSQL manual, 5.5 "System Columns"). A copy reads ranges of blocks in that order, each
//! range as a partition of its own below the table's copy:
//!
//! ```text
//! partition   shop/copy/public.orders/16385:0-4999        blocks 0 to 4999 of the file 16385
//! row         0000000001A2B3C4/0000016385/0000000017      in block 17, as of an LSN
//! boundary    0000000001A2B3C4/0000016385/0000000017~     block 17 is complete
//! boundary    0000000001A2B3C4/0000016385/0000000017+00042   up to the 42nd row of it
//! row         0000000001A2B3C4/0000016385/0000000017.00042   behind that one
//! ```
//!
//! Where a piece is some whole blocks, its rows are numbered through it, and all have the place of the
//! last block.
//!
//! The text of a place sorts as rows are read, and behind every change that commits up to its
//! LSN, and before all later ones: so the rows of copies and the changes of the log have one order.
//!
//! The file (`pg_relation_filenode`) is another after whatever moves rows without a change of
//! the log telling so (`VACUUM FULL`, `CLUSTER`, a rewrite), or after a `TRUNCATE`.

use std::fmt::Write as _;

use crate::decode::Lsn;

/// The last block that a table can have: the end of a range that is open.
pub(super) const LAST_BLOCK: u32 = u32::MAX - 1;

/// A row's address in its file. Rows are numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::run) struct Tid {
    pub(in crate::run) block: u32,
    pub(in crate::run) row: u16,
}

impl Tid {
    /// Before the first row of `block`.
    pub(super) fn start_of(block: u32) -> Self {
        Self { block, row: 0 }
    }

    /// Behind the last row of `block`.
    pub(super) fn end_of(block: u32) -> Self {
        Self { block, row: u16::MAX }
    }

    /// As SQL writes it, `(17,42)`.
    pub(super) fn sql(self) -> String {
        format!("'({},{})'::pg_catalog.tid", self.block, self.row)
    }
}

/// The places of one file as one snapshot sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    prefix: String,
}

impl Places {
    /// Those of the file `file`, read as of `lsn`.
    pub(super) fn new(lsn: Lsn, file: u32) -> Self {
        Self {
            prefix: format!("{}/{file:010}", lsn.padded()),
        }
    }

    /// Those of rows of `file` that are read once more because they may have moved: behind all
    /// others of the snapshot.
    pub(super) fn moved(lsn: Lsn, file: u32) -> Self {
        Self {
            prefix: format!("{}/~/{file:010}", lsn.padded()),
        }
    }

    /// The place of the rows of `block` that lie behind the row `after` of it.
    pub(super) fn rows(&self, block: u32, after: u16) -> String {
        let mut place = format!("{}/{block:010}", self.prefix);
        if after > 0 {
            // Writing to a String cannot fail.
            let _ = write!(place, ".{after:05}");
        }
        place
    }

    /// The place up to and including `last`, where the rows of its block that were read behind a
    /// boundary have the place `rows`.
    pub(super) fn up_to(&self, last: Tid, after: u16) -> String {
        let rows = self.rows(last.block, after);
        if last.row == u16::MAX {
            format!("{}~", self.rows(last.block, 0))
        } else {
            format!("{rows}+{:05}", last.row)
        }
    }
}

/// The place behind everything that a snapshot gives: the end of a copy that others may follow.
pub(in crate::run) fn end(lsn: Lsn) -> String {
    format!("{}{END}", lsn.padded())
}

/// Whether `place` is the [`end`] of a copy.
pub(super) fn is_end(place: &str) -> bool {
    place.ends_with(END)
}

const END: &str = "/~~";

/// The file that a boundary's place is in; `None` for one that is behind all files.
pub(super) fn file_of(place: &str) -> Option<u32> {
    place.split('/').nth(1)?.parse().ok()
}

/// The row that a boundary's place is behind; `None` for a text that is none.
pub(super) fn read_up_to(place: &str) -> Option<Tid> {
    let (_, last) = place.rsplit_once('/')?;
    if let Some(block) = last.strip_suffix('~') {
        return Some(Tid::end_of(block.parse().ok()?));
    }
    let (rows, row) = last.rsplit_once('+')?;
    let block = rows.split('.').next()?;
    Some(Tid {
        block: block.parse().ok()?,
        row: row.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Rows are cut into pieces anywhere; each boundary holds the rows before it and no other.
        #[test]
        fn places_sort_as_rows_are_read(
            rows in proptest::collection::btree_set((0u32..4, 1u16..300), 1..40),
            cuts in proptest::collection::btree_set(0usize..40, 0..10),
        ) {
            let places = Places::new(Lsn(77), 16_385);
            let rows: Vec<Tid> = rows.into_iter().map(|(block, row)| Tid { block, row }).collect();
            let (mut before, mut after) = (String::new(), Tid::start_of(0));
            let mut piece = Vec::new();
            for (index, row) in rows.iter().enumerate() {
                let behind = if row.block == after.block && after.row < u16::MAX { after.row } else { 0 };
                piece.push(places.rows(row.block, behind));
                let next = rows.get(index + 1);
                if next.is_some() && !cuts.contains(&index) {
                    continue;
                }
                let last = if next.is_some_and(|next| next.block == row.block) { *row } else { Tid::end_of(row.block) };
                let boundary = places.up_to(last, behind);
                for place in piece.drain(..) {
                    prop_assert!(place > before && place <= boundary, "{before} {place} {boundary}");
                }
                prop_assert_eq!(read_up_to(&boundary), Some(last));
                prop_assert!(boundary > before);
                (before, after) = (boundary, last);
            }
            prop_assert!(Lsn(77).padded() < before && before < Lsn(78).padded());
        }
    }

    #[test]
    fn other_texts_are_no_places() {
        for text in ["", "00AB", "00AB/1/x~", "00AB/1/2", "00AB/1/2+x", "00AB/1/+7"] {
            assert_eq!(read_up_to(text), None, "{text}");
        }
    }
}
