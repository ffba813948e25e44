//! The stream: bytes from the socket to the assembler, events to the engine, and replies to
//! the server on time, whatever the engine does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{BackfillRequests, Checkpoint, Error, ErrorKind, PartitionId, Result, SourceEvent, TableId};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::assembler::Assembler;
use super::copies::Copies;
use super::copy::Message;
use super::feed::Feed;
use super::in_progress::{InProgress, Turn};
use super::lookups::Lookups;
use super::membership::{Membership, Notice};
use super::messages::{Envelope, status_update};
use super::pauses::Pauses;
use super::replay::Replay;
use super::start_command::Mode;
use super::switch::told;
use super::tables::{Need, OwedCopy};
use crate::arrivals::Arrivals;
use crate::attached::Debt;
use crate::backlog::{Backlog, Entry, Phase};
use crate::clock;
use crate::config::Settings;
use crate::decode::Lsn;
use crate::fault;
use crate::identity::Identity;
use crate::owed::Why;
use crate::plan::{self, lsn_of};
use crate::recopy::Recopy;
use crate::wire::WireError;

/// After a piece of a copy the stream comes first for so many bytes, which is about as much.
const STREAM_TURN: usize = 4 << 20;
/// A server that was silent for this long is asked for a sign of life; after twice this it is
/// given up.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the server may take to accept a status update. It reads them whenever it writes.
const LONGEST_SEND: Duration = Duration::from_secs(30);

/// How much of a kept transaction is read before others have their turn, in bytes.
const MOST_IN_A_TURN: usize = 1 << 20;

/// How long to wait for our own slot after we have left it: the walsender may read our goodbye
/// only when it next looks for replies, at half its timeout.
const OWN_SLOT_PATIENCE: Duration = Duration::from_secs(90);

/// How long the server may take to tell about a table or types.
const LONGEST_LOOKUP: Duration = Duration::from_secs(30);

/// How many things a message may need, one after the other: types, a look at its relation, text.
const MOST_NEEDS: u32 = 6;

/// How often the server is told how far we are: as often as is wished, and as it needs. While
/// the engine takes nothing we read nothing, and would not see the server ask; a silent server
/// must be asked before it is given up.
pub(super) fn status_every(wished: Duration, sender_timeout: Option<Duration>) -> Duration {
    sender_timeout
        .map_or(wished, |limit| wished.min(limit / 3))
        .min(SILENCE)
}

/// What to do where the server, up to version 17, misses a publication.
const MADE_LATER: &str = "if it misses a publication: one that was made after the place in the log that the slot has reached is \
    not there yet: take it out of `publications` until the slot is past that place, then add it; one that was \
    dropped has to be made again";

/// A replication stream that runs.
pub(super) struct Stream<'a> {
    pub(super) settings: &'a Settings,
    pub(super) partition: PartitionId,
    pub(super) identity: Identity,
    pub(super) wire: Feed,
    /// What the log may be taken off the server into, and news of it.
    pub(super) backlog: Option<Arc<Backlog>>,
    pub(super) news: Option<watch::Receiver<(Phase, u64)>>,
    pub(super) mode: Mode,
    pub(super) in_progress: InProgress,
    pub(super) replay: Replay,
    pub(super) assembler: Assembler,
    pub(super) durable: watch::Receiver<Checkpoint>,
    pub(super) cancel: CancellationToken,
    /// How often the server hears of us, at least.
    pub(super) status_every: Duration,
    pub(super) gauges: Gauges,
    /// What is copied beside it.
    pub(super) copies: Copies,
    /// Partitions that came to tables with rows, and what is owed of them.
    pub(super) arrivals: Arrivals,
    pub(super) debts: BTreeMap<TableId, Debt>,
    /// What is to be copied again.
    pub(super) backfills: BackfillRequests,
    pub(super) lookups: Lookups,
}

/// Where the stream stands, for metrics.
pub(super) struct Gauges {
    pub(super) received: metrics::Gauge,
    pub(super) confirmed: metrics::Gauge,
}

impl Gauges {
    pub(super) fn of(source: &str) -> Self {
        let received = metrics::gauge!("millstream_postgres_received_lsn", "source" => source.to_owned());
        let confirmed = metrics::gauge!("millstream_postgres_confirmed_lsn", "source" => source.to_owned());
        Self { received, confirmed }
    }
}

/// What came for the engine.
enum Input {
    /// The socket may be looked at again.
    Waited,
    /// So many bytes are there to be decoded.
    Filled(Result<usize, WireError>),
    /// A copy sent something.
    Copied(Result<Message>),
}

/// Waits for the socket or for a copy, whichever has something, and looks at one of them first:
/// either may have something all the time.
///
/// Cancel safe.
async fn next_input(
    wire: &mut Feed,
    copies: &mut Copies,
    wait: Option<Instant>,
    copies_may_follow: bool,
    stream_first: bool,
) -> Input {
    let read = async {
        match wait {
            Some(until) => {
                sleep_until(until).await;
                Input::Waited
            }
            None => Input::Filled(wire.fill().await),
        }
    };
    if stream_first {
        tokio::select! {
            biased;
            input = read => input,
            message = copies.next(), if copies_may_follow => Input::Copied(message),
        }
    } else {
        tokio::select! {
            biased;
            message = copies.next(), if copies_may_follow => Input::Copied(message),
            input = read => input,
        }
    }
}

impl Stream<'_> {
    /// Runs until it is cancelled or fails.
    pub(super) async fn run(mut self, mut membership: Membership) -> Result<()> {
        let cancel = self.cancel.clone();
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            ended = self.serve(&mut membership) => ended,
        };
        // A server that hears no goodbye logs a broken connection.
        self.wire.close().await;
        ended
    }

    async fn serve(&mut self, membership: &mut Membership) -> Result<()> {
        let mut status = interval(self.status_every);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut engine_listens, mut may_be_asked) = (true, true);
        let mut owed = 0usize;
        let mut pauses = Pauses::new();
        let mut last_heard = Instant::now();
        loop {
            self.make_room_for_a_filler().await;
            if self.assembler.outbox.is_empty() && self.decode(&mut pauses).await? {
                // Looking things up took its time, in which nothing was read.
                last_heard = Instant::now();
            }
            self.copies.settle(self.assembler.settled());
            let sending = !self.assembler.outbox.is_empty();
            let taking = !sending && !self.in_progress.is_reading();
            let due = self.assembler.due();
            let now = Instant::now();
            let next_read = pauses.next();
            let wait_for_wire = (next_read > now).then_some(next_read);
            let copies_may_follow =
                self.copies.are_running() && self.assembler.is_at_boundary() && !self.assembler.is_leaving();
            tokio::select! {
                biased;
                changed = self.durable.changed(), if engine_listens => {
                    engine_listens = changed.is_ok();
                    self.send_status(false).await?;
                }
                _ = status.tick() => {
                    if !taking || !self.wire.is_server() {
                        // We are not listening, so the silence is ours.
                        last_heard = now;
                    }
                    let silence = last_heard.elapsed();
                    if silence > SILENCE * 2 {
                        let error = WireError::TimedOut("a sign of life of the server", silence);
                        return Err(fault::explain(error, "the replication stream broke", &self.settings.connect));
                    }
                    self.send_status(silence > SILENCE).await?;
                }
                request = self.backfills.next(), if may_be_asked => match request {
                    Some(request) => self.copies.ask(request),
                    None => may_be_asked = false,
                },
                notice = membership.changed() => match notice {
                    Notice::TablesChanged => self.assembler.outbox.push(SourceEvent::TablesChanged),
                    Notice::Left(error) => return Err(error),
                    Notice::Seen(seen) => self.take_look(seen).await?,
                },
                () = told(&mut self.news), if self.wire.is_server() => {}
                sent = self.assembler.outbox.drive(), if sending => sent?,
                // A kept transaction is read on, after all of the above and a cancellation had their turn.
                () = yield_now(), if !sending && !taking => {}
                input = next_input(&mut self.wire, &mut self.copies, wait_for_wire, copies_may_follow, owed > 0), if taking => match input {
                    Input::Waited => {}
                    Input::Filled(filled) => {
                        let bytes = filled.map_err(|error| fault::explain(error, "the replication stream broke", &self.settings.connect))?;
                        last_heard = Instant::now();
                        if bytes == 0 {
                            self.return_to_the_server().await?;
                        }
                        owed = owed.saturating_sub(bytes);
                        pauses.found(bytes, self.wire.is_local(), last_heard);
                        // What comes until then, or while this is decoded, is to wake nobody.
                        self.wire.rest();
                    }
                    Input::Copied(message) => {
                        self.take_copied(message?)?;
                        // Copies may leave no moment in which nothing is ready.
                        self.assembler.hand_on_when_due(Instant::now())?;
                        owed = STREAM_TURN;
                    }
                },
                // Only where the socket was found to have nothing ready.
                () = sleep_until(due.unwrap_or(now)), if taking && due.is_some() && next_read <= now => {
                    self.assembler.hand_on_when_due(Instant::now())?;
                }
            }
        }
    }

    fn take_copied(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Snapshot { held, horizon, tables } => {
                for table in &tables {
                    let came = self.arrivals.copied(table, horizon);
                    self.owe_partitions(came);
                    if let Some(displaced) = self.assembler.tables.copied_as_of(table, held) {
                        // The stream is past the snapshot, and has passed over changes since then.
                        self.begin_anew(table, Why::Replaced, Some(displaced))?;
                    }
                }
            }
            Message::Piece(events) => events.into_iter().for_each(|event| self.assembler.outbox.push(event)),
        }
        Ok(())
    }

    /// Asks to be started anew, with a copy of `table` that is owed since the transaction that is
    /// read, or since another place in the log. Until then nothing of it is decoded.
    fn begin_anew(&mut self, table: &TableId, why: Why, since: Option<Lsn>) -> Result<()> {
        tracing::warn!(%table, reason = why.name(), "the target's rows are not the table's any more: starting anew to copy it");
        self.assembler.owe(table, why, since);
        self.assembler.tables.leave(table);
        self.assembler.ask_to_be_started_anew()
    }

    /// Looks for tables that were replaced and of which the stream did not tell, since nothing of
    /// them has changed.
    pub(super) async fn compare_relations(&mut self, found: &[(TableId, u32)]) -> Result<()> {
        if self.settings.recopy == Recopy::Never {
            return Ok(());
        }
        let relations = self.assembler.tables.relations();
        let replaced = |(table, oid): &(&TableId, u32)| found.iter().any(|(id, now)| id == *table && now != oid);
        let replaced = relations.into_iter().find(replaced);
        let Some((table, oid)) = replaced.map(|(table, oid)| (table.clone(), oid)) else {
            return Ok(());
        };
        // What was found may be older than the snapshot that the stream began with.
        match self.present_relation(&table).await? {
            Some(now) if now != oid => self.begin_anew(&table, Why::Replaced, None),
            _ => Ok(()),
        }
    }

    /// Meets the need of a copy.
    ///
    /// # Errors
    /// `SchemaChange` (PG0032) for a table that was renamed and whose name nothing else has.
    async fn copy_anew(&mut self, owed: OwedCopy) -> Result<()> {
        let OwedCopy { table, why, renamed } = owed;
        if let Some(now) = renamed
            && self.present_relation(&table).await?.is_none()
        {
            return Err(plan::renamed(&table, &now));
        }
        if why.empties() {
            return self.begin_anew(&table, why, None);
        }
        self.assembler.owe(&table, why, None);
        self.copies.anew(&table, why);
        Ok(())
    }

    /// Decodes what was read, until it is used up or something waits for the engine. Returns
    /// whether anything had to be looked up or begun anew meanwhile.
    async fn decode(&mut self, pauses: &mut Pauses) -> Result<bool> {
        let (mut interrupted, mut read) = (false, 0);
        while self.assembler.outbox.is_empty() {
            if self.in_progress.is_reading() {
                if read > MOST_IN_A_TURN {
                    break;
                }
                if let Some(message) = self.in_progress.next()? {
                    read += message.len();
                    if self.replay.is_new(message)?
                        && let Some(need) = self.assembler.take(message)?
                    {
                        let message = message.to_vec();
                        self.meet(need, &message).await?;
                        interrupted = true;
                    }
                }
                continue;
            }
            let broken = |error: WireError| {
                // It looks for publications as of the place in the log that it reads.
                let is_missing = error.sqlstate() == Some("42704");
                let error = fault::explain(error, "the replication stream ended", &self.settings.connect);
                if is_missing { error.hint(MADE_LATER) } else { error }
            };
            let content = match self.wire.next_buffered() {
                Ok(Some(Entry::Message(content))) => content,
                Ok(Some(Entry::Anew)) => {
                    self.begin_again(None);
                    continue;
                }
                Ok(None) => break,
                Err(error) if self.mode.in_parts && is_fault_of_the_server(&error) => {
                    self.restart_without_parts(&error).await?;
                    interrupted = true;
                    continue;
                }
                Err(error) => return Err(broken(error)),
            };
            match Envelope::parse(content).map_err(broken)? {
                Envelope::Data { data, sent } => {
                    pauses.sent(sent);
                    if self.in_progress.take(data)? == Turn::Pass
                        && self.replay.is_new(data)?
                        && let Some(need) = self.assembler.take(data)?
                    {
                        let message = data.to_vec();
                        self.meet(need, &message).await?;
                        interrupted = true;
                    }
                }
                Envelope::KeepAlive { wal_end, reply } => {
                    self.gauges.received.set(wal_end.0 as f64);
                    if self.in_progress.is_between_parts() {
                        self.in_progress.reached(wal_end);
                        self.assembler.reached(wal_end, reply);
                    }
                    if reply {
                        self.send_status(false).await?;
                    }
                }
            }
        }
        Ok(interrupted)
    }

    /// Meets a need of the assembler, and gives it the message that had it.
    async fn meet(&mut self, need: Need, message: &[u8]) -> Result<()> {
        let mut need = need;
        for _ in 0..MOST_NEEDS {
            match need {
                // The message comes again in the new stream.
                Need::Text => return self.restart_as_text().await,
                Need::Types(unknown) => {
                    let (names, catalog) = self.look_up(Lookups::types(self.settings, &unknown)).await?;
                    self.assembler.tables.learn(&unknown, names, catalog);
                }
                Need::Relation(oid) => {
                    let mut lookups = std::mem::take(&mut self.lookups);
                    let settings = self.settings;
                    let looking = async { Ok(lookups.relation(settings, oid).await) };
                    let look = self.look_up(looking).await?;
                    self.lookups = lookups;
                    self.assembler.tables.looked_at(oid, look);
                }
                Need::Whereabouts(doubt) => {
                    let found = self.whereabouts(&doubt).await?;
                    self.assembler.tables.found(doubt, found);
                }
                Need::Copy(owed) => self.copy_anew(owed).await?,
            }
            match self.assembler.take(message)? {
                None => return Ok(()),
                Some(next) => need = next,
            }
        }
        Err(Error::new(
            ErrorKind::Internal,
            "a table stays unknown after it was looked up",
        ))
    }

    /// Looks up what the stream did not tell, and answers the server meanwhile.
    pub(super) async fn look_up<T>(&mut self, lookup: impl Future<Output = Result<T, WireError>>) -> Result<T> {
        let mut lookup = Box::pin(timeout(LONGEST_LOOKUP, lookup));
        let found = loop {
            tokio::select! {
                found = &mut lookup => break found,
                () = sleep(self.status_every) => self.send_status(false).await?,
            }
        };
        found
            .unwrap_or(Err(WireError::TimedOut("looking up a table", LONGEST_LOOKUP)))
            .map_err(|error| {
                fault::explain(
                    error,
                    "cannot look up what the stream does not tell of a table",
                    &self.settings.connect,
                )
            })
    }

    /// Leaves the stream for one in text mode, which goes on at the same change: the mode
    /// belongs to a whole stream, and the catalog that it was chosen from may be newer than
    /// what is read, so that another start would choose no better.
    async fn restart_as_text(&mut self) -> Result<()> {
        self.mode.binary = false;
        self.restart("in text mode").await?;
        self.assembler.tables.read_text();
        Ok(())
    }

    /// Leaves the stream for one that sends transactions when they have committed. PostgreSQL
    /// 15.18 was seen to fail ("could not map filenode") while it sent parts of a transaction in
    /// which changes of tables had been rolled back to a savepoint, and never while it sent such a
    /// transaction whole. It would fail at the same place again.
    async fn restart_without_parts(&mut self, error: &WireError) -> Result<()> {
        tracing::warn!(%error, "the server failed while it sent transactions before they commit");
        self.mode.in_parts = false;
        self.restart("with whole transactions").await
    }

    /// Goes on in another stream, in the present mode, at the same change.
    pub(super) async fn restart(&mut self, how: &str) -> Result<()> {
        let before = self.before_the_next();
        tracing::info!(slot = %self.settings.slot, after = %before, "restarting the stream {how}");
        self.wire.close().await;
        let backlog = self.backlog.as_ref();
        let opened = Feed::open(
            self.settings,
            &self.identity,
            before,
            self.mode,
            OWN_SLOT_PATIENCE,
            None,
            backlog,
        );
        let (wire, two_phase) = opened.await?;
        self.wire = wire;
        if self.wire.is_server() {
            let sql = super::connect(self.settings).await?;
            super::refuse_moved_slot(self.settings, sql, before).await?;
        } else {
            self.mode = Mode::OF_A_BACKLOG;
            self.assembler.tables.read_text();
        }
        self.begin_again(two_phase);
        Ok(())
    }

    /// The place before the transaction that is read, or else the last that was read whole.
    pub(super) fn before_the_next(&self) -> Lsn {
        if self.assembler.transaction.is_none() || self.need_not_come_again() {
            return self.assembler.last_whole().max(self.in_progress.held());
        }
        Lsn(self.replay.commit().0.saturating_sub(1))
    }

    /// Whether the transaction that is read is one that all of the target holds, or nothing of it was
    /// taken: one without changes of ours may not be sent at all.
    fn need_not_come_again(&self) -> bool {
        let begun = self.assembler.transaction.as_ref();
        begun.is_some_and(|begun| begun.commit <= self.in_progress.held() || self.replay.taken() == 0)
    }

    /// Prepares for another stream, which begins [before the next](Self::before_the_next) transaction or
    /// earlier.
    pub(super) fn begin_again(&mut self, two_phase: Option<Lsn>) {
        let before = self.before_the_next();
        if self.need_not_come_again() {
            self.assembler.transaction = None;
            self.replay.forget();
        } else if self.assembler.transaction.is_some() {
            self.replay.again();
        }
        self.in_progress.begin_again(before, two_phase);
    }

    /// Tells the server what is durable in the target: one past the last commit that it holds,
    /// which is exactly what a later start compares its position with; less while it must be
    /// able to send a prepared transaction again.
    async fn send_status(&mut self, ask_for_reply: bool) -> Result<()> {
        let held = lsn_of(self.durable.borrow_and_update().position(&self.partition));
        let least = match held {
            Some(held) => self.settle_backlog(held)?,
            None => None,
        };
        let confirmed = held.map_or(Lsn(0), |held| self.in_progress.confirmable(Lsn(held.0 + 1)));
        let confirmed = confirmed.max(least.unwrap_or_default());
        self.gauges.confirmed.set(confirmed.0 as f64);
        let message = status_update(confirmed, clock::unix_micros(), ask_for_reply);
        let sent = timeout(LONGEST_SEND, self.wire.send(&message)).await;
        sent.unwrap_or(Err(WireError::TimedOut("sending a status update", LONGEST_SEND)))
            .map_err(|error| fault::explain(error, "the replication stream broke", &self.settings.connect))
    }
}

/// Whether the server reports an internal error (PostgreSQL manual, appendix A, class XX).
fn is_fault_of_the_server(error: &WireError) -> bool {
    error.sqlstate().is_some_and(|code| code.starts_with("XX"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_hears_of_us_before_either_side_gives_up() {
        let seconds = Duration::from_secs;
        assert_eq!(status_every(seconds(10), Some(seconds(60))), seconds(10));
        assert_eq!(status_every(seconds(10), Some(seconds(6))), seconds(2));
        assert_eq!(status_every(seconds(600), None), SILENCE);
        assert_eq!(status_every(seconds(600), Some(seconds(900))), SILENCE);
    }
}
