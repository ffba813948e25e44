//! The partitions of tables whose changes come under the table's own name.

use postgres_protocol::escape::escape_literal;

use super::CatalogTable;
use crate::wire::{Connection, WireError};

/// A partition, at any level below its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Partition {
    /// The table that is read.
    pub(crate) root: u32,
    pub(crate) oid: u32,
    /// `schema.partition`, quoted for SQL.
    pub(crate) name: String,
    /// Whether rows are in it, and not in partitions of its own.
    pub(crate) is_leaf: bool,
    /// Whether it was a table before it became a partition: the rows that it may have had then are
    /// told by no change.
    pub(crate) was_a_table: bool,
    /// Whether it became one since the slot's place.
    pub(crate) is_recent: bool,
}

/// Reads the partitions of those of `tables` that are partitioned. Not by `pg_partition_tree`, which
/// locks them all and would wait for whoever changes one.
///
/// The row of `pg_inherits` is as old as the attachment; that of a system column, which nothing
/// changes, as old as the relation. `CREATE TABLE … PARTITION OF` makes both in one transaction. What
/// is older than the slot's `catalog_xmin` was so before all that the slot still sends.
pub(crate) async fn read_partitions(
    sql: &mut Connection,
    tables: &[CatalogTable],
    slot: &str,
) -> Result<Vec<Partition>, WireError> {
    let roots = tables.iter().filter(|table| table.kind == "p" && table.published);
    let roots: Vec<String> = roots.map(|table| table.oid.to_string()).collect();
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let query = format!(
        "WITH RECURSIVE part AS (SELECT r.oid AS root, h.inhrelid AS oid, h.xmin, h.inhdetachpending \
         FROM pg_catalog.unnest('{{{}}}'::oid[]) AS r (oid) JOIN pg_catalog.pg_inherits h ON h.inhparent = r.oid \
         UNION ALL SELECT part.root, h.inhrelid, h.xmin, h.inhdetachpending \
         FROM part JOIN pg_catalog.pg_inherits h ON h.inhparent = part.oid) \
         SELECT part.root, c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind <> 'p', \
         part.xmin <> a.xmin AND NOT part.inhdetachpending, EXISTS (SELECT FROM pg_catalog.pg_replication_slots s \
         WHERE s.slot_name = {} AND pg_catalog.age(part.xmin) BETWEEN 0 AND pg_catalog.age(s.catalog_xmin)) \
         FROM part JOIN pg_catalog.pg_class c ON c.oid = part.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tableoid' ORDER BY 1, 2",
        roots.join(","),
        escape_literal(slot)
    );
    let rows = sql.query(&query).await?;
    let partition = |row: &crate::wire::Row| -> Result<_, WireError> {
        Ok(Partition {
            root: row.parse(0)?,
            oid: row.parse(1)?,
            name: row.get(2).unwrap_or_default().to_owned(),
            is_leaf: row.is_true(3),
            was_a_table: row.is_true(4),
            is_recent: row.is_true(5),
        })
    };
    rows.iter().map(partition).collect()
}
