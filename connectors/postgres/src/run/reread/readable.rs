//! What the catalog says of a table whose rows are read by their keys.

use std::collections::HashMap;

use crate::catalog::{CatalogColumn, CatalogTable, ReplicaIdentity};
use crate::wire::{Connection, ResultColumn, Row, WireError};

/// How columns are compared of which the index does not say it.
const EQUALS: &str = "OPERATOR(pg_catalog.=)";

/// A table to be read.
pub(super) struct Readable {
    pub(super) table: CatalogTable,
    /// By column of the key's index: the operator by which it is unique, which need not be in reach
    /// of the search path, as that of citext.
    equals: HashMap<String, String>,
    /// By number of a column of a domain: the type and modifier that lie under it.
    bases: HashMap<i16, (u32, i32)>,
}

impl Readable {
    /// Reads what else is needed of `table`.
    pub(super) async fn look_up(sql: &mut Connection, table: CatalogTable) -> Result<Self, WireError> {
        let named = |row: &Row| Some((row.get(0)?.to_owned(), row.get(1)?.to_owned()));
        let equals = sql.query(&equals_query(&table)).await?;
        let bases = sql.query(&bases_query(&table)).await?;
        let base = |row: &Row| Ok((row.parse(0)?, (row.parse(1)?, row.parse(2)?)));
        Ok(Self {
            equals: equals.iter().filter_map(named).collect(),
            bases: bases.iter().map(base).collect::<Result<_, WireError>>()?,
            table,
        })
    }

    /// What a column is now that rows were read with: it may have another name or type by now.
    /// One whose number is not known is known by its name.
    pub(super) fn present(&self, column: &CatalogColumn) -> Option<&CatalogColumn> {
        let is_it = |now: &&CatalogColumn| match column.attnum {
            Some(_) => now.attnum == column.attnum,
            None => now.name == column.name,
        };
        self.table.columns.iter().find(is_it)
    }

    /// The same, if its values are read in the same way.
    pub(super) fn present_alike(&self, column: &CatalogColumn) -> Option<&CatalogColumn> {
        let alike = |now: &&CatalogColumn| (now.type_oid, now.typmod) == (column.type_oid, column.typmod);
        self.present(column).filter(alike)
    }

    /// The type that the server takes and gives a column's values as: of a domain the one under it
    /// (`printtup.c`, `SendRowDescriptionMessage`).
    pub(super) fn sent_as(&self, column: &CatalogColumn) -> (u32, i32) {
        let base = self.present_alike(column).and_then(|now| self.bases.get(&now.attnum?));
        *base.unwrap_or(&(column.type_oid, column.typmod))
    }

    /// Whether a column of a result is this one, and its values are read in the same way: the
    /// catalog may have changed since it was looked at.
    pub(super) fn is_described(&self, column: &CatalogColumn, described: &ResultColumn) -> bool {
        let sent_as = (described.type_oid, described.typmod);
        let is_it = |now: &CatalogColumn| now.attnum == Some(described.attnum) && self.sent_as(column) == sent_as;
        described.table == self.table.oid && self.present_alike(column).is_some_and(is_it)
    }

    /// The operator that compares a column of the key.
    pub(super) fn equals(&self, column: &CatalogColumn) -> &str {
        self.equals.get(&column.name).map_or(EQUALS, String::as_str)
    }
}

fn equals_query(table: &CatalogTable) -> String {
    // Strategy 3 of a B-tree is equality. Other indexes, as of WITHOUT OVERLAPS, number them otherwise.
    format!(
        "SELECT a.attname, pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[])) AS k(attnum, opclass) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         JOIN pg_catalog.pg_opclass c ON c.oid = k.opclass \
         JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree' \
         JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3 \
         AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype \
         JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace \
         WHERE i.indrelid = {} AND {}",
        table.oid,
        if table.identity == ReplicaIdentity::Index {
            "i.indisreplident"
        } else {
            "i.indisprimary"
        },
    )
}

fn bases_query(table: &CatalogTable) -> String {
    // The modifier is that of the innermost domain: one of a domain itself there is not.
    format!(
        "WITH RECURSIVE under AS (\
         SELECT a.attnum, t.typbasetype, t.typtypmod FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'd' \
         WHERE a.attrelid = {} AND a.attnum > 0 AND NOT a.attisdropped \
         UNION ALL SELECT under.attnum, t.typbasetype, t.typtypmod FROM under \
         JOIN pg_catalog.pg_type t ON t.oid = under.typbasetype AND t.typtype = 'd') \
         SELECT under.attnum, under.typbasetype, under.typtypmod FROM under \
         JOIN pg_catalog.pg_type t ON t.oid = under.typbasetype AND t.typtype <> 'd'",
        table.oid
    )
}
