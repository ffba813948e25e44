//! The columns of a table at one moment, as the catalog or the stream told them, and the
//! schema that they make.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::Schema;
use millstream_core::{Error, ErrorKind, Result, TableId, TableSchema, envelope};

use crate::catalog::{CatalogColumn, CatalogTable, ReplicaIdentity};
use crate::decode::pgoutput::{Relation, RelationColumn};
use crate::decode::{Catalog, ColumnType, Forms};

/// Name of the Arrow field metadata that holds the column's type as PostgreSQL prints it.
pub const TYPE_METADATA: &str = "pg.type";

/// A table's columns and identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) id: TableId,
    pub(crate) identity: ReplicaIdentity,
    pub(crate) columns: Vec<CatalogColumn>,
    /// How values are stored.
    pub(crate) forms: Forms,
}

/// Types by OID, and their names by OID and typmod.
#[derive(Debug, Default)]
pub(crate) struct TypeNames {
    pub(crate) catalog: Catalog,
    pub(crate) names: HashMap<(u32, i32), String>,
}

impl TypeNames {
    /// The name of a column's type, empty if it is not known.
    pub(crate) fn name_of(&self, column: &RelationColumn<'_>) -> String {
        let typed = (column.type_oid, column.type_modifier);
        self.names.get(&typed).cloned().unwrap_or_default()
    }
}

impl Shape {
    /// The shape that the catalog tells.
    pub(crate) fn of(table: &CatalogTable, forms: Forms) -> Self {
        Self {
            id: table.id.clone(),
            identity: table.identity,
            columns: table.columns.clone(),
            forms,
        }
    }

    /// The shape that a Relation message alone tells. It knows neither NOT NULL nor, where the whole
    /// row or nothing is the replica identity, the primary key: those stay as they were.
    ///
    /// # Errors
    /// `SchemaChange` (PG0033) if that leaves it open which columns are the key.
    pub(crate) fn from_relation(relation: &Relation<'_>, before: &Shape, types: &TypeNames) -> Result<Self> {
        let identity = ReplicaIdentity::from_letter(char::from(relation.replica_identity).encode_utf8(&mut [0; 4]));
        let sent: Vec<RelationColumn<'_>> = relation.columns().collect();
        let columns = sent.iter().enumerate().map(|(index, column)| {
            let known = before.predecessor(index, &sent);
            CatalogColumn {
                attnum: None,
                name: column.name.to_owned(),
                type_oid: column.type_oid,
                typmod: column.type_modifier,
                type_name: types.name_of(column),
                not_null: known.is_some_and(|known| known.not_null),
                key: match identity {
                    ReplicaIdentity::Full | ReplicaIdentity::Nothing => known.is_some_and(|known| known.key),
                    ReplicaIdentity::Default | ReplicaIdentity::Index => column.key,
                },
            }
        });
        let shape = Self {
            id: before.id.clone(),
            identity,
            columns: columns.collect(),
            forms: before.forms,
        };
        let keys = |shape: &Self| shape.columns.iter().filter(|column| column.key).count();
        if matches!(identity, ReplicaIdentity::Full | ReplicaIdentity::Nothing) && keys(&shape) < keys(before) {
            return Err(before.lost_key());
        }
        Ok(shape)
    }

    /// The error for a table whose key is not known any more.
    pub(crate) fn lost_key(&self) -> Error {
        Error::new(
            ErrorKind::SchemaChange,
            "a key column was renamed or dropped, and the stream does not tell the new key",
        )
        .code("PG0033")
        .with("table", &self.id)
        .hint("drop the table in the target, so that it is copied anew with its new key")
    }

    /// What the column `sent[index]` was called and was, if it was there: the one with its name,
    /// or the one in its place if it can only have been renamed. A column that is added comes
    /// last, so that one before a column that kept its place and name is an old one.
    fn predecessor(&self, index: usize, sent: &[RelationColumn<'_>]) -> Option<&CatalogColumn> {
        let column = sent.get(index)?;
        let named = |known: &&CatalogColumn| known.name == column.name;
        self.columns.iter().find(named).or_else(|| {
            let known = self.columns.get(index)?;
            let same_type = (known.type_oid, known.typmod) == (column.type_oid, column.type_modifier);
            let is_gone = sent.iter().all(|column| column.name != known.name);
            let mut later = sent.iter().zip(&self.columns).skip(index + 1);
            let is_old = later.any(|(column, known)| column.name == known.name);
            (same_type && is_gone && is_old).then_some(known)
        })
    }

    /// How each column's values are read.
    pub(crate) fn column_types(&self, catalog: &Catalog) -> Vec<ColumnType> {
        self.columns
            .iter()
            .map(|column| ColumnType::resolve(column.type_oid, column.typmod, catalog).stored_as(self.forms))
            .collect()
    }

    /// Whether every column's binary form can be read without loss.
    pub(crate) fn binary_is_exact(&self, catalog: &Catalog) -> bool {
        !self.column_types(catalog).iter().any(ColumnType::needs_text_stream)
    }

    /// The schema of the table's batches.
    ///
    /// # Errors
    /// `SchemaChange` (PG0030) for a column with a reserved name, which would be taken for ours.
    pub(crate) fn schema(&self, catalog: &Catalog) -> Result<Arc<TableSchema>> {
        if let Some(column) = self.columns.iter().find(|column| envelope::is_reserved(&column.name)) {
            return Err(Error::new(
                ErrorKind::SchemaChange,
                "a column's name begins with `__`, which is reserved",
            )
            .code("PG0030")
            .with("table", &self.id)
            .with("column", &column.name)
            .hint("leave it out with a column list in the publication, or rename it and copy the table anew"));
        }
        let fields = self
            .columns
            .iter()
            .zip(self.column_types(catalog))
            .map(|(column, r#type)| {
                let metadata = [(TYPE_METADATA.to_owned(), column.type_name.clone())];
                r#type.field(&column.name).with_metadata(metadata.into())
            });
        let named = |wanted: fn(&CatalogColumn) -> bool| {
            self.columns
                .iter()
                .filter(|column| wanted(column))
                .map(|column| column.name.clone())
                .collect()
        };
        Ok(Arc::new(TableSchema {
            id: self.id.clone(),
            columns: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            key: named(|column| column.key),
            not_null: named(|column| column.not_null),
            before_image: self.identity == ReplicaIdentity::Full,
        }))
    }
}

impl TypeNames {
    /// Remembers the names that the catalog gave.
    pub(crate) fn learn(&mut self, columns: &[CatalogColumn]) {
        for column in columns {
            self.names
                .insert((column.type_oid, column.typmod), column.type_name.clone());
        }
    }

    /// The types of a relation that nobody asked the server about.
    pub(crate) fn unknown(&self, relation: &Relation<'_>) -> Vec<(u32, i32)> {
        let typed = relation.columns().map(|column| (column.type_oid, column.type_modifier));
        typed.filter(|typed| !self.names.contains_key(typed)).collect()
    }
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
