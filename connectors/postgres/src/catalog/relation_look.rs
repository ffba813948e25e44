//! What the catalog says now of a relation that the stream described as it was.

use postgres_protocol::escape::escape_literal;

use super::{CatalogColumn, ReplicaIdentity, read_columns, read_log_end};
use crate::attnums::Attribute;
use crate::decode::Lsn;
use crate::wire::{Connection, WireError};

/// One look at a relation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RelationLook {
    /// Everything that was committed up to here was seen; 0 on a standby, where that is not known.
    pub(crate) as_of: Lsn,
    /// `None` if there is no such relation any more.
    pub(crate) relation: Option<LiveRelation>,
}

/// A relation that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveRelation {
    pub(crate) identity: ReplicaIdentity,
    /// What is published of it, in order.
    pub(crate) columns: Vec<CatalogColumn>,
    /// All numbers that may belong to published columns, dropped ones included, in order.
    pub(crate) attributes: Vec<Attribute>,
    /// Whether its key has been the same for all that the slot still has to send.
    pub(crate) key_is_settled: bool,
}

/// Looks at the relation `oid`, for messages that `slot` sends and that are not confirmed yet.
///
/// What a transaction wrote into the catalog that is older than the slot's `catalog_xmin` is settled:
/// the server decodes with catalogs in which it is there, whatever it still has to send (PostgreSQL
/// manual, 53.19 `pg_replication_slots`; in the server `SnapBuildProcessRunningXacts`).
pub(crate) async fn look_at_relation(
    sql: &mut Connection,
    publications: &[String],
    slot: &str,
    oid: u32,
) -> Result<RelationLook, WireError> {
    let as_of = read_log_end(sql).await?.unwrap_or_default();
    // The queries must see one and the same catalog.
    sql.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    // Newer servers lock each published table for the list of its columns.
    sql.query("SET LOCAL statement_timeout = '4s'").await?;
    let settled = |row: &str| {
        format!(
            "COALESCE((SELECT pg_catalog.age({row}.xmin) > pg_catalog.age(s.catalog_xmin) \
             FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {}), false)",
            escape_literal(slot)
        )
    };
    let found = sql
        .query(&format!(
            "SELECT c.relreplident, \
             COALESCE((SELECT {} FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND CASE WHEN c.relreplident = 'i' \
             THEN i.indisreplident ELSE i.indisprimary AND i.indimmediate END), false), \
             NOT EXISTS (SELECT FROM pg_catalog.pg_publication p \
             LEFT JOIN pg_catalog.pg_publication_rel r ON p.oid = r.prpubid AND r.prrelid = c.oid \
             WHERE p.pubname IN ({}) AND NOT ({} AND (r.oid IS NULL OR {}))) \
             FROM pg_catalog.pg_class c WHERE c.oid = {oid}",
            settled("i"),
            publications.iter().map(|name| escape_literal(name)).collect::<Vec<_>>().join(","),
            settled("p"),
            settled("r"),
        ))
        .await?;
    let mut relation = None;
    if let Some(row) = found.first() {
        let columns = read_columns(sql, publications, &[oid]).await?;
        let columns: Vec<CatalogColumn> = columns.into_iter().map(|(_, column)| column).collect();
        let attributes = sql
            .query(&format!(
                "SELECT a.attnum, NOT a.attisdropped, {} FROM pg_catalog.pg_attribute a \
                 WHERE a.attrelid = {oid} AND a.attnum > 0 ORDER BY a.attnum",
                settled("a")
            ))
            .await?;
        // Which columns are published may have been another choice.
        let same_columns_are_published = row.is_true(2);
        let is_published = |attnum: i16| columns.iter().any(|column| column.attnum == Some(attnum));
        let mut all = Vec::with_capacity(attributes.len());
        for row in &attributes {
            let (attnum, is_live) = (row.parse(0)?, row.is_true(1));
            if !is_live || is_published(attnum) {
                all.push(Attribute {
                    attnum,
                    is_live,
                    is_settled: row.is_true(2),
                });
            } else if !same_columns_are_published {
                all.clear();
                break;
            }
        }
        relation = Some(LiveRelation {
            identity: ReplicaIdentity::from_letter(row.get(0).unwrap_or_default()),
            key_is_settled: row.is_true(1),
            attributes: all,
            columns,
        });
    }
    sql.query("COMMIT").await?;
    Ok(RelationLook { as_of, relation })
}

/// What the relation `oid` is called now, as `schema.name`; `None` if there is no such relation any more.
pub(crate) async fn name_of_relation(sql: &mut Connection, oid: u32) -> Result<Option<String>, WireError> {
    let query = format!(
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid}"
    );
    let rows = sql.query(&query).await?;
    Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
}
