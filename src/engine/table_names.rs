//! Which source table a name means.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result, TableSchema};

/// The source tables by the names that they go by. Looking one up does not get slower with their number: a source may
/// have thousands.
pub struct TableNames<'a> {
    schemas: &'a [Arc<TableSchema>],
    /// By each way to write a table's name: `orders`, `public.orders`, `shop.orders`, `shop.public.orders`.
    meant: HashMap<String, Vec<&'a Arc<TableSchema>>>,
    /// How many tables have a name as their own.
    bearers: HashMap<&'a str, usize>,
}

impl<'a> TableNames<'a> {
    /// The names of these tables.
    pub fn new(schemas: &'a [Arc<TableSchema>]) -> Self {
        let mut meant: HashMap<String, Vec<&Arc<TableSchema>>> = HashMap::new();
        let mut bearers = HashMap::new();
        for schema in schemas {
            let id = &schema.id;
            *bearers.entry(&*id.name).or_default() += 1;
            let mut ways = vec![
                id.name.to_string(),
                id.within_source(),
                format!("{}.{}", id.source, id.name),
                id.to_string(),
            ];
            // Without a name space some of them are one.
            ways.sort_unstable();
            ways.dedup();
            for way in ways {
                meant.entry(way).or_default().push(schema);
            }
        }
        Self {
            schemas,
            meant,
            bearers,
        }
    }

    /// The table that `name` means.
    ///
    /// # Errors
    /// `Config` if there is none, or more than one.
    pub fn find(&self, name: &str) -> Result<&'a Arc<TableSchema>> {
        match self.meant.get(name).map_or(&[][..], Vec::as_slice) {
            [one] => Ok(one),
            [] => {
                let known: Vec<_> = self.schemas.iter().map(|schema| schema.id.within_source()).collect();
                Err(Error::new(
                    ErrorKind::Config,
                    format!("there is no model or source table called `{name}`"),
                )
                .code("EN0003")
                .hint(if known.is_empty() {
                    "no source has any table".to_owned()
                } else {
                    format!("name a model, or one of the source tables: {}", known.join(", "))
                }))
            }
            several => {
                let full: Vec<_> = several.iter().map(|schema| schema.id.to_string()).collect();
                Err(
                    Error::new(ErrorKind::Config, format!("`{name}` means more than one source table"))
                        .code("EN0004")
                        .hint(format!("write one of: {}", full.join(", "))),
                )
            }
        }
    }

    /// What a table is called in a target: its own name where no other table has it, else with its source and
    /// name space.
    pub fn in_target(&self, schema: &TableSchema) -> String {
        if self.bearers.get(&*schema.id.name) == Some(&1) {
            schema.id.name.to_string()
        } else {
            schema.id.to_string().replace('.', "_")
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use arrow_schema::{DataType, Field, Schema};
    use millstream_core::TableId;

    use super::*;

    pub fn table(source: &str, namespace: Option<&str>, name: &str) -> Arc<TableSchema> {
        Arc::new(TableSchema {
            id: TableId::new(source, namespace, name),
            columns: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)])),
            key: vec!["id".to_owned()],
            not_null: Vec::new(),
            before_image: false,
        })
    }

    #[test]
    fn a_name_finds_its_table_or_says_what_there_is() {
        let schemas = [
            table("shop", Some("public"), "orders"),
            table("shop", Some("old"), "orders"),
            table("k", None, "c"),
        ];
        let names = TableNames::new(&schemas);
        for (name, found) in [("c", 2), ("k.c", 2), ("old.orders", 1), ("shop.public.orders", 0)] {
            assert_eq!(names.find(name).unwrap().id, schemas[found].id, "{name}");
        }
        for (name, code) in [("orders", "EN0004"), ("shop.orders", "EN0004"), ("x", "EN0003")] {
            assert_eq!(names.find(name).unwrap_err().error_code(), Some(code), "{name}");
        }
        assert_eq!(names.in_target(&schemas[0]), "shop_public_orders");
        assert_eq!(names.in_target(&schemas[2]), "c");
    }
}
