//! Partitions that come and go while their table is read: no change tells of the rows that they
//! have at that time.

use std::collections::{BTreeMap, BTreeSet};

use millstream_core::TableId;

use crate::arrivals::Came;
use crate::catalog::{CatalogTable, Partition, came_with_rows};
use crate::wire::{Connection, WireError};

/// What is known of partitions, from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// Up to which transaction earlier runs saw all that came.
    saw: BTreeMap<TableId, u64>,
    /// Those of the last look; `None` before the first.
    seen: Option<Vec<Partition>>,
    /// Those that came and were told of.
    told: BTreeSet<Place>,
}

/// The table, the partition, and the transaction in which it came.
type Place = (u32, u32, u64);

fn place(partition: &Partition) -> Place {
    (partition.root, partition.oid, partition.since)
}

impl Partitions {
    pub(super) fn new(saw: BTreeMap<TableId, u64>) -> Self {
        Self { saw, ..Self::default() }
    }

    /// Takes a look at the partitions of `tables`. Returns those that it shows for the first time and
    /// that came with rows, and logs those that are gone.
    ///
    /// # Errors
    /// Those of the connection; the next look shows the same then.
    pub(super) async fn look(
        &mut self,
        sql: &mut Connection,
        tables: &[CatalogTable],
        found: Vec<Partition>,
    ) -> Result<Vec<Came>, WireError> {
        let table_of = |partition: &Partition| tables.iter().find(|table| table.oid == partition.root);
        let (new, mut came) = (self.came(tables, &found), Vec::new());
        for partition in &new {
            let Some(table) = table_of(partition) else { continue };
            if partition.is_leaf && has_rows(sql, table, partition).await? {
                came.push(Came {
                    table: table.id.clone(),
                    oid: partition.oid,
                    name: partition.name.clone(),
                    since: partition.since,
                });
            }
        }
        let new = new.into_iter().map(place).collect();
        for (partition, table) in self
            .take(found, new)
            .iter()
            .filter_map(|one| Some((one, table_of(one)?)))
        {
            tracing::warn!(
                code = "PG0054", table = %table.id, partition = partition.name,
                "a partition is gone from its table: its rows stay in the target"
            );
        }
        Ok(came)
    }

    /// Those of `found` that came since what is known, and were not told of.
    fn came<'a>(&self, tables: &[CatalogTable], found: &'a [Partition]) -> Vec<&'a Partition> {
        let saw = |partition: &Partition| {
            let table = tables.iter().find(|table| table.oid == partition.root)?;
            self.saw.get(&table.id)
        };
        let known: Option<BTreeSet<Place>> = self.seen.as_ref().map(|seen| seen.iter().map(place).collect());
        let is_new = |one: &Partition| known.as_ref().is_some_and(|known| !known.contains(&place(one)));
        let came = found.iter();
        let came = came.filter(|one| one.is_recent || is_new(one) || saw(one).is_some_and(|saw| one.since >= *saw));
        came.filter(|one| !self.told.contains(&place(one))).collect()
    }

    /// Takes `found` for what is known, and what was `new` of it for told. Returns what is not there any
    /// more.
    fn take(&mut self, found: Vec<Partition>, new: Vec<Place>) -> Vec<Partition> {
        let places: BTreeSet<Place> = found.iter().map(place).collect();
        self.told.extend(new);
        // It may come back.
        self.told.retain(|told| places.contains(told));
        // One that is being detached has another place, and is there.
        let there: BTreeSet<(u32, u32)> = found.iter().map(|one| (one.root, one.oid)).collect();
        let before = self.seen.replace(found).into_iter().flatten();
        before.filter(|one| !there.contains(&(one.root, one.oid))).collect()
    }
}

/// Whether a partition may have rows of before. It has where it cannot be seen soon: that costs no more
/// than a copy.
async fn has_rows(sql: &mut Connection, table: &CatalogTable, partition: &Partition) -> Result<bool, WireError> {
    sql.query(&format!("SET statement_timeout TO {LONGEST_LOOK}")).await?;
    let has_rows = match came_with_rows(sql, table, partition).await {
        Err(error) if error.sqlstate().is_some() => {
            tracing::debug!(partition = partition.name, %error, "a partition cannot be looked at");
            true
        }
        looked => looked?,
    };
    sql.query("RESET statement_timeout").await?;
    Ok(has_rows)
}

/// Milliseconds.
const LONGEST_LOOK: u32 = 5000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::ReplicaIdentity;

    fn tables() -> [CatalogTable; 1] {
        let id = TableId::new("shop", Some("public"), "parts");
        [CatalogTable {
            present: id.clone(),
            id,
            oid: 1,
            kind: "p".to_owned(),
            identity: ReplicaIdentity::Default,
            readable: true,
            schema_usable: true,
            published: true,
            row_filter: None,
            row_security: false,
            columns: Vec::new(),
        }]
    }

    fn partition(oid: u32, since: u64, is_recent: bool) -> Partition {
        Partition {
            root: 1,
            oid,
            name: format!("public.parts_{oid}"),
            is_leaf: true,
            was_a_table: true,
            since,
            command: 0,
            is_recent,
        }
    }

    /// The relations that come, and those that are gone.
    fn look(partitions: &mut Partitions, found: &[Partition]) -> (Vec<u32>, Vec<u32>) {
        let came: Vec<Partition> = partitions.came(&tables(), found).into_iter().cloned().collect();
        let gone = partitions.take(found.to_vec(), came.iter().map(place).collect());
        let oids = |found: Vec<Partition>| found.into_iter().map(|one| one.oid).collect();
        (oids(came), oids(gone))
    }

    #[test]
    fn each_partition_is_told_of_once_as_often_as_it_comes_and_goes() {
        let mut partitions = Partitions::default();
        let mut look = |found: &[Partition]| look(&mut partitions, found);
        let (old, new) = (partition(2, 20, false), partition(3, 30, true));
        assert_eq!(look(std::slice::from_ref(&old)), (vec![], vec![]));
        assert_eq!(look(&[old.clone(), new.clone()]), (vec![3], vec![]));
        assert_eq!(look(&[old.clone(), new.clone()]), (vec![], vec![]));
        assert_eq!(look(std::slice::from_ref(&old)), (vec![], vec![3]));
        assert_eq!(look(&[old.clone(), new.clone()]), (vec![3], vec![]));
        // Once all that followed is confirmed it looks like any other.
        assert_eq!(look(&[old.clone(), partition(3, 30, false)]), (vec![], vec![]));
        assert_eq!(look(std::slice::from_ref(&new)), (vec![], vec![2]));
        let passed = partition(4, 40, false);
        assert_eq!(look(&[new, passed]), (vec![4], vec![]));
    }

    #[test]
    fn one_that_left_and_came_between_two_looks_comes_anew() {
        let mut partitions = Partitions::default();
        look(&mut partitions, &[partition(2, 20, false)]);
        assert_eq!(look(&mut partitions, &[partition(2, 50, false)]), (vec![2], vec![]));
    }

    #[test]
    fn what_came_while_nobody_looked_is_known_by_its_transaction() {
        let mut partitions = Partitions::new([(tables()[0].id.clone(), 30)].into());
        let found = [partition(2, 29, false), partition(3, 30, false)];
        assert_eq!(look(&mut partitions, &found), (vec![3], vec![]));
        assert_eq!(look(&mut partitions, &found), (vec![], vec![]));
    }
}
