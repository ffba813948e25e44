//! A target in memory that takes events as the engine does: per table, skipping what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use millstream_core::{
    BackfillDesk, Boundary, ByteBudget, Checkpoint, ErrorKind, EventReceiver, Finding, PartitionId, Position, Result,
    ResumePoints, Severity, Source, SourceContext, SourceEvent, TableId, TableSchema, backfill_desk, event_channel,
};
use millstream_postgres::{PostgresConfig, PostgresSource};
use millstream_testkit::change_log::{Cells, ChangeRow, FoldedTable, change_rows, fold_rows};
use millstream_testkit::postgres::TestCluster;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// The configuration of a source that reads `tables` of `cluster` by the publication `p`.
pub fn config(cluster: &TestCluster, tables: &[&str]) -> serde_json::Value {
    // Tests wait for places in the log that no row of theirs has.
    serde_json::json!({"url": cluster.url(), "publication": "p", "tables": tables, "batch": {"idle": "20ms"}})
}

/// A source called `shop` in a pipeline called `t`; its slot is `millstream_t_shop`.
pub fn source(config: &serde_json::Value) -> PostgresSource {
    let config: PostgresConfig = serde_json::from_value(config.clone()).expect("the test's configuration is sound");
    PostgresSource::new("t", "shop", config).expect("the test's configuration is sound")
}

pub fn table(name: &str) -> TableId {
    TableId::new("shop", Some("public"), name)
}

pub fn wal() -> PartitionId {
    PartitionId::new("shop", "wal")
}

/// What one table holds.
#[derive(Debug, Default, Clone)]
pub struct Held {
    pub checkpoint: Checkpoint,
    pub rows: Vec<ChangeRow>,
}

/// All tables, and what came since the last boundary.
#[derive(Debug, Default, Clone)]
pub struct Target {
    pub tables: BTreeMap<TableId, Held>,
    /// Further target tables of the same source tables, which may stand elsewhere.
    pub twins: BTreeMap<TableId, Held>,
    pending: Vec<(TableId, ChangeRow)>,
    /// Schema and rows of every batch; the batches themselves would keep their permits.
    pub batches: Vec<(Arc<TableSchema>, usize)>,
    pub boundaries: Vec<Boundary>,
    /// Whether rows may be rejected, and how many were.
    pub may_reject: bool,
    /// Whether the source wants to be started anew, since it has other tables to read.
    pub tables_changed: bool,
    pub rejected: usize,
    /// How rows are looked at before they are taken, if not as they are.
    pub seen_as: Option<fn(&RecordBatch) -> RecordBatch>,
}

impl Target {
    pub fn of(tables: &[&str]) -> Self {
        Self {
            tables: tables.iter().map(|name| (table(name), Held::default())).collect(),
            ..Self::default()
        }
    }

    pub fn resume(&self) -> ResumePoints {
        let mut points = ResumePoints::default();
        for (id, held) in self.tables.iter().chain(&self.twins) {
            points.add(id.clone(), held.checkpoint.clone());
        }
        points
    }

    /// The least that all tables hold.
    pub fn least(&self) -> Checkpoint {
        let tables = self.tables.values().chain(self.twins.values());
        let mut checkpoints = tables.map(|held| held.checkpoint.clone());
        let first = checkpoints.next().unwrap_or_default();
        checkpoints.fold(first, |least, checkpoint| least.least(&checkpoint))
    }

    /// Whether every table has its first copy.
    pub fn is_copied(&self) -> bool {
        self.tables.iter().all(|(id, held)| holds_copy(held, id))
    }

    /// Forgets what no boundary followed, as a crash does.
    pub fn crash(&mut self) {
        self.pending.clear();
    }

    pub fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(batch) => {
                let id = batch.schema().id.clone();
                let seen = self
                    .seen_as
                    .map_or_else(|| batch.rows().clone(), |seen_as| seen_as(batch.rows()));
                let rows = change_rows(&[seen]);
                self.pending.extend(rows.into_iter().map(|row| (id.clone(), row)));
                self.batches.push((batch.schema().clone(), batch.num_rows()));
            }
            SourceEvent::Rejected { rows, .. } if self.may_reject => self.rejected += rows.num_rows(),
            SourceEvent::Rejected { origin, rows } => panic!("{} rows of {origin} were rejected", rows.num_rows()),
            SourceEvent::Boundary(boundary) => self.cut(boundary),
            SourceEvent::TablesChanged => self.tables_changed = true,
        }
    }

    fn cut(&mut self, boundary: Boundary) {
        let concerned = |id: &TableId| boundary.table.as_ref().is_none_or(|only| only == id);
        for (id, row) in std::mem::take(&mut self.pending) {
            assert!(
                concerned(&id),
                "a boundary of {:?} follows rows of {id}",
                boundary.table
            );
            assert!(self.tables.contains_key(&id), "{id} is no table of the source");
            let partition = PartitionId::from(row.partition.as_str());
            assert_eq!(partition, boundary.partition, "rows of {id}");
            assert!(boundary.position.holds(&row.position), "a row beyond its boundary");
            let before = self
                .boundaries
                .iter()
                .rev()
                .find(|last| last.partition == boundary.partition);
            assert!(
                before.is_none_or(|last| !last.position.holds(&row.position)),
                "a row behind the last boundary"
            );
            for held in [self.tables.get_mut(&id), self.twins.get_mut(&id)]
                .into_iter()
                .flatten()
            {
                if !held.checkpoint.position(&partition).holds(&row.position) {
                    held.rows.push(row.clone());
                }
            }
        }
        for (id, held) in self.tables.iter_mut().chain(&mut self.twins) {
            let before = held.checkpoint.position(&boundary.partition);
            if concerned(id) && before < &boundary.position {
                assert!(*before >= boundary.from, "changes of {id} were skipped: {boundary:?}");
                held.checkpoint.raise(&boundary.partition, &boundary.position);
                for (partition, position) in &boundary.raises {
                    held.checkpoint.raise(partition, position);
                }
            }
        }
        self.boundaries.push(boundary);
    }

    /// The table by its key, after checking that no change was taken twice.
    pub fn folded(&self, name: &str, key: &str) -> FoldedTable {
        let rows = &self.tables[&table(name)].rows;
        let places: BTreeSet<_> = rows.iter().map(ChangeRow::place).collect();
        assert_eq!(places.len(), rows.len(), "a change of {name} was taken twice");
        fold_rows(&[key.to_owned()], rows.clone())
    }

    /// Operation and cells of each change of a table, first copy left out.
    pub fn changes(&self, name: &str) -> Vec<(String, Cells, Vec<String>)> {
        let streamed = self.tables[&table(name)].rows.iter().filter(|row| row.op != "r");
        streamed
            .map(|row| (row.op.clone(), row.cells.clone(), row.unchanged.clone()))
            .collect()
    }
}

/// A source that runs, and the target it feeds.
pub struct Running {
    pub target: Target,
    pub events: EventReceiver,
    pub durable: watch::Sender<Checkpoint>,
    /// Whether what a boundary completes is durable at once.
    pub is_durable: bool,
    /// Where copies are asked for.
    pub desk: BackfillDesk,
    cancel: CancellationToken,
    task: JoinHandle<Result<()>>,
    _attendant: JoinSet<()>,
}

/// Attends to the source's system until what is returned is dropped, as a pipeline's supervisor does.
pub fn attend(source: PostgresSource) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(Box::new(source).attend());
    tasks
}

impl Running {
    pub fn start(source: PostgresSource, target: Target) -> Self {
        Self::with_budget(source, target, ByteBudget::new(64 << 20))
    }

    pub fn with_budget(source: PostgresSource, target: Target, budget: ByteBudget) -> Self {
        let (sender, events) = event_channel(budget, 16);
        let (durable, watched) = watch::channel(target.least());
        let cancel = CancellationToken::new();
        let (desk, backfills) = backfill_desk();
        let context = SourceContext {
            backfills,
            ..SourceContext::new(target.resume(), sender, watched, cancel.clone())
        };
        let attendant = attend(source.clone());
        let task = tokio::spawn(Box::new(source).run(context));
        Self {
            _attendant: attendant,
            target,
            events,
            durable,
            is_durable: true,
            desk,
            cancel,
            task,
        }
    }

    /// Asks for a copy, and takes events until there is an answer.
    pub async fn ask(&mut self, table: &str, condition: Option<&str>) -> Result<()> {
        let desk = self.desk.clone();
        let (table, condition) = (table.to_owned(), condition.map(str::to_owned));
        let mut asked = tokio::spawn(async move { desk.ask(table, condition).await });
        loop {
            tokio::select! {
                answer = &mut asked => return answer.expect("no panic"),
                event = self.events.recv() => self.target.take(event.expect("the source runs")),
            }
        }
    }

    /// Takes the next event, and declares durable what it completes. `false` if the source has ended.
    async fn step(&mut self) -> bool {
        match timeout(PATIENCE, self.events.recv()).await {
            Ok(Some(event)) => {
                let boundary = matches!(event, SourceEvent::Boundary(_));
                self.target.take(event);
                if boundary && self.is_durable {
                    self.durable.send_replace(self.target.least());
                }
                true
            }
            Ok(None) => false,
            Err(_) => panic!("nothing more came; boundaries: {:?}", self.target.boundaries.last()),
        }
    }

    /// Takes events, and declares durable what they complete, until `done`.
    pub async fn until(&mut self, done: impl Fn(&Target) -> bool) {
        let taken = self.try_until(done).await;
        taken.unwrap_or_else(|error| panic!("the source ended: {error:?}"));
    }

    /// As [`until`](Self::until); the error of a source that ends before.
    pub async fn try_until(&mut self, done: impl Fn(&Target) -> bool) -> Result<()> {
        while !done(&self.target) {
            if !self.step().await {
                let ended = (&mut self.task).await.expect("no panic");
                return Err(ended.expect_err("it was not asked to end"));
            }
        }
        Ok(())
    }

    /// Takes events as [`until`](Self::until) does. Returns whether that came to pass: `false` if the
    /// source asks to be started anew, or ends with an error after which a pipeline does that.
    pub async fn until_or_anew(&mut self, done: impl Fn(&Target) -> bool) -> bool {
        while !done(&self.target) {
            if !self.step().await {
                let ended = (&mut self.task).await.expect("no panic");
                let error = ended.expect_err("it has not been stopped");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.summary());
                return false;
            }
            if self.target.tables_changed {
                return false;
            }
        }
        true
    }

    /// What is left when the process is killed, or the pipeline starts anew.
    pub fn kill(self) -> Target {
        let Self { mut target, task, .. } = self;
        task.abort();
        target.crash();
        target.boundaries.clear();
        target.tables_changed = false;
        target
    }

    /// Takes events until all that is committed now has come.
    pub async fn catch_up(&mut self, cluster: &TestCluster) {
        let caught_up = self.try_catch_up(cluster).await;
        caught_up.unwrap_or_else(|error| panic!("the source ended: {error:?}"));
    }

    /// As [`catch_up`](Self::catch_up); the error of a source that ends before.
    pub async fn try_catch_up(&mut self, cluster: &TestCluster) -> Result<()> {
        let lsn = flushed(cluster);
        self.try_until(|target| target.is_copied() && target.least().position(&wal()).ordered() >= Some(lsn.as_str()))
            .await
    }

    /// Takes events until the first copies are done.
    pub async fn until_copied(&mut self) {
        self.until(Target::is_copied).await;
    }

    /// Takes events until the first copies are done and the stream has begun.
    pub async fn until_streaming(&mut self, cluster: &TestCluster) {
        self.until_copied().await;
        // What is committed from now on is in no copy.
        self.catch_up(cluster).await;
    }

    /// Stops the source as a shutdown does.
    pub async fn stop(self) -> Target {
        let (target, ended) = self.halt().await;
        ended.expect("it ends well");
        target
    }

    /// As [`stop`](Self::stop), of a source that may have failed.
    pub async fn halt(self) -> (Target, Result<()>) {
        let Self {
            mut target,
            events,
            cancel,
            task,
            ..
        } = self;
        cancel.cancel();
        let ended = timeout(Duration::from_secs(5), task)
            .await
            .expect("it stops soon")
            .expect("no panic");
        drop(events);
        target.crash();
        (target, ended)
    }

    /// Stops behind the first boundary that comes; rows before it are not asked for.
    pub async fn target_after_copy(mut self) -> Target {
        self.until_copied().await;
        self.stop().await
    }

    /// The error that ends the run.
    pub async fn failure(mut self) -> millstream_core::Error {
        let drained = async {
            while self.events.recv().await.is_some() {}
            self.task.await.expect("no panic").expect_err("the run must fail")
        };
        timeout(PATIENCE, drained).await.expect("it fails soon")
    }
}

/// What `check` finds, apart from what it says of every configuration: the way in which changes of
/// columns are followed.
pub async fn check(config: &serde_json::Value) -> Vec<Finding> {
    let mut findings = source(config).preflight().await.unwrap();
    findings.retain(|one| (one.severity, one.subject.as_str()) != (Severity::Info, "schema_changes"));
    findings
}

/// A session of a client of the server.
pub async fn client(cluster: &TestCluster) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// Waits until `holds`.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"));
}

/// The start of a transaction of our own behind everything committed, as a position.
pub fn flushed(cluster: &TestCluster) -> String {
    let lsn = cluster
        .psql("CREATE TABLE IF NOT EXISTS marker (id int); SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        .expect("the server answers");
    // Moves the log on, and has it flushed: asynchronous commits wait.
    cluster
        .psql("SET synchronous_commit = on; INSERT INTO marker VALUES (1)")
        .expect("the server answers");
    position(lsn.parse().expect("a number"))
}

/// An LSN as a position's text.
pub fn position(lsn: u64) -> String {
    format!("{lsn:016X}")
}

/// Whether the target has the first copy of a table of the schema `public`.
pub fn is_copied(held: &Held, name: &str) -> bool {
    holds_copy(held, &table(name))
}

fn holds_copy(held: &Held, id: &TableId) -> bool {
    let name = id.within_source().replace('%', "%25").replace('/', "%2F");
    let partition = PartitionId::new("shop", format!("copy/{name}"));
    *held.checkpoint.position(&partition) == Position::End
}

/// The present rows of a table with these columns, as the target folds them. Empty is NULL.
pub fn present(cluster: &TestCluster, name: &str, columns: &[&str]) -> FoldedTable {
    let rows = cluster
        .psql(&format!("SELECT {} FROM {name}", columns.join(", ")))
        .expect("the table can be read");
    let cells = |row: &str| -> Cells {
        let named = columns
            .iter()
            .zip(row.split('|'))
            .filter(|(_, value)| !value.is_empty());
        named
            .map(|(column, value)| ((*column).to_owned(), value.to_owned()))
            .collect()
    };
    rows.lines()
        .map(|row| {
            let cells = cells(row);
            let key = cells
                .iter()
                .filter(|(name, _)| *name == columns[0])
                .map(|(n, v)| (n.clone(), v.clone()));
            (key.collect(), cells)
        })
        .collect()
}
