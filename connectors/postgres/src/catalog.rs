//! What the server's catalog says about tables, types and slots.

mod files;
mod partitions;
mod relation_look;
mod slot_facts;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use millstream_core::TableId;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio::time::sleep;

use crate::config::Settings;
use crate::decode::catalog_type::{CATALOG_QUERY, PARTS_QUERY};
use crate::decode::{Catalog, CatalogType, Lsn};
use crate::selection::{ROOT, with_published};
use crate::wire::{Connection, Row, WireError};

pub(crate) use self::files::{TableFile, read_files};
pub(crate) use self::partitions::{Partition, came_with_rows, read_partitions};
pub(crate) use self::relation_look::{LiveRelation, RelationLook, look_at_relation, name_of_relation};
pub(crate) use self::slot_facts::{Age, SlotFacts, SlotState, bytes_between, read_slot_facts};

/// A table that the catalog knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatalogTable {
    pub(crate) id: TableId,
    /// What it is called: another name than that in the pipeline, if it was renamed.
    pub(crate) present: TableId,
    pub(crate) oid: u32,
    /// `relkind`: `r` is a table, `p` a partitioned one, anything else cannot be replicated.
    pub(crate) kind: String,
    pub(crate) identity: ReplicaIdentity,
    /// Whether our role may SELECT what is published of it.
    pub(crate) readable: bool,
    /// Whether our role has USAGE on its schema.
    pub(crate) schema_usable: bool,
    /// Whether one of the publications covers it, under its own name.
    pub(crate) published: bool,
    /// The publication's row filter, an SQL expression in parentheses (PostgreSQL 15 and later).
    /// Of several publications a row need only pass one, and one without a filter passes all.
    pub(crate) row_filter: Option<String>,
    /// Whether row-level security hides rows of it from our role.
    pub(crate) row_security: bool,
    /// What is published of it, in the order of the table.
    pub(crate) columns: Vec<CatalogColumn>,
}

impl CatalogTable {
    /// The OIDs of its columns' types.
    pub(crate) fn types(&self) -> impl Iterator<Item = u32> + Send {
        self.columns.iter().map(|column| column.type_oid)
    }

    /// Whether its rows are told apart by a key.
    pub(crate) fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }
}

/// A published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatalogColumn {
    /// `attnum`, which a column keeps under any name, and which no later one gets. `None` where it is
    /// not certain.
    pub(crate) attnum: Option<i16>,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) typmod: i32,
    /// As `format_type` prints it: `numeric(12,2)`.
    pub(crate) type_name: String,
    pub(crate) not_null: bool,
    /// Part of the replica identity's index, or of the primary key where there is no such index.
    /// A deferrable primary key is none: inside a transaction its values need not be unique.
    pub(crate) key: bool,
}

/// What an UPDATE or a DELETE tells of the old row (PostgreSQL manual, ALTER TABLE … REPLICA IDENTITY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of a unique index.
    Index,
}

impl ReplicaIdentity {
    /// Reads `relreplident`.
    pub(crate) fn from_letter(letter: &str) -> Self {
        match letter {
            "n" => Self::Nothing,
            "f" => Self::Full,
            "i" => Self::Index,
            _ => Self::Default,
        }
    }
}

/// Row filters and column lists came with this version.
const FILTERED_PUBLICATIONS: u32 = 150_000;
/// Generated columns are sent from this version on, where the publication says so. Before it
/// they are not, although `pg_publication_tables` lists them where there is no column list.
const GENERATED_COLUMNS: u32 = 180_000;

/// Reads those of `wanted` that exist, in the order of `wanted`. One that was renamed is found by either
/// name: the relation that it is [known](crate::selection::Selection::known) to be, or else by the present one.
/// Where it is known, another relation that has the name from before is not it.
pub(crate) async fn read_tables(
    sql: &mut Connection,
    settings: &Settings,
    wanted: &[TableId],
) -> Result<Vec<CatalogTable>, WireError> {
    let publications = &settings.publications;
    let version = sql.server_version();
    let mut tables = Vec::with_capacity(wanted.len());
    if wanted.is_empty() {
        return Ok(tables);
    }
    for row in sql.query(&tables_query(settings, wanted, version)).await? {
        let index: usize = row.parse(0)?;
        let id = wanted
            .get(index)
            .ok_or_else(|| WireError::Protocol("an unknown table".to_owned()))?;
        tables.push(CatalogTable {
            id: id.clone(),
            present: TableId::new(&id.source, row.get(9), row.get(10).unwrap_or_default()),
            oid: row.parse(1)?,
            kind: row.get(2).unwrap_or_default().to_owned(),
            identity: ReplicaIdentity::from_letter(row.get(3).unwrap_or_default()),
            readable: row.is_true(4),
            schema_usable: row.is_true(5),
            published: row.is_true(6),
            row_filter: row.get(7).map(str::to_owned),
            row_security: row.is_true(8),
            columns: Vec::new(),
        });
    }
    if tables.is_empty() {
        return Ok(tables);
    }
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    for (oid, column) in read_columns(sql, publications, &oids).await? {
        if let Some(table) = tables.iter_mut().find(|table| table.oid == oid) {
            table.columns.push(column);
        }
    }
    Ok(tables)
}

/// Reads `wanted` as [`read_tables`] does, and again for a while where one is not there or not
/// published: a swap by names may take two transactions, and within a statement the server's
/// functions see newer tables than its joins (`pg_get_publication_tables`, which looks into its caches).
pub(crate) async fn read_settled_tables(
    sql: &mut Connection,
    settings: &Settings,
    wanted: &[TableId],
) -> Result<Vec<CatalogTable>, WireError> {
    let mut looks = 0;
    loop {
        let tables = read_tables(sql, settings, wanted).await?;
        looks += 1;
        let is_settled = tables.len() == wanted.len() && tables.iter().all(|table| table.published);
        if is_settled || looks == LOOKS {
            return Ok(tables);
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Looks until a table is taken for gone, and the time between them.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

/// The published columns of relations, each with its relation's OID, in order.
async fn read_columns(
    sql: &mut Connection,
    publications: &[String],
    oids: &[u32],
) -> Result<Vec<(u32, CatalogColumn)>, WireError> {
    let version = sql.server_version();
    let rows = sql.query(&columns_query(publications, oids, version)).await?;
    let column = |row: &Row| -> Result<_, WireError> {
        Ok(CatalogColumn {
            attnum: Some(row.parse(7)?),
            name: row.get(1).unwrap_or_default().to_owned(),
            type_oid: row.parse(2)?,
            typmod: row.parse(3)?,
            type_name: row.get(4).unwrap_or_default().to_owned(),
            not_null: row.is_true(5),
            key: row.is_true(6),
        })
    };
    rows.iter().map(|row| Ok((row.parse(0)?, column(row)?))).collect()
}

fn tables_query(settings: &Settings, wanted: &[TableId], version: u32) -> String {
    let mut names = String::new();
    for (index, table) in wanted.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        let name = |table: &TableId| {
            let schema = escape_literal(table.namespace.as_deref().unwrap_or("public"));
            format!("{schema},{}", escape_literal(&table.name))
        };
        // Writing to a String cannot fail.
        let _ = write!(
            names,
            "{separator}({index},{},{},{})",
            name(table),
            name(settings.selection.present(table)),
            settings
                .selection
                .known(table)
                .map_or("NULL::oid".to_owned(), |oid| format!("'{oid}'::oid"))
        );
    }
    let filter = if version >= FILTERED_PUBLICATIONS {
        "CASE WHEN bool_and(rowfilter IS NOT NULL) \
         THEN '(' || string_agg(DISTINCT '(' || rowfilter || ')', ' OR ') || ')' END"
    } else {
        "NULL"
    };
    let (list, readable) = if version >= FILTERED_PUBLICATIONS {
        // Privileges on the columns that are sent do as well.
        (
            "pg_catalog.min(attnames::text)::name[]",
            "pg_catalog.has_table_privilege(c.oid, 'SELECT') OR COALESCE((SELECT \
             bool_and(pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')) FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = c.oid AND (a.attname = ANY (p.names) OR a.attname = 'ctid')), false)",
        )
    } else {
        ("NULL", "pg_catalog.has_table_privilege(c.oid, 'SELECT')")
    };
    format!(
        "{}, filters AS (SELECT schemaname, tablename, {filter} AS filter, {list} AS names FROM pub GROUP BY schemaname, tablename) \
         SELECT w.i, c.oid, c.relkind, c.relreplident, \
         {readable}, pg_catalog.has_schema_privilege(n.oid, 'USAGE'), \
         p.tablename IS NOT NULL AND {ROOT} IS NULL, p.filter, pg_catalog.row_security_active(c.oid), \
         n.nspname, c.relname \
         FROM (VALUES {names}) AS w(i, schema, name, schema_now, name_now, known) \
         CROSS JOIN LATERAL (SELECT {} AS now, {} AS before) AS found \
         JOIN pg_catalog.pg_class c ON c.oid = CASE WHEN w.known IN (found.now, found.before) THEN w.known \
         WHEN w.known IS NULL THEN COALESCE(found.now, found.before) ELSE found.now END \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN filters p ON p.schemaname = n.nspname AND p.tablename = c.relname \
         ORDER BY w.i",
        with_published(&settings.publications),
        relation_of("w.schema_now", "w.name_now"),
        relation_of("w.schema", "w.name"),
    )
}

/// The OID of a table or view by its name.
fn relation_of(schema: &str, name: &str) -> String {
    format!(
        "(SELECT t.oid FROM pg_catalog.pg_class t JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace \
         WHERE s.nspname = {schema} AND t.relname = {name} AND t.relkind NOT IN ('i', 'I', 'S', 't', 'c'))"
    )
}

fn columns_query(publications: &[String], oids: &[u32], version: u32) -> String {
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    let published = match version {
        ..FILTERED_PUBLICATIONS => "a.attgenerated = ''",
        FILTERED_PUBLICATIONS..GENERATED_COLUMNS => {
            "a.attgenerated = '' AND (p.attnames IS NULL OR a.attname = ANY (p.attnames))"
        }
        GENERATED_COLUMNS.. => {
            "CASE WHEN p.attnames IS NULL THEN a.attgenerated = '' ELSE a.attname = ANY (p.attnames) END"
        }
    };
    format!(
        "{}, lists AS (SELECT DISTINCT ON (schemaname, tablename) * FROM pub ORDER BY schemaname, tablename, pubname) \
         SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod), \
         a.attnotnull, COALESCE(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false), a.attnum \
         FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN lists p ON p.schemaname = n.nspname AND p.tablename = c.relname \
         LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid \
         AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary AND i.indimmediate END \
         WHERE a.attrelid IN ({}) AND a.attnum > 0 AND NOT a.attisdropped AND {published} \
         ORDER BY a.attrelid, a.attnum",
        with_published(publications),
        oids.join(",")
    )
}

/// Reads those of `types` that are not PostgreSQL's own, and what they are made of.
pub(crate) async fn read_types(
    sql: &mut Connection,
    types: impl Iterator<Item = u32> + Send,
) -> Result<Catalog, WireError> {
    let oids: BTreeSet<u32> = types.collect();
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    let query = format!(
        "WITH RECURSIVE needed(oid) AS (\
         SELECT pg_catalog.unnest('{{{}}}'::oid[]) \
         UNION SELECT part.oid FROM needed \
         JOIN pg_catalog.pg_type t ON t.oid = needed.oid \
         CROSS JOIN LATERAL ({PARTS_QUERY}) AS part(oid)) \
         SELECT known.* FROM ({CATALOG_QUERY}) AS known JOIN needed ON needed.oid = known.oid",
        oids.join(",")
    );
    let mut catalog = Catalog::new();
    for row in sql.query(&query).await? {
        let found = CatalogType::read(|index| row.get(index));
        let found = found.ok_or_else(|| WireError::Protocol("a type without a name".to_owned()))?;
        catalog.insert(found.oid, found);
    }
    Ok(catalog)
}

/// The text of types as `format_type` prints them, in the order asked for.
pub(crate) async fn format_types(sql: &mut Connection, types: &[(u32, i32)]) -> Result<Vec<String>, WireError> {
    let calls: Vec<String> = types
        .iter()
        .map(|(oid, typmod)| format!("pg_catalog.format_type({oid}, {typmod})"))
        .collect();
    let rows = sql.query(&format!("SELECT {}", calls.join(","))).await?;
    let name = |index| rows.first().and_then(|row| row.get(index)).unwrap_or("???").to_owned();
    Ok((0..types.len()).map(name).collect())
}

/// The versions of the columns of `tables` and of their partitions, each with its table's OID. They
/// are other ones after an ALTER TABLE that may have rewritten the rows, and after the table was
/// replaced; not after a TRUNCATE, which the stream tells of, nor after a VACUUM FULL, which leaves
/// the rows to the snapshots that see them.
pub(crate) async fn read_column_versions(
    sql: &mut Connection,
    tables: &[CatalogTable],
) -> Result<Vec<(u32, String)>, WireError> {
    let oids: Vec<String> = tables.iter().map(|table| table.oid.to_string()).collect();
    let query = format!(
        "WITH whole AS (SELECT pg_catalog.unnest('{{{}}}'::oid[]) AS oid) \
         SELECT c.oid, pg_catalog.concat_ws(':', c.relam, c.relpersistence, \
         (SELECT pg_catalog.string_agg(pg_catalog.concat(a.attnum, '=', a.xmin), ',' ORDER BY a.attnum) \
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)) \
         FROM pg_catalog.pg_class c WHERE c.oid IN (SELECT oid FROM whole \
         UNION SELECT part.relid FROM whole CROSS JOIN LATERAL pg_catalog.pg_partition_tree(whole.oid::regclass) part) \
         ORDER BY c.oid",
        oids.join(",")
    );
    let rows = sql.query(&query).await?;
    rows.iter().map(|row| Ok((row.parse(0)?, row.parse(1)?))).collect()
}

/// Whether an update may leave values of `table` out of the stream: large ones (TOAST) that it did
/// not change, of which no before-image tells.
pub(crate) async fn may_leave_out(sql: &mut Connection, table: &CatalogTable) -> Result<bool, WireError> {
    if table.kind == "p" {
        // Each partition has an identity and columns of its own.
        return Ok(true);
    }
    if table.identity == ReplicaIdentity::Full {
        return Ok(false);
    }
    let query = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = {} AND attnum > 0 \
         AND NOT attisdropped AND attlen = -1 AND attstorage <> 'p')",
        table.oid
    );
    Ok(sql.query(&query).await?.first().is_none_or(|row| row.is_true(0)))
}

/// The end of the log on the server's disk; `None` on a standby, whose log grows from elsewhere.
pub(crate) async fn read_log_end(sql: &mut Connection) -> Result<Option<Lsn>, WireError> {
    let query = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
                 ELSE pg_catalog.pg_current_wal_flush_lsn() END";
    let rows = sql.query(query).await?;
    Ok(rows.first().and_then(|row| row.get(0)?.parse().ok()))
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) active_pid: Option<u32>,
    pub(crate) wal_status: Option<String>,
    /// What its reader confirmed; streaming cannot begin before it.
    pub(crate) confirmed: Option<Lsn>,
    /// Why it can no longer be read, where the server says (version 16 and later).
    pub(crate) invalidation: Option<String>,
}

impl Slot {
    /// Why a lost slot is lost, in words (PostgreSQL manual, 53.19 `invalidation_reason`).
    pub(crate) fn loss(&self) -> &'static str {
        match self.invalidation.as_deref() {
            Some("rows_removed" | "conflict") => "the standby removed catalog rows that the slot still needed",
            Some("wal_level_insufficient") => "the primary's wal_level no longer serves the slot",
            Some("idle_timeout") => "the server gave the slot up because nobody read it for too long",
            _ => "the server removed WAL that the slot still needed",
        }
    }
}

/// Reads the slot called `name`, if there is one.
pub(crate) async fn read_slot(sql: &mut Connection, name: &str) -> Result<Option<Slot>, WireError> {
    let query = format!(
        "SELECT s.plugin, s.database, s.active_pid, s.wal_status, s.confirmed_flush_lsn, {} \
         FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {}",
        slot_facts::invalidation_column(sql.server_version()),
        escape_literal(name)
    );
    let rows = sql.query(&query).await?;
    Ok(rows.first().map(|row| {
        let text = |index| Row::get(row, index).map(str::to_owned);
        Slot {
            plugin: text(0),
            database: text(1),
            active_pid: row.get(2).and_then(|pid| pid.parse().ok()),
            wal_status: text(3),
            confirmed: row.get(4).and_then(|lsn| lsn.parse().ok()),
            invalidation: text(5),
        }
    }))
}

/// `"schema"."table"`, quoted for SQL.
pub(crate) fn quoted(table: &TableId) -> String {
    let name = escape_identifier(&table.name);
    match &table.namespace {
        Some(schema) => format!("{}.{name}", escape_identifier(schema)),
        None => name,
    }
}
