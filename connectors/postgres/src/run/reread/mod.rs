//! Values that an update left out of the stream, read again from the table.
//!
//! PostgreSQL leaves large values (TOAST) out of an update that did not change them. Their rows
//! wait here for their present values, in their place among the events for the engine, while the
//! stream goes on answering the server. A value is as of a moment at which the change is seen by
//! the session that reads it ([`visible`]): every later change that sets it comes in the stream.
//!
//! The columns stay named in `__unchanged`: a fold keeps what it has, which is exact, and takes the
//! value beside where it has none. The value may be newer than the change, and if the key went to
//! another row meanwhile, that row's; the later changes that made it so come in the stream.
//!
//! What cannot be read stays NULL beside its name: the row is gone or has another key by now, or
//! is no longer published; a column is gone or of another type (one that was renamed is found, unless
//! `schema_changes: stream` leaves its number unknown); the value is NULL by now; our role
//! may not read the table; a lock is in the way; or the change was not to be seen for
//! [`LONGEST_WAIT`]. Nothing here waits without end.
//!
//! A lost session is begun again a few times, and then ends the run: the rows come again.

mod chunk;
mod piece;
mod question;
mod readable;
mod visible;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use millstream_core::{ChangeBatch, EventSender, Result, SourceEvent, TableId};
use tokio::time::{Instant, sleep, timeout};

use self::chunk::Chunk;
use self::piece::Piece;
use self::readable::Readable;
use crate::catalog::{self, CatalogTable};
use crate::config::Settings;
use crate::decode::ColumnType;
use crate::decode::gaps::Gaps;
use crate::fault;
use crate::identity::Identity;
use crate::shape::Shape;
use crate::wire::{Connection, Session, WireError};

/// Most keys of one statement.
const MOST_KEYS: usize = 256;
/// How often a statement is tried on a new session, and the first pause before that.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long a change may take to be seen, and how long after one that took longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const SHORT_WAIT: Duration = Duration::from_millis(200);
/// How long the look-ups of some keys may take: the server's limits (below) are shorter, and do not
/// count while it sends a huge value.
const LONGEST_ASK: Duration = Duration::from_secs(60);
/// How long the catalog is believed about what is published of a table and may be read.
const BELIEVED_FOR: Duration = Duration::from_secs(30);
/// How long a table is left alone that could not be read.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// Limits of the server for a session, and who the server is: its system and, unless it is a
/// standby, its timeline, which is the first part of the name of a file of its log.
const BEGIN: &str = "SET lock_timeout = '5s'; SET statement_timeout = '30s'; \
    SELECT system_identifier, CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END \
    FROM pg_catalog.pg_control_system()";

/// Rows of a relation with values that were left out.
pub(super) struct Incomplete {
    batch: ChangeBatch,
    gaps: Gaps,
    shape: Shape,
    types: Vec<ColumnType>,
    oid: u32,
}

impl Incomplete {
    /// `shape` and `types` are those that the rows were read with.
    pub(super) fn new(batch: ChangeBatch, gaps: Gaps, shape: Shape, types: Vec<ColumnType>, oid: u32) -> Self {
        Self {
            batch,
            gaps,
            shape,
            types,
            oid,
        }
    }

    /// The rows with the values missing.
    pub(super) fn as_it_is(&self) -> SourceEvent {
        missing_counter(&self.shape.id).increment(self.gaps.values() as u64);
        SourceEvent::Changes(self.batch.clone())
    }
}

/// The values of a row in the order of the columns asked for; `None` is one that cannot be used.
type Values = Vec<Option<Bytes>>;

/// What is known of a key after it was asked for.
enum Answer {
    /// There is no such row, or more than one.
    Nothing,
    Row(Values),
}

impl Answer {
    fn bytes(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Row(values) => values.iter().flatten().map(|value| value.len() as u64).sum(),
        }
    }
}

/// Reads left-out values on a session of its own.
pub(super) struct Rereader {
    settings: Arc<Settings>,
    server: Identity,
    session: Option<Connection>,
    tables: HashMap<TableId, Believed>,
    /// How long a change is waited for.
    patience: Duration,
    /// How many keys are asked for together.
    keys: usize,
}

/// What the catalog said of a table; nothing if its values cannot be re-read.
struct Believed {
    until: Instant,
    table: Option<Arc<Readable>>,
}

impl Rereader {
    /// `server` is the one that the stream comes from.
    pub(super) fn new(settings: Arc<Settings>, server: Identity) -> Self {
        Self {
            settings,
            server,
            session: None,
            tables: HashMap::new(),
            patience: LONGEST_WAIT,
            keys: MOST_KEYS,
        }
    }

    /// Sends the rows in batches of bounded size, with the values that can be read.
    ///
    /// # Errors
    /// `Cancelled` if the engine takes no more; those of the connection, if it cannot be had again.
    pub(super) async fn complete(&mut self, incomplete: &Incomplete, sender: &EventSender) -> Result<()> {
        let gaps = &incomplete.gaps.rows;
        let mut piece = Piece::new(incomplete);
        let mut done = 0;
        while done < gaps.len() {
            let chunk = Chunk::of(&gaps[done..], self.keys);
            let answers = if chunk.keys.is_empty() {
                Vec::new()
            } else {
                self.ask_patiently(incomplete, &chunk).await?
            };
            for (gap, key) in gaps[done..].iter().zip(&chunk.places) {
                let answer = match key {
                    None => None,
                    Some(key) => match answers.get(*key) {
                        Some(answer) => Some(answer),
                        None => break,
                    },
                };
                piece.fill(gap, &chunk.columns, answer);
                done += 1;
                if piece.bytes as u64 >= self.settings.batch.bytes.0 {
                    sender.send(piece.cut(gap.row + 1)?).await?;
                }
            }
            // Of large values fewer are asked for, so that few are sent for nothing.
            let read: u64 = answers.iter().map(Answer::bytes).sum();
            let each = read / (answers.len() as u64).max(1);
            let room = usize::try_from(self.settings.batch.bytes.0 / 2 / each.max(1)).unwrap_or(MOST_KEYS);
            self.keys = room.clamp(1, MOST_KEYS);
        }
        if piece.first < incomplete.batch.num_rows() {
            sender.send(piece.cut(incomplete.batch.num_rows())?).await?;
        }
        Ok(())
    }

    /// Asks for keys, if need be several times.
    async fn ask_patiently(&mut self, incomplete: &Incomplete, chunk: &Chunk<'_>) -> Result<Vec<Answer>> {
        let table = &incomplete.shape.id;
        let (mut lost, mut refused, mut pause) = (0, false, FIRST_PAUSE);
        loop {
            // Taken out for the call, so that a session that was left in the middle is not used again.
            let session = match self.session.take() {
                Some(sql) => Ok(sql),
                None => self.begin().await,
            };
            let (error, is_of_the_session) = match session {
                Err(error) => (error, true),
                Ok(sql) => match timeout(LONGEST_ASK, self.ask(sql, incomplete, chunk)).await {
                    Ok(Ok(answers)) => return Ok(answers),
                    Ok(Err(error)) => {
                        let is_of_the_session = is_of_the_session(&error);
                        (error, is_of_the_session)
                    }
                    // It would take as long again.
                    Err(_) => (WireError::TimedOut("re-reading values", LONGEST_ASK), false),
                },
            };
            if is_of_the_session {
                lost += 1;
                if lost == TRIES {
                    let message = "cannot re-read values that the stream left out";
                    return Err(fault::explain(error, message, &self.settings.connect).with("table", table));
                }
                tracing::info!(%table, %error, "the session that re-reads values was lost");
                sleep(pause).await;
                pause *= 3;
            } else if refused {
                tracing::warn!(%table, %error, "values that were left out cannot be re-read");
                if !is_of_the_values(&error) {
                    self.believe(table, None, LEFT_FOR);
                }
                return Ok(chunk.nothing());
            } else {
                // What is published may be another by now.
                self.tables.remove(table);
                refused = true;
            }
        }
    }

    /// Asks for keys: the answers in their order, of as many as there is room for and of one at
    /// least.
    async fn ask(
        &mut self,
        mut sql: Connection,
        incomplete: &Incomplete,
        chunk: &Chunk<'_>,
    ) -> Result<Vec<Answer>, WireError> {
        let is_seen = visible::wait(&mut sql, &incomplete.gaps, self.patience).await?;
        let patience = if is_seen { LONGEST_WAIT } else { SHORT_WAIT };
        if patience != self.patience {
            tracing::info!(is_seen, "whether changes are seen soon after they were streamed");
        }
        self.patience = patience;
        let table = match is_seen {
            true => self.published(&mut sql, incomplete).await?,
            false => None,
        };
        let Some(readable) = table else {
            self.session = Some(sql);
            return Ok(chunk.nothing());
        };
        // A column that is gone would make all others unreadable.
        let of_shape = &incomplete.shape.columns;
        let mut columns = chunk.columns.clone();
        columns.retain(|column| readable.present_alike(&of_shape[*column]).is_some());
        let text = match columns.is_empty() {
            true => None,
            false => question::statement(&readable, &incomplete.shape, &columns, chunk.keys.len()),
        };
        let Some(text) = text else {
            self.session = Some(sql);
            return Ok(chunk.nothing());
        };
        let parameters = question::parameters(&readable, &incomplete.shape, &chunk.keys);
        let mut binary = vec![true; question::BEFORE_COLUMNS];
        binary.extend(columns.iter().map(|column| !incomplete.types[*column].needs_text()));
        let mut selected = sql.select(&text, &parameters, &binary).await?;
        // The catalog may be newer than what was said of it a moment ago.
        let described = selected.columns().iter().skip(question::BEFORE_COLUMNS);
        let usable: Vec<bool> = columns
            .iter()
            .zip(described)
            .map(|(column, described)| readable.is_described(&of_shape[*column], described))
            .collect();
        let mut answers: Vec<Answer> = Vec::with_capacity(chunk.keys.len());
        let (mut bytes, mut last_is_twice) = (0, false);
        while let Some(row) = selected.next().await? {
            let number = row.first().cloned().flatten();
            let number = number.and_then(|mut number| number.try_get_i32().ok());
            let number = number.and_then(|number| usize::try_from(number).ok());
            let is_next = number == Some(answers.len());
            if is_next && last_is_twice {
                answers.pop();
                answers.push(Answer::Nothing);
                last_is_twice = false;
            }
            if !is_next && number.map(|number| number + 1) != Some(answers.len()) {
                return Err(WireError::Protocol("rows of a lookup out of their order".to_owned()));
            }
            if !is_next {
                last_is_twice = true;
                continue;
            }
            if bytes >= self.settings.batch.bytes.0 && !answers.is_empty() {
                // The session, which goes on sending, is left.
                return Ok(answers);
            }
            bytes += row.iter().flatten().map(|value| value.len() as u64).sum::<u64>();
            answers.push(answer(row, chunk, &columns, &usable));
        }
        if last_is_twice {
            answers.pop();
            answers.push(Answer::Nothing);
        }
        if answers.len() != chunk.keys.len() {
            return Err(WireError::Protocol(
                "a lookup without an answer for each key".to_owned(),
            ));
        }
        self.session = Some(sql);
        Ok(answers)
    }

    /// A session with the server that the stream comes from: on another one the numbers of
    /// transactions would be those of others.
    async fn begin(&mut self) -> Result<Connection, WireError> {
        let mut sql = Connection::open(&self.settings.connect, Session::Sql).await?;
        let rows = timeout(LONGEST_ASK, sql.query(BEGIN)).await;
        let rows = rows.unwrap_or(Err(WireError::TimedOut("beginning a session", LONGEST_ASK)))?;
        let system = rows.first().and_then(|row| row.get(0));
        let timeline = rows.first().and_then(|row| row.get(1));
        let is_on = timeline.is_none_or(|name| u32::from_str_radix(name, 16) == Ok(self.server.timeline));
        if system == Some(&self.server.system) && is_on {
            Ok(sql)
        } else {
            Err(WireError::AnotherServer)
        }
    }

    /// What is published of the relation, if it may be read.
    async fn published(
        &mut self,
        sql: &mut Connection,
        incomplete: &Incomplete,
    ) -> Result<Option<Arc<Readable>>, WireError> {
        let id = &incomplete.shape.id;
        let known = self.tables.get(id).filter(|believed| believed.until > Instant::now());
        let found = match known {
            Some(believed) => believed.table.clone(),
            None => {
                let found = match self.look_up(sql, id).await {
                    Err(error) if !is_of_the_session(&error) && self.tables.contains_key(id) => {
                        // As when another table of a publication is locked, which servers wait for.
                        tracing::debug!(table = %id, %error, "the catalog cannot be looked at: it is believed for longer");
                        self.tables.get(id).and_then(|believed| believed.table.clone())
                    }
                    found => found?,
                };
                let how_long = if found.is_some() { BELIEVED_FOR } else { LEFT_FOR };
                self.believe(id, found.clone(), how_long);
                found
            }
        };
        Ok(found.filter(|readable| readable.table.oid == incomplete.oid))
    }

    async fn look_up(&mut self, sql: &mut Connection, id: &TableId) -> Result<Option<Arc<Readable>>, WireError> {
        let wanted = std::slice::from_ref(id);
        let found = catalog::read_tables(sql, &self.settings, wanted).await?;
        let usable = |table: &CatalogTable| table.readable && table.published && !table.row_security;
        match found.into_iter().next().filter(usable) {
            Some(table) => Ok(Some(Arc::new(Readable::look_up(sql, table).await?))),
            None => {
                tracing::warn!(table = %id, "values that were left out cannot be re-read: not published, or not for our role");
                Ok(None)
            }
        }
    }

    fn believe(&mut self, id: &TableId, table: Option<Arc<Readable>>, how_long: Duration) {
        let until = Instant::now() + how_long;
        self.tables.insert(id.clone(), Believed { until, table });
    }
}

/// The values of a row of the result, for all columns that were to be asked for.
fn answer(row: Vec<Option<Bytes>>, chunk: &Chunk<'_>, columns: &[usize], usable: &[bool]) -> Answer {
    let mut values = row.into_iter().skip(1);
    if values.next().flatten().is_none() {
        return Answer::Nothing;
    }
    let mut found = columns.iter().zip(usable).zip(values).peekable();
    let of_column = |column: &usize| {
        let ((_, usable), value) = found.next_if(|((asked, _), _)| *asked == column)?;
        value.filter(|_| *usable)
    };
    Answer::Row(chunk.columns.iter().map(of_column).collect())
}

/// Whether another session may do better: the connection was lost or refused, or the server is
/// shutting down, starting up or overloaded (PostgreSQL manual, appendix A). What it says of a
/// statement, a lock or a timeout stays as it is.
fn is_of_the_session(error: &WireError) -> bool {
    let passing = ["08", "28", "3D", "53", "57P"];
    error
        .sqlstate()
        .is_none_or(|code| passing.iter().any(|class| code.starts_with(class)))
}

/// Whether a statement failed for a key's value (PostgreSQL manual, appendix A, classes 22 and 23), as
/// where it cannot be one of the column's present type.
fn is_of_the_values(error: &WireError) -> bool {
    error
        .sqlstate()
        .is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

fn missing_counter(table: &TableId) -> metrics::Counter {
    table_counter("millstream_postgres_missing_values_total", table)
}

fn table_counter(name: &'static str, table: &TableId) -> metrics::Counter {
    metrics::counter!(name, "source" => table.source.to_string(), "table" => table.within_source())
}
