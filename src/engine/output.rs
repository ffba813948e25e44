//! One target table of a running pipeline.

use std::time::Duration;

use millstream_core::{
    Boundary, ChangeBatch, Checkpoint, CheckpointDelta, CommitReceipt, Prepared, Result, TableId, TableWriter,
};
use millstream_sql::checks::{BatchOutcome, CheckReport};
use tokio::time::Instant;

use super::plan::Stage;
use super::resume::Holding;
use super::{held, resume};

/// A target table: its stage, its writer, and what gathered since its last commit.
pub struct Output {
    /// Index of its sink.
    pub sink: usize,
    /// The table's name in the target.
    pub name: String,
    /// The source tables that feed it.
    pub inputs: Vec<TableId>,
    /// How its rows are made; `None` for the quarantine table, which takes them as they come.
    pub stage: Option<Stage>,
    /// What gathered since the last commit.
    pub gathered: Gathered,
    writer: Box<dyn TableWriter>,
    /// The positions after the boundaries seen since the last commit.
    reached: Checkpoint,
    last_commit: Instant,
}

/// Rows since the last commit, by what became of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gathered {
    /// Rows written.
    pub rows: u64,
    /// Bytes of Arrow memory of the rows written.
    pub bytes: u64,
    /// Rows sent to quarantine.
    pub quarantined: u64,
    /// Rows dropped by checks.
    pub dropped: u64,
    /// Rows left out by the model's filter.
    pub filtered: u64,
}

/// What taking a batch gave, beside the rows written.
#[derive(Default)]
pub struct Taken {
    /// Batches for the quarantine table.
    pub rejected: Vec<ChangeBatch>,
    /// What checks have to say.
    pub reports: Vec<CheckReport>,
}

impl Output {
    /// A table that was just opened.
    pub fn new(
        sink: usize,
        name: String,
        inputs: Vec<TableId>,
        stage: Option<Stage>,
        writer: Box<dyn TableWriter>,
    ) -> Self {
        let reached = writer.checkpoint().clone();
        Self {
            sink,
            name,
            inputs,
            stage,
            gathered: Gathered::default(),
            writer,
            reached,
            last_commit: Instant::now(),
        }
    }

    /// What the table holds durably.
    pub fn holding(&self) -> Holding<'_> {
        Holding {
            inputs: &self.inputs,
            held: self.writer.checkpoint(),
        }
    }

    /// Whether the quarantine table.
    pub fn is_quarantine(&self) -> bool {
        self.stage.is_none()
    }

    /// Takes a batch of one of the table's inputs: leaves out rows that the table already
    /// holds, transforms, checks and writes the rest.
    pub async fn take(&mut self, batch: &ChangeBatch) -> Result<Taken> {
        let mut taken = Taken::default();
        let Some(mut rows) = held::rows_after(batch, &self.reached)? else {
            return Ok(taken);
        };
        let Some(stage) = &mut self.stage else {
            self.write(rows).await?;
            return Ok(taken);
        };
        stage.follow(batch.schema()).await?;
        if let Some(model) = &stage.model {
            let transformed = model.apply(&rows).await?;
            self.gathered.filtered += transformed.filtered as u64;
            if let Some(rejected) = transformed.rejected {
                self.gathered.quarantined += rejected.num_rows() as u64;
                taken.rejected.push(rejected);
            }
            let Some(changes) = transformed.changes else {
                return Ok(taken);
            };
            rows = changes;
        }
        let BatchOutcome {
            passed,
            quarantined,
            dropped,
            reports,
        } = stage.checks.on_batch(rows)?;
        self.gathered.dropped += dropped;
        taken.reports = reports;
        if let Some(quarantined) = quarantined {
            self.gathered.quarantined += quarantined.num_rows() as u64;
            taken.rejected.push(quarantined);
        }
        if let Some(passed) = passed {
            self.write(passed).await?;
        }
        Ok(taken)
    }

    async fn write(&mut self, batch: ChangeBatch) -> Result<()> {
        self.gathered.rows += batch.num_rows() as u64;
        self.gathered.bytes += batch.bytes() as u64;
        self.writer.write(batch).await
    }

    /// Moves over a boundary.
    pub fn advance(&mut self, boundary: &Boundary) {
        resume::advance(&mut self.reached, &self.inputs, boundary);
    }

    /// How long the table's position has moved without being recorded; `None` if it has not.
    pub fn idle(&self) -> Option<Duration> {
        (self.gathered.rows == 0 && self.reached != *self.writer.checkpoint()).then(|| self.last_commit.elapsed())
    }

    /// The advance that the next commit records.
    fn pending(&self) -> CheckpointDelta {
        self.writer.checkpoint().delta_to(&self.reached)
    }

    /// Makes what gathered durable but not visible. `None` if there is nothing to record.
    /// A table without rows is left for later, unless `idle_too`.
    pub async fn prepare(&mut self, idle_too: bool) -> Result<Option<Prepared>> {
        let advance = self.pending();
        if advance.is_empty() || self.gathered.rows == 0 && !idle_too {
            return Ok(None);
        }
        self.writer.prepare(advance).await.map(Some)
    }

    /// Publishes what was prepared.
    pub async fn commit(&mut self, prepared: Prepared) -> Result<CommitReceipt> {
        let receipt = self.writer.commit(prepared).await?;
        self.last_commit = Instant::now();
        Ok(receipt)
    }

    /// Discards what gathered since the last commit.
    pub async fn abort(&mut self) -> Result<()> {
        self.writer.abort().await
    }

    /// The numbers since the last commit; they start again from zero.
    pub fn reset(&mut self) -> Gathered {
        std::mem::take(&mut self.gathered)
    }

    /// The positions that the table holds.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.writer.checkpoint()
    }
}
