//! Which tables a source reads: those that are named, and those of its publications that match a
//! pattern.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use millstream_core::{Error, ErrorKind, Result, ResumePoints, TableId};
use postgres_protocol::escape::escape_literal;

use crate::config::Settings;
use crate::fault;
use crate::wire::{Connection, WireError};

/// What `tables` and `exclude` say.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    source: String,
    /// In the order in which they are written.
    pub(crate) named: Vec<TableId>,
    pub(crate) patterns: Vec<Pattern>,
    excluded: Vec<Pattern>,
    /// Named tables that have another name in the database now.
    renamed: BTreeMap<TableId, TableId>,
    /// The relations that those are, once a run knows them.
    relations: Arc<RwLock<BTreeMap<TableId, u32>>>,
}

/// What is wrong with a name, which name, and what to do.
pub(crate) type Fault = (&'static str, String, Option<String>);

impl Selection {
    /// Reads what stands under `tables` and `exclude`.
    ///
    /// # Errors
    /// What is wrong with them, and with which name.
    pub(crate) fn read(source: &str, tables: &[&str], exclude: &[&str]) -> Result<Self, (&'static str, String)> {
        let mut selection = Self {
            source: source.to_owned(),
            named: Vec::new(),
            patterns: Vec::new(),
            excluded: Vec::new(),
            renamed: BTreeMap::new(),
            relations: Arc::default(),
        };
        for name in tables {
            let refused = |message| (message, (*name).to_owned());
            let pattern = Pattern::read(name).ok_or(refused("a table's name is not `schema.table`"))?;
            match pattern.only() {
                None if selection.patterns.contains(&pattern) => return Err(refused("a pattern is written twice")),
                None => selection.patterns.push(pattern),
                Some((schema, table)) => {
                    let id = TableId::new(source, Some(schema), table);
                    if selection.named.contains(&id) {
                        return Err(refused("a table is named twice"));
                    }
                    selection.named.push(id);
                }
            }
        }
        for name in exclude {
            let refused = |message| (message, (*name).to_owned());
            if selection.patterns.is_empty() {
                return Err(refused("`exclude` takes tables from patterns, and `tables` has none"));
            }
            let pattern = Pattern::read(name).ok_or(refused("a table's name is not `schema.table`"))?;
            if selection.named.iter().any(|id| pattern.matches_table(id)) {
                return Err(refused("a table is both named in `tables` and excluded"));
            }
            selection.excluded.push(pattern);
        }
        Ok(selection)
    }

    /// Takes the name that a table has now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn rename(&mut self, table: &str, now: &str) -> Result<(), Fault> {
        let id = |name: &str| {
            let pattern = Pattern::read(name);
            let (schema, table) = pattern.as_ref().and_then(Pattern::only)?;
            Some(TableId::new(&self.source, Some(schema), table))
        };
        let no_name = |name: &str| ("a table's name is not `schema.table`", name.to_owned(), None);
        let (before, after) = (id(table).ok_or(no_name(table))?, id(now).ok_or(no_name(now))?);
        let matches = |id: &TableId| self.matches(id.namespace.as_deref().unwrap_or("public"), &id.name);
        let refused = |message, name: &str, hint: String| Err((message, name.to_owned(), Some(hint)));
        if !self.named.contains(&before) {
            let hint = format!(
                "name `{table}` in `tables`, also where a pattern of it matches; of a table that had several names \
                 say the last one, beside the name in `tables`"
            );
            return refused("`renamed` has a table that `tables` does not name", table, hint);
        }
        if before == after {
            let hint = "leave it out: a name without a schema is one of `public`".to_owned();
            return refused("the present name of a renamed table is the one before", now, hint);
        }
        let is_anothers = "the present name of a renamed table is that of another table";
        if self.named.contains(&after) {
            let hint = format!(
                "`{now}` in `tables` is that table's own name, whatever it is called now: tables that swapped their \
                 names or passed them on are other tables, see `recopy`"
            );
            return refused(is_anothers, now, hint);
        }
        if self.renamed.values().any(|known| *known == after) {
            let hint = "two tables have not the same name: say for each what it is called now".to_owned();
            return refused(is_anothers, now, hint);
        }
        if matches(&after) {
            let hint = format!("add it to `exclude`: `exclude: [{}]`", after.within_source());
            return refused(
                "the present name of a renamed table is matched by a pattern too",
                now,
                hint,
            );
        }
        match self.renamed.insert(before, after) {
            None => Ok(()),
            Some(_) => Err(("a table is renamed twice", table.to_owned(), None)),
        }
    }

    /// The name under `renamed`, which the table has or will have in the database; its own where there
    /// is none.
    pub(crate) fn present<'a>(&'a self, table: &'a TableId) -> &'a TableId {
        self.renamed.get(table).unwrap_or(table)
    }

    /// Its other name, where it has one under `renamed`.
    pub(crate) fn renamed(&self, table: &TableId) -> Option<&TableId> {
        self.renamed.get(table)
    }

    /// Takes the relation that a table is: of two that have its names it is the one that counts.
    pub(crate) fn know(&self, table: &TableId, relation: u32) {
        if self.renamed.contains_key(table) {
            let mut relations = self.relations.write().unwrap_or_else(PoisonError::into_inner);
            relations.insert(table.clone(), relation);
        }
    }

    /// The relation that a renamed table is, if that is known.
    pub(crate) fn known(&self, table: &TableId) -> Option<u32> {
        let relations = self.relations.read().unwrap_or_else(PoisonError::into_inner);
        relations.get(table).copied()
    }

    /// Whether a pattern, and no name, selects it.
    pub(crate) fn matches(&self, schema: &str, table: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(schema, table))
            && !self.excluded.iter().any(|pattern| pattern.matches(schema, table))
    }

    /// Those of the tables that a pipeline resumes which are ours. Names that a run reads are
    /// settled when it is planned: a table that has left its publication since must be missed,
    /// not forgotten.
    pub(crate) fn used(&self, resume: &ResumePoints) -> Vec<TableId> {
        let named = self.named.iter().filter(|table| resume.contains(table));
        let matched = resume.tables().filter(|table| {
            *table.source == *self.source
                && !self.named.contains(table)
                && self.matches(table.namespace.as_deref().unwrap_or("public"), &table.name)
        });
        named.chain(matched).cloned().collect()
    }

    /// The named tables, then those of `found`, as schema and name, that a pattern matches.
    fn of(&self, found: &[(String, String)]) -> Vec<TableId> {
        let mut tables = self.named.clone();
        for (schema, name) in found {
            let id = TableId::new(&self.source, Some(schema), name);
            if self.matches(schema, name) && !self.named.contains(&id) {
                tables.push(id);
            }
        }
        tables
    }

    /// The patterns that match none of `found`, or nothing but what is excluded.
    fn idle(&self, found: &[(String, String)]) -> Vec<&Pattern> {
        let idle = self.patterns.iter().filter(|pattern| {
            !found
                .iter()
                .any(|(schema, name)| pattern.matches(schema, name) && self.matches(schema, name))
        });
        idle.collect()
    }
}

/// The tables that are selected now: those named, and those that the publications send under
/// their own names and that a pattern matches. In a steady order, beside the patterns that match
/// nothing.
pub(crate) async fn published<'a>(
    sql: &mut Connection,
    settings: &'a Settings,
) -> Result<(Vec<TableId>, Vec<&'a Pattern>), WireError> {
    let selection = &settings.selection;
    if selection.patterns.is_empty() {
        return Ok((selection.named.clone(), Vec::new()));
    }
    let found = names(sql, &published_query(&settings.publications)).await?;
    Ok((selection.of(&found), selection.idle(&found)))
}

/// The tables that are selected, whether they are published or not.
pub(crate) async fn candidates(sql: &mut Connection, settings: &Settings) -> Result<Vec<TableId>, WireError> {
    let selection = &settings.selection;
    if selection.patterns.is_empty() {
        return Ok(selection.named.clone());
    }
    let query = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' \
                 AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1, 2";
    let found = names(sql, query).await?;
    Ok(selection.of(&found))
}

/// The tables of a run.
///
/// # Errors
/// `Config` (PG0060) for a pattern that matches no table of the publications.
pub(crate) async fn resolve(sql: &mut Connection, settings: &Settings) -> Result<Vec<TableId>> {
    let (tables, idle) = published(sql, settings)
        .await
        .map_err(|error| fault::explain(error, "cannot read the catalog", &settings.connect))?;
    match idle.first() {
        None => Ok(tables),
        Some(pattern) => Err(Error::new(ErrorKind::Config, NO_MATCH)
            .code("PG0060")
            .with("pattern", pattern)
            .with("publication", settings.publications.join(", "))
            .hint(NO_MATCH_HINT)),
    }
}

pub(crate) const NO_MATCH: &str = "no table of the publication matches";
pub(crate) const NO_MATCH_HINT: &str =
    "a pattern looks among the tables that the publication has; names are case-sensitive";

/// What to do about a table that is not there, nor under its other name, where it is `renamed`.
pub(crate) fn missing_hint(renamed: Option<&TableId>) -> String {
    match renamed.map(TableId::within_source) {
        None => "names are case-sensitive here, as in double quotes; the form is `schema.table`; if it was renamed, \
                 say under `renamed` what it is called now"
            .to_owned(),
        Some(now) => format!(
            "nothing is called `{now}`, as `renamed` says: say there what it is called now, of several names the \
             last, and with its schema unless that is `public`; or leave it out there, if what has its name in \
             `tables` is to be read and copied in its place"
        ),
    }
}

async fn names(sql: &mut Connection, query: &str) -> Result<Vec<(String, String)>, WireError> {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let rows = sql.query(query).await?;
    Ok(rows.iter().map(|row| (text(row.get(0)), text(row.get(1)))).collect())
}

/// The tables whose changes come under their own names.
fn published_query(publications: &[String]) -> String {
    format!(
        "{} SELECT DISTINCT n.nspname, c.relname FROM pub p \
         JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         WHERE {ROOT} IS NULL ORDER BY 1, 2",
        with_published(publications)
    )
}

/// The beginning of a query: `pub` has a row for each publication and table of it, with what the
/// view `pg_publication_tables` says.
pub(crate) fn with_published(publications: &[String]) -> String {
    format!(
        "WITH pub AS MATERIALIZED (SELECT t.*, b.oid, b.pubinsert, b.pubupdate, b.pubdelete, b.pubtruncate, \
         b.pubviaroot FROM pg_catalog.pg_publication b \
         JOIN pg_catalog.pg_publication_tables t ON t.pubname = b.pubname WHERE b.pubname IN ({}))",
        literals(publications)
    )
}

/// An expression for the name of the ancestor that the changes of the partition `c` of `pg_class`
/// come under, because one of the publications in `pub` has it with `publish_via_partition_root`
/// (PostgreSQL manual, CREATE PUBLICATION). NULL where they come under its own name.
pub(crate) const ROOT: &str = "CASE WHEN c.relispartition THEN \
    (SELECT pg_catalog.format('%I.%I', t.schemaname, t.tablename) \
    FROM pg_catalog.pg_partition_ancestors(c.oid) a(relid) \
    JOIN pg_catalog.pg_class r ON r.oid = a.relid AND r.oid <> c.oid \
    JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace \
    JOIN pub t ON t.schemaname = rn.nspname AND t.tablename = r.relname AND t.pubviaroot LIMIT 1) END";

/// `'a','b'`, for SQL.
fn literals(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| escape_literal(name)).collect();
    quoted.join(",")
}

/// `schema.table` in which `*` stands for any number of any characters, and `\*` for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    written: String,
    schema: Glob,
    table: Glob,
}

impl Pattern {
    fn read(written: &str) -> Option<Self> {
        let (schema, table) = written.split_once('.').unwrap_or(("public", written));
        if schema.is_empty() || table.is_empty() {
            return None;
        }
        Some(Self {
            written: written.to_owned(),
            schema: Glob::read(schema),
            table: Glob::read(table),
        })
    }

    /// Schema and table, if it has no `*`.
    fn only(&self) -> Option<(&str, &str)> {
        Some((self.schema.only()?, self.table.only()?))
    }

    fn matches(&self, schema: &str, table: &str) -> bool {
        self.schema.matches(schema) && self.table.matches(table)
    }

    /// Whether it matches a table, or would if that were published.
    pub(crate) fn matches_table(&self, table: &TableId) -> bool {
        self.matches(table.namespace.as_deref().unwrap_or("public"), &table.name)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// What stands between the asterisks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(Vec<String>);

impl Glob {
    fn read(written: &str) -> Self {
        let mut pieces = vec![String::new()];
        let mut characters = written.chars().peekable();
        while let Some(character) = characters.next() {
            let piece = pieces.last_mut().expect("there is always one");
            match character {
                '*' => pieces.push(String::new()),
                '\\' if characters.peek() == Some(&'*') => piece.extend(characters.next()),
                other => piece.push(other),
            }
        }
        Self(pieces)
    }

    fn only(&self) -> Option<&str> {
        match self.0.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }

    fn matches(&self, name: &str) -> bool {
        let [first, middle @ .., last] = self.0.as_slice() else {
            return self.only() == Some(name);
        };
        // What the ends take may not overlap.
        let Some(mut rest) = name
            .strip_prefix(first.as_str())
            .and_then(|rest| rest.strip_suffix(last.as_str()))
        else {
            return false;
        };
        for piece in middle {
            match rest.split_once(piece.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tables: &[&str], exclude: &[&str]) -> Selection {
        Selection::read("shop", tables, exclude).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        let matches = |pattern: &str, schema: &str, table: &str| Pattern::read(pattern).unwrap().matches(schema, table);
        for (pattern, schema, table) in [
            ("public.*", "public", "orders"),
            ("*", "public", ""),
            ("sales.order_*", "sales", "order_lines"),
            ("sales.order_*", "sales", "order_"),
            ("*.orders", "sales", "orders"),
            ("s*s.*_20*_*", "sales", "log_2024_01"),
            ("public.a*a", "public", "aa"),
            ("public.*é*", "public", "café 𝄞"),
            (r"public.\*", "public", "*"),
            (r"public.a\b", "public", r"a\b"),
            ("public.a.b*", "public", "a.b.c"),
        ] {
            assert!(matches(pattern, schema, table), "{pattern} {schema}.{table}");
        }
        for (pattern, schema, table) in [
            ("public.*", "sales", "orders"),
            ("*", "sales", "orders"),
            ("public.a*a", "public", "a"),
            ("public.Orders*", "public", "orders"),
            (r"public.\*", "public", "orders"),
            ("public.*a*b*", "public", "ba"),
        ] {
            assert!(!matches(pattern, schema, table), "{pattern} {schema}.{table}");
        }
    }

    #[test]
    fn names_come_first_and_each_table_once() {
        let selection = read(&["sales.orders", "sales.*", "*"], &["sales.tmp_*", "*.secret"]);
        let found = [
            ("public", "a"),
            ("public", "secret"),
            ("sales", "lines"),
            ("sales", "orders"),
            ("sales", "tmp_1"),
        ]
        .map(|(schema, name)| (schema.to_owned(), name.to_owned()));
        let tables: Vec<String> = selection.of(&found).iter().map(TableId::within_source).collect();
        assert_eq!(tables, ["sales.orders", "public.a", "sales.lines"]);
        assert!(selection.idle(&found).is_empty());
        let idle = selection.idle(&found[2..]);
        assert_eq!(idle.iter().map(ToString::to_string).collect::<Vec<_>>(), ["*"]);
    }

    #[test]
    fn a_run_reads_what_was_planned() {
        let selection = read(&["sales.orders", "sales.line*"], &[]);
        let mut resume = ResumePoints::default();
        for (source, schema, name) in [
            ("shop", "sales", "lines"),
            ("shop", "sales", "orders"),
            ("shop", "sales", "other"),
            ("store", "sales", "lines"),
        ] {
            resume.add(
                TableId::new(source, Some(schema), name),
                millstream_core::Checkpoint::default(),
            );
        }
        let used: Vec<String> = selection.used(&resume).iter().map(ToString::to_string).collect();
        assert_eq!(used, ["shop.sales.orders", "shop.sales.lines"]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let refused = |tables: &[&str], exclude: &[&str]| Selection::read("shop", tables, exclude).unwrap_err().0;
        assert!(refused(&["a", "public.a"], &[]).contains("named twice"));
        assert!(refused(&["a*", "a*"], &[]).contains("written twice"));
        assert!(refused(&["sales."], &[]).contains("schema.table"));
        assert!(refused(&["a"], &["b"]).contains("has none"));
        assert!(refused(&["a", "b*"], &["*"]).contains("both named"));
    }

    #[test]
    fn a_table_that_was_renamed_has_one_present_name() {
        let rename = |pairs: &[(&str, &str)]| {
            let mut selection = read(&["orders", "sales.lines", "log_*"], &[]);
            let renamed = pairs.iter().try_for_each(|(table, now)| selection.rename(table, now));
            renamed
                .map(|()| selection)
                .map_err(|(message, _, hint)| format!("{message}; {}", hint.unwrap_or_default()))
        };
        let id = |schema, name| TableId::new("shop", Some(schema), name);
        let selection = rename(&[("public.orders", "sales.orders_v2"), ("sales.lines", "lines")]).unwrap();
        assert_eq!(*selection.present(&id("public", "orders")), id("sales", "orders_v2"));
        assert_eq!(*selection.present(&id("public", "log_1")), id("public", "log_1"));
        let refused = |pairs| rename(pairs).unwrap_err();
        assert!(refused(&[("other", "a")]).contains("does not name"));
        assert!(refused(&[("log_1", "a")]).contains("does not name"));
        let in_between = refused(&[("orders", "orders_v2"), ("orders_v2", "orders_v3")]);
        assert!(in_between.contains("of a table that had several names say the last one"));
        assert!(refused(&[("orders", "sales.")]).contains("schema.table"));
        assert!(refused(&[("orders", "a*")]).contains("schema.table"));
        assert!(refused(&[("orders", "sales.lines")]).contains("see `recopy`"));
        assert!(refused(&[("orders", "sales.lines"), ("sales.lines", "b")]).contains("passed them on"));
        assert!(refused(&[("orders", "log_2")]).contains("exclude: [public.log_2]"));
        assert!(refused(&[("orders", "public.orders")]).contains("the one before"));
        assert!(refused(&[("orders", "a"), ("sales.lines", "a")]).contains("say for each"));
        assert!(refused(&[("orders", "a"), ("public.orders", "b")]).contains("twice"));
    }
}
