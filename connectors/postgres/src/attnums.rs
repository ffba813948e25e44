//! Which attributes of a table the columns of a Relation message are.
//!
//! The message has the columns that a table had at one moment of the past, in the order of their
//! numbers (`pg_attribute.attnum`), and does not say the numbers. The catalog says which numbers
//! there are now. A number is given once: to the next column that is added, and never again. So
//! the columns of the message are a choice of the numbers up to some last one, and often there is
//! only one choice.

/// A number that the catalog has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) attnum: i16,
    /// Whether the column is there now: not dropped.
    pub(crate) is_live: bool,
    /// Whether what the catalog says of it was so at the moment of the message already.
    pub(crate) is_settled: bool,
}

/// The numbers of the `count` columns of a message, where they are certain.
///
/// `now` are all numbers of the table, in order, dropped ones included. `before` are those that were
/// there at an earlier moment than the message's, all of them, in order; `None` if that is not known.
///
/// Names are not looked at: a column can be given any name, also that of one which was dropped.
pub(crate) fn certain(count: usize, before: Option<&[i16]>, now: &[Attribute]) -> Vec<Option<i16>> {
    let known = before.unwrap_or_default();
    let last_known = known.last().copied().unwrap_or(0);
    let last_settled = now.iter().filter(|one| one.is_settled).map(|one| one.attnum).max();
    let least_last = last_known.max(last_settled.unwrap_or(0));
    let mut found: Option<Vec<Option<i16>>> = None;
    // The moment is known by the number that was the last one given.
    let lasts = now.iter().map(|one| one.attnum).filter(|last| *last >= least_last);
    for last in std::iter::once(least_last).chain(lasts.filter(|last| *last > least_last)) {
        let there = |one: &&Attribute| one.attnum <= last;
        let may_be = |one: &Attribute| {
            let was_there = before.is_none() || one.attnum > last_known || known.contains(&one.attnum);
            was_there && (one.is_live || !one.is_settled)
        };
        let candidates: Vec<&Attribute> = now.iter().filter(there).filter(|one| may_be(one)).collect();
        let sure = candidates.iter().filter(|one| one.is_live).count();
        let Some(chosen) = count
            .checked_sub(sure)
            .filter(|chosen| sure + chosen <= candidates.len())
        else {
            continue;
        };
        // Of the choices among dropped ones, each place has its least number where the first are chosen,
        // and its greatest where the last are.
        let (first, last) = (
            choose(candidates.iter().copied(), chosen),
            choose(candidates.iter().rev().copied(), chosen),
        );
        let both = first.iter().zip(last.iter().rev());
        let same: Vec<Option<i16>> = both.map(|(one, other)| (one == other).then_some(*one)).collect();
        found = Some(match found {
            None => same,
            Some(found) => {
                let both = found.into_iter().zip(same);
                both.map(|(one, other)| one.filter(|_| one == other)).collect()
            }
        });
    }
    found.unwrap_or_else(|| vec![None; count])
}

/// The live ones, and the first `chosen` of the others.
fn choose<'a>(candidates: impl Iterator<Item = &'a Attribute>, mut chosen: usize) -> Vec<i16> {
    let taken = candidates.filter(|one| {
        let is_chosen = !one.is_live && chosen > 0;
        chosen -= usize::from(is_chosen);
        one.is_live || is_chosen
    });
    taken.map(|one| one.attnum).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `+` is live and `-` dropped; upper case, `P` and `M`, the same but not settled.
    fn now(letters: &str) -> Vec<Attribute> {
        let numbers = letters.chars().zip(1..);
        numbers
            .map(|(letter, attnum)| Attribute {
                attnum,
                is_live: "+P".contains(letter),
                is_settled: "+-".contains(letter),
            })
            .collect()
    }

    #[test]
    fn what_did_not_change_lately_is_certain() {
        assert_eq!(certain(2, None, &now("+-+")), [Some(1), Some(3)]);
        // The last was added, before or after the message.
        assert_eq!(certain(2, None, &now("+-+P")), [Some(1), Some(3)]);
        assert_eq!(certain(3, None, &now("+-+P")), [Some(1), Some(3), Some(4)]);
        // The second was dropped, before or after it.
        assert_eq!(certain(3, None, &now("+M+")), [Some(1), Some(2), Some(3)]);
        assert_eq!(certain(2, None, &now("+M+")), [Some(1), Some(3)]);
    }

    #[test]
    fn a_dropped_column_is_not_paired_with_an_added_one() {
        assert_eq!(certain(2, None, &now("+MP")), [Some(1), None]);
        assert_eq!(certain(2, Some(&[1, 2]), &now("PMP")), [Some(1), None]);
        assert_eq!(certain(3, Some(&[1, 2]), &now("PMP")), [Some(1), Some(2), Some(3)]);
        assert_eq!(certain(1, Some(&[1, 2]), &now("PMP")), [Some(1)]);
    }

    #[test]
    fn what_cannot_be_is_certain_of_nothing() {
        assert_eq!(certain(3, None, &now("++")), [None; 3]);
        assert_eq!(certain(1, None, &now("++")), [None]);
        assert_eq!(certain(1, None, &[]), [None]);
    }

    proptest! {
        /// A random history: columns are added and dropped; at one moment all is settled, at a later
        /// one the message is written, and the catalog is read at the end.
        #[test]
        fn what_is_certain_is_true(
            steps in proptest::collection::vec((any::<bool>(), 0usize..8), 1..25),
            settled_at in 0usize..25, known_at in 0usize..25, written_at in 0usize..25,
        ) {
            let (settled_at, known_at) = (settled_at.min(written_at), known_at.min(written_at));
            let mut table: Vec<(i16, bool, usize)> = Vec::new();
            let live = |table: &[(i16, bool, usize)]| -> Vec<i16> {
                table.iter().filter(|one| one.1).map(|one| one.0).collect()
            };
            let (mut known, mut written) = (Vec::new(), Vec::new());
            for (index, (add, which)) in steps.iter().enumerate() {
                if index == known_at { known = live(&table); }
                if index == written_at { written = live(&table); }
                if *add || live(&table).is_empty() {
                    let number = i16::try_from(table.len()).unwrap() + 1;
                    table.push((number, true, index));
                } else {
                    let numbers = live(&table);
                    let drop = numbers[which % numbers.len()];
                    let dropped = table.iter_mut().find(|one| one.0 == drop).unwrap();
                    (dropped.1, dropped.2) = (false, index);
                }
            }
            if known_at >= steps.len() { known = live(&table); }
            if written_at >= steps.len() { written = live(&table); }
            let now: Vec<Attribute> = table.iter().map(|(attnum, is_live, changed)| Attribute {
                attnum: *attnum, is_live: *is_live, is_settled: *changed < settled_at,
            }).collect();
            for before in [None, Some(known.as_slice())] {
                let found = certain(written.len(), before, &now);
                prop_assert_eq!(found.len(), written.len());
                for (found, truth) in found.iter().zip(&written) {
                    prop_assert!(found.is_none_or(|found| found == *truth), "{:?} {:?} {:?}", found, written, now);
                }
                // Something can only be unsure where columns were dropped.
                let since = |one: &Attribute| !one.is_live && !one.is_settled;
                if !now.iter().any(since) {
                    prop_assert!(found.iter().all(Option::is_some));
                }
            }
        }
    }
}
