//! Where sources resume, and what they may acknowledge.

use millstream_core::{Boundary, Checkpoint, Error, ErrorKind, PartitionId, Position, Result, ResumePoints, TableId};

/// What a target table holds, and which source tables feed it.
#[derive(Debug, Clone, Copy)]
pub struct Holding<'a> {
    /// The source tables that feed the target table.
    pub inputs: &'a [TableId],
    /// The positions that the target table holds.
    pub held: &'a Checkpoint,
}

/// For each source table of `source`: what the target tables fed by it hold.
pub fn resume_points<'a>(source: &str, holdings: impl Iterator<Item = Holding<'a>>) -> ResumePoints {
    let mut points = ResumePoints::default();
    for Holding { inputs, held } in holdings {
        for input in inputs.iter().filter(|input| &*input.source == source) {
            points.add(input.clone(), held_of(input, held));
        }
    }
    points
}

/// What a target table holds of one of its inputs, which may be more than of all of them.
fn held_of(table: &TableId, held: &Checkpoint) -> Checkpoint {
    let mut of_table = held.clone();
    for (partition, _) in held.iter() {
        of_table.raise(partition, held.position(&of_input(partition, table)));
    }
    of_table
}

/// What every target table fed by `source` holds: what the source may acknowledge.
pub fn durable<'a>(source: &str, holdings: impl Iterator<Item = Holding<'a>>) -> Checkpoint {
    holdings
        .filter(|holding| holding.inputs.iter().any(|input| &*input.source == source))
        .map(|holding| holding.held.clone())
        .reduce(|least, held| least.least(&held))
        .unwrap_or_default()
}

/// Moves `held` over `boundary`, for a target table fed by `inputs`; tells whether it moved.
///
/// | `held` stands            | then |
/// |--------------------------|------|
/// | at the boundary or after | nothing: the table holds it |
/// | before, at `from` or after | moves |
/// | before `from`            | refused: the rows in between never came |
/// | nowhere comparable       | refused: the position is not of this reading |
///
/// The positions that a boundary raises (a first copy raises the WAL's) count for the boundary's
/// source table. A target table with other inputs still needs their changes from its own
/// position on, so that for it the raise is recorded for that input alone ([`of_input`]).
///
/// # Errors
/// `Corrupt` as above.
pub fn advance(held: &mut Checkpoint, inputs: &[TableId], boundary: &Boundary) -> Result<bool> {
    let concerns = match &boundary.table {
        Some(table) => inputs.contains(table),
        None => inputs.iter().any(|input| *input.source == *boundary.partition.source()),
    };
    let before = held.position(&boundary.partition);
    if !concerns || *before >= boundary.position {
        return Ok(false);
    }
    if !(*before >= boundary.from && *before < boundary.position) {
        return Err(gap(before, boundary));
    }
    held.set(boundary.partition.clone(), boundary.position.clone());
    for (partition, position) in &boundary.raises {
        match &boundary.table {
            Some(table) if inputs.len() > 1 && *held.position(partition) != Position::Beginning => {
                if *held.position(partition) < *position {
                    held.raise(&of_input(partition, table), position);
                    raise_to_least(held, inputs, partition);
                }
            }
            _ => held.raise(partition, position),
        }
    }
    Ok(true)
}

/// Raises `partition` as a whole to where all inputs of its source are on their own.
fn raise_to_least(held: &mut Checkpoint, inputs: &[TableId], partition: &PartitionId) {
    let of_source = inputs.iter().filter(|input| *input.source == *partition.source());
    let mut own = of_source.map(|input| held.position(&of_input(partition, input)).clone());
    let Some(first) = own.next() else { return };
    let least = own.fold(first, |least, other| if other < least { other } else { least });
    if *held.position(partition) < least {
        held.raise(partition, &least);
    }
}

/// The entry of a checkpoint that tells how far a target table with several inputs holds the
/// changes of one of them, where that is further than `partition` as a whole.
pub fn of_input(partition: &PartitionId, table: &TableId) -> PartitionId {
    PartitionId::from(format!("{partition}@{}", table.within_source()).as_str())
}

/// The entry of a checkpoint that tells that `table` feeds the target table: [`fed`] while it
/// does, the end once it was taken out.
fn input(table: &TableId) -> PartitionId {
    PartitionId::new(&table.source, format_args!("{INPUT}{}", table.within_source()))
}

const INPUT: &str = "input@";

fn fed() -> Position {
    Position::at("fed")
}

/// Records in `held` which source tables feed a model's table from now on.
///
/// # Errors
/// `PositionLost` if one returns after it was taken out: what it changed meanwhile was read for
/// the others alone, and the table's position is past it.
pub fn follow_inputs(held: &mut Checkpoint, inputs: &[TableId]) -> Result<()> {
    let present: Vec<PartitionId> = inputs.iter().map(input).collect();
    let known = held.iter().map(|(partition, _)| partition.clone());
    let known: Vec<PartitionId> = known.filter(|p| p.within_source().starts_with(INPUT)).collect();
    for away in known.iter().filter(|partition| !present.contains(partition)) {
        held.raise(away, &Position::End);
    }
    for (table, partition) in inputs.iter().zip(&present) {
        if *held.position(partition) == Position::End {
            return Err(Error::new(
                ErrorKind::PositionLost,
                "a model reads a table again that it did not read for a while",
            )
            .code("EN0008")
            .with("input", table)
            .hint(
                "its changes meanwhile are missing: remove the model's folder in the target, so that it is made anew",
            ));
        }
        held.raise(partition, &fed());
    }
    Ok(())
}

fn gap(held: &Position, boundary: &Boundary) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "a source skipped changes that the target does not hold",
    )
    .code("EN0005")
    .with("partition", &boundary.partition)
    .with("held", held)
    .with("read_from", &boundary.from)
    .with("read_to", &boundary.position)
    .hint("restart the pipeline; if it happens again, drop the table in the target so that it is copied anew")
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
            from: Position::Beginning,
            position: Position::End,
            table: Some(table(name)),
            raises: vec![(wal(), at(lsn))],
            committed_at: None,
            urgent: false,
        }
    }

    #[test]
    fn a_second_copy_never_moves_a_table_that_holds_the_first() {
        let inputs = [table("a")];
        let mut held = Checkpoint::default();
        advance(&mut held, &inputs, &copied("a", 10)).unwrap();
        assert_eq!(*held.position(&wal()), at(10));
        advance(&mut held, &inputs, &copied("a", 50)).unwrap();
        assert_eq!(*held.position(&wal()), at(10));
    }

    #[test]
    fn a_boundary_that_follows_on_what_the_table_lacks_is_refused() {
        let read = |from, to| Boundary {
            partition: wal(),
            from,
            position: to,
            table: None,
            raises: Vec::new(),
            committed_at: None,
            urgent: false,
        };
        let inputs = [table("a")];
        let mut held: Checkpoint = [(wal(), at(5))].into_iter().collect();
        // From before, as after a resume from another table's position, or exactly.
        advance(&mut held, &inputs, &read(at(2), at(7))).unwrap();
        advance(&mut held, &inputs, &read(at(7), at(9))).unwrap();
        assert_eq!(*held.position(&wal()), at(9));
        let skipped = advance(&mut held, &inputs, &read(at(10), at(12))).unwrap_err();
        assert_eq!(
            (skipped.kind(), skipped.error_code()),
            (ErrorKind::Corrupt, Some("EN0005"))
        );
        assert_eq!(*held.position(&wal()), at(9));
        let page = |number, token: &str| Position::Token {
            number,
            token: token.into(),
        };
        let mut held: Checkpoint = [(wal(), page(3, "c"))].into_iter().collect();
        advance(&mut held, &inputs, &read(page(1, "a"), page(2, "b"))).unwrap();
        assert_eq!(*held.position(&wal()), page(3, "c"));
        advance(&mut held, &inputs, &read(page(2, "b"), page(4, "d"))).unwrap();
        assert_eq!(*held.position(&wal()), page(4, "d"));
        assert!(advance(&mut held, &inputs, &read(at(1), at(2))).is_err());
    }

    #[test]
    fn an_input_that_returns_is_refused() {
        let (a, b) = (table("a"), table("b"));
        let mut held = Checkpoint::default();
        follow_inputs(&mut held, &[a.clone(), b.clone()]).unwrap();
        follow_inputs(&mut held, &[a.clone(), b.clone()]).unwrap();
        follow_inputs(&mut held, std::slice::from_ref(&a)).unwrap();
        let error = follow_inputs(&mut held, &[a.clone(), b]).unwrap_err();
        assert_eq!(error.error_code(), Some("EN0008"));
        follow_inputs(&mut held, &[a, table("c")]).unwrap();
    }

    #[test]
    fn a_copy_of_one_input_leaves_the_position_of_the_others() {
        let inputs = [table("a"), table("b")];
        let mut held = Checkpoint::default();
        advance(&mut held, &inputs, &copied("a", 10)).unwrap();
        advance(&mut held, &inputs, &copied("b", 50)).unwrap();
        assert_eq!(*held.position(&wal()), at(10));
        assert_eq!(*held.position(&of_input(&wal(), &table("a"))), Position::Beginning);
        assert_eq!(*held.position(&of_input(&wal(), &table("b"))), at(50));
        let holding = Holding {
            inputs: &inputs,
            held: &held,
        };
        let points = resume_points("shop", std::iter::once(holding));
        let from = |name| points.of(&table(name)).position(&wal()).clone();
        assert_eq!((from("a"), from("b")), (at(10), at(50)));
    }

    #[test]
    fn raises_of_all_inputs_move_the_table_as_a_whole() {
        let inputs = [table("a"), table("b")];
        let mut held: Checkpoint = [(wal(), at(10))].into_iter().collect();
        let owed = |name: &str| Boundary {
            partition: PartitionId::new("shop", format!("owed/public.{name}")),
            position: at(1),
            ..copied(name, 50)
        };
        advance(&mut held, &inputs, &owed("a")).unwrap();
        assert_eq!(*held.position(&wal()), at(10));
        advance(&mut held, &inputs, &owed("b")).unwrap();
        assert_eq!(*held.position(&wal()), at(50));
        let further = Boundary {
            partition: wal(),
            from: at(50),
            position: at(60),
            table: None,
            raises: Vec::new(),
            ..copied("a", 0)
        };
        advance(&mut held, &inputs, &further).unwrap();
        assert_eq!(*held.position(&wal()), at(60));
    }

    #[test]
    fn a_table_that_lacks_its_copy_is_resumed_from_nothing() {
        let (a, b) = ([table("a")], [table("b")]);
        let mut held_a = Checkpoint::default();
        advance(&mut held_a, &a, &copied("a", 10)).unwrap();
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
        assert_eq!(points.of(&table("a")), held_a);
        assert!(points.contains(&table("b")) && points.of(&table("b")).is_empty());
        assert!(durable("shop", holdings.iter().copied()).is_empty());
    }

    #[test]
    fn a_boundary_of_another_source_concerns_nobody_here() {
        let mut held = Checkpoint::default();
        let other = Boundary {
            partition: PartitionId::new("clicks", "clicks/0"),
            from: Position::Beginning,
            position: at(1),
            table: None,
            raises: Vec::new(),
            committed_at: None,
            urgent: false,
        };
        advance(&mut held, &[table("a")], &other).unwrap();
        assert!(held.is_empty());
    }
}
