//! A snapshot of the database at one place in the log, and the first copies made under it.

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result, TableId};
use postgres_protocol::escape::escape_literal;
use tokio::time::sleep;

use crate::catalog::{self, CatalogTable};
use crate::config::Settings;
use crate::decode::{Catalog, Lsn};
use crate::fault;
use crate::wire::{Connection, Session, WireError};

/// How often a snapshot is tried whose tables are rewritten meanwhile.
const ATTEMPTS: u32 = 5;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(200);

/// A transaction that sees exactly the transactions whose commit records lie before `point`.
///
/// PostgreSQL manual, 55.4 `CREATE_REPLICATION_SLOT`: the slot's stream begins with the first
/// transaction that the exported snapshot does not see. In the server, a transaction is left
/// out of the stream if its commit record begins before the consistent point
/// (`SnapBuildXactNeedsSkip`), and positions are the beginnings of commit records; so a copy
/// stands for everything up to and including `point - 1`.
///
/// The tables are locked against changes of their columns as long as it lives. That alone would
/// not do: what rewrites a table between the snapshot and the lock, such as a changed type,
/// leaves it empty for the snapshot (PostgreSQL manual, 13.6 "Caveats"), and tells the stream
/// nothing. So the versions of the columns are compared with what they were before the snapshot. To lock
/// before the snapshot instead could block for ever: the slot waits for all transactions that
/// write, and one of those may wait for our lock.
pub(super) struct Snapshot {
    pub(super) point: Lsn,
    pub(super) sql: Connection,
    /// The tables, and the types they have.
    pub(super) tables: Vec<CatalogTable>,
    pub(super) types: Catalog,
}

impl Snapshot {
    /// Enters a snapshot of `wanted`. It is that of the source's slot, which is made, or of a
    /// temporary one beside it.
    pub(super) async fn of(settings: &Settings, wanted: &[TableId], mut make_slot: bool) -> Result<Self> {
        let failed = |error| fault::explain(error, "cannot take a snapshot", &settings.connect);
        let (_, mut versions) = look(settings, wanted).await?;
        for _ in 0..ATTEMPTS {
            let (point, mut sql) = enter(settings, make_slot).await.map_err(failed)?;
            let names: Vec<String> = wanted.iter().map(catalog::quoted).collect();
            let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
            sql.query(&lock).await.map_err(failed)?;
            let (tables, versions_now) = look(settings, wanted).await?;
            if versions == versions_now {
                let mut reader = super::connect(settings).await?;
                let used = tables.iter().flat_map(CatalogTable::types);
                let types = catalog::read_types(&mut reader, used).await.map_err(failed)?;
                reader.close().await;
                return Ok(Self {
                    point,
                    sql,
                    tables,
                    types,
                });
            }
            tracing::info!("a table was rewritten while its snapshot was taken: taking another");
            sql.close().await;
            (versions, make_slot) = (versions_now, false);
            // The temporary slot of this turn has to be gone before the next one makes its own.
            sleep(PAUSE).await;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "the columns of tables change faster than a snapshot is taken",
        )
        .code("PG0038")
        .with("attempts", ATTEMPTS)
        .hint("start it while nothing alters the tables that it copies"))
    }

    /// Ends the transaction.
    pub(super) async fn close(mut self) {
        // It was read only: nothing depends on how it ends.
        let _ = self.sql.query("COMMIT").await;
        self.sql.close().await;
    }
}

/// The tables as they are now, and the versions of their columns.
async fn look(settings: &Settings, wanted: &[TableId]) -> Result<(Vec<CatalogTable>, Vec<(u32, String)>)> {
    let mut sql = super::connect(settings).await?;
    let tables = super::read_tables(settings, &mut sql, wanted).await?;
    let versions = catalog::read_column_versions(&mut sql, &tables)
        .await
        .map_err(|error| fault::explain(error, "cannot read the catalog", &settings.connect))?;
    sql.close().await;
    Ok((tables, versions))
}

/// Makes a slot and opens a session in its snapshot. Returns the snapshot's place in the log too.
async fn enter(settings: &Settings, make_slot: bool) -> Result<(Lsn, Connection), WireError> {
    let mut exporter = Connection::open(&settings.connect, Session::Replication).await?;
    let (slot, temporary) = if make_slot {
        (settings.slot.clone(), "")
    } else {
        (temporary_slot(&settings.slot, exporter.backend_pid()), "TEMPORARY ")
    };
    // The form with parentheses came with PostgreSQL 15; this one is understood by all.
    let create = format!("CREATE_REPLICATION_SLOT \"{slot}\" {temporary}LOGICAL pgoutput EXPORT_SNAPSHOT");
    let rows = exporter.query(&create).await?;
    let row = rows
        .first()
        .ok_or_else(|| WireError::Protocol("no answer to CREATE_REPLICATION_SLOT".to_owned()))?;
    let point = row.parse(1)?;
    let snapshot = row
        .get(2)
        .ok_or_else(|| WireError::Protocol("no snapshot was exported".to_owned()))?;
    tracing::info!(%slot, temporary = !make_slot, consistent_point = %point, "replication slot created");
    // Opened only now, since making a slot may take long.
    let mut sql = Connection::open(&settings.connect, Session::Sql).await?;
    sql.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sql.query(&format!(
        "SET TRANSACTION SNAPSHOT {}",
        escape_literal(snapshot).trim_start()
    ))
    .await?;
    // Imported: it lives as long as our transaction now, and a temporary slot would hold back WAL.
    exporter.close().await;
    Ok((point, sql))
}

/// A name that a crash leaves to nobody: the server drops the slot with the connection.
fn temporary_slot(slot: &str, pid: u32) -> String {
    const LONGEST: usize = 63;
    let suffix = format!("_copy_{pid}");
    format!("{}{suffix}", &slot[..slot.len().min(LONGEST - suffix.len())])
}

/// The statement that reads a table as the stream would send it: published columns, filtered
/// rows, and as text what we cannot read in binary.
pub(super) fn copy_statement(table: &CatalogTable, needs_text: &[bool]) -> String {
    use postgres_protocol::escape::escape_identifier;

    let columns = table.columns.iter().zip(needs_text).map(|(column, text)| {
        let name = escape_identifier(&column.name);
        if *text {
            format!("{name}::pg_catalog.text")
        } else {
            name
        }
    });
    // Children of a table that is inherited from are tables of their own in a publication.
    let only = if table.kind == "p" { "" } else { "ONLY " };
    let filter = table
        .row_filter
        .as_ref()
        .map(|filter| format!(" WHERE {filter}"))
        .unwrap_or_default();
    let columns: Vec<String> = columns.collect();
    format!(
        "COPY (SELECT {} FROM {only}{}{filter}) TO STDOUT (FORMAT binary)",
        columns.join(", "),
        catalog::quoted(&table.id)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogColumn, ReplicaIdentity};

    #[test]
    fn a_temporary_slot_has_a_name_that_fits() {
        let name = temporary_slot(&"x".repeat(63), 4_000_000);
        assert_eq!(name.len(), 63);
        assert!(name.ends_with("_copy_4000000"));
    }

    #[test]
    fn the_copy_reads_what_the_stream_would_send() {
        let column = |name: &str| CatalogColumn {
            name: name.to_owned(),
            type_oid: 25,
            typmod: -1,
            type_name: "text".to_owned(),
            not_null: false,
            key: false,
        };
        let table = CatalogTable {
            id: TableId::new("s", Some("public"), "o\"dd"),
            oid: 1,
            kind: "r".to_owned(),
            identity: ReplicaIdentity::Default,
            readable: true,
            schema_usable: true,
            published: true,
            row_filter: Some("(a > 1)".to_owned()),
            row_security: false,
            columns: vec![column("a"), column("place")],
        };
        assert_eq!(
            copy_statement(&table, &[false, true]),
            "COPY (SELECT \"a\", \"place\"::pg_catalog.text FROM ONLY \"public\".\"o\"\"dd\" WHERE (a > 1)) \
             TO STDOUT (FORMAT binary)"
        );
    }
}
