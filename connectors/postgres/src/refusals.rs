//! Publications and replica identities that make the server refuse the users' own UPDATE and
//! DELETE, or that leave a change without the row that it concerns.
//!
//! The server looks at each row's own table, which is a partition where there are some, and at
//! every publication that sends it (PostgreSQL manual, 29.1.1 "Replica Identity", 29.4.2 and
//! 29.5; in the server `CheckCmdReplicaIdentity`).

use std::collections::BTreeSet;

use millstream_core::{Finding, Severity, TableId};
use postgres_protocol::escape::escape_identifier;
use serde::de::DeserializeOwned;

use crate::catalog::{self, CatalogTable, ReplicaIdentity};
use crate::selection::{ROOT, with_published};
use crate::wire::{Connection, Row, WireError};

/// How one publication sends a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// The table's OID.
    pub(crate) table: u32,
    pub(crate) publication: String,
    pub(crate) insert: bool,
    pub(crate) update: bool,
    pub(crate) delete: bool,
    pub(crate) truncate: bool,
    /// The row filter, an SQL expression.
    filter: Option<String>,
    /// The columns that the row filter looks at.
    filtered_by: Vec<String>,
    /// The columns of the column list, if there is one.
    list: Option<Vec<String>>,
    /// All columns that it sends, sorted.
    sent: Vec<String>,
    /// Whether the server takes it for a publication without a column list.
    whole: bool,
}

/// How the old rows of a table, or of a partition of it, are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The OID of the table that is published.
    pub(crate) table: u32,
    /// `schema.name` of the partition, or of the table itself, quoted for SQL.
    name: String,
    kind: ReplicaIdentity,
    /// The columns of the identity's index; none where there is no such index.
    columns: Vec<String>,
    /// Whether there is a primary key that could serve as an identity.
    primary_key: bool,
    /// Generated columns that are part of it, and whether they are virtual.
    generated: Vec<(String, bool)>,
}

/// What the catalog says of the tables in this regard.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) coverage: Vec<Coverage>,
    identities: Vec<Identity>,
    /// Partitions whose changes come under the name of an ancestor: OID and that name.
    under_root: Vec<(u32, String)>,
    version: u32,
}

/// Row filters and column lists came with this version.
const FILTERED_PUBLICATIONS: u32 = 150_000;
/// From this version on a list of all present columns is the same as none.
const EXACT_COLUMN_LISTS: u32 = 160_000;
/// From this version on generated columns may be sent, and an identity that has one which is not
/// sent is refused.
const GENERATED_COLUMNS: u32 = 180_000;

/// Reads what there is to judge about `tables`.
pub(crate) async fn read(
    sql: &mut Connection,
    publications: &[String],
    tables: &[CatalogTable],
) -> Result<Rules, WireError> {
    let version = sql.server_version();
    let mut rules = Rules {
        version,
        ..Rules::default()
    };
    if tables.is_empty() {
        return Ok(rules);
    }
    let oids: Vec<String> = tables.iter().map(|table| table.oid.to_string()).collect();
    let oids = oids.join(",");
    for row in sql.query(&coverage_query(publications, &oids, version)).await? {
        let list: Option<Vec<String>> = json(&row, 8)?;
        let attributes: usize = row.parse(10)?;
        rules.coverage.push(Coverage {
            table: row.parse(0)?,
            publication: text(&row, 1),
            insert: row.is_true(2),
            update: row.is_true(3),
            delete: row.is_true(4),
            truncate: row.is_true(5),
            filter: row.get(6).map(str::to_owned),
            filtered_by: json(&row, 7)?.unwrap_or_default(),
            whole: list.as_ref().is_none_or(|list| list.len() == attributes),
            list,
            sent: json(&row, 9)?.unwrap_or_default(),
        });
    }
    for row in sql.query(&identity_query(&oids, version)).await? {
        rules.identities.push(Identity {
            table: row.parse(0)?,
            name: text(&row, 1),
            kind: ReplicaIdentity::from_letter(row.get(2).unwrap_or_default()),
            columns: json(&row, 3)?.unwrap_or_default(),
            primary_key: row.is_true(4),
            generated: json(&row, 5)?.unwrap_or_default(),
        });
    }
    let under_root = format!(
        "{} SELECT c.oid, {ROOT} FROM pg_catalog.pg_class c WHERE c.oid IN ({oids}) AND c.relispartition \
         AND {ROOT} IS NOT NULL",
        with_published(publications)
    );
    for row in sql.query(&under_root).await? {
        rules.under_root.push((row.parse(0)?, text(&row, 1)));
    }
    Ok(rules)
}

fn text(row: &Row, column: usize) -> String {
    row.get(column).unwrap_or_default().to_owned()
}

/// Reads a column with JSON in it.
fn json<T: DeserializeOwned>(row: &Row, column: usize) -> Result<Option<T>, WireError> {
    let parse = |text| serde_json::from_str(text).map_err(|_| WireError::Protocol("malformed JSON".to_owned()));
    row.get(column).map(parse).transpose()
}

fn coverage_query(publications: &[String], oids: &str, version: u32) -> String {
    // A filter is stored as an expression tree, in which the columns are `:varattno`.
    let sent_generated = if version >= GENERATED_COLUMNS {
        ""
    } else {
        "AND a.attgenerated = ''"
    };
    let sent = format!(
        "(SELECT pg_catalog.json_agg(a.attname ORDER BY a.attname) FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = c.oid AND a.attname = ANY (p.attnames) {sent_generated})"
    );
    let (filter, filtered_by, list, sent) = if version >= FILTERED_PUBLICATIONS {
        (
            "p.rowfilter",
            "(SELECT pg_catalog.json_agg(a.attname) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid \
             AND a.attnum IN (SELECT m[1]::int2 FROM pg_catalog.regexp_matches(r.prqual::text, ':varattno (\\d+)', 'g') m))",
            "(SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs::int2[]))",
            sent.as_str(),
        )
    } else {
        ("NULL", "NULL", "NULL", "NULL")
    };
    format!(
        "{} SELECT c.oid, p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, {filter}, {filtered_by}, \
         {list}, {sent}, c.relnatts \
         FROM pub p JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid \
         WHERE c.oid IN ({oids}) ORDER BY c.oid, p.pubname",
        with_published(publications)
    )
}

fn identity_query(oids: &str, version: u32) -> String {
    let is_virtual = if version >= GENERATED_COLUMNS {
        "a.attgenerated = 'v'"
    } else {
        "false"
    };
    format!(
        "WITH leaf AS (SELECT c.oid AS published, c.oid FROM pg_catalog.pg_class c \
         WHERE c.oid IN ({oids}) AND c.relkind = 'r' \
         UNION SELECT c.oid, t.relid::oid FROM pg_catalog.pg_class c \
         CROSS JOIN LATERAL pg_catalog.pg_partition_tree(c.oid::regclass) t \
         WHERE c.oid IN ({oids}) AND c.relkind = 'p' AND t.isleaf AND t.relid <> c.oid) \
         SELECT l.published, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relreplident, \
         (SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])), \
         EXISTS (SELECT FROM pg_catalog.pg_index k WHERE k.indrelid = c.oid AND k.indisprimary AND k.indimmediate), \
         (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, {is_virtual}) ORDER BY a.attnum) \
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped \
         AND (c.relreplident = 'f' OR a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))) \
         FROM leaf l JOIN pg_catalog.pg_class c ON c.oid = l.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND c.relreplident IN ('d', 'i') \
         AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary AND i.indimmediate END \
         WHERE c.relkind = 'r' ORDER BY l.published, 2"
    )
}

/// One reason for which changes are refused or cannot be placed, of one table or partition.
struct Refusal {
    code: &'static str,
    message: String,
    sql: Option<String>,
    hint: &'static str,
}

impl Rules {
    /// The ancestor that a partition's changes come under.
    pub(crate) fn root(&self, table: &CatalogTable) -> Option<&str> {
        let found = self.under_root.iter().find(|(oid, _)| *oid == table.oid);
        found.map(|(_, root)| root.as_str())
    }

    /// The columns that a first copy reads of `table`: those that are sent, those that row filters
    /// look at, and `ctid`, by which it is read in parts. `None` for all of them.
    pub(crate) fn columns_to_read(&self, table: &CatalogTable) -> Option<BTreeSet<String>> {
        let coverage = self.coverage.iter().filter(|one| one.table == table.oid);
        let mut columns = BTreeSet::new();
        for one in coverage {
            columns.extend(one.list.as_ref()?.iter().cloned());
            columns.extend(one.filtered_by.iter().cloned());
        }
        columns.insert("ctid".to_owned());
        (columns.len() > 1).then_some(columns)
    }

    /// What is wrong with how `table` is published. Partitions with the same fault are one finding.
    pub(crate) fn judge(&self, table: &CatalogTable) -> Vec<Finding> {
        let coverage: Vec<&Coverage> = self.coverage.iter().filter(|one| one.table == table.oid).collect();
        let subject = table.id.within_source();
        let mut findings = Vec::new();
        findings.extend(self.disagreement(&subject, &coverage));
        let mut refusals: Vec<(Refusal, Vec<&Identity>)> = Vec::new();
        for identity in self.identities.iter().filter(|one| one.table == table.oid) {
            if let Some(refusal) = self.refusal(table, identity, &coverage) {
                match refusals
                    .iter_mut()
                    .find(|(known, _)| known.code == refusal.code && known.message == refusal.message)
                {
                    Some((known, others)) => {
                        known.sql = known.sql.take().zip(refusal.sql).map(|(a, b)| {
                            // A statement about the publication mends all partitions.
                            if a == b { a } else { format!("{a} {b}") }
                        });
                        others.push(identity);
                    }
                    None => refusals.push((refusal, vec![identity])),
                }
            }
        }
        findings.extend(refusals.into_iter().map(|(refusal, identities)| {
            let message = match (table.kind.as_str(), identities.as_slice()) {
                ("p", [only]) => format!("partition {}: {}", only.name, refusal.message),
                ("p", [first, others @ ..]) => {
                    format!(
                        "partition {} and {} more: {}",
                        first.name,
                        others.len(),
                        refusal.message
                    )
                }
                _ => refusal.message,
            };
            let finding = Finding::new(Severity::Error, subject.clone(), message)
                .code(refusal.code)
                .hint(refusal.hint);
            match refusal.sql {
                Some(sql) => finding.sql(sql),
                None => finding,
            }
        }));
        findings
    }

    /// The first thing that is wrong, in the server's order.
    fn refusal(&self, table: &CatalogTable, identity: &Identity, coverage: &[&Coverage]) -> Option<Refusal> {
        let changing: Vec<&&Coverage> = coverage.iter().filter(|one| one.update || one.delete).collect();
        let refused = refused_operations(&changing)?;
        changing
            .iter()
            .find_map(|one| identity.refuses_filter(one, refused))
            .or_else(|| {
                changing
                    .iter()
                    .find_map(|one| identity.refuses_list(table, one, refused))
            })
            .or_else(|| {
                changing
                    .iter()
                    .find_map(|one| identity.refuses_generated(one, refused, self.version))
            })
            .or_else(|| identity.is_missing(refused))
            .or_else(|| identity.differs(table))
    }

    /// The server refuses to stream a table of which two publications send different columns.
    fn disagreement(&self, subject: &str, coverage: &[&Coverage]) -> Option<Finding> {
        let (first, others) = coverage.split_first()?;
        let other = others.iter().find(|other| {
            // Up to 15 a list of all columns is taken for none only if no column was ever dropped.
            let unlike = self.version < EXACT_COLUMN_LISTS && other.whole != first.whole;
            unlike || other.sent != first.sent
        })?;
        let message = format!(
            "publications `{}` and `{}` send different columns of it, which the server refuses to stream",
            first.publication, other.publication
        );
        Some(
            Finding::new(Severity::Error, subject, message)
                .code("PG0061")
                .hint("give both the same column list, or take the table out of one of them"),
        )
    }
}

/// The operations that some publication sends, which the server would refuse.
fn refused_operations(changing: &[&&Coverage]) -> Option<&'static str> {
    let update = changing.iter().any(|one| one.update);
    let delete = changing.iter().any(|one| one.delete);
    match (update, delete) {
        (true, true) => Some("UPDATE and DELETE"),
        (true, false) => Some("UPDATE"),
        (false, true) => Some("DELETE"),
        (false, false) => None,
    }
}

impl Identity {
    fn refuses_filter(&self, publication: &Coverage, refused: &str) -> Option<Refusal> {
        if self.kind == ReplicaIdentity::Full {
            return None;
        }
        let outside = missing(&publication.filtered_by, &self.columns)?;
        Some(Refusal {
            code: "PG0062",
            message: format!(
                "the row filter of publication `{}` uses {outside}, which the replica identity does not have: \
                 PostgreSQL refuses {refused} on it",
                publication.publication
            ),
            sql: publication
                .list
                .is_none()
                .then(|| format!("ALTER TABLE {} REPLICA IDENTITY FULL;", self.name)),
            hint: "filter by columns of the key, or use REPLICA IDENTITY FULL, which a column list forbids",
        })
    }

    fn refuses_list(&self, table: &CatalogTable, publication: &Coverage, refused: &str) -> Option<Refusal> {
        let list = publication.list.as_ref()?;
        let name = &publication.publication;
        let (cause, wanted) = if self.kind == ReplicaIdentity::Full {
            ("does not go with REPLICA IDENTITY FULL".to_owned(), None)
        } else {
            let lacking = missing(&self.columns, list)?;
            let mut wanted = list.clone();
            wanted.extend(self.columns.iter().filter(|column| !list.contains(column)).cloned());
            (format!("lacks {lacking} of the replica identity"), Some(wanted))
        };
        Some(Refusal {
            code: "PG0063",
            message: format!("the column list of publication `{name}` {cause}: PostgreSQL refuses {refused} on it"),
            sql: Some(publish_anew(
                &table.present,
                name,
                wanted.as_deref(),
                publication.filter.as_deref(),
            )),
            hint: "name the key's columns in the list; for a before-image publish all columns",
        })
    }

    fn refuses_generated(&self, publication: &Coverage, refused: &str, version: u32) -> Option<Refusal> {
        let unsent: Vec<&(String, bool)> = self
            .generated
            .iter()
            .filter(|(name, _)| version < GENERATED_COLUMNS || !publication.sent.contains(name))
            .collect();
        // Earlier servers leave them out of a full old row without a word, and nothing is lost.
        if unsent.is_empty() || (version < GENERATED_COLUMNS && self.kind == ReplicaIdentity::Full) {
            return None;
        }
        let names: Vec<String> = unsent.iter().map(|(name, _)| format!("`{name}`")).collect();
        let consequence = if version >= GENERATED_COLUMNS {
            format!("PostgreSQL refuses {refused} on it")
        } else {
            "its changes do not say which row they concern".to_owned()
        };
        let may_be_sent = version >= GENERATED_COLUMNS
            && publication.list.is_none()
            && unsent.iter().all(|(_, r#virtual)| !r#virtual);
        Some(Refusal {
            code: "PG0065",
            message: format!(
                "the replica identity has the generated column {}, which publication `{}` does not send: {consequence}",
                names.join(", "),
                publication.publication
            ),
            sql: if may_be_sent {
                let name = escape_identifier(&publication.publication);
                Some(format!(
                    "ALTER PUBLICATION {} SET (publish_generated_columns = stored);",
                    name
                ))
            } else {
                self.primary_key
                    .then(|| format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", self.name))
            },
            hint: "identify rows by columns that are stored and sent",
        })
    }

    fn is_missing(&self, refused: &str) -> Option<Refusal> {
        if self.kind == ReplicaIdentity::Full || !self.columns.is_empty() {
            return None;
        }
        let (code, cause) = match self.kind {
            ReplicaIdentity::Nothing => ("PG0018", "its replica identity is NOTHING"),
            ReplicaIdentity::Index => ("PG0064", "the index of its replica identity was dropped"),
            _ => (
                "PG0018",
                "it has no replica identity: no primary key, or a deferrable one",
            ),
        };
        let identity = if self.primary_key { "DEFAULT" } else { "FULL" };
        Some(Refusal {
            code,
            message: format!("{cause}, so that PostgreSQL refuses {refused} on it"),
            sql: Some(format!("ALTER TABLE {} REPLICA IDENTITY {identity};", self.name)),
            hint: "better than FULL: give it a primary key, or ALTER TABLE … REPLICA IDENTITY USING INDEX",
        })
    }

    /// Changes of partitions are sent as those of the table, whose key may be another one.
    fn differs(&self, table: &CatalogTable) -> Option<Refusal> {
        if table.kind != "p" || self.kind == ReplicaIdentity::Full {
            return None;
        }
        let key: Vec<String> = table
            .columns
            .iter()
            .filter(|column| column.key)
            .map(|column| column.name.clone())
            .collect();
        let cause = if table.identity == ReplicaIdentity::Full {
            "its old rows are not whole, though the table's replica identity is FULL".to_owned()
        } else {
            let lacking = missing(&key, &self.columns)?;
            format!(
                "its replica identity lacks {lacking} of the table's key: updates and deletes do not say which row they concern"
            )
        };
        Some(Refusal {
            code: "PG0066",
            message: cause,
            sql: Some(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", self.name)),
            hint: "partitions have a replica identity of their own: give them the same as the table",
        })
    }
}

/// Those of `wanted` that `present` lacks, in words; `None` if it lacks none.
fn missing(wanted: &[String], present: &[String]) -> Option<String> {
    let lacking: BTreeSet<&String> = wanted.iter().filter(|name| !present.contains(name)).collect();
    let words: Vec<String> = lacking.into_iter().map(|name| format!("`{name}`")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Statements by which a publication sends other columns of a table: there is none that changes
/// the list of one table alone.
fn publish_anew(table: &TableId, publication: &str, columns: Option<&[String]>, filter: Option<&str>) -> String {
    let publication = escape_identifier(publication);
    let table = catalog::quoted(table);
    let columns = columns.map_or(String::new(), |columns| {
        let quoted: Vec<String> = columns.iter().map(|name| escape_identifier(name)).collect();
        format!(" ({})", quoted.join(", "))
    });
    let filter = filter.map_or(String::new(), |filter| format!(" WHERE ({filter})"));
    format!(
        "BEGIN; ALTER PUBLICATION {publication} DROP TABLE {table}; \
         ALTER PUBLICATION {publication} ADD TABLE {table}{columns}{filter}; COMMIT;"
    )
}
