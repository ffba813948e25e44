//! The event triggers that write into the log what changes of tables' columns, names and keys leave,
//! in order with the changes of rows: which is what pgoutput does not tell.
//!
//! For each table that a command touched, and each partition or child of it, a transactional message
//! (`pg_logical_emit_message`) says how it is once the command has ended: the numbers of its columns,
//! those that are dropped included, and its key. A `Relation` message that follows, before another of
//! these, tells the same table.

use serde::Deserialize;

use crate::catalog::ReplicaIdentity;
use crate::decode::pgoutput::{Relation, RelationColumn};

/// The prefix of its messages.
pub(crate) const PREFIX: &[u8] = b"millstream.ddl";
/// What the function's text has in it, so that an older one is known.
const VERSION: &str = "-- millstream ddl 3;";
const TRIGGERS: [(&str, &str); 2] = [
    ("millstream_ddl", "ddl_command_end"),
    ("millstream_ddl_drop", "sql_drop"),
];

/// What a superuser runs to have them, in the database that is read. It can be run again.
///
/// - The function has its owner's rights, so that everyone's changes are told, and looks names up in
///   `pg_catalog` alone. Whoever made the schema before us keeps nothing of it.
/// - It fails with a warning at most. The block that sees to that is a subtransaction, whose last message
///   PostgreSQL may send behind the change that follows it: that message says nothing.
/// - A table that the transaction does not lock, as with ALTER INDEX … RENAME, may be changed by another one
///   that commits later: then its name alone is told.
/// - Under a snapshot of its own, as with REPEATABLE READ, a transaction may see a table as it was before
///   its command began: then it has no columns, which says that it changed.
pub(crate) fn install() -> String {
    let prefix = String::from_utf8_lossy(PREFIX);
    let triggers = TRIGGERS.map(|(name, event)| {
        format!(
            "DROP EVENT TRIGGER IF EXISTS {name};\n\
             CREATE EVENT TRIGGER {name} ON {event} EXECUTE FUNCTION millstream.tell_ddl();\n\
             ALTER EVENT TRIGGER {name} ENABLE ALWAYS;"
        )
    });
    format!(
        r#"BEGIN;
CREATE SCHEMA IF NOT EXISTS millstream;
ALTER SCHEMA millstream OWNER TO CURRENT_USER;
CREATE OR REPLACE FUNCTION millstream.tell_ddl() RETURNS event_trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $tell$ {VERSION}
DECLARE
    touched oid[];
    told text;
BEGIN
    IF current_setting('wal_level') <> 'logical' THEN
        RETURN;
    END IF;
    IF tg_event = 'sql_drop' THEN
        -- Columns that went with something else, as by DROP TYPE ... CASCADE.
        IF tg_tag = 'ALTER TABLE' THEN
            RETURN;
        END IF;
        touched := ARRAY(SELECT d.objid FROM pg_event_trigger_dropped_objects() d
            WHERE d.classid = 'pg_class'::regclass AND d.objsubid > 0);
    ELSE
        touched := ARRAY(SELECT COALESCE((SELECT indrelid FROM pg_index WHERE indexrelid = d.objid), d.objid)
            FROM pg_event_trigger_ddl_commands() d WHERE d.classid = 'pg_class'::regclass);
        IF tg_tag = 'ALTER SCHEMA' THEN
            touched := touched || ARRAY(SELECT c.oid FROM pg_event_trigger_ddl_commands() d
                JOIN pg_class c ON c.relnamespace = d.objid WHERE d.classid = 'pg_namespace'::regclass);
        END IF;
    END IF;
    FOR told IN
        WITH RECURSIVE changed (oid) AS (
            SELECT unnest(touched)
            UNION SELECT h.inhrelid FROM changed, LATERAL (
                SELECT inhrelid FROM pg_inherits WHERE inhparent = changed.oid OFFSET 0) h)
        SELECT json_build_object('oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname,
            'identity', c.relreplident, 'columns', CASE
            WHEN NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
                AND l.relation = c.oid AND l.granted) THEN NULL
            WHEN current_setting('transaction_isolation') <> 'read committed' THEN '[]'::json
            ELSE (SELECT json_agg(json_build_object(
                'number', a.attnum, 'name', a.attname, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
                'not_null', a.attnotnull, 'dropped', a.attisdropped,
                'key', COALESCE(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)) ORDER BY a.attnum)
            FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid
                AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary AND i.indimmediate END
            WHERE a.attrelid = c.oid AND a.attnum > 0) END)
        -- Each is looked up: a join would read the whole catalog for one table.
        FROM changed, LATERAL (SELECT * FROM pg_class WHERE oid = changed.oid OFFSET 0) c,
            LATERAL (SELECT nspname FROM pg_namespace WHERE oid = c.relnamespace OFFSET 0) n
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
    LOOP
        PERFORM pg_logical_emit_message(true, '{prefix}', convert_to(told, 'UTF8'));
    END LOOP;
    IF FOUND THEN
        PERFORM pg_logical_emit_message(true, '{prefix}.end', ''::text);
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'millstream is not told of this change of a table: %', SQLERRM;
END
$tell$;
ALTER FUNCTION millstream.tell_ddl() OWNER TO CURRENT_USER;
{triggers}
COMMIT;"#,
        triggers = triggers.join("\n"),
    )
}

/// A query with one row: whether both are there, whether they are enabled for everyone, whether they
/// are of this version, and whether what they do is the same role's that made them: a superuser, or what
/// a hosted server has instead.
pub(crate) fn look() -> String {
    let wanted = TRIGGERS
        .map(|(name, event)| format!("('{name}', '{event}')"))
        .join(", ");
    format!(
        "SELECT pg_catalog.count(t.oid) = {count}, \
         pg_catalog.bool_and(t.evtenabled = 'A' AND t.evttags IS NULL), \
         pg_catalog.bool_and(pg_catalog.strpos(p.prosrc, '{VERSION}') > 0 AND p.prosecdef), \
         pg_catalog.bool_and(p.proowner = t.evtowner AND n.nspowner = t.evtowner) \
         FROM (VALUES {wanted}) AS wanted (name, event) \
         LEFT JOIN pg_catalog.pg_event_trigger t ON t.evtname = wanted.name AND t.evtevent = wanted.event \
         LEFT JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid \
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace",
        count = TRIGGERS.len(),
    )
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Told {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    identity: String,
    /// `None` if nothing is told of them.
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
    /// Whether it describes the table, and does not tell its name alone.
    pub(crate) fn has_columns(&self) -> bool {
        self.columns.is_some()
    }

    /// `None` for what no function of ours wrote.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    /// The columns as a `Relation` message that follows has them: those that are sent, each found by its
    /// name, which is one column's at one moment. `None` if that message tells another form, as after
    /// a command that was not told.
    pub(crate) fn of(&self, sent: &Relation<'_>) -> Option<Vec<KnownColumn>> {
        let letter = char::from(sent.replica_identity).to_string();
        if ReplicaIdentity::from_letter(&self.identity) != ReplicaIdentity::from_letter(&letter) {
            return None;
        }
        let all = self.columns.as_ref()?;
        let of = |sent: &RelationColumn<'_>| {
            let typed = (sent.type_oid, sent.type_modifier);
            let told = all.iter().find(|one| !one.dropped && one.name == sent.name)?;
            ((told.type_oid, told.typmod) == typed).then_some(KnownColumn {
                attnum: told.number,
                not_null: told.not_null,
                key: told.key,
            })
        };
        let columns: Vec<KnownColumn> = sent.columns().map(|sent| of(&sent)).collect::<Option<_>>()?;
        let keys = all.iter().filter(|one| one.key && !one.dropped).count();
        (columns.iter().filter(|one| one.key).count() == keys).then_some(columns)
    }
}

/// What the log tells of a column that a `Relation` message does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownColumn {
    pub(crate) attnum: i16,
    pub(crate) not_null: bool,
    pub(crate) key: bool,
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
