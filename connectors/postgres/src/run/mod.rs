//! A run: find out where to begin, then stream, and make the copies that are missing beside it.

mod arrivals;
mod assembler;
mod backfill;
mod copies;
mod copy;
mod describe;
mod feed;
mod governor;
mod identify;
mod in_progress;
mod kept;
mod logical;
mod lookups;
mod membership;
pub(crate) mod messages;
mod outbox;
mod owes;
mod partitions;
pub(crate) mod pauses;
mod relief;
mod repair;
mod replay;
mod reread;
mod snapshot;
mod spool;
mod start_command;
mod stream;
mod switch;
mod tables;
mod versions;
mod whereabouts;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{
    Boundary, Error, ErrorKind, PartitionId, Position, Result, ResumePoints, SourceContext, SourceEvent, TableId,
};
use tokio::time::{Instant, sleep};

use self::assembler::Assembler;
use self::copies::Copies;
use self::copy::Begun;
pub(crate) use self::describe::describe;
use self::describe::describe_beside;
use self::feed::Feed;
pub(crate) use self::governor::Governor;
pub(crate) use self::identify::identify;
use self::in_progress::InProgress;
pub(crate) use self::kept::Kept;
use self::kept::Sessions;
use self::lookups::Lookups;
use self::membership::Membership;
use self::outbox::Outbox;
use self::relief::Relief;
use self::replay::Replay;
use self::reread::Rereader;
use self::snapshot::Snapshot;
use self::spool::Spool;
pub(crate) use self::start_command::Mode;
pub(crate) use self::start_command::refuse_old_server;
use self::start_command::{read_two_phase, start_command};
use self::stream::{Gauges, Stream, status_every};
use self::tables::{TableStart, Tables};
use self::whereabouts::missing;
use crate::arrivals::Arrivals;
use crate::attached::Debt;
use crate::backlog::{Backlog, Reader, blocking};
use crate::catalog::{self, CatalogTable};
use crate::config::{SchemaChanges, Settings, Unchanged};
use crate::decode::Lsn;
use crate::fault;
use crate::identity::{self, Identity};
use crate::owed::{self, Why};
use crate::plan::{
    Server, copy_partition, held_relation, plan, position_of, refuse_ahead, relation_partition, relation_position,
    wal_partition,
};
use crate::recopy::Recopy;
use crate::standby;
use crate::wire::{Connection, ReplicationStream, Session, WireError};

/// How long to wait for the slot's last reader to be missed by the server.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);
const SLOT_RETRY: Duration = Duration::from_millis(250);

/// Runs the source; see [`millstream_core::Source::run`].
/// `planned` are the tables that were selected when the pipeline was planned, if that is known, and `kept` is the
/// session for SQL that told them.
pub(crate) async fn run(
    settings: Settings,
    source: &str,
    planned: Option<Vec<TableId>>,
    kept: Option<Kept>,
    context: SourceContext,
) -> Result<()> {
    let cancel = context.cancel.clone();
    let settings = Arc::new(settings);
    let used = settings.selection.used(&context.resume);
    // Before anybody looks for them.
    for table in &used {
        if let Some(oid) = held_relation(table, &context.resume) {
            settings.selection.know(table, oid);
        }
    }
    let (stream, membership) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(()),
        started = start(&settings, source, planned, kept, context) => started?,
    };
    let ended = stream.run(membership).await;
    ended.map_err(|error| repair::passing(&settings, error))
}

/// Everything before the first byte of the stream; first copies are under way by then. Dropping it ends it, and
/// them: the server rolls back the snapshot's transaction and drops a temporary slot.
async fn start<'a>(
    settings: &'a Arc<Settings>,
    source: &str,
    planned: Option<Vec<TableId>>,
    kept: Option<Kept>,
    context: SourceContext,
) -> Result<(Stream<'a>, Membership)> {
    let catalog_failed = |error| fault::explain(error, "cannot read the catalog", &settings.connect);
    let was_kept = kept.is_some();
    let session = async {
        match kept {
            Some(kept) => awake(settings, kept).await,
            None => connect(settings).await,
        }
    };
    let (identified, opened) = tokio::join!(identify::open(settings), session);
    let (identity, mut replication) = identified?;
    let system = identity::judge(source, &identity, settings.adopt.as_deref(), &context.resume)?;
    let mut sql = opened?;
    if was_kept && !identify::are_of_one_server(&mut sql, &mut replication).await {
        // It was lost, or another server has the address since.
        sql.close().await;
        sql = connect(settings).await?;
    }
    let mut replication = Some(Kept::of(replication, Session::Replication));
    refuse_old_server(settings, sql.server_version())?;
    let wanted = settings.selection.used(&context.resume);
    let saw = arrivals::known(&wanted, &identity, &context.resume);
    let membership = Membership::watch(settings, planned, wanted.clone(), saw.clone());
    let tables = read_tables(settings, &mut sql, &wanted).await?;
    // Whatever is called so later.
    tables
        .iter()
        .for_each(|table| settings.selection.know(&table.id, table.oid));
    let slot = catalog::read_slot(&mut sql, &settings.slot)
        .await
        .map_err(catalog_failed)?;
    let (opened, name) = (settings.clone(), source.to_owned());
    let backlog = blocking(move || Backlog::of(&opened, &name)).await?;
    let relief = Relief::of(backlog, slot.as_ref(), &identity);
    let slot = slot.map(|slot| relief.extend(slot));
    let server = Server {
        database: &settings.connect.database,
        slot_name: &settings.slot,
        slot: slot.as_ref(),
        log_end: catalog::read_log_end(&mut sql).await.map_err(catalog_failed)?,
        adopted: identity::is_adoption(source, &identity, &context.resume),
        recopy: settings.recopy,
        lost_slot: settings.lost_slot,
    };
    let sender_timeout = wal_sender_timeout(&mut sql).await.map_err(catalog_failed)?;
    standby::refuse(sql.server_version(), server.log_end.is_none(), settings.care.failover)?;
    let plan = plan(&server, &tables, &context.resume)?;
    repair::announce(settings, source, &plan);
    if plan.adopts {
        relief.refuse_unread(plan.held)?;
    }
    let backlog = relief.for_stream(plan.held.filter(|_| !plan.adopts)).await?;
    if plan.drop_slot {
        repair::drop_slot(settings, &mut sql).await?;
    }
    // Where nothing is held the stream begins with the first copies' snapshot. It is taken now,
    // since its slot may have to be made.
    let mut sql = Kept::of(sql, Session::Sql);
    let mut snapshot = None;
    if plan.held.is_none() && !plan.copy.is_empty() {
        let copied = tables.iter().filter(|table| plan.copy.contains(&table.id));
        let sessions = Sessions { sql, replication };
        let (taken, left) = Snapshot::of(settings, sessions, copied.cloned().collect(), plan.create_slot).await?;
        Sessions { sql, replication } = left;
        snapshot = Some(taken);
    }
    let copied_as_of = match &snapshot {
        Some(snapshot) => {
            // Another one may have taken its place since the plan was made.
            let copied = snapshot.tables.iter();
            copied.for_each(|table| settings.selection.know(&table.id, table.oid));
            Some(snapshot.held())
        }
        None if plan.create_slot && !plan.anew.is_empty() => {
            let (held, kept) = snapshot::make_slot(settings, replication).await?;
            replication = Some(kept);
            Some(held)
        }
        None => None,
    };

    let (shapes, types) = match &snapshot {
        Some(snapshot) => describe_beside(settings, &wanted, (&snapshot.tables, &snapshot.types)).await?,
        None => {
            let mut session = awake(settings, sql).await?;
            let described = describe(settings, &mut session, &wanted).await?;
            sql = Kept::of(session, Session::Sql);
            described
        }
    };
    let starts: Vec<TableStart> = tables
        .iter()
        .zip(shapes)
        .map(|(table, shape)| {
            let mut copied = snapshot.iter().flat_map(|snapshot| &snapshot.tables);
            let copied = copied.find(|copied| copied.id == table.id);
            let has_part = is_whole(&table.id, &context.resume) || Begun::of(&table.id, &context.resume).rows;
            let is_empty = plan.copy.contains(&table.id) && !has_part;
            let is_anew = |(anew, why): &(TableId, Why)| *anew == table.id && why.empties();
            let held = owed::held_up_to(&table.id, &context.resume);
            let held = held.filter(|_| !is_empty);
            let copied_as_of = copied.and(copied_as_of);
            TableStart {
                present: copied.unwrap_or(table).present.clone(),
                renamed: settings.selection.present(&table.id).clone(),
                oid: copied.unwrap_or(table).oid,
                // Of a table without rows everything comes with its copy, and so it does of one that is copied anew.
                held: if plan.anew.iter().any(is_anew) {
                    Lsn(u64::MAX)
                } else {
                    held.or(copied_as_of).unwrap_or(Lsn(u64::MAX))
                },
                shape,
            }
        })
        .collect();
    let binary = starts.iter().all(|start| start.shape.binary_is_exact(&types.catalog));
    let held = plan.held.or(copied_as_of).unwrap_or_default();
    let oids: HashMap<TableId, u32> = starts.iter().map(|start| (start.shape.id.clone(), start.oid)).collect();
    let resume = context.resume.clone();
    let mut copies = Copies::new(settings, oids.clone(), resume, context.copies, held);
    // The first rows are read while the stream is begun. None is taken before it runs.
    copies.start_first(&plan.copy, snapshot);
    let spool = Spool::open(source, settings.spool.folder.clone(), settings.spool.memory)?;
    let mut mode = Mode {
        binary,
        in_parts: settings.streaming,
    };
    let (mut wire, two_phase) = match backlog {
        Some(backlog) => {
            if let Some(unused) = replication {
                unused.close().await;
            }
            (Feed::Backlog(Reader::new(backlog, held)), None)
        }
        None => {
            let backlog = relief.backlog.as_ref();
            Feed::open(settings, &identity, held, mode, SLOT_PATIENCE, replication, backlog)
                .await
                .map_err(|error| repair::passing(settings, error))?
        }
    };
    if wire.is_server() && !plan.adopts {
        let unmoved = async { refuse_moved_slot(settings, awake(settings, sql).await?, held).await };
        if let Err(error) = unmoved.await {
            wire.close().await;
            return Err(error);
        }
    } else {
        sql.close().await;
    }
    if !wire.is_server() {
        mode = Mode::OF_A_BACKLOG;
    }
    tracing::info!(
        slot = %settings.slot, after = %held, binary = mode.binary, backlog = !wire.is_server(), "streaming"
    );
    let partition = wal_partition(source);
    let mut outbox = Outbox::new(context.events);
    if settings.unchanged == Unchanged::Reread {
        outbox.complete_with(Rereader::new(settings.clone(), identity.clone()));
    }
    for table in &plan.copy {
        outbox.push(begin_copy(table, oids[table], held, system.clone()));
    }
    let mut tables = Tables::new(partition.clone(), starts, types, mode.binary);
    tables.recopy = settings.recopy;
    tables.read_at = server.log_end.unwrap_or(Lsn(u64::MAX));
    tables.schema_changes = settings.schema_changes;
    let mut assembler = Assembler::new(partition.clone(), settings.batch, tables, outbox, held);
    assembler.remember(system.clone());
    // The target remembers the others already: the stream told them.
    for (table, why) in plan.anew.iter().filter(|(_, why)| why.empties()) {
        let since = owed::owed_since(table, &context.resume, held);
        let owed = (table, oids[table], *why, since);
        assembler.outbox.push(repair::owes(owed, held, system.clone()));
    }
    let owed = |table: &TableId| (table.clone(), Debt::of(table, &context.resume));
    let debts: BTreeMap<TableId, Debt> = wanted.iter().map(owed).collect();
    // A target table that holds all of it is given nothing by the first copy of another.
    let first = plan.copy.iter().filter(|table| !is_whole(table, &context.resume));
    let emptied = plan.anew.iter().filter(|(_, why)| why.empties());
    let emptied: Vec<TableId> = emptied.map(|(table, _)| table.clone()).collect();
    let awaited: Vec<TableId> = first.chain(&emptied).cloned().collect();
    let mut known = saw;
    known.retain(|table, _| !emptied.contains(table));
    for (table, why) in &plan.anew {
        copies.anew(table, *why);
    }
    copies.start_unfinished(&plan.anew);
    for (table, debt) in &debts {
        if emptied.contains(table) {
            // It is copied whole.
            assembler.remember(debt.settled(table));
        } else if debt.partitions().next().is_some() && settings.recopy != Recopy::Never {
            copies.attached(table, debt.partitions().collect(), debt);
        }
    }
    let stream = Stream {
        settings,
        copies,
        arrivals: Arrivals::new(known, awaited),
        debts,
        backfills: context.backfills,
        lookups: Lookups::default(),
        partition,
        identity,
        wire,
        news: relief.backlog.as_ref().map(|backlog| backlog.news()),
        backlog: relief.backlog,
        mode,
        in_progress: InProgress::new(spool, held, two_phase),
        replay: Replay::default(),
        assembler,
        durable: context.durable,
        cancel: context.cancel,
        status_every: status_every(settings.status_interval, sender_timeout),
        gauges: Gauges::of(source),
    };
    Ok((stream, membership))
}

/// Whether a target table has all of the first copy of `table`.
fn is_whole(table: &TableId, resume: &ResumePoints) -> bool {
    let copy = copy_partition(table);
    resume
        .holdings(table)
        .any(|held| *held.position(&copy) == Position::End)
}

/// The boundary that begins the copy of `table`: from here on it follows the stream, which begins
/// behind `held`, and of which the copy's snapshot will include the first part. Its rows are those
/// of the relation `oid` from here on, whether they come with the copy or with the stream.
fn begin_copy(table: &TableId, oid: u32, held: Lsn, system: (PartitionId, Position)) -> SourceEvent {
    SourceEvent::Boundary(Boundary {
        partition: copy_partition(table),
        from: Position::Beginning,
        position: position_of(held),
        table: Some(table.clone()),
        raises: vec![
            (wal_partition(&table.source), position_of(held)),
            (relation_partition(table), relation_position(oid)),
            // It may be told of another target table.
            (owed::owed_partition(table), owed::given_position(held, true)),
            system,
        ],
        committed_at: None,
        urgent: false,
    })
}

/// Refuses a slot that moved past `held` while we waited for it. Now that it is ours nobody else
/// can move it; the reader that was there before may have.
async fn refuse_moved_slot(settings: &Settings, mut sql: Connection, held: Lsn) -> Result<()> {
    let slot = catalog::read_slot(&mut sql, &settings.slot)
        .await
        .map_err(|error| fault::explain(error, "cannot read the catalog", &settings.connect))?;
    sql.close().await;
    slot.map_or(Ok(()), |slot| refuse_ahead(&settings.slot, &slot, held))
        .map_err(|error| repair::passing(settings, error))
}

/// A session for SQL.
async fn connect(settings: &Settings) -> Result<Connection> {
    Connection::open(&settings.connect, Session::Sql)
        .await
        .map_err(|error| fault::explain(error, "cannot connect", &settings.connect))
}

/// The session for SQL that was kept, or another.
async fn awake(settings: &Settings, kept: Kept) -> Result<Connection> {
    let taken = kept.take(settings).await;
    taken.map_err(|error| fault::explain(error, "cannot connect", &settings.connect))
}

/// The tables as the catalog describes them; each must exist and be published.
///
/// # Errors
/// `Config` if one is not; `Unavailable` if one is gone that a pattern selected.
pub(crate) async fn read_tables(
    settings: &Settings,
    sql: &mut Connection,
    wanted: &[TableId],
) -> Result<Vec<CatalogTable>> {
    let tables = catalog::read_settled_tables(sql, settings, wanted)
        .await
        .map_err(|error| fault::explain(error, "cannot read the catalog", &settings.connect))?;
    judged(settings, wanted, tables)
}

/// What the catalog says of the `wanted`, as [`read_tables`] wants it.
fn judged(settings: &Settings, wanted: &[TableId], mut tables: Vec<CatalogTable>) -> Result<Vec<CatalogTable>> {
    let selection = &settings.selection;
    for id in wanted {
        match tables.iter().find(|table| table.id == *id) {
            // It is not selected any more when the pipeline is planned anew.
            None if !selection.named.contains(id) => {
                return Err(
                    Error::new(ErrorKind::Unavailable, "a table is gone since it was selected")
                        .code("PG0017")
                        .with("table", id)
                        .hint("it is left out when the pipeline is planned anew"),
                );
            }
            None => return Err(missing(id, selection.renamed(id))),
            Some(table) if !table.published => return Err(not_published(settings, table)),
            Some(_) => {}
        }
    }
    if settings.schema_changes == SchemaChanges::Stream {
        // What comes later would not be known.
        let columns = tables.iter_mut().flat_map(|table| &mut table.columns);
        columns.for_each(|column| column.attnum = None);
    }
    Ok(tables)
}

fn not_published(settings: &Settings, table: &CatalogTable) -> Error {
    let error = Error::new(ErrorKind::Config, "the publication does not cover the table")
        .code("PG0015")
        .with("table", &table.id)
        .with("publication", settings.publications.join(", "))
        .hint("`millstream check` names the statement that mends it");
    if table.present == table.id {
        return error;
    }
    error.with("now", &table.present)
}

/// `wal_sender_timeout`; `None` if there is none.
async fn wal_sender_timeout(sql: &mut Connection) -> Result<Option<Duration>, WireError> {
    let rows = sql
        .query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'")
        .await?;
    let millis = rows.first().map_or(Ok(0), |row| row.parse(0))?;
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

/// Starts the stream with the first transaction whose commit record begins after `held`, or with
/// an earlier one where [`start_command`] says so.
/// Waits a while for a reader that the server still believes in, such as our predecessor. The connection that
/// was `kept` serves, if there is one.
///
/// Returns where the slot is confirmed too, if it has two-phase commit.
pub(crate) async fn replicate(
    settings: &Settings,
    server: &Identity,
    held: Lsn,
    mode: Mode,
    patience: Duration,
    mut kept: Option<Kept>,
) -> Result<(ReplicationStream, Option<Lsn>)> {
    let deadline = Instant::now() + patience;
    loop {
        let attempt = async {
            let mut connection = match kept.take() {
                Some(kept) => kept.take(settings).await?,
                None => Connection::open(&settings.connect, Session::Replication).await?,
            };
            if identify::of(&mut connection).await? != *server {
                // The next start judges it.
                return Err(WireError::AnotherServer);
            }
            if settings.care.failover {
                let alter = format!("ALTER_REPLICATION_SLOT \"{}\" (FAILOVER true)", settings.slot);
                connection.query(&alter).await?;
            }
            let two_phase = read_two_phase(settings, &mut connection).await?;
            let command = start_command(settings, connection.server_version(), two_phase.is_some(), held, mode);
            Ok::<_, WireError>((connection.replicate(&command).await?, two_phase))
        };
        match attempt.await {
            Ok(stream) => return Ok(stream),
            // The slot's reader, or the sender that we have just left, is not yet missed.
            Err(error) if matches!(error.sqlstate(), Some("55006" | "53300")) && Instant::now() < deadline => {
                sleep(SLOT_RETRY).await;
            }
            Err(error) => {
                return Err(
                    fault::explain(error, "cannot start replication", &settings.connect).with("slot", &settings.slot)
                );
            }
        }
    }
}
