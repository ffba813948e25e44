//! Why a table is copied, and what the target remembers of it.
//!
//! | | first copy | backfill |
//! |---|---|---|
//! | partition | `copy/<table>`, with a part for each range | `backfill/<table>`, the same for all of them |
//! | ends at | `end` | behind everything of its last snapshot |
//! | remembers | in `copy/<table>/snapshot`: the horizon | in `backfill/<table>/request`: the horizon, why, and the condition |
//!
//! The horizon is that of the first snapshot of a copy: a row that an older transaction wrote was
//! where it is when its range was read.
//!
//! A copy that begins by itself, since the target's rows are no longer the table's, is a backfill
//! that mostly begins with a truncation. With that it takes the place of the first copy too.

use millstream_core::{Checkpoint, CopyKind, PartitionId, Position, ResumePoints, TableId};

use super::job::Begun;
use super::place::{end, is_end};
use crate::attached::Debt;
use crate::catalog::CatalogTable;
use crate::decode::Lsn;
use crate::owed::{Why, given_position, owed_partition};
use crate::plan::{backfill_partition, copy_partition, relation_partition, relation_position, relation_position_of};

/// Why a table is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::run) enum Purpose {
    /// The target lacks it.
    First,
    /// Somebody asked for it, or the target's rows are no longer the table's.
    Backfill {
        /// How many there were of the table, this one included.
        number: u64,
        why: Why,
        rows: Rows,
    },
}

/// Which rows of a table are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::run) enum Rows {
    /// Those that fulfil a condition; all if it is empty.
    Where(String),
    /// Those of partitions.
    Of {
        partitions: Vec<u32>,
        /// What the boundary that begins the copy has the target remember, where it has not begun.
        settles: Option<(PartitionId, Position)>,
    },
}

impl Rows {
    /// As the target remembers it.
    fn text(&self) -> String {
        match self {
            Self::Where(condition) => condition.clone(),
            Self::Of { partitions, .. } => partitions.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        }
    }
}

impl Purpose {
    /// A copy of `table` that somebody asks for now: all of it, or the rows with `condition`.
    pub(in crate::run) fn asked(table: &TableId, condition: Option<String>, resume: &ResumePoints) -> Self {
        Self::Backfill {
            number: next_number(table, resume),
            why: Why::Asked,
            rows: Rows::Where(condition.unwrap_or_default()),
        }
    }

    /// A copy of the partitions of `table` that came to it with rows.
    pub(in crate::run) fn attached(table: &TableId, partitions: Vec<u32>, debt: &Debt, resume: &ResumePoints) -> Self {
        Self::Backfill {
            number: next_number(table, resume),
            why: Why::Attached,
            rows: Rows::Of {
                partitions,
                settles: Some(debt.settled(table)),
            },
        }
    }

    /// A copy of all of `table` that begins by itself.
    pub(in crate::run) fn anew(table: &TableId, why: Why, resume: &ResumePoints) -> Self {
        Self::Backfill {
            number: next_number(table, resume),
            why,
            rows: Rows::Where(String::new()),
        }
    }

    /// The copy of `table` that was asked for earlier and has not ended, with what was read of it.
    pub(in crate::run) fn unfinished(table: &TableId, resume: &ResumePoints) -> Option<(Self, Begun)> {
        let root = backfill_partition(table);
        let unfinished = |held: &&Checkpoint| matches!(held.position(&root), Position::At(place) if !is_end(place));
        let held = resume.holdings(table).find(unfinished)?;
        let (number, request) = request_of(held, &root)?;
        let (request, condition) = request.split_once(':')?;
        let why = request.split_once('/').map_or(Why::Asked, |(_, why)| Why::parse(why));
        let rows = match why {
            Why::Attached => Rows::Of {
                partitions: condition.split(',').filter_map(|oid| oid.parse().ok()).collect(),
                settles: None,
            },
            _ => Rows::Where(condition.to_owned()),
        };
        // Target tables that stand apart are given all of it again.
        let together = resume
            .holdings(table)
            .all(|other| other.position(&root) == held.position(&root));
        let begun = Begun {
            held: if together { held.clone() } else { Checkpoint::default() },
            rows: true,
        };
        Some((Self::Backfill { number, why, rows }, begun))
    }

    pub(super) fn kind(&self) -> CopyKind {
        match self {
            Self::First => CopyKind::First,
            Self::Backfill { why, .. } => why.kind(),
        }
    }

    /// Whether what the target has of the table is thrown away first.
    pub(in crate::run) fn empties(&self) -> bool {
        matches!(self, Self::Backfill { why, .. } if why.empties())
    }

    /// Whether the copy makes all before its next snapshot count no more, where `held` is what
    /// the target holds of it.
    pub(super) fn supersedes(&self, table: &TableId, held: &Checkpoint) -> bool {
        match self {
            Self::First => true,
            Self::Backfill { .. } => self.empties() && self.first_horizon(&self.partition(table), held).is_none(),
        }
    }

    pub(super) fn condition(&self) -> Option<&String> {
        match self {
            Self::Backfill {
                rows: Rows::Where(condition),
                ..
            } => Some(condition).filter(|condition| !condition.is_empty()),
            _ => None,
        }
    }

    /// The partitions that alone are copied, if not all are.
    pub(super) fn partitions(&self) -> Option<&[u32]> {
        match self {
            Self::Backfill {
                rows: Rows::Of { partitions, .. },
                ..
            } => Some(partitions),
            _ => None,
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
    pub(in crate::run) fn first_horizon(&self, root: &PartitionId, held: &Checkpoint) -> Option<u64> {
        match self {
            Self::First => match held.position(&horizon_partition(root)) {
                Position::Token { token, .. } => token.parse().ok(),
                _ => None,
            },
            Self::Backfill { number, .. } => {
                let (remembered, request) = request_of(held, root)?;
                let (horizon, _) = request.split_once(':')?;
                let horizon = horizon.split('/').next().unwrap_or_default();
                horizon.parse().ok().filter(|_| remembered == *number)
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
            Self::Backfill { number, why, rows } => {
                let why = match why {
                    Why::Asked => String::new(),
                    _ => format!("/{}", why.name()),
                };
                let request = format!("{horizon}{why}:{}", rows.text());
                vec![(root.part("request"), token(*number, &request))]
            }
        }
    }

    /// What the boundary that begins the copy has the target remember too, where its snapshot is as
    /// of `held`. Before it the copy is owed, and after it a restart goes on with the copy.
    pub(super) fn gives(&self, table: &CatalogTable, held: Lsn) -> Vec<(PartitionId, Position)> {
        match self {
            Self::First | Self::Backfill { why: Why::Asked, .. } => Vec::new(),
            Self::Backfill {
                rows: Rows::Of { settles, .. },
                ..
            } => settles.iter().cloned().collect(),
            Self::Backfill { number, .. } => {
                let given = (owed_partition(&table.id), given_position(held, self.empties()));
                if !self.empties() {
                    return vec![given];
                }
                let relation = relation_position_of(*number, table.oid);
                vec![
                    given,
                    (relation_partition(&table.id), relation),
                    // Whatever a first copy had read is thrown away.
                    (copy_partition(&table.id), Position::End),
                ]
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

fn next_number(table: &TableId, resume: &ResumePoints) -> u64 {
    1 + requests(table, resume).map(|(number, _)| number).max().unwrap_or(0)
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
