//! Reads the log off the server into a backlog.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::block::Block;
use super::{Backlog, Phase};
use crate::config::Settings;
use crate::decode::Lsn;
use crate::fault;
use crate::run::messages::{Envelope, status_update};
use crate::run::pauses::Pauses;
use crate::run::{self, Mode};
use crate::wire::{Connection, ReplicationStream, Session, WireError};
use crate::{catalog, clock};

/// A block is written once it has so many bytes.
const BLOCK: usize = 1 << 20;
/// Or once its first message is so old.
const LINGER: Duration = Duration::from_millis(200);
/// How long the server may take to accept a status update.
const LONGEST_SEND: Duration = Duration::from_secs(30);
/// A server that was silent for this long is given up. It is asked for a sign of life with every
/// status update.
const SILENCE: Duration = Duration::from_secs(60);
/// How often the server is told how far we are, at least.
const STATUS: Duration = Duration::from_secs(5);
/// How long whoever reads the slot may take to leave it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Fills `backlog`, which was [announced](Backlog::announce), until it is asked to end, has no room or
/// cannot go on.
///
/// Cancel safe: what is not durable was not confirmed.
/// Returns whether it did what it was to do.
pub(crate) async fn fill(settings: Arc<Settings>, backlog: Arc<Backlog>) -> bool {
    let closing = Closing(backlog.clone());
    tracing::warn!(slot = %settings.slot, backlog = %backlog.folder.display(), "the log is taken off the server");
    let filled = async {
        let started = tokio::select! {
            started = Filler::start(&settings, backlog.clone()) => Some(started?),
            () = is_closing(&backlog) => None,
        };
        let Some(mut filler) = started else {
            return Ok((Ended::Asked, 0));
        };
        let ended = filler.run().await;
        filler.wire.close().await;
        Ok::<_, Error>((ended?, filler.backlog.bytes()))
    };
    let filled = filled.await;
    drop(closing);
    match filled {
        Ok((Ended::Asked, _)) => tracing::info!(slot = %settings.slot, "the log stays on the server again"),
        Ok((Ended::Full, bytes)) => tracing::warn!(
            code = "PG0056", slot = %settings.slot, bytes,
            "the backlog has no room: the slot holds back the log again"
        ),
        Err(error) => {
            tracing::warn!(
                code = error.error_code(), slot = %settings.slot, error = %error.summary(), hint = error.hint_text(),
                "the log cannot be taken off the server"
            );
            return false;
        }
    }
    true
}

/// Waits until whoever fills it is to end.
async fn is_closing(backlog: &Backlog) {
    // The backlog lives meanwhile.
    let _ = backlog.news().wait_for(|(phase, _)| *phase == Phase::Closing).await;
}

/// Says that nobody fills the backlog any more.
struct Closing(Arc<Backlog>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed();
    }
}

enum Ended {
    Asked,
    Full,
}

struct Filler<'a> {
    settings: &'a Settings,
    backlog: Arc<Backlog>,
    /// That of the backlog in which this fills it.
    turn: u64,
    wire: ReplicationStream,
    pauses: Pauses,
    block: Block,
    /// When its first message came.
    since: Option<Instant>,
    /// Everything up to here was read.
    end: Lsn,
    /// Whether a transaction is read.
    open: bool,
    relations: Relations,
}

/// The `Relation` messages of the stream. Each segment has those that it needs, so that reading can
/// begin with any.
#[derive(Default)]
struct Relations {
    told: HashMap<u32, Vec<u8>>,
    /// Those that the segment has.
    written: HashSet<u32>,
}

impl<'a> Filler<'a> {
    async fn start(settings: &'a Settings, backlog: Arc<Backlog>) -> Result<Self> {
        let turn = backlog.turn();
        let failed = |error: WireError| fault::explain(error, "cannot look at the slot", &settings.connect);
        let refused = |why| {
            Error::new(ErrorKind::Unavailable, why)
                .code("PG0056")
                .with("slot", &settings.slot)
                .hint("the log stays on the server; docs/errors/PG0056.md has the reasons")
        };
        let identity = run::identify(settings).await?;
        let mut sql = Connection::open(&settings.connect, Session::Sql)
            .await
            .map_err(failed)?;
        let slot = catalog::read_slot(&mut sql, &settings.slot).await.map_err(failed)?;
        sql.close().await;
        let confirmed = slot.and_then(|slot| slot.confirmed);
        let confirmed = confirmed.ok_or_else(|| refused("there is no such slot"))?;
        let token = identity.token();
        let has_gap = backlog.range().is_some_and(|range| confirmed.0 > range.end.0 + 1);
        let has_log = |server: &String| {
            let end = backlog.range().map_or(Lsn(0), |range| range.end);
            identity.has_log(server, end)
        };
        if has_gap || !backlog.server().iter().all(has_log) {
            // The next start of the pipeline finds out whether anything is missing.
            return Err(refused("the backlog is not the log before the slot's any more"));
        }
        let begun = backlog.clone();
        blocking(move || begun.begin(Lsn(confirmed.0.saturating_sub(1)), &token, turn)).await?;
        let end = backlog.range().map_or(Lsn(0), |range| range.end);
        let (mut wire, two_phase) =
            run::replicate(settings, &identity, end, Mode::OF_A_BACKLOG, PATIENCE, None).await?;
        if two_phase.is_some() {
            wire.close().await;
            return Err(refused("a slot with two-phase commit has no backlog"));
        }
        let mut block = Block::new();
        block.push(b"");
        Ok(Self {
            settings,
            backlog,
            turn,
            wire,
            pauses: Pauses::new(),
            block,
            since: None,
            end,
            open: false,
            relations: Relations::default(),
        })
    }

    async fn run(&mut self) -> Result<Ended> {
        let mut news = self.backlog.news();
        let mut heard = Instant::now();
        let mut next_status = Instant::now() + STATUS;
        loop {
            self.take().await?;
            if self.backlog.phase() == Phase::Closing {
                self.flush().await?;
                return Ok(Ended::Asked);
            }
            if self.backlog.bytes() >= self.backlog.most {
                return Ok(Ended::Full);
            }
            let due = self
                .since
                .map_or(next_status, |since| (since + LINGER).min(next_status));
            let next_read = self.pauses.next();
            let read = async {
                sleep_until(next_read).await;
                self.wire.fill().await
            };
            tokio::select! {
                filled = read => {
                    let bytes = filled.map_err(|error| self.broken(error))?;
                    heard = Instant::now();
                    self.pauses.found(bytes, self.wire.is_local(), heard);
                    self.wire.rest();
                }
                _ = news.changed() => {}
                () = sleep_until(due) => {
                    if self.since.is_some_and(|since| since.elapsed() >= LINGER) {
                        self.flush().await?;
                    }
                    if next_status <= Instant::now() {
                        if heard.elapsed() > SILENCE {
                            return Err(self.broken(WireError::TimedOut("a sign of life of the server", SILENCE)));
                        }
                        self.confirm(true).await?;
                        next_status = Instant::now() + STATUS;
                    }
                }
            }
        }
    }

    /// Takes what was read.
    async fn take(&mut self) -> Result<()> {
        loop {
            let content = match self.wire.next_buffered() {
                Ok(Some(content)) => content,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.broken(error)),
            };
            match Envelope::parse(content) {
                Ok(Envelope::Data { data: message, sent }) => {
                    self.pauses.sent(sent);
                    self.relations.complete(message, &mut self.block);
                    match message {
                        [b'B', ..] => self.open = true,
                        [b'R', a, b, c, d, ..] => {
                            let oid = u32::from_be_bytes([*a, *b, *c, *d]);
                            self.relations.told.insert(oid, content.to_vec());
                            self.relations.written.insert(oid);
                        }
                        [b'C', _, lsn @ ..] => {
                            let lsn = lsn.first_chunk().copied().map(u64::from_be_bytes);
                            self.end = self.end.max(Lsn(lsn.unwrap_or_default()));
                            self.open = false;
                        }
                        _ => {}
                    }
                    self.block.push(content);
                }
                Ok(Envelope::KeepAlive { wal_end, reply }) => {
                    let end = Lsn(wal_end.0.saturating_sub(1));
                    if !self.open && end > self.end {
                        self.end = end;
                        self.block.push(content);
                    }
                    if reply {
                        self.flush().await?;
                        self.confirm(false).await?;
                    }
                }
                Err(error) => return Err(self.broken(error)),
            }
            if self.block.len() > 0 {
                self.since.get_or_insert_with(Instant::now);
            }
            if self.block.len() >= BLOCK || !self.open && self.backlog.is_long_with(self.block.len()) {
                self.flush().await?;
            }
        }
    }

    /// Writes what was taken, and tells the server.
    async fn flush(&mut self) -> Result<()> {
        self.since = None;
        if self.block.len() == 0 {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, Block::new()).seal(self.end);
        let (backlog, end, whole, turn) = (self.backlog.clone(), self.end, !self.open, self.turn);
        if blocking(move || backlog.append(&block, end, whole, turn)).await? {
            self.relations.written.clear();
        }
        self.confirm(false).await
    }

    /// Tells the server what is durable here.
    async fn confirm(&mut self, ask_for_reply: bool) -> Result<()> {
        let Some(range) = self.backlog.range() else {
            return Ok(());
        };
        let message = status_update(Lsn(range.end.0 + 1), clock::unix_micros(), ask_for_reply);
        let sent = timeout(LONGEST_SEND, self.wire.send(&message)).await;
        sent.unwrap_or(Err(WireError::TimedOut("sending a status update", LONGEST_SEND)))
            .map_err(|error| self.broken(error))
    }

    fn broken(&self, error: WireError) -> Error {
        fault::explain(error, "the replication stream broke", &self.settings.connect)
    }
}

impl Relations {
    /// Adds to `block` what the segment lacks to read the change `message`.
    fn complete(&mut self, message: &[u8], block: &mut Block) {
        match message {
            [b'I' | b'U' | b'D', oid @ ..] => self.need(oid, block),
            // A count and options, then OIDs.
            [b'T', _, _, _, _, _, oids @ ..] => oids.chunks(4).for_each(|oid| self.need(oid, block)),
            _ => {}
        }
    }

    fn need(&mut self, oid: &[u8], block: &mut Block) {
        let Some(oid) = oid.first_chunk().copied().map(u32::from_be_bytes) else {
            return;
        };
        if let Some(told) = self.told.get(&oid)
            && self.written.insert(oid)
        {
            block.push(told);
        }
    }
}

/// Runs what blocks where that harms nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let worked = spawn_blocking(work).await;
    worked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the backlog's writer panicked")))
}
