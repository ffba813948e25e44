//! One target table of a running pipeline.

use millstream_core::{
    Boundary, ChangeBatch, Checkpoint, CheckpointDelta, CommitReceipt, Prepared, Result, TableId, TableWriter,
};
use millstream_sql::checks::{BatchOutcome, CheckReport, EpochOutcome};
use tokio::time::Instant;

use super::resume::Holding;
use super::stage::Stage;
use super::{held, resume};

/// A target table: its stage, its writer, and what gathered since its last commit.
pub struct Output {
    /// Index of its sink.
    pub sink: usize,
    /// The table's name in the target.
    pub name: String,
    /// What the table is called in the pipeline's status: its name, with the sink's before it
    /// where several sinks hold a table of that name.
    pub label: String,
    /// The source tables that feed it.
    pub inputs: Vec<TableId>,
    /// What gathered since the last commit.
    pub gathered: Gathered,
    /// How its rows are made.
    stage: Stage,
    writer: Box<dyn TableWriter>,
    /// The positions after the boundaries seen since the last commit.
    reached: Checkpoint,
    /// Whether these differ from what the table holds.
    moved: bool,
    last_commit: Instant,
    /// When the first row since the last commit came that a commit is owed for.
    since: Option<Instant>,
}

/// Rows since the last commit, by what became of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gathered {
    /// Rows written.
    pub rows: u64,
    /// Bytes of Arrow memory of the rows written or quarantined.
    pub bytes: u64,
    /// Rows sent to quarantine.
    pub quarantined: u64,
    /// Rows dropped by checks.
    pub dropped: u64,
    /// Rows left out by the model's filter.
    pub filtered: u64,
}

impl Gathered {
    /// Rows that a commit is owed for: all that checks had a word on. Rows that the model's
    /// filter left out only move the position.
    pub fn owed(&self) -> u64 {
        self.rows + self.quarantined + self.dropped
    }
}

impl Output {
    /// A table that was just opened.
    ///
    /// # Errors
    /// `PositionLost` if a model reads a table again that it did not read for a while.
    pub fn new(
        sink: usize,
        (name, label): (String, String),
        inputs: Vec<TableId>,
        stage: Stage,
        writer: Box<dyn TableWriter>,
    ) -> Result<Self> {
        let mut reached = writer.checkpoint().clone();
        if stage.is_model() {
            resume::follow_inputs(&mut reached, &inputs).map_err(|error| error.with("table", &name))?;
        }
        Ok(Self {
            sink,
            name,
            label,
            inputs,
            stage,
            gathered: Gathered::default(),
            moved: reached != *writer.checkpoint(),
            writer,
            reached,
            last_commit: Instant::now(),
            since: None,
        })
    }

    /// What the table holds durably.
    pub fn holding(&self) -> Holding<'_> {
        Holding {
            inputs: &self.inputs,
            held: self.writer.checkpoint(),
        }
    }

    /// Makes ready for the rows of `batch`, which have a version of one of the table's inputs. Rows
    /// that the table already holds concern it no more: the model may be newer than their columns.
    ///
    /// # Errors
    /// `SchemaChange` if the model no longer fits; nothing has changed then.
    pub async fn follow(&mut self, batch: &ChangeBatch) -> Result<()> {
        if held::rows_after(batch, &batch.schema().id, &self.reached)?.is_none() {
            return Ok(());
        }
        self.stage.follow(batch.schema()).await
    }

    /// Takes a batch of one of the table's inputs, which [`follow`](Self::follow) made ready for:
    /// leaves out rows that the table already holds, transforms, checks and writes the rest.
    /// Returns what checks have to say.
    pub async fn take(&mut self, batch: &ChangeBatch) -> Result<Vec<CheckReport>> {
        let Some(mut rows) = held::rows_after(batch, &batch.schema().id, &self.reached)? else {
            return Ok(Vec::new());
        };
        if let Some(transformed) = self.stage.transform(&rows).await? {
            self.gathered.filtered += transformed.filtered as u64;
            if let Some(rejected) = transformed.rejected {
                self.quarantine(rejected).await?;
            }
            let Some(changes) = transformed.changes else {
                return Ok(Vec::new());
            };
            rows = changes;
        }
        let BatchOutcome {
            passed,
            quarantined,
            dropped,
            reports,
        } = self.stage.checks.on_batch(rows)?;
        self.gathered.dropped += dropped;
        if let Some(rejected) = quarantined {
            self.quarantine(rejected).await?;
        }
        if let Some(passed) = passed {
            self.gathered.rows += passed.num_rows() as u64;
            self.gathered.bytes += passed.bytes() as u64;
            self.writer.write(passed).await?;
        }
        if self.gathered.owed() > 0 {
            self.since.get_or_insert_with(Instant::now);
        }
        Ok(reports)
    }

    /// Takes rows of `origin`, one of the table's inputs, that the source could not decode.
    pub async fn take_rejected(&mut self, origin: &TableId, rows: &ChangeBatch) -> Result<()> {
        match held::rows_after(rows, origin, &self.reached)? {
            Some(rows) => self.quarantine(rows).await,
            None => Ok(()),
        }
    }

    async fn quarantine(&mut self, rejected: ChangeBatch) -> Result<()> {
        self.gathered.quarantined += rejected.num_rows() as u64;
        self.gathered.bytes += rejected.bytes() as u64;
        self.since.get_or_insert_with(Instant::now);
        self.writer.quarantine(rejected).await
    }

    /// Moves over a boundary.
    ///
    /// # Errors
    /// `Corrupt` if rows are missing between the table's position and the boundary's start.
    pub fn advance(&mut self, boundary: &Boundary) -> Result<()> {
        let moved = resume::advance(&mut self.reached, &self.inputs, boundary)
            .map_err(|error| error.with("table", &self.name))?;
        self.moved |= moved;
        Ok(())
    }

    /// When the first of the rows came that wait for a commit.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The last commit, where the table's position has moved since without being recorded, and no commit is owed for rows.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.moved && self.gathered.owed() == 0).then_some(self.last_commit)
    }

    /// Whether the table's position has moved since its last commit.
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    /// The advance that the next commit records.
    fn pending(&self) -> CheckpointDelta {
        self.writer.checkpoint().delta_to(&self.reached)
    }

    /// Makes what gathered durable but not visible. `None` if there is nothing to record.
    /// A table that no commit is owed for is left for later, unless `idle_too`.
    pub async fn prepare(&mut self, idle_too: bool) -> Result<Option<Prepared>> {
        let advance = self.pending();
        if advance.is_empty() || self.gathered.owed() == 0 && !idle_too {
            return Ok(None);
        }
        self.writer.prepare(advance).await.map(Some)
    }

    /// What the checks make of the epoch that was prepared.
    pub fn judge_epoch(&mut self) -> EpochOutcome {
        self.stage.checks.on_epoch_end()
    }

    /// What the checks that look at the clock have to say; `now` is in µs since the Unix epoch.
    pub fn on_timer(&mut self, now: i64) -> Vec<CheckReport> {
        self.stage.checks.on_timer(now)
    }

    /// Publishes what was prepared, and starts counting anew. Returns what was counted, too.
    pub async fn commit(&mut self, prepared: Prepared) -> Result<(CommitReceipt, Gathered)> {
        let receipt = self.writer.commit(prepared).await?;
        self.last_commit = Instant::now();
        (self.since, self.moved) = (None, false);
        Ok((receipt, std::mem::take(&mut self.gathered)))
    }

    /// Discards what gathered since the last commit.
    pub async fn abort(&mut self) -> Result<()> {
        self.writer.abort().await
    }

    /// The positions that the table holds.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.writer.checkpoint()
    }
}
