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
    /// Whether it was a table of its own and became a partition since the slot's place: the rows
    /// that it had then are told by no change.
    pub(crate) came_with_rows: bool,
}

/// Reads the partitions of those of `tables` that are partitioned.
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
        "WITH whole AS (SELECT pg_catalog.unnest('{{{}}}'::oid[]) AS oid) \
         SELECT whole.oid, c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), \
         h.xmin <> a.xmin AND NOT h.inhdetachpending AND EXISTS (SELECT FROM pg_catalog.pg_replication_slots s \
         WHERE s.slot_name = {} AND pg_catalog.age(h.xmin) <= pg_catalog.age(s.catalog_xmin)) \
         FROM whole CROSS JOIN LATERAL pg_catalog.pg_partition_tree(whole.oid::regclass) part \
         JOIN pg_catalog.pg_class c ON c.oid = part.relid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tableoid' \
         WHERE c.oid <> whole.oid ORDER BY 1, 2",
        roots.join(","),
        escape_literal(slot)
    );
    let rows = sql.query(&query).await?;
    let partition = |row: &crate::wire::Row| -> Result<_, WireError> {
        Ok(Partition {
            root: row.parse(0)?,
            oid: row.parse(1)?,
            name: row.get(2).unwrap_or_default().to_owned(),
            came_with_rows: row.is_true(3),
        })
    };
    rows.iter().map(partition).collect()
}
