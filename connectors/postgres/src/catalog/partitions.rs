//! The partitions of tables whose changes come under the table's own name.

use postgres_protocol::escape::escape_literal;

use super::{CatalogTable, quoted};
use crate::wire::{Connection, Row, WireError};

/// A partition, at any level below its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Partition {
    /// The table that is read.
    pub(crate) root: u32,
    pub(crate) oid: u32,
    /// `schema.partition`, quoted for SQL.
    pub(crate) name: String,
    /// Whether it has rows of the log, which are neither in partitions of its own nor elsewhere.
    pub(crate) is_leaf: bool,
    /// Whether it was made in an earlier transaction than it came to its table in, or may have been: the
    /// rows that it may have had by then are told by no change.
    pub(crate) was_a_table: bool,
    /// The transaction in which it came to its table, by itself or with what it is a partition of.
    pub(crate) since: u64,
    /// The command of that transaction (`cmin`).
    pub(crate) command: u32,
    /// Whether it became one since the slot's place.
    pub(crate) is_recent: bool,
}

/// What a look at partitions shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartitionLook {
    pub(crate) partitions: Vec<Partition>,
    /// Every transaction before this one had ended by then: `pg_snapshot_xmin`. Zero where no table is
    /// partitioned.
    pub(crate) horizon: u64,
}

/// Reads the partitions of those of `tables` that are partitioned. Not by `pg_partition_tree`, which
/// locks them all and would wait for whoever changes one.
///
/// The row of `pg_inherits` is as old as the attachment; that of a system column, which nothing
/// changes, as old as the relation. `CREATE TABLE … PARTITION OF` makes both in one transaction. One with
/// an `xmax` was to be detached, which did not come to pass, and has another `cmin` since. What is older
/// than the slot's `catalog_xmin` was so before all that the slot still sends.
pub(crate) async fn read_partitions(
    sql: &mut Connection,
    tables: &[CatalogTable],
    slot: &str,
) -> Result<PartitionLook, WireError> {
    let roots = tables.iter().filter(|table| table.kind == "p" && table.published);
    let roots: Vec<String> = roots.map(|table| table.oid.to_string()).collect();
    if roots.is_empty() {
        return Ok(PartitionLook::default());
    }
    let query = format!(
        "WITH RECURSIVE part AS (SELECT r.oid AS root, h.inhrelid AS oid, h.xmin AS since, \
         h.cmin::pg_catalog.text::int8 AS command, h.inhdetachpending AS leaves, h.xmax::pg_catalog.text <> '0' AS stayed \
         FROM pg_catalog.unnest('{{{}}}'::oid[]) AS r (oid) JOIN pg_catalog.pg_inherits h ON h.inhparent = r.oid \
         UNION ALL SELECT part.root, h.inhrelid, CASE WHEN newer THEN h.xmin ELSE part.since END, \
         CASE WHEN newer THEN h.cmin::pg_catalog.text::int8 ELSE part.command END, part.leaves OR h.inhdetachpending, \
         part.stayed OR h.xmax::pg_catalog.text <> '0' \
         FROM part JOIN pg_catalog.pg_inherits h ON h.inhparent = part.oid CROSS JOIN LATERAL \
         (SELECT (pg_catalog.age(h.xmin), -h.cmin::pg_catalog.text::int8) < (pg_catalog.age(part.since), -part.command) \
         AS newer) which) \
         SELECT part.root, c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind = 'r', \
         (part.since <> a.xmin OR part.stayed) AND NOT part.leaves, EXISTS (SELECT FROM pg_catalog.pg_replication_slots s \
         WHERE s.slot_name = {} AND pg_catalog.age(part.since) BETWEEN 0 AND pg_catalog.age(s.catalog_xmin)), \
         part.since, part.command, pg_catalog.pg_snapshot_xmin(now.seen), pg_catalog.pg_snapshot_xmax(now.seen) \
         FROM (SELECT pg_catalog.pg_current_snapshot() AS seen) now CROSS JOIN part \
         JOIN pg_catalog.pg_class c ON c.oid = part.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tableoid' ORDER BY 1, 2",
        roots.join(","),
        escape_literal(slot)
    );
    let rows = sql.query(&query).await?;
    let partition = |row: &Row| -> Result<_, WireError> {
        Ok(Partition {
            root: row.parse(0)?,
            oid: row.parse(1)?,
            name: row.get(2).unwrap_or_default().to_owned(),
            is_leaf: row.is_true(3),
            was_a_table: row.is_true(4),
            is_recent: row.is_true(5),
            since: whole_xid(row.parse(6)?, row.parse(9)?),
            command: row.parse(7)?,
        })
    };
    Ok(PartitionLook {
        partitions: rows.iter().map(partition).collect::<Result<_, _>>()?,
        horizon: rows.first().map_or(Ok(0), |row| row.parse(8))?,
    })
}

/// The number of the transaction that wrote a row with this `xmin`, the lower half of it, seen by a
/// snapshot to which `next` and those after it have not ended. What looks to be of such a one is more
/// than 2^31 transactions old.
fn whole_xid(xmin: u32, next: u64) -> u64 {
    let lower = next & u64::from(u32::MAX);
    let age = lower.wrapping_sub(u64::from(xmin)) & u64::from(u32::MAX);
    if age == 0 || age > u64::from(u32::MAX) / 2 {
        return 0;
    }
    next.saturating_sub(age)
}

/// Whether a `partition` may have rows that it had before it came. If it was no table before, those are
/// looked for in its first blocks, which are read by its table, since that is what its readers may read.
///
/// # Errors
/// Those of the server too: that it may not be looked at, or not soon.
pub(crate) async fn came_with_rows(
    sql: &mut Connection,
    table: &CatalogTable,
    partition: &Partition,
) -> Result<bool, WireError> {
    let oid = partition.oid;
    let query =
        format!("SELECT pg_catalog.pg_relation_size({oid}) > 0, pg_catalog.pg_get_partition_constraintdef({oid})");
    let rows = sql.query(&query).await?;
    let Some(row) = rows.first().filter(|row| row.is_true(0)) else {
        return Ok(false);
    };
    if partition.was_a_table {
        return Ok(true);
    }
    // The expression has the server leave other partitions unread.
    let bounds = row.get(1).unwrap_or("true");
    let query = format!(
        "SELECT EXISTS (SELECT FROM {} WHERE {bounds} AND tableoid = {oid} AND ctid < '({FIRST_BLOCKS},0)' \
         AND xmin = '{}'::pg_catalog.xid AND cmin::pg_catalog.text::int8 < {})",
        quoted(&table.present),
        partition.since & u64::from(u32::MAX),
        partition.command,
    );
    Ok(sql.query(&query).await?.first().is_some_and(|row| row.is_true(0)))
}

/// Rows that a partition had before all others are at its beginning, unless they were changed since.
const FIRST_BLOCKS: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transaction_of_a_row_is_the_last_with_its_lower_half() {
        let era = 1u64 << 32;
        assert_eq!(whole_xid(700, 701), 700);
        assert_eq!(whole_xid(700, 3 * era + 701), 3 * era + 700);
        assert_eq!(whole_xid(u32::MAX, 3 * era + 5), 3 * era - 1);
        assert_eq!(whole_xid(3_000_000_000, 3 * era + 5), 2 * era + 3_000_000_000);
        assert_eq!(whole_xid(9, 3 * era + 5), 0, "frozen long ago");
    }
}
