//! What checks report.

use millstream_core::{ChangeBatch, Error, ErrorKind, Severity};
use serde::Serialize;

use super::fault;
use super::spec::Action;

/// What became of a batch. `passed`, `quarantined` and `dropped` together are its rows, each once.
#[derive(Debug)]
pub struct BatchOutcome {
    /// Rows that go on, in their order; the batch itself where all do, `None` where none does.
    pub passed: Option<ChangeBatch>,
    /// Rejected rows, as a batch of [`millstream_core::quarantine::schema`].
    pub quarantined: Option<ChangeBatch>,
    /// How many rows were left out by `then: drop`.
    pub dropped: u64,
    /// One report for each check that rows of this batch failed.
    pub reports: Vec<CheckReport>,
}

/// What became of an epoch.
#[derive(Debug)]
pub struct EpochOutcome {
    /// One report for each check that rows of the epoch, or the epoch itself, failed.
    pub reports: Vec<CheckReport>,
    /// Set if nothing of the epoch may become visible; its kind is `CheckFailed`.
    pub failed: Option<Error>,
}

/// What a report counts over. Only the counts of batches may be added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The rows of one batch.
    Batch,
    /// The rows of one epoch, as a verdict.
    Epoch,
    /// The table at one time.
    Timer,
}

/// One check's finding. It holds no cell's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The check's name.
    pub check: String,
    /// The check's kind, such as `not_null`.
    pub kind: &'static str,
    /// The table or model.
    pub table: String,
    /// What the counts are over.
    pub scope: Scope,
    /// What the check says to do.
    pub action: Action,
    /// `error` if the epoch or pipeline fails by it, `warning` if someone should look, `info`
    /// if a threshold still holds or a stale table has recovered.
    pub severity: Severity,
    /// Rows that failed.
    pub failing: u64,
    /// Rows that were checked.
    pub rows: u64,
    /// What was found, in words.
    pub message: String,
}

impl CheckReport {
    /// The error that halts the pipeline, for a tripped `freshness` check with `then: fail`;
    /// other failures come as [`EpochOutcome::failed`].
    pub fn as_failure(&self) -> Option<Error> {
        (self.scope == Scope::Timer && self.severity == Severity::Error).then(|| {
            Error::new(ErrorKind::CheckFailed, self.message.clone())
                .code(fault::STALE)
                .with("table", &self.table)
                .with("check", &self.check)
                .hint("see why the source sends nothing new, or set `then: warn` to be told without halting")
        })
    }
}
