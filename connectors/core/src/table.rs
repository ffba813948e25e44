//! Tables: their names, columns and keys.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::envelope;

/// A table of a source: a PostgreSQL table, a Kafka topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId {
    /// The source's name in the pipeline.
    pub source: Arc<str>,
    /// The source's own name space, such as a PostgreSQL schema.
    pub namespace: Option<Arc<str>>,
    /// The table's own name.
    pub name: Arc<str>,
}

impl TableId {
    /// Names a table of `source`.
    pub fn new(source: &str, namespace: Option<&str>, name: &str) -> Self {
        Self {
            source: source.into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
        }
    }

    /// The name within the source: `public.orders`, `clicks`.
    pub fn within_source(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}.{}", self.name),
            None => self.name.to_string(),
        }
    }
}

impl fmt::Display for TableId {
    /// `shop.public.orders`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.source, self.within_source())
    }
}

/// The columns and key of a table at one time. A change of the source's table makes a new
/// value; batches carry the one that was in force when their rows were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// The table.
    pub id: TableId,
    /// The user's columns, in order, without the reserved ones. Every field is nullable here,
    /// because a delete may carry the key alone; `not_null` names those that the source declares so.
    pub columns: SchemaRef,
    /// Names of the columns that identify a row; empty for a table without a key.
    pub key: Vec<String>,
    /// Names of the columns that the source declares NOT NULL.
    pub not_null: Vec<String>,
    /// Whether batches of this table carry the `__before` column.
    pub before_image: bool,
}

impl TableSchema {
    /// The schema of a change batch of this table: the user's columns, then the reserved ones
    /// in the order of [`envelope::fields`], then `__before` where there is one.
    pub fn batch_schema(&self) -> SchemaRef {
        let user = self.columns.fields().iter().cloned();
        let mut fields: Vec<Arc<Field>> = user.chain(envelope::fields()).collect();
        if self.before_image {
            fields.push(envelope::before_field(&self.columns));
        }
        Arc::new(Schema::new(fields))
    }
}
