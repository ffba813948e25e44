//! Partitions that come and go while their table is read: no change tells of the rows that they
//! have at that time.

use std::collections::BTreeSet;

use crate::catalog::{CatalogTable, Partition};

/// What is known of partitions, from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// Those of the last look; `None` before the first.
    seen: Option<Vec<Partition>>,
    /// Those that came with rows and were told of.
    told: BTreeSet<(u32, u32)>,
}

impl Partitions {
    /// Takes a look at the partitions of `tables`, and logs what it shows for the first time.
    pub(super) fn look(&mut self, tables: &[CatalogTable], found: Vec<Partition>) {
        let (attached, gone) = self.compare(found);
        let table_of = |partition: &Partition| tables.iter().find(|table| table.oid == partition.root);
        for (partition, table) in attached.iter().filter_map(|one| Some((one, table_of(one)?))) {
            tracing::warn!(
                code = "PG0053", table = %table.id, partition = partition.name,
                "a partition was attached with the rows that it may have had: `millstream backfill` copies them"
            );
        }
        for (partition, table) in gone.iter().filter_map(|one| Some((one, table_of(one)?))) {
            tracing::warn!(
                code = "PG0054", table = %table.id, partition = partition.name,
                "a partition is gone from its table: its rows stay in the target"
            );
        }
    }

    /// The partitions that came with rows and were not told of yet, and those that are gone.
    fn compare(&mut self, found: Vec<Partition>) -> (Vec<Partition>, Vec<Partition>) {
        let place = |partition: &Partition| (partition.root, partition.oid);
        let there: BTreeSet<(u32, u32)> = found.iter().map(place).collect();
        let before = self.seen.replace(found);
        let known: Option<BTreeSet<(u32, u32)>> = before.as_ref().map(|seen| seen.iter().map(place).collect());
        let before = before.into_iter().flatten();
        let gone: Vec<Partition> = before.filter(|one| !there.contains(&place(one))).collect();
        for partition in &gone {
            // It may come back.
            self.told.remove(&place(partition));
        }
        // Between two looks the slot may have passed what happened.
        let is_new = |one: &Partition| known.as_ref().is_some_and(|known| !known.contains(&place(one)));
        let came = self.seen.iter().flatten();
        let came = came.filter(|one| one.was_a_table && (one.is_recent || is_new(one)));
        let news = came.filter(|one| self.told.insert(place(one))).cloned().collect();
        (news, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(oid: u32, was_a_table: bool, is_recent: bool) -> Partition {
        Partition {
            root: 1,
            oid,
            name: format!("public.parts_{oid}"),
            is_leaf: true,
            was_a_table,
            is_recent,
        }
    }

    #[test]
    fn each_partition_is_told_of_once_as_often_as_it_comes_and_goes() {
        let mut partitions = Partitions::default();
        let mut look = |found: &[Partition]| partitions.compare(found.to_vec());
        let (old, new) = (partition(2, false, false), partition(3, true, true));
        assert_eq!(look(std::slice::from_ref(&old)), (vec![], vec![]));
        assert_eq!(look(&[old.clone(), new.clone()]), (vec![new.clone()], vec![]));
        assert_eq!(look(&[old.clone(), new.clone()]), (vec![], vec![]));
        assert_eq!(look(std::slice::from_ref(&old)), (vec![], vec![new.clone()]));
        assert_eq!(look(&[old.clone(), new.clone()]), (vec![new.clone()], vec![]));
        // Once all that followed is confirmed it looks like any other.
        assert_eq!(look(&[old.clone(), partition(3, true, false)]), (vec![], vec![]));
        assert_eq!(look(std::slice::from_ref(&new)), (vec![], vec![old]));
        let passed = partition(4, true, false);
        assert_eq!(look(&[new, passed.clone()]), (vec![passed], vec![]));
    }
}
