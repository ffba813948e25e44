//! Checkpoints: the positions a table holds, and the advances that move them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{PartitionId, Position};

/// The position reached in each partition. A partition that is absent stands at
/// [`Position::Beginning`], unless it lies within one that has ended: a partition's name is a
/// path, and what lies below a finished partition is finished too. Parts of a first copy
/// (`shop/copy/public.orders/…`) are so forgotten when the whole of it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checkpoint(BTreeMap<PartitionId, Position>);

/// An advance of one partition, `(from, to]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The position that the advance starts after.
    pub from: Position,
    /// The position that the advance includes.
    pub to: Position,
}

/// An advance `(from, to]` of some partitions: what one commit adds to a table's checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckpointDelta(BTreeMap<PartitionId, Span>);

/// What applying a delta to a checkpoint amounts to. For one partition at position `c`:
///
/// | condition                     | verdict         |
/// |-------------------------------|-----------------|
/// | `from == c` and `to > c`      | applied         |
/// | `to <= c`                     | already applied |
/// | `from > c`, or not comparable | gap             |
/// | `from < c < to`               | overlap         |
///
/// Over several partitions a gap wins over an overlap, and a mix of applied and already
/// applied is an overlap: part of the rows would be written twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeltaVerdict {
    /// The delta follows on; this is the checkpoint after it.
    Applied(Checkpoint),
    /// The checkpoint already includes the whole delta.
    AlreadyApplied,
    /// Rows between the checkpoint and the delta are missing. The pipeline must halt.
    Gap(PartitionId),
    /// Part of the delta is already held. The caller should have cut it off.
    Overlap(PartitionId),
}

impl Checkpoint {
    /// The position reached in `partition`.
    pub fn position(&self, partition: &PartitionId) -> &Position {
        let ended = || {
            partition
                .ancestors()
                .any(|whole| self.0.get(whole) == Some(&Position::End))
        };
        match self.0.get(partition) {
            Some(position) => position,
            None if ended() => &Position::End,
            None => &Position::Beginning,
        }
    }

    /// Records that `partition` was read up to and including `position`. At the end its parts
    /// are forgotten.
    pub fn set(&mut self, partition: PartitionId, position: Position) {
        if position == Position::End {
            self.0.retain(|part, _| !part.is_within(&partition));
        }
        self.0.insert(partition, position);
    }

    /// Moves `partition` forward to `position`; a position that is not ahead changes nothing.
    pub fn raise(&mut self, partition: &PartitionId, position: &Position) {
        if self.position(partition).partial_cmp(position) == Some(Ordering::Less) {
            self.set(partition.clone(), position.clone());
        }
    }

    /// The partitions that were read at all, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&PartitionId, &Position)> {
        self.0.iter()
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What both checkpoints hold: per partition the lesser position. A partition that either
    /// lacks, and positions that cannot be compared, are left out, which reads them again.
    pub fn least(&self, other: &Self) -> Self {
        let known: BTreeSet<&PartitionId> = self.0.keys().chain(other.0.keys()).collect();
        let shared = known.into_iter().filter_map(|partition| {
            let (mine, theirs) = (self.position(partition), other.position(partition));
            let lesser = match mine.partial_cmp(theirs)? {
                Ordering::Greater => theirs,
                Ordering::Less | Ordering::Equal => mine,
            };
            (*lesser != Position::Beginning).then(|| (partition.clone(), lesser.clone()))
        });
        Self(shared.collect())
    }

    /// The advance that leads from `self` to `target`: the partitions that differ.
    pub fn delta_to(&self, target: &Self) -> CheckpointDelta {
        let moved = target
            .0
            .iter()
            .filter(|(partition, to)| self.position(partition) != *to);
        CheckpointDelta(
            moved
                .map(|(partition, to)| {
                    (
                        partition.clone(),
                        Span {
                            from: self.position(partition).clone(),
                            to: to.clone(),
                        },
                    )
                })
                .collect(),
        )
    }

    /// Judges `delta` against this checkpoint; see [`DeltaVerdict`] for the table of cases.
    pub fn apply(&self, delta: &CheckpointDelta) -> DeltaVerdict {
        let mut after = self.clone();
        let (mut applied, mut held, mut overlap) = (None, None, None);
        for (partition, Span { from, to }) in &delta.0 {
            let current = self.position(partition);
            if matches!(to.partial_cmp(current), Some(Ordering::Less | Ordering::Equal)) {
                held = Some(partition);
            } else if from == current {
                after.set(partition.clone(), to.clone());
                applied = Some(partition);
            } else if from.partial_cmp(current) == Some(Ordering::Less) && to.partial_cmp(current).is_some() {
                overlap = Some(partition);
            } else {
                return DeltaVerdict::Gap(partition.clone());
            }
        }
        match (overlap, held, applied) {
            (Some(partition), _, _) | (None, Some(partition), Some(_)) => DeltaVerdict::Overlap(partition.clone()),
            (None, Some(_), None) => DeltaVerdict::AlreadyApplied,
            (None, None, _) => DeltaVerdict::Applied(after),
        }
    }
}

impl FromIterator<(PartitionId, Position)> for Checkpoint {
    fn from_iter<I: IntoIterator<Item = (PartitionId, Position)>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}

impl CheckpointDelta {
    /// The advances, by partition name.
    pub fn iter(&self) -> impl Iterator<Item = (&PartitionId, &Span)> {
        self.0.iter()
    }

    /// Whether no partition moves.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(PartitionId, Span)> for CheckpointDelta {
    fn from_iter<I: IntoIterator<Item = (PartitionId, Span)>>(spans: I) -> Self {
        Self(spans.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partition(name: &str) -> PartitionId {
        PartitionId::new("s", name)
    }

    fn at(n: u64) -> Position {
        if n == 0 {
            Position::Beginning
        } else {
            Position::at(format!("{n:020}"))
        }
    }

    fn delta(spans: &[(&str, u64, u64)]) -> CheckpointDelta {
        spans
            .iter()
            .map(|&(p, from, to)| {
                (
                    partition(p),
                    Span {
                        from: at(from),
                        to: at(to),
                    },
                )
            })
            .collect()
    }

    fn checkpoint(positions: &[(&str, u64)]) -> Checkpoint {
        positions.iter().map(|&(p, n)| (partition(p), at(n))).collect()
    }

    #[test]
    fn the_table_of_verdicts_holds() {
        let five = checkpoint(&[("p", 5)]);
        assert_eq!(
            five.apply(&delta(&[("p", 5, 9)])),
            DeltaVerdict::Applied(checkpoint(&[("p", 9)]))
        );
        assert_eq!(five.apply(&delta(&[("p", 2, 5)])), DeltaVerdict::AlreadyApplied);
        assert_eq!(five.apply(&delta(&[("p", 6, 9)])), DeltaVerdict::Gap(partition("p")));
        assert_eq!(
            five.apply(&delta(&[("p", 4, 9)])),
            DeltaVerdict::Overlap(partition("p"))
        );
        assert_eq!(
            five.apply(&delta(&[("p", 2, 5), ("q", 0, 1)])),
            DeltaVerdict::Overlap(partition("p"))
        );
        assert_eq!(
            five.apply(&delta(&[("p", 4, 9), ("q", 3, 4)])),
            DeltaVerdict::Gap(partition("q"))
        );
    }

    #[test]
    fn the_end_of_a_partition_is_the_end_of_its_parts() {
        let (whole, part, beside) = (partition("copy/a"), partition("copy/a/7/0"), partition("copy/ab"));
        let mut held: Checkpoint = [(part.clone(), at(3)), (beside.clone(), at(1))].into_iter().collect();
        assert_eq!(*held.position(&whole), Position::Beginning);
        let other: Checkpoint = [(whole.clone(), Position::End), (beside.clone(), at(1))]
            .into_iter()
            .collect();
        assert_eq!(*other.position(&part), Position::End);
        assert_eq!(*other.position(&partition("copy")), Position::Beginning);
        // Who holds the whole holds the part as far as the other does.
        assert_eq!(held.least(&other), held);
        assert_eq!(other.least(&held), held);
        let delta = held.delta_to(&other);
        assert_eq!(held.apply(&delta), DeltaVerdict::Applied(other.clone()));
        held.raise(&whole, &Position::End);
        assert_eq!(held, other, "the part is forgotten");
        held.raise(&part, &at(9));
        assert_eq!(held, other);
    }

    #[test]
    fn a_token_that_is_not_the_expected_one_is_a_gap() {
        let token = |t: &str| Position::Token {
            number: u64::from(t == "c"),
            token: t.into(),
        };
        let held: Checkpoint = [(partition("p"), token("a"))].into_iter().collect();
        let follow = |from: &str| -> CheckpointDelta {
            [(
                partition("p"),
                Span {
                    from: token(from),
                    to: token("c"),
                },
            )]
            .into_iter()
            .collect()
        };
        assert!(matches!(held.apply(&follow("a")), DeltaVerdict::Applied(_)));
        assert_eq!(held.apply(&follow("b")), DeltaVerdict::Gap(partition("p")));
    }

    proptest! {
        #[test]
        fn applying_the_delta_between_two_checkpoints_reaches_the_second(
            start in proptest::collection::btree_map("[a-d]", 0u64..9, 0..4),
            steps in proptest::collection::btree_map("[a-d]", 0u64..9, 0..4),
        ) {
            let before: Checkpoint =
                start.iter().filter(|(_, n)| **n > 0).map(|(p, n)| (partition(p), at(*n))).collect();
            let mut after = before.clone();
            for (p, n) in &steps {
                after.raise(&partition(p), &at(start.get(p).unwrap_or(&0) + n));
            }
            let delta = before.delta_to(&after);
            prop_assert_eq!(before.apply(&delta), DeltaVerdict::Applied(after.clone()));
            if !delta.is_empty() {
                prop_assert_eq!(after.apply(&delta), DeltaVerdict::AlreadyApplied);
            }
        }
    }
}
