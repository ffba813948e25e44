//! A snapshot of the database at one place in the log.

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result, TableId};
use postgres_protocol::escape::escape_literal;
use tokio::time::sleep;

use super::kept::{Kept, Sessions};
use crate::catalog::{self, CatalogTable};
use crate::config::Settings;
use crate::decode::{Catalog, Lsn};
use crate::fault;
use crate::wire::{Connection, Row, Session, WireError};

/// How often a snapshot is tried whose tables are rewritten meanwhile.
const ATTEMPTS: u32 = 5;
/// How long a further session waits for its locks, which are weak ones: for as long as somebody's
/// own strong lock may wait for ours, nothing is lost but a session.
pub(super) const LONGEST_LOCK: Duration = Duration::from_secs(1);
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
    point: Lsn,
    pub(super) sql: Connection,
    /// Where other sessions enter it, as long as `sql` lives.
    pub(super) entrance: Entrance,
    /// Every transaction before this one had ended when it was taken: `pg_snapshot_xmin`.
    pub(super) horizon: u64,
    /// The tables, and the types they have.
    pub(super) tables: Vec<CatalogTable>,
    pub(super) types: Catalog,
}

impl Snapshot {
    /// Enters a snapshot of the tables that were read as `before`, and whose columns are looked at now. It is that of the
    /// source's slot, which is made, or of a temporary one beside it. What is left of `sessions` comes back.
    pub(super) async fn of(
        settings: &Settings,
        sessions: Sessions,
        mut before: Vec<CatalogTable>,
        mut make_slot: bool,
    ) -> Result<(Self, Sessions)> {
        let failed = |error| fault::explain(error, "cannot take a snapshot", &settings.connect);
        let wanted: Vec<TableId> = before.iter().map(|table| table.id.clone()).collect();
        let Sessions { sql, mut replication } = sessions;
        let mut reader = super::awake(settings, sql).await?;
        let versions = catalog::read_column_versions(&mut reader, &before).await;
        let mut versions = versions.map_err(failed)?;
        let mut kept = Kept::of(reader, Session::Sql);
        for _ in 0..ATTEMPTS {
            let (point, mut sql, exporter) = enter(settings, replication.take(), make_slot).await.map_err(failed)?;
            replication = exporter;
            // LOCK TABLE would want the privilege to read the whole table, and not its published columns alone.
            let reads = before
                .iter()
                .map(|table| format!("SELECT FROM {} LIMIT 0", catalog::quoted(&table.present)));
            let lock = reads.collect::<Vec<_>>().join("; ");
            let is_locked = match sql.query(&lock).await {
                // It was renamed just now.
                Err(error) if error.sqlstate() == Some("42P01") => false,
                locked => locked.map(|_| true).map_err(failed)?,
            };
            let mut reader = super::awake(settings, kept).await?;
            let Some((tables, versions_now)) = look(settings, &mut reader, &wanted).await? else {
                // Whoever waits for our locks has others wait behind him.
                tracing::info!("a lock on a table is waited for: taking another snapshot");
                sql.close().await;
                (kept, make_slot) = (Kept::of(reader, Session::Sql), false);
                sleep(PAUSE).await;
                continue;
            };
            // Locked was what had the names before, and is read by those that it has now.
            let names = |tables: &[CatalogTable]| tables.iter().map(|table| table.present.clone()).collect::<Vec<_>>();
            if is_locked && versions == versions_now && names(&before) == names(&tables) {
                let used = tables.iter().flat_map(CatalogTable::types);
                let types = catalog::read_types(&mut reader, used).await.map_err(failed)?;
                let exported = sql.query(EXPORT).await.map_err(failed)?;
                let exported = exported.first().ok_or_else(|| failed(not_exported()))?;
                let snapshot = Self {
                    point,
                    entrance: Entrance {
                        name: exported.get(0).unwrap_or_default().to_owned(),
                        lock,
                    },
                    horizon: exported.parse(1).map_err(failed)?,
                    sql,
                    tables,
                    types,
                };
                let sql = Kept::of(reader, Session::Sql);
                return Ok((snapshot, Sessions { sql, replication }));
            }
            tracing::info!("a table was rewritten or renamed while its snapshot was taken: taking another");
            sql.close().await;
            kept = Kept::of(reader, Session::Sql);
            (before, versions, make_slot) = (tables, versions_now, false);
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

    /// The last commit that it includes: every transaction whose commit record begins before its
    /// point is in it.
    pub(super) fn held(&self) -> Lsn {
        Lsn(self.point.0.saturating_sub(1))
    }
}

/// How further sessions come into a snapshot.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    /// Of the exported snapshot.
    name: String,
    /// The statements that lock its tables.
    lock: String,
}

impl Entrance {
    /// Another session in the snapshot, with locks of its own on the tables. `None` where somebody
    /// waits for the locks of the first session, to truncate a table for one: a session that came behind
    /// him would wait for him, and the first for that session.
    pub(super) async fn join(&self, settings: &Settings) -> Result<Option<Connection>, WireError> {
        let mut session = Connection::open(&settings.connect, Session::Sql).await?;
        join(&mut session, &self.name).await?;
        let limit = LONGEST_LOCK.as_millis();
        let lock = format!(
            "SET LOCAL lock_timeout = {limit}; {}; SET LOCAL lock_timeout = 0",
            self.lock
        );
        match session.query(&lock).await {
            Ok(_) => Ok(Some(session)),
            Err(error) if error.sqlstate() == Some("55P03") => {
                session.close().await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Begins a transaction of `sql` in the snapshot that was exported as `name`.
async fn join(sql: &mut Connection, name: &str) -> Result<(), WireError> {
    sql.query(IN_ORDER).await?;
    sql.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let name = escape_literal(name);
    sql.query(&format!("SET TRANSACTION SNAPSHOT {}", name.trim_start()))
        .await?;
    Ok(())
}

/// Leaves the planner no way to read a range of a file but from its first row to its last, and no block outside
/// of it (TID Range Scan): where rows come with their addresses, a piece of a copy ends at that of its last
/// row. For a file that is read whole the scan that it has left is taken all the same.
const IN_ORDER: &str = "SET enable_seqscan = off; SET enable_indexscan = off; SET enable_indexonlyscan = off; \
    SET enable_bitmapscan = off; SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0";

/// Names the snapshot of the session's transaction for others, and tells its horizon.
const EXPORT: &str = "SELECT pg_catalog.pg_export_snapshot(), \
    pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())";

fn not_exported() -> WireError {
    WireError::Protocol("no snapshot was exported".to_owned())
}

/// The tables as they are now, and the versions of their columns, as `sql` tells, which is in no transaction.
/// `None` if a lock was not to be had soon.
async fn look(
    settings: &Settings,
    sql: &mut Connection,
    wanted: &[TableId],
) -> Result<Option<(Vec<CatalogTable>, Vec<(u32, String)>)>> {
    let failed = |error| fault::explain(error, "cannot read the catalog", &settings.connect);
    let set_limit = |limit: Duration| format!("SET lock_timeout = {}", limit.as_millis());
    sql.query(&set_limit(LONGEST_LOCK)).await.map_err(failed)?;
    let looking = async {
        let tables = catalog::read_settled_tables(sql, settings, wanted).await?;
        let versions = catalog::read_column_versions(sql, &tables).await?;
        Ok::<_, WireError>((tables, versions))
    };
    let looked = match looking.await {
        Ok((tables, versions)) => Some((super::judged(settings, wanted, tables)?, versions)),
        Err(error) if error.sqlstate() == Some("55P03") => None,
        Err(error) => return Err(failed(error)),
    };
    sql.query(&set_limit(Duration::ZERO)).await.map_err(failed)?;
    Ok(looked)
}

/// Makes a slot and opens a session in its snapshot. Returns the snapshot's place in the log too, and the session
/// that made the slot unless that ends with it.
async fn enter(
    settings: &Settings,
    replication: Option<Kept>,
    make_slot: bool,
) -> Result<(Lsn, Connection, Option<Kept>), WireError> {
    let mut exporter = replication_session(settings, replication).await?;
    let create = if make_slot {
        create(settings)
    } else {
        let slot = temporary_slot(&settings.slot, exporter.backend_pid());
        format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT")
    };
    let (rows, opened) = tokio::join!(exporter.query(&create), Kept::open(settings, Session::Sql));
    let (rows, opened) = (rows?, opened?);
    let (point, snapshot) = created(&rows, !make_slot)?;
    // To make a slot may take long: it waits for transactions.
    let mut sql = opened.take(settings).await?;
    join(&mut sql, snapshot).await?;
    if make_slot {
        return Ok((point, sql, Some(Kept::of(exporter, Session::Replication))));
    }
    // Imported: the snapshot lives as long as our transaction now, and a temporary slot would hold back WAL.
    exporter.close().await;
    Ok((point, sql, None))
}

/// Makes the source's slot. Returns the last commit that it does not send, and the session that made it.
pub(super) async fn make_slot(settings: &Settings, replication: Option<Kept>) -> Result<(Lsn, Kept)> {
    let made = async {
        let mut connection = replication_session(settings, replication).await?;
        let rows = connection.query(&create(settings)).await?;
        // The snapshot ends with the session's next command.
        Ok((created(&rows, false)?.0, connection))
    };
    let (point, connection) = made
        .await
        .map_err(|error| fault::explain(error, "cannot make the slot", &settings.connect))?;
    let held = Lsn(point.0.saturating_sub(1));
    Ok((held, Kept::of(connection, Session::Replication)))
}

async fn replication_session(settings: &Settings, kept: Option<Kept>) -> Result<Connection, WireError> {
    match kept {
        Some(kept) => kept.take(settings).await,
        None => Connection::open(&settings.connect, Session::Replication).await,
    }
}

/// The command that makes the source's slot.
fn create(settings: &Settings) -> String {
    // The form with parentheses came with PostgreSQL 15; the other one is understood by all.
    let options = if settings.care.failover {
        "(SNAPSHOT 'export', FAILOVER)"
    } else {
        "EXPORT_SNAPSHOT"
    };
    format!(
        "CREATE_REPLICATION_SLOT \"{}\" LOGICAL pgoutput {options}",
        settings.slot
    )
}

/// The consistent point of a slot that was made, and the name of its snapshot.
fn created(rows: &[Row], temporary: bool) -> Result<(Lsn, &str), WireError> {
    let row = rows
        .first()
        .ok_or_else(|| WireError::Protocol("no answer to CREATE_REPLICATION_SLOT".to_owned()))?;
    let (slot, point) = (row.get(0).unwrap_or_default(), row.parse(1)?);
    let snapshot = row.get(2).ok_or_else(not_exported)?;
    tracing::info!(%slot, temporary, consistent_point = %point, "replication slot created");
    Ok((point, snapshot))
}

/// A name that a crash leaves to nobody: the server drops the slot with the connection.
fn temporary_slot(slot: &str, pid: u32) -> String {
    const LONGEST: usize = 63;
    let suffix = format!("_copy_{pid}");
    format!("{}{suffix}", &slot[..slot.len().min(LONGEST - suffix.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_slot_has_a_name_that_fits() {
        let name = temporary_slot(&"x".repeat(63), 4_000_000);
        assert_eq!(name.len(), 63);
        assert!(name.ends_with("_copy_4000000"));
    }
}
