//! The tables that a model's SQL can name.
//!
//! Table `orders` in name space `public` of source `shop` is `shop.orders`,
//! `shop."public.orders"` or `shop.public.orders`; in another name space it has the last two
//! forms only; without a name space it is `shop.orders`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use datafusion::catalog::empty::EmptyTable;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::{SessionConfig, SessionContext};
use millstream_core::{TableSchema, envelope};

use crate::date_trunc::date_trunc;

/// The name space that may be left out: PostgreSQL's own default.
const DEFAULT_NAMESPACE: &str = "public";

/// The default catalog, in which each source is a schema. No source can have this name, since
/// the name of each is a catalog, too.
const SOURCES: &str = "(sources)";

/// The source tables, and a session whose catalog holds their columns but no rows.
pub(crate) struct StreamCatalog {
    pub(crate) tables: Vec<Arc<TableSchema>>,
    pub(crate) state: SessionState,
}

impl StreamCatalog {
    pub(crate) fn new(tables: &[Arc<TableSchema>]) -> Result<Self, DataFusionError> {
        let context = SessionContext::new_with_state(session());
        let mut sources: BTreeMap<&str, Arc<MemorySchemaProvider>> = BTreeMap::new();
        let mut namespaces: BTreeMap<(&str, &str), Arc<MemorySchemaProvider>> = BTreeMap::new();
        for table in tables {
            let provider = Arc::new(EmptyTable::new(scan_schema(table)));
            let source = sources.entry(&table.id.source).or_default();
            for name in short_names(table) {
                source.register_table(name, provider.clone())?;
            }
            if let Some(namespace) = &table.id.namespace {
                let schema = namespaces.entry((&table.id.source, namespace)).or_default();
                schema.register_table(table.id.name.to_string(), provider)?;
            }
        }
        let catalog = Arc::new(MemoryCatalogProvider::new());
        for (source, schema) in sources {
            catalog.register_schema(source, schema)?;
        }
        context.register_catalog(SOURCES, catalog);
        let mut by_source: BTreeMap<&str, Arc<MemoryCatalogProvider>> = BTreeMap::new();
        for ((source, namespace), schema) in namespaces {
            by_source
                .entry(source)
                .or_default()
                .register_schema(namespace, schema)?;
        }
        for (source, catalog) in by_source {
            context.register_catalog(source, catalog);
        }
        Ok(Self {
            tables: tables.to_vec(),
            state: context.state(),
        })
    }

    /// The table that a name with these parts stands for.
    pub(crate) fn resolve(&self, parts: &[&str]) -> Option<usize> {
        self.tables.iter().position(|table| match parts {
            [source, name] => *source == &*table.id.source && short_names(table).any(|short| short == *name),
            [source, namespace, name] => {
                *source == &*table.id.source
                    && table.id.namespace.as_deref() == Some(*namespace)
                    && *name == &*table.id.name
            }
            _ => false,
        })
    }

    /// How each table is best written in SQL.
    pub(crate) fn written_names(&self) -> Vec<String> {
        self.tables.iter().map(|table| written(table)).collect()
    }

    /// How a table whose own name is `name` is written, for a hint.
    pub(crate) fn written_like(&self, name: &str) -> Option<String> {
        self.tables
            .iter()
            .find(|table| &*table.id.name == name)
            .map(|table| written(table))
    }
}

/// The columns that SQL can refer to: the user's, and the reserved ones that have a meaning
/// of their own. What the source did not send, and the before-image, are the engine's matter.
pub(crate) fn scan_schema(table: &TableSchema) -> SchemaRef {
    let user = table.columns.fields().iter().cloned();
    let reserved = envelope::fields().filter(|field| field.name() != envelope::UNCHANGED);
    Arc::new(Schema::new(user.chain(reserved).collect::<Vec<_>>()))
}

/// A session for planning. Text stays Utf8 and decimals stay exact, so that a model's columns
/// have the types that its tables have.
pub(crate) fn session() -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(SOURCES, "none")
        .with_create_default_catalog_and_schema(false)
        .with_target_partitions(1);
    let parser = &mut config.options_mut().sql_parser;
    parser.collect_spans = true;
    parser.parse_float_as_decimal = true;
    parser.map_string_types_to_utf8view = false;
    let mut builder = SessionStateBuilder::new().with_config(config).with_default_features();
    // The last of a name is taken.
    let functions = builder.scalar_functions().get_or_insert_default();
    functions.push(Arc::new(date_trunc()));
    builder.build()
}

fn short_names(table: &TableSchema) -> impl Iterator<Item = String> {
    let bare = match table.id.namespace.as_deref() {
        None | Some(DEFAULT_NAMESPACE) => Some(table.id.name.to_string()),
        Some(_) => None,
    };
    let full = table.id.namespace.is_some().then(|| table.id.within_source());
    bare.into_iter().chain(full)
}

fn written(table: &TableSchema) -> String {
    let name = short_names(table).next().unwrap_or_default();
    format!("{}.{}", quoted(&table.id.source), quoted(&name))
}

/// An identifier as SQL needs it: quoted unless it is plain lowercase.
pub(crate) fn quoted(name: &str) -> String {
    let plain = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty();
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
