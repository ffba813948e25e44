//! The event trigger that writes into the log what changes of tables' columns, names and keys leave,
//! in order with the changes of rows: which is what pgoutput does not tell.
//!
//! For each table that a command touched, and each partition or child of it, a transactional message
//! (`pg_logical_emit_message`) says how it is once the command has ended: the numbers of its columns,
//! those that are dropped included, and its key. A `Relation` message that follows, before another of
//! these, tells the same table.

use serde::Deserialize;

use crate::attnums::Attribute;
use crate::catalog::{CatalogColumn, LiveRelation, ReplicaIdentity};
use crate::decode::pgoutput::Relation;

/// The prefix of its messages.
pub(crate) const PREFIX: &[u8] = b"millstream.ddl";
/// What the function's text has in it, so that an older one is known.
const VERSION: &str = "millstream ddl 1";
const TRIGGER: &str = "millstream_ddl";

/// What a superuser runs to have it, in the database that is read. It can be run again. The
/// function has the rights of whoever changes a table, and fails with a warning at most, so that it
/// cannot stop that.
pub(crate) fn install() -> String {
    format!(
        r#"CREATE SCHEMA IF NOT EXISTS millstream;
GRANT USAGE ON SCHEMA millstream TO PUBLIC;
CREATE OR REPLACE FUNCTION millstream.tell_ddl() RETURNS event_trigger LANGUAGE plpgsql
SET search_path = pg_catalog AS $tell$ -- {VERSION}
DECLARE
    told text;
BEGIN
    IF current_setting('wal_level') <> 'logical' THEN
        RETURN;
    END IF;
    FOR told IN
        WITH RECURSIVE touched (oid) AS (
            SELECT COALESCE(i.indrelid, c.oid) FROM pg_event_trigger_ddl_commands() d
            JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
                OR d.classid = 'pg_namespace'::regclass AND c.relnamespace = d.objid
            LEFT JOIN pg_index i ON i.indexrelid = c.oid
            UNION SELECT h.inhrelid FROM touched JOIN pg_inherits h ON h.inhparent = touched.oid)
        SELECT json_build_object('oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname,
            'identity', c.relreplident, 'columns', (SELECT json_agg(json_build_object(
                'number', a.attnum, 'name', a.attname, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
                'not_null', a.attnotnull, 'dropped', a.attisdropped,
                'key', COALESCE(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)) ORDER BY a.attnum)
            FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid
                AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary AND i.indimmediate END
            WHERE a.attrelid = c.oid AND a.attnum > 0))
        FROM touched JOIN pg_class c ON c.oid = touched.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
    LOOP
        PERFORM pg_logical_emit_message(true, '{}', told);
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'millstream is not told of this change of a table: %', SQLERRM;
END
$tell$;
DROP EVENT TRIGGER IF EXISTS {TRIGGER};
CREATE EVENT TRIGGER {TRIGGER} ON ddl_command_end EXECUTE FUNCTION millstream.tell_ddl();"#,
        String::from_utf8_lossy(PREFIX),
    )
}

/// A query for whether it is there: no row if not; else whether it is enabled, and whether it is of
/// this version.
pub(crate) fn look() -> String {
    format!(
        "SELECT t.evtenabled IN ('O', 'A'), pg_catalog.strpos(p.prosrc, '{VERSION}') > 0 \
         FROM pg_catalog.pg_event_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid WHERE t.evtname = '{TRIGGER}'"
    )
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Told {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    identity: String,
    columns: Option<Vec<ToldColumn>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct ToldColumn {
    number: i16,
    name: String,
    #[serde(rename = "type")]
    type_oid: u32,
    typmod: i32,
    not_null: bool,
    dropped: bool,
    key: bool,
}

impl Told {
    /// `None` for what no function of ours wrote.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    /// The relation as a `Relation` message that follows has it: with those columns that are sent,
    /// each found by its name, which is one column's at one moment. `None` if that message tells
    /// another form, as after a command that was not told since the trigger was disabled.
    pub(crate) fn of(self, sent: &Relation<'_>) -> Option<LiveRelation> {
        let all = self.columns.unwrap_or_default();
        let mut columns = Vec::new();
        for sent in sent.columns() {
            let is_it = |one: &&ToldColumn| {
                let typed = (one.type_oid, one.typmod) == (sent.type_oid, sent.type_modifier);
                !one.dropped && one.name == sent.name && typed
            };
            let told = all.iter().find(is_it)?;
            columns.push(CatalogColumn {
                attnum: Some(told.number),
                name: told.name.clone(),
                type_oid: told.type_oid,
                typmod: told.typmod,
                type_name: String::new(),
                not_null: told.not_null,
                key: told.key,
            });
        }
        let numbers = columns.iter().filter_map(|column| column.attnum);
        let attributes = numbers.map(|attnum| Attribute {
            attnum,
            is_live: true,
            is_settled: true,
        });
        Some(LiveRelation {
            identity: ReplicaIdentity::from_letter(&self.identity),
            attributes: attributes.collect(),
            key_is_settled: true,
            columns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_of_ours_is_none() {
        for content in [
            "",
            "{}",
            "null",
            "[1]",
            r#"{"oid": "a"}"#,
            r#"{"oid": 7, "schema": "s"}"#,
        ] {
            assert_eq!(Told::parse(content.as_bytes()), None, "{content}");
        }
        let told = r#"{"oid": 7, "schema": "s", "name": "n", "identity": "f", "columns": null, "more": 1}"#;
        assert_eq!(Told::parse(told.as_bytes()).unwrap().oid, 7);
    }
}
