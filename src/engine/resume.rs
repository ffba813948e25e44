//! Where sources resume, and what they may acknowledge.

use std::collections::BTreeMap;

use millstream_core::{Boundary, Checkpoint, Position, ResumePoints, TableId};

/// What a target table holds, and which source tables feed it.
#[derive(Debug, Clone, Copy)]
pub struct Holding<'a> {
    /// The source tables that feed the target table.
    pub inputs: &'a [TableId],
    /// The positions that the target table holds.
    pub held: &'a Checkpoint,
}

/// For each source table of `source`: the least of what the target tables fed by it hold.
///
/// The quarantine table is not among the holdings: it commits before the tables whose rows
/// it rejects, so a range that any of them holds has left nothing behind for it.
pub fn resume_points<'a>(source: &str, holdings: impl Iterator<Item = Holding<'a>>) -> ResumePoints {
    let mut points: BTreeMap<TableId, Checkpoint> = BTreeMap::new();
    for Holding { inputs, held } in holdings {
        for input in inputs.iter().filter(|input| &*input.source == source) {
            points
                .entry(input.clone())
                .and_modify(|least| *least = least.least(held))
                .or_insert_with(|| held.clone());
        }
    }
    ResumePoints(points)
}

/// What every target table fed by `source` holds: what the source may acknowledge.
pub fn durable<'a>(source: &str, holdings: impl Iterator<Item = Holding<'a>>) -> Checkpoint {
    holdings
        .filter(|holding| holding.inputs.iter().any(|input| &*input.source == source))
        .map(|holding| holding.held.clone())
        .reduce(|least, held| least.least(&held))
        .unwrap_or_default()
}

/// Moves `held` over `boundary`, for a target table fed by `inputs`. Returns whether it moved.
///
/// A table that already holds the boundary's position ignores it. The positions that a
/// boundary raises (a first copy raises the WAL's) count for a table fed by that source table
/// alone, or one that has no position there yet: a table with other inputs still needs their
/// changes from its own position on, and the fold by position makes the overlap harmless.
pub fn advance(held: &mut Checkpoint, inputs: &[TableId], boundary: &Boundary) -> bool {
    let concerns = match &boundary.table {
        Some(table) => inputs.contains(table),
        None => inputs.iter().any(|input| *input.source == *boundary.partition.source()),
    };
    let before = held.position(&boundary.partition);
    if !concerns
        || *before >= boundary.position
        || before.partial_cmp(&boundary.position).is_none() && !is_token(before)
    {
        return false;
    }
    held.set(boundary.partition.clone(), boundary.position.clone());
    for (partition, position) in &boundary.raises {
        if inputs.len() == 1 || *held.position(partition) == Position::Beginning {
            held.raise(partition, position);
        }
    }
    true
}

/// A page token follows another without being comparable to it.
fn is_token(position: &Position) -> bool {
    matches!(position, Position::Token(_))
}

#[cfg(test)]
mod tests {
    use millstream_core::PartitionId;

    use super::*;

    fn table(name: &str) -> TableId {
        TableId::new("shop", Some("public"), name)
    }

    fn wal() -> PartitionId {
        PartitionId::new("shop", "wal")
    }

    fn at(n: u64) -> Position {
        Position::at(format!("{n:016X}"))
    }

    fn copied(name: &str, lsn: u64) -> Boundary {
        Boundary {
            partition: PartitionId::new("shop", format!("copy/public.{name}")),
            position: Position::End,
            table: Some(table(name)),
            raises: vec![(wal(), at(lsn))],
            committed_at: None,
        }
    }

    #[test]
    fn a_second_copy_never_moves_a_table_that_holds_the_first() {
        let inputs = [table("a")];
        let mut held = Checkpoint::default();
        assert!(advance(&mut held, &inputs, &copied("a", 10)));
        assert_eq!(*held.position(&wal()), at(10));
        assert!(!advance(&mut held, &inputs, &copied("a", 50)));
        assert_eq!(*held.position(&wal()), at(10));
    }

    #[test]
    fn a_copy_of_one_input_leaves_the_position_of_the_others() {
        let inputs = [table("a"), table("b")];
        let mut held = Checkpoint::default();
        advance(&mut held, &inputs, &copied("a", 10));
        advance(&mut held, &inputs, &copied("b", 50));
        assert_eq!(*held.position(&wal()), at(10));
    }

    #[test]
    fn a_table_that_lacks_its_copy_is_resumed_from_nothing() {
        let (a, b) = ([table("a")], [table("b")]);
        let mut held_a = Checkpoint::default();
        advance(&mut held_a, &a, &copied("a", 10));
        let empty = Checkpoint::default();
        let holdings = [
            Holding {
                inputs: &a,
                held: &held_a,
            },
            Holding {
                inputs: &b,
                held: &empty,
            },
        ];
        let points = resume_points("shop", holdings.iter().copied());
        assert_eq!(points.0[&table("a")], held_a);
        assert!(points.0[&table("b")].is_empty());
        assert!(durable("shop", holdings.iter().copied()).is_empty());
    }

    #[test]
    fn a_boundary_of_another_source_concerns_nobody_here() {
        let mut held = Checkpoint::default();
        let other = Boundary {
            partition: PartitionId::new("clicks", "clicks/0"),
            position: at(1),
            table: None,
            raises: Vec::new(),
            committed_at: None,
        };
        assert!(!advance(&mut held, &[table("a")], &other));
        assert!(held.is_empty());
    }
}
