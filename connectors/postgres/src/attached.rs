//! Partitions that came to a table with rows of their own: what is owed of them, as the target
//! remembers it.
//!
//! ```text
//! shop/attached/public.orders   2: 16385@4711,16390@4714;   a copy of these partitions is owed
//! shop/attached/public.orders   3: ;16385@4711,16390@4714   it has begun
//! ```
//!
//! Behind each partition stands the transaction in which it came. Debts have even numbers, each of which
//! includes what was owed before and has not begun. A copy that begins settles its own debt and earlier
//! ones, and none that was told after it was planned; copies of one table begin in the order of their debts.

use std::collections::BTreeMap;

use millstream_core::{PartitionId, Position, ResumePoints, TableId};

use crate::owed::filled;

/// Partitions by OID, with the transactions in which they came.
type Partitions = BTreeMap<u32, u64>;

/// Partitions of one table of which a copy is owed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Debt {
    number: u64,
    owed: Partitions,
    /// Those whose copy has begun, and which a look after a restart may show as new.
    begun: Partitions,
}

impl Debt {
    /// What the target is owed of `table`.
    pub(crate) fn of(table: &TableId, resume: &ResumePoints) -> Self {
        let mut debt = Self::default();
        let position = debt_partition(table);
        let held = filled(table, resume).map(|held| match held.position(&position) {
            Position::Token { number, token } => (*number, token.split_once(';').unwrap_or_default()),
            _ => (0, ("", "")),
        });
        let held: Vec<_> = held.collect();
        debt.number = held.iter().map(|(number, _)| *number).max().unwrap_or(0);
        for (number, (owed, begun)) in held {
            debt.owed.extend(parse(owed));
            if number == debt.number {
                debt.begun.extend(parse(begun));
            }
        }
        // What one target table is owed still is copied to all.
        debt.begun.retain(|oid, _| !debt.owed.contains_key(oid));
        debt
    }

    /// The partitions that are owed.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = u32> {
        self.owed.keys().copied()
    }

    /// Whether a partition that came in the transaction `since` is owed, or its copy has begun.
    pub(crate) fn includes(&self, oid: u32, since: u64) -> bool {
        let known = self.owed.get(&oid).or_else(|| self.begun.get(&oid));
        known == Some(&since)
    }

    /// Adds partitions: to those that are owed still, unless the copies of all of them `have_begun`.
    /// What came before the transaction `seen` is not shown as new any more.
    pub(crate) fn add(&mut self, partitions: impl IntoIterator<Item = (u32, u64)>, have_begun: bool, seen: u64) {
        if have_begun {
            self.begun.append(&mut self.owed);
        }
        self.begun.retain(|_, since| *since >= seen);
        self.number = (self.number / 2 + 1) * 2;
        self.owed.extend(partitions);
    }

    /// How the target is told of it.
    pub(crate) fn told(&self, table: &TableId) -> (PartitionId, Position) {
        let text = format!("{};{}", join(&self.owed), join(&self.begun));
        (debt_partition(table), token(self.number, &text))
    }

    /// How the target is told that the copies of all its partitions have begun.
    pub(crate) fn settled(&self, table: &TableId) -> (PartitionId, Position) {
        let begun = self.owed.iter().chain(&self.begun);
        let begun = begun.map(|(oid, since)| (*oid, *since)).collect();
        (
            debt_partition(table),
            token(self.number | 1, &format!(";{}", join(&begun))),
        )
    }
}

fn join(partitions: &Partitions) -> String {
    let partitions = partitions.iter().map(|(oid, since)| format!("{oid}@{since}"));
    partitions.collect::<Vec<_>>().join(",")
}

/// What [`join`] made.
fn parse(text: &str) -> Partitions {
    let of = |text: &str| {
        let (oid, since) = text.split_once('@')?;
        Some((oid.parse().ok()?, since.parse().ok()?))
    };
    text.split(',').filter_map(of).collect()
}

fn debt_partition(table: &TableId) -> PartitionId {
    PartitionId::new(&table.source, format_args!("attached/{}", table.within_source()))
}

fn token(number: u64, text: &str) -> Position {
    Position::Token {
        number,
        token: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::Checkpoint;

    use super::*;
    use crate::plan::{relation_partition, relation_position};

    fn table() -> TableId {
        TableId::new("shop", Some("public"), "orders")
    }

    fn filled_table() -> Checkpoint {
        [(relation_partition(&table()), relation_position(7))]
            .into_iter()
            .collect()
    }

    fn debt(holdings: &[&Checkpoint]) -> Debt {
        let resume = holdings.iter().fold(ResumePoints::default(), |mut points, held| {
            points.add(table(), (*held).clone());
            points
        });
        Debt::of(&table(), &resume)
    }

    fn raise(held: &mut Checkpoint, (partition, position): (PartitionId, Position)) {
        held.raise(&partition, &position);
    }

    fn owed(debt: &Debt) -> Vec<u32> {
        debt.partitions().collect()
    }

    #[test]
    fn a_copy_settles_what_was_owed_when_it_was_planned_and_nothing_later() {
        let mut held = filled_table();
        assert_eq!(debt(&[&held]), Debt::default());
        let mut first = debt(&[&held]);
        first.add([(3, 70), (4, 70)], true, 0);
        raise(&mut held, first.told(&table()));
        assert_eq!(debt(&[&held]), first);
        let mut second = first.clone();
        second.add([(5, 80)], false, 0);
        raise(&mut held, second.told(&table()));
        raise(&mut held, first.settled(&table()));
        assert_eq!(owed(&debt(&[&held])), [3, 4, 5], "the second was not begun");
        raise(&mut held, second.settled(&table()));
        assert!(owed(&debt(&[&held])).is_empty());
        let mut third = debt(&[&held]);
        third.add([(6, 90)], true, 75);
        raise(&mut held, third.told(&table()));
        raise(&mut held, second.settled(&table()));
        assert_eq!(debt(&[&held]), third);
        assert_eq!(owed(&third), [6]);
        let known = [(3, 70), (5, 80), (6, 90), (6, 91)].map(|(oid, since)| third.includes(oid, since));
        assert_eq!(known, [false, true, true, false]);
    }

    #[test]
    fn what_one_target_table_is_owed_is_owed() {
        let (mut settled, mut behind) = (filled_table(), filled_table());
        let mut first = Debt::default();
        first.add([(3, 70)], true, 0);
        raise(&mut behind, first.told(&table()));
        raise(&mut settled, first.settled(&table()));
        let mut found = debt(&[&settled, &behind]);
        assert_eq!(owed(&found), [3]);
        found.add([], false, 0);
        raise(&mut settled, found.told(&table()));
        assert_eq!(owed(&debt(&[&settled, &behind])), [3]);
        assert!(owed(&debt(&[&Checkpoint::default()])).is_empty());
    }
}
