//! Why a table is copied, and what the target remembers of it.
//!
//! | | first copy | backfill |
//! |---|---|---|
//! | partition | `copy/<table>`, with a part for each range | `backfill/<table>`, the same for all of them |
//! | ends at | `end` | behind everything of its last snapshot |
//! | remembers | in `copy/<table>/snapshot`: the horizon | in `backfill/<table>/request`: the horizon and the condition |
//!
//! The horizon is that of the first snapshot of a copy: a row that an older transaction wrote was
//! where it is when its range was read.

use millstream_core::{Checkpoint, CopyKind, PartitionId, Position, ResumePoints, TableId};

use super::job::Begun;
use super::place::{end, is_end};
use crate::catalog::CatalogTable;
use crate::decode::Lsn;
use crate::plan::{backfill_partition, copy_partition, relation_partition, relation_position};

/// Why a table is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::run) enum Purpose {
    /// The target lacks it.
    First,
    /// Somebody asked for it.
    Backfill {
        /// How many were asked for of the table, this one included.
        number: u64,
        /// Which rows; empty for all.
        condition: String,
    },
}

impl Purpose {
    /// A copy of `table` that somebody asks for now: all of it, or the rows with `condition`.
    pub(in crate::run) fn asked(table: &TableId, condition: Option<String>, resume: &ResumePoints) -> Self {
        Self::Backfill {
            number: 1 + requests(table, resume).map(|(number, _)| number).max().unwrap_or(0),
            condition: condition.unwrap_or_default(),
        }
    }

    /// The copy of `table` that was asked for earlier and has not ended, with what was read of it.
    pub(in crate::run) fn unfinished(table: &TableId, resume: &ResumePoints) -> Option<(Self, Begun)> {
        let root = backfill_partition(table);
        let unfinished = |held: &&Checkpoint| matches!(held.position(&root), Position::At(place) if !is_end(place));
        let held = resume.holdings(table).find(unfinished)?;
        let (number, request) = request_of(held, &root)?;
        let condition = request.split_once(':')?.1.to_owned();
        // Target tables that stand apart are given all of it again.
        let together = resume
            .holdings(table)
            .all(|other| other.position(&root) == held.position(&root));
        let begun = Begun {
            held: if together { held.clone() } else { Checkpoint::default() },
            rows: true,
        };
        Some((Self::Backfill { number, condition }, begun))
    }

    pub(super) fn kind(&self) -> CopyKind {
        match self {
            Self::First => CopyKind::First,
            Self::Backfill { .. } => CopyKind::Backfill,
        }
    }

    pub(super) fn condition(&self) -> Option<&String> {
        match self {
            Self::First => None,
            Self::Backfill { condition, .. } => Some(condition).filter(|condition| !condition.is_empty()),
        }
    }

    pub(super) fn partition(&self, table: &TableId) -> PartitionId {
        match self {
            Self::First => copy_partition(table),
            Self::Backfill { .. } => backfill_partition(table),
        }
    }

    /// Where the copy ends, if its last snapshot is as of `held`.
    pub(super) fn end(&self, held: Lsn) -> Position {
        match self {
            Self::First => Position::End,
            Self::Backfill { .. } => Position::at(end(held)),
        }
    }

    /// The horizon of the first snapshot that rows were read under, as the target remembers it.
    pub(super) fn first_horizon(&self, root: &PartitionId, held: &Checkpoint) -> Option<u64> {
        match self {
            Self::First => match held.position(&horizon_partition(root)) {
                Position::Token { token, .. } => token.parse().ok(),
                _ => None,
            },
            Self::Backfill { number, .. } => {
                let (remembered, request) = request_of(held, root)?;
                request
                    .split_once(':')?
                    .0
                    .parse()
                    .ok()
                    .filter(|_| remembered == *number)
            }
        }
    }

    /// What each boundary of the copy has the target remember.
    pub(super) fn raises(
        &self,
        root: &PartitionId,
        table: &CatalogTable,
        horizon: u64,
    ) -> Vec<(PartitionId, Position)> {
        match self {
            // Tokens of one number cannot be compared, so that the first stays.
            Self::First => vec![
                (horizon_partition(root), horizon_position(horizon)),
                (relation_partition(&table.id), relation_position(table.oid)),
            ],
            Self::Backfill { number, condition } => {
                vec![(root.part("request"), token(*number, &format!("{horizon}:{condition}")))]
            }
        }
    }
}

/// Where the target remembers the horizon of a first copy.
pub(super) fn horizon_partition(root: &PartitionId) -> PartitionId {
    root.part("snapshot")
}

pub(super) fn horizon_position(horizon: u64) -> Position {
    token(1, &horizon.to_string())
}

fn token(number: u64, text: &str) -> Position {
    Position::Token {
        number,
        token: text.into(),
    }
}

fn requests<'a>(table: &TableId, resume: &'a ResumePoints) -> impl Iterator<Item = (u64, &'a str)> {
    let root = backfill_partition(table);
    resume.holdings(table).filter_map(move |held| request_of(held, &root))
}

fn request_of<'a>(held: &'a Checkpoint, root: &PartitionId) -> Option<(u64, &'a str)> {
    match held.position(&root.part("request")) {
        Position::Token { number, token } => Some((*number, token)),
        _ => None,
    }
}
