//! Copies that the target is owed: of tables whose rows there are not those of the source any more.
//!
//! A table is owed a copy from the moment that the stream tells, or the catalog, that it is another
//! one. The moment is told with the stream's own position, so that either both are committed or
//! neither, and is crossed out by the boundary that begins the copy:
//!
//! ```text
//! shop/owed/public.orders   0000000001A2B3C4/replaced   owed since this place in the log
//! shop/owed/public.orders   0000000001B00000~           a copy as of here has begun
//! ```
//!
//! The texts sort by their place: a copy that was begun never crosses out what happened later.

use millstream_core::{Checkpoint, CopyKind, PartitionId, Position, ResumePoints, TableId};

use crate::decode::Lsn;
use crate::plan::{lsn_of, relation_partition, wal_partition};

/// Why a table that the target holds is copied once more. Later ones include earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// Somebody asked for it.
    Asked,
    /// Partitions came to it with rows ([`attached`](crate::attached)), which alone are copied.
    Attached,
    /// Its columns changed in a way that the stream does not tell of older rows.
    Changed,
    /// Its key changed.
    KeyChanged,
    /// Another relation has its name.
    Replaced,
    /// The slot was lost, and with it changes.
    LostSlot,
}

impl Why {
    /// Whether what the target has of the table is thrown away first.
    pub(crate) fn empties(self) -> bool {
        !matches!(self, Self::Asked | Self::Attached | Self::Changed)
    }

    pub(crate) fn kind(self) -> CopyKind {
        match self {
            Self::Asked => CopyKind::Backfill,
            Self::Attached => CopyKind::Attached,
            Self::Changed | Self::KeyChanged => CopyKind::Changed,
            Self::Replaced => CopyKind::Replaced,
            Self::LostSlot => CopyKind::LostSlot,
        }
    }

    /// As the target remembers it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Attached => "attached",
            Self::Changed => "changed",
            Self::KeyChanged => "key",
            Self::Replaced => "replaced",
            Self::LostSlot => "slot",
        }
    }

    /// What the target remembered. What a later version may write is taken for the strongest.
    pub(crate) fn parse(name: &str) -> Self {
        let known = [
            Self::Asked,
            Self::Attached,
            Self::Changed,
            Self::KeyChanged,
            Self::Replaced,
        ];
        known
            .into_iter()
            .find(|why| why.name() == name)
            .unwrap_or(Self::LostSlot)
    }
}

/// Where the target remembers that it is owed a copy of `table`.
pub(crate) fn owed_partition(table: &TableId) -> PartitionId {
    PartitionId::new(&table.source, format_args!("owed/{}", table.within_source()))
}

/// Owed since `since`.
pub(crate) fn owed_position(since: Lsn, why: Why) -> Position {
    Position::at(format!("{}/{}", since.padded(), why.name()))
}

/// A copy as of `as_of` gives what was owed. Where it `empties` the table, nothing before it counts
/// any more.
pub(crate) fn given_position(as_of: Lsn, empties: bool) -> Position {
    let end = if empties { EMPTIED } else { KEPT };
    Position::at(format!("{}{end}", as_of.padded()))
}

const EMPTIED: &str = "~";
const KEPT: &str = "~kept";

/// Why a copy of `table` is owed to any of the target tables that have rows of it.
pub(crate) fn owed(table: &TableId, resume: &ResumePoints) -> Option<Why> {
    let owed = filled(table, resume).filter_map(|held| {
        let (_, rest) = remembered(table, held)?;
        rest.strip_prefix('/').map(Why::parse)
    });
    owed.max()
}

/// From where in the log a new copy of `table` is owed, where the stream begins behind `stream`:
/// behind all that the target remembers of earlier ones.
pub(crate) fn owed_since(table: &TableId, resume: &ResumePoints, stream: Lsn) -> Lsn {
    let places = resume.holdings(table).filter_map(|held| remembered(table, held));
    places.map(|(place, _)| Lsn(place.0 + 1)).fold(stream, Lsn::max)
}

/// Up to where all target tables that hold any of `table` hold it: nobody misses a change before
/// the last copy that emptied the table.
pub(crate) fn held_up_to(table: &TableId, resume: &ResumePoints) -> Option<Lsn> {
    let wal = wal_partition(&table.source);
    let held = resume.holdings(table).filter_map(|held| {
        let read = lsn_of(held.position(&wal))?;
        let emptied = remembered(table, held).filter(|(_, rest)| *rest == EMPTIED);
        Some(emptied.map_or(read, |(place, _)| place.max(read)))
    });
    held.min()
}

/// The target tables that have rows of `table`.
pub(crate) fn filled<'a>(table: &TableId, resume: &'a ResumePoints) -> impl Iterator<Item = &'a Checkpoint> {
    let relation = relation_partition(table);
    resume
        .holdings(table)
        .filter(move |held| *held.position(&relation) != Position::Beginning)
}

/// What a target table remembers: a place in the log, and what became of it.
fn remembered<'a>(table: &TableId, held: &'a Checkpoint) -> Option<(Lsn, &'a str)> {
    let text = held.position(&owed_partition(table)).ordered()?;
    let (place, rest) = text.split_at_checked(PLACE)?;
    Some((Lsn::from_padded(place)?, rest))
}

/// Digits of a place.
const PLACE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{position_of, relation_position};

    fn table() -> TableId {
        TableId::new("shop", Some("public"), "orders")
    }

    /// A target table with rows, which read the log up to `read`.
    fn holding(read: u64, owed: Option<Position>) -> Checkpoint {
        let positions = [
            (relation_partition(&table()), relation_position(7)),
            (wal_partition("shop"), position_of(Lsn(read))),
        ];
        let owed = owed.map(|owed| (owed_partition(&table()), owed));
        positions.into_iter().chain(owed).collect()
    }

    fn target(holdings: impl IntoIterator<Item = Checkpoint>) -> ResumePoints {
        holdings
            .into_iter()
            .map(|held| (table(), held))
            .fold(ResumePoints::default(), |mut points, (id, held)| {
                points.add(id, held);
                points
            })
    }

    #[test]
    fn a_copy_gives_what_was_owed_before_it_and_nothing_later() {
        for why in [Why::Changed, Why::KeyChanged, Why::Replaced, Why::LostSlot] {
            let mut held = holding(10, Some(owed_position(Lsn(9), why)));
            assert_eq!(owed(&table(), &target([held.clone()])), Some(why));
            held.raise(&owed_partition(&table()), &given_position(Lsn(9), why.empties()));
            assert_eq!(owed(&table(), &target([held.clone()])), None);
            held.raise(&owed_partition(&table()), &owed_position(Lsn(9), why));
            assert_eq!(owed(&table(), &target([held.clone()])), None, "it was before");
            held.raise(&owed_partition(&table()), &owed_position(Lsn(10), why));
            held.raise(&owed_partition(&table()), &given_position(Lsn(9), true));
            assert_eq!(owed(&table(), &target([held.clone()])), Some(why));
            assert_eq!(owed_since(&table(), &target([held]), Lsn(3)), Lsn(11));
        }
    }

    #[test]
    fn a_target_table_without_rows_of_it_is_owed_nothing() {
        let mut held: Checkpoint = [(owed_partition(&table()), owed_position(Lsn(9), Why::Replaced))]
            .into_iter()
            .collect();
        assert_eq!(owed(&table(), &target([held.clone()])), None);
        held.set(relation_partition(&table()), relation_position(7));
        assert_eq!(owed(&table(), &target([held])), Some(Why::Replaced));
    }

    #[test]
    fn what_a_copy_emptied_is_held_up_to_there_by_all_that_have_it() {
        let emptied = |read| holding(read, Some(given_position(Lsn(50), true)));
        let kept = holding(20, Some(given_position(Lsn(50), false)));
        assert_eq!(held_up_to(&table(), &target([emptied(10), emptied(60)])), Some(Lsn(50)));
        assert_eq!(held_up_to(&table(), &target([emptied(10), kept])), Some(Lsn(20)));
        assert_eq!(
            held_up_to(&table(), &target([emptied(10), Checkpoint::default()])),
            Some(Lsn(50))
        );
        assert_eq!(held_up_to(&table(), &target([Checkpoint::default()])), None);
    }
}
