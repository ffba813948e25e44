//! What tables are called now that are read under the names they had before.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use millstream_core::TableId;
use millstream_core::config::Text;

/// A table's schema and name in the catalog.
pub(crate) type Name = (String, String);

/// Tables that have another name in the catalog than in the pipeline: those of `renamed`, and
/// those that were renamed while they are read. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub(crate) struct PresentNames {
    configured: Arc<BTreeMap<TableId, Name>>,
    /// Those too.
    known: Arc<RwLock<BTreeMap<TableId, Name>>>,
}

impl PresentNames {
    /// Reads what stands under `renamed`.
    ///
    /// # Errors
    /// What is wrong with it, and with which name.
    pub(crate) fn read(source: &str, renamed: &BTreeMap<Text, Text>) -> Result<Self, (&'static str, String)> {
        let mut names = BTreeMap::new();
        for (before, now) in renamed {
            let table = name_of(before).ok_or(("a name under `renamed` is not `schema.table`", before.to_string()))?;
            let now = name_of(now).ok_or(("a name under `renamed` is not `schema.table`", now.to_string()))?;
            if names.values().any(|known| *known == now) {
                return Err((
                    "two tables of `renamed` have the same present name",
                    format!("{}.{}", now.0, now.1),
                ));
            }
            let table = TableId::new(source, Some(&table.0), &table.1);
            if names.insert(table, now).is_some() {
                return Err(("a table stands twice under `renamed`", before.to_string()));
            }
        }
        Ok(Self {
            configured: Arc::new(names.clone()),
            known: Arc::new(RwLock::new(names)),
        })
    }

    /// The table as the catalog knows it.
    pub(crate) fn present(&self, table: &TableId) -> TableId {
        named(
            table,
            self.known.read().unwrap_or_else(PoisonError::into_inner).get(table),
        )
    }

    /// The table as the configuration says that the catalog knows it.
    pub(crate) fn configured(&self, table: &TableId) -> TableId {
        named(table, self.configured.get(table))
    }

    /// The name in the pipeline of what the catalog calls `schema.name`. `None` if that is nobody's:
    /// a table of that name in the pipeline is called otherwise now.
    pub(crate) fn in_pipeline(&self, schema: &str, name: &str) -> Option<Name> {
        let names = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_present = |present: &Name| present.0 == schema && present.1 == name;
        if let Some((table, _)) = names.iter().find(|(_, present)| is_present(present)) {
            let schema = table.namespace.as_deref().unwrap_or("public");
            return Some((schema.to_owned(), table.name.to_string()));
        }
        let is_taken = |table: &TableId| *table.name == *name && table.namespace.as_deref() == Some(schema);
        (!names.keys().any(is_taken)).then(|| (schema.to_owned(), name.to_owned()))
    }

    /// Notes what the catalog calls `table` now. Returns whether that is news, and another name than
    /// in the pipeline.
    pub(crate) fn learn(&self, table: &TableId, schema: &str, name: &str) -> bool {
        let present = TableId::new(&table.source, Some(schema), name);
        if self.present(table) == present {
            return false;
        }
        let mut names = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if present == *table {
            names.remove(table);
            return false;
        }
        names.insert(table.clone(), (schema.to_owned(), name.to_owned()));
        true
    }
}

fn named(table: &TableId, name: Option<&Name>) -> TableId {
    match name {
        Some((schema, name)) => TableId::new(&table.source, Some(schema), name),
        None => table.clone(),
    }
}

fn name_of(written: &str) -> Option<Name> {
    let (schema, name) = written.split_once('.').unwrap_or(("public", written));
    (!schema.is_empty() && !name.is_empty()).then(|| (schema.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pairs: &[(&str, &str)]) -> Result<PresentNames, &'static str> {
        let json = serde_json::Value::Object(
            pairs
                .iter()
                .map(|(before, now)| ((*before).to_owned(), (*now).into()))
                .collect(),
        );
        let renamed = serde_json::from_value(json).unwrap();
        PresentNames::read("shop", &renamed).map_err(|(message, _)| message)
    }

    fn table(schema: &str, name: &str) -> TableId {
        TableId::new("shop", Some(schema), name)
    }

    #[test]
    fn a_renamed_table_is_found_both_ways_and_its_old_name_is_nobodys() {
        let names = names(&[("orders", "sales.orders_v2")]).unwrap();
        assert_eq!(names.present(&table("public", "orders")), table("sales", "orders_v2"));
        assert_eq!(names.present(&table("public", "lines")), table("public", "lines"));
        let found = |schema: &str, name: &str| names.in_pipeline(schema, name);
        let name = |schema: &str, name: &str| Some((schema.to_owned(), name.to_owned()));
        assert_eq!(found("sales", "orders_v2"), name("public", "orders"));
        assert_eq!(found("public", "orders"), None);
        assert_eq!(found("public", "lines"), name("public", "lines"));
    }

    #[test]
    fn clones_learn_together_and_each_news_once() {
        let names = PresentNames::default();
        let other = names.clone();
        let orders = table("public", "orders");
        assert!(!names.learn(&orders, "public", "orders"));
        assert!(names.learn(&orders, "public", "old") && !names.learn(&orders, "public", "old"));
        assert_eq!(other.present(&orders), table("public", "old"));
        assert!(!names.learn(&orders, "public", "orders"));
        assert_eq!(other.present(&orders), orders);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert!(names(&[("sales.", "a")]).unwrap_err().contains("schema.table"));
        assert!(names(&[("a", "c"), ("b", "public.c")]).unwrap_err().contains("same"));
        assert!(names(&[("a", "c"), ("public.a", "d")]).unwrap_err().contains("twice"));
    }
}
