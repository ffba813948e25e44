//! Which of the partitions that come to a table have rows that the target lacks.
//!
//! `ALTER TABLE … ATTACH PARTITION` writes no change of a row, so that the catalog is looked at now
//! and then. What a look shows is [owed](crate::attached) before or with the position by which the target
//! remembers that it was taken, so that an attachment that nothing remembers is shown by the next look,
//! whenever that is:
//!
//! ```text
//! shop/partitions/7291…-1   00000000000000004711   attachments by transactions before this one were seen
//! ```
//!
//! Transactions are those of one server's timeline: of another nothing was seen yet, apart from what a
//! snapshot included.

use std::collections::BTreeMap;

use millstream_core::{Checkpoint, PartitionId, Position, TableId};

use crate::identity::Identity;

/// How the target is told that a look at a server saw all attachments by transactions before `horizon`.
pub(crate) fn seen(source: &str, server: &Identity, horizon: u64) -> (PartitionId, Position) {
    (seen_partition(source, server), Position::at(format!("{horizon:020}")))
}

/// Up to which transaction a target table knows attachments from looks at a server; zero if it does not.
pub(crate) fn seen_up_to(source: &str, server: &Identity, held: &Checkpoint) -> u64 {
    let seen = held.position(&seen_partition(source, server)).ordered();
    seen.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn seen_partition(source: &str, server: &Identity) -> PartitionId {
    PartitionId::new(source, format_args!("partitions/{}-{}", server.system, server.timeline))
}

/// A partition that came to its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) table: TableId,
    pub(crate) oid: u32,
    /// `schema.partition`
    pub(crate) name: String,
    /// The transaction in which it became a partition.
    pub(crate) since: u64,
}

/// Which partitions came, and what is known of that.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// Attachments by transactions before this one are in the target, or owed to it.
    known: BTreeMap<TableId, u64>,
    /// Tables of which a snapshot is still to be taken, and what came to them meanwhile: it may include
    /// that.
    awaited: BTreeMap<TableId, Vec<Came>>,
    /// What the last look saw.
    horizon: u64,
}

impl Arrivals {
    /// `known` for each table, of which those in `awaited` are copied from the beginning, or on.
    pub(crate) fn new(known: BTreeMap<TableId, u64>, awaited: impl IntoIterator<Item = TableId>) -> Self {
        Self {
            known,
            awaited: awaited.into_iter().map(|table| (table, Vec::new())).collect(),
            horizon: 0,
        }
    }

    /// Takes what a look showed for the first time. Returns that of which a copy is owed.
    pub(crate) fn looked(&mut self, came: Vec<Came>, horizon: u64) -> Vec<Came> {
        self.horizon = self.horizon.max(horizon);
        let mut owed = Vec::new();
        for one in came {
            if let Some(waiting) = self.awaited.get_mut(&one.table) {
                waiting.push(one);
            } else if !self.is_known(&one) {
                owed.push(one);
            }
        }
        owed
    }

    /// Takes the news that `table` is copied under a snapshot with this horizon. Returns what is owed
    /// beside that. Of a copy that goes on, a part was read under an earlier one.
    pub(crate) fn copied(&mut self, table: &TableId, horizon: u64) -> Vec<Came> {
        let Some(mut owed) = self.awaited.remove(table) else {
            return Vec::new();
        };
        self.known.entry(table.clone()).or_insert(horizon);
        owed.retain(|one| !self.is_known(one));
        owed
    }

    fn is_known(&self, one: &Came) -> bool {
        self.known.get(&one.table).is_some_and(|known| one.since < *known)
    }

    /// Up to where all attachments are known, if that is so of all tables.
    pub(crate) fn seen(&self) -> Option<u64> {
        let all_are_known = self.awaited.values().all(Vec::is_empty);
        Some(self.horizon).filter(|horizon| *horizon > 0 && all_are_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableId {
        TableId::new("shop", Some("public"), "orders")
    }

    fn came(oid: u32, since: u64) -> Came {
        Came {
            table: table(),
            oid,
            name: format!("public.orders_{oid}"),
            since,
        }
    }

    fn oids(came: &[Came]) -> Vec<u32> {
        came.iter().map(|one| one.oid).collect()
    }

    #[test]
    fn what_a_snapshot_or_an_earlier_look_included_is_not_owed() {
        let mut seen = Arrivals::new([(table(), 50)].into(), []);
        assert_eq!(seen.seen(), None);
        assert_eq!(oids(&seen.looked(vec![came(1, 49), came(2, 50)], 60)), [2]);
        assert_eq!(seen.seen(), Some(60));

        let mut awaited = Arrivals::new(BTreeMap::new(), [table()]);
        assert_eq!(oids(&awaited.looked(vec![came(1, 70), came(2, 80)], 90)), [0; 0]);
        assert_eq!(awaited.seen(), None, "a restart has to see them again");
        assert_eq!(oids(&awaited.copied(&table(), 80)), [2]);
        assert_eq!(awaited.seen(), Some(90));
        assert_eq!(oids(&awaited.looked(vec![came(3, 95)], 96)), [3]);
    }

    #[test]
    fn of_a_copy_that_goes_on_the_first_snapshot_counts() {
        let mut arrivals = Arrivals::new([(table(), 50)].into(), [table()]);
        arrivals.looked(vec![came(1, 49), came(2, 60)], 90);
        assert_eq!(oids(&arrivals.copied(&table(), 80)), [2]);
        assert_eq!(oids(&arrivals.copied(&table(), 99)), [0; 0]);
    }

    #[test]
    fn a_look_is_remembered_as_a_number_that_grows() {
        let server = |timeline| Identity {
            system: "7".to_owned(),
            timeline,
            history: Vec::new(),
        };
        let mut held = Checkpoint::default();
        for horizon in [4711, 20_000, 9_000] {
            let (partition, position) = seen("shop", &server(1), horizon);
            held.raise(&partition, &position);
        }
        assert_eq!(seen_up_to("shop", &server(1), &held), 20_000);
        assert_eq!(seen_up_to("shop", &server(2), &held), 0);
    }
}
