//! The columns of a table at one moment, as the catalog or the stream told them, and the
//! schema that they make.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::Schema;
use millstream_core::{TableId, TableSchema};

use crate::catalog::{CatalogColumn, CatalogTable, ReplicaIdentity};
use crate::decode::pgoutput::Relation;
use crate::decode::{Catalog, ColumnType, binary_is_exact};

/// Name of the Arrow field metadata that holds the column's type as PostgreSQL prints it.
pub const TYPE_METADATA: &str = "pg.type";

/// A table's columns and identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) id: TableId,
    pub(crate) identity: ReplicaIdentity,
    pub(crate) columns: Vec<CatalogColumn>,
}

/// Types by OID, and their names by OID and typmod.
#[derive(Debug, Default)]
pub(crate) struct TypeNames {
    pub(crate) catalog: Catalog,
    pub(crate) names: HashMap<(u32, i32), String>,
}

impl From<&CatalogTable> for Shape {
    fn from(table: &CatalogTable) -> Self {
        Self {
            id: table.id.clone(),
            identity: table.identity,
            columns: table.columns.clone(),
        }
    }
}

impl Shape {
    /// The shape that a Relation message tells. It knows neither NOT NULL nor, where the whole
    /// row or nothing is the replica identity, the primary key: those stay as they were.
    pub(crate) fn from_relation(relation: &Relation<'_>, before: &Shape, types: &TypeNames) -> Self {
        let identity = ReplicaIdentity::from_letter(char::from(relation.replica_identity).encode_utf8(&mut [0; 4]));
        let columns = relation.columns().map(|column| {
            let known = before.columns.iter().find(|known| known.name == column.name);
            let typed = (column.type_oid, column.type_modifier);
            CatalogColumn {
                name: column.name.to_owned(),
                type_oid: column.type_oid,
                typmod: column.type_modifier,
                type_name: types.names.get(&typed).cloned().unwrap_or_default(),
                not_null: known.is_some_and(|known| known.not_null),
                key: match identity {
                    ReplicaIdentity::Full | ReplicaIdentity::Nothing => known.is_some_and(|known| known.key),
                    ReplicaIdentity::Default | ReplicaIdentity::Index => column.key,
                },
            }
        });
        Self {
            id: before.id.clone(),
            identity,
            columns: columns.collect(),
        }
    }

    /// How each column's values are read.
    pub(crate) fn column_types(&self, catalog: &Catalog) -> Vec<ColumnType> {
        self.columns
            .iter()
            .map(|column| ColumnType::resolve(column.type_oid, column.typmod, catalog))
            .collect()
    }

    /// Whether every column's binary form can be read without loss.
    pub(crate) fn binary_is_exact(&self, catalog: &Catalog) -> bool {
        self.column_types(catalog).iter().all(binary_is_exact)
    }

    /// The schema of the table's batches.
    pub(crate) fn schema(&self, catalog: &Catalog) -> Arc<TableSchema> {
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
        Arc::new(TableSchema {
            id: self.id.clone(),
            columns: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            key: named(|column| column.key),
            not_null: named(|column| column.not_null),
            before_image: self.identity == ReplicaIdentity::Full,
        })
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
