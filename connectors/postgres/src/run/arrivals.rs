//! What the stream makes of partitions that came to its tables.

use std::collections::BTreeMap;

use millstream_core::{Checkpoint, Result, ResumePoints, TableId};

use super::copy::Purpose;
use super::membership::Seen;
use super::stream::Stream;
use crate::arrivals::{self, Came};
use crate::identity::Identity;
use crate::owed::filled;
use crate::plan::copy_partition;
use crate::recopy::Recopy;

/// Up to which transaction all target tables that have rows of each table know what came to it: from looks
/// and from the snapshot of its first copy. Tables of which that is not known are left out.
pub(super) fn known(tables: &[TableId], server: &Identity, resume: &ResumePoints) -> BTreeMap<TableId, u64> {
    let of = |table: &TableId| {
        let copy = copy_partition(table);
        let known = |held: &Checkpoint| {
            let copied = Purpose::First.first_horizon(&copy, held);
            arrivals::seen_up_to(&table.source, server, held).max(copied.unwrap_or(0))
        };
        let known = filled(table, resume).map(known).min()?;
        (known > 0).then(|| (table.clone(), known))
    };
    tables.iter().filter_map(of).collect()
}

impl Stream<'_> {
    /// Takes what a look at the catalog showed.
    pub(super) async fn take_look(&mut self, seen: Seen) -> Result<()> {
        if let Some(found) = seen.relations {
            self.compare_relations(&found).await?;
        }
        if self.assembler.is_leaving() {
            // Another table may be in the place of one: the next run looks again.
            return Ok(());
        }
        let came = self.arrivals.looked(seen.came, seen.horizon);
        self.owe_partitions(came);
        Ok(())
    }

    /// Has partitions copied that came to their tables with rows.
    pub(super) fn owe_partitions(&mut self, came: Vec<Came>) {
        let seen = self.arrivals.seen();
        let mut by_table: BTreeMap<TableId, Vec<(u32, u64)>> = BTreeMap::new();
        for one in came {
            if self.settings.recopy == Recopy::Never {
                tracing::warn!(
                    code = "PG0053", table = %one.table, partition = one.name,
                    "a partition was attached with the rows that it may have had: `millstream backfill` copies them"
                );
                continue;
            }
            let debt = self.debts.get(&one.table);
            if debt.is_some_and(|debt| debt.includes(one.oid, one.since)) {
                continue;
            }
            tracing::info!(table = %one.table, partition = one.name, "a partition was attached: its rows are copied");
            by_table.entry(one.table).or_default().push((one.oid, one.since));
        }
        for (table, came) in by_table {
            let have_begun = !self.copies.is_busy(&table);
            let debt = self.debts.entry(table.clone()).or_default();
            debt.add(came.iter().copied(), have_begun, seen.unwrap_or(0));
            self.assembler.remember(debt.told(&table));
            // What was owed before is copied before.
            let partitions = came.into_iter().map(|(oid, _)| oid).collect();
            self.copies.attached(&table, partitions, debt);
        }
        if let Some(horizon) = seen {
            self.assembler
                .remember(arrivals::seen(self.partition.source(), &self.identity, horizon));
        }
    }
}
