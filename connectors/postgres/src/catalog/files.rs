//! Where the rows of a table lie.

use super::{CatalogTable, quoted};
use crate::wire::{Connection, WireError};

/// A file that holds rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableFile {
    /// `pg_relation_filenode`
    pub(crate) node: u32,
    /// `"schema"."table"`, quoted for SQL, with `ONLY` where it is one relation alone.
    pub(crate) relation: String,
    /// An SQL expression that tells its rows from others of the relation, if there are others.
    pub(crate) filter: Option<String>,
    pub(crate) blocks: u32,
    /// Whether its rows can be read by their address (`ctid`).
    pub(crate) addressable: bool,
    /// Whether values of its rows may lie elsewhere, so that a few blocks may stand for very many bytes
    /// (PostgreSQL manual, chapter "Database Physical Storage", "TOAST").
    pub(crate) toasted: bool,
}

/// The files that hold the rows of `table`, or of these of its `partitions`, and the bytes of a block.
/// Those of a partitioned table of which our role may not read all by themselves are one file, without
/// addresses.
///
/// Partitions are those of the session's snapshot, and not those of now (`pg_partition_tree`): one that was
/// attached since may have rows that were deleted before.
pub(crate) async fn read_files(
    sql: &mut Connection,
    table: &CatalogTable,
    partitions: Option<&[u32]>,
) -> Result<(Vec<TableFile>, u64), WireError> {
    if partitions.is_some_and(<[u32]>::is_empty) {
        return Ok((Vec::new(), DEFAULT_BLOCK));
    }
    let query = format!(
        "WITH RECURSIVE tree AS (SELECT {oid}::oid AS oid UNION SELECT h.inhrelid FROM tree \
         JOIN pg_catalog.pg_inherits h ON h.inhparent = tree.oid WHERE '{kind}' = 'p'), \
         leaf AS (SELECT oid FROM tree WHERE '{wanted}' = '' OR oid = ANY ('{{{wanted}}}'::oid[])) \
         SELECT pg_catalog.pg_relation_filenode(c.oid), pg_catalog.format('%I.%I', n.nspname, c.relname), \
         pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8, am.amname = 'heap', \
         pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'), \
         current_setting('block_size'), c.oid, COALESCE(pg_catalog.pg_relation_size(c.reltoastrelid), 0) > 0 \
         FROM leaf JOIN pg_catalog.pg_class c ON c.oid = leaf.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam WHERE c.relkind = 'r' ORDER BY c.oid",
        wanted = partitions.map(joined).unwrap_or_default(),
        oid = table.oid,
        kind = if table.kind == "p" { "p" } else { "r" },
    );
    let (mut files, mut leaves, mut readable, mut block_bytes) = (Vec::new(), Vec::new(), true, DEFAULT_BLOCK);
    for row in sql.query(&query).await? {
        let blocks: u64 = row.parse(2)?;
        readable &= row.is_true(4);
        block_bytes = row.parse(5)?;
        leaves.push(row.parse(6)?);
        files.push(TableFile {
            node: row.parse(0)?,
            relation: format!("ONLY {}", row.get(1).unwrap_or_default()),
            filter: None,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            addressable: row.is_true(3),
            toasted: row.is_true(7),
        });
    }
    if !readable && table.kind == "p" {
        let filter = match partitions {
            Some(_) => Some(read_bounds(sql, &leaves).await?),
            None => None,
        };
        let blocks = files.iter().fold(0u32, |sum, file| sum.saturating_add(file.blocks));
        files = vec![TableFile {
            node: 0,
            relation: quoted(&table.present),
            filter,
            blocks,
            addressable: false,
            toasted: true,
        }];
    }
    Ok((files, block_bytes))
}

const DEFAULT_BLOCK: u64 = 8192;

/// The expression that rows of these partitions fulfil, and no others. The server leaves other
/// partitions unread by it, which it would not by `tableoid`.
async fn read_bounds(sql: &mut Connection, leaves: &[u32]) -> Result<String, WireError> {
    let query = format!(
        "SELECT pg_catalog.string_agg(pg_catalog.concat('(', \
         COALESCE(pg_catalog.pg_get_partition_constraintdef(oid), 'true'), ')'), ' OR ') \
         FROM pg_catalog.unnest('{{{}}}'::oid[]) AS leaf (oid)",
        joined(leaves)
    );
    let rows = sql.query(&query).await?;
    let bounds = rows.first().and_then(|row| row.get(0));
    Ok(bounds.unwrap_or("false").to_owned())
}

fn joined(oids: &[u32]) -> String {
    oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
