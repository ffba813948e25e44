//! What a running pipeline tells about itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::CopyProgress;
use serde::{Deserialize, Serialize};

use super::desks::Desks;

/// Where a pipeline is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Connecting, planning, opening tables.
    #[default]
    Starting,
    /// Reading and committing.
    Running,
    /// Failed; it will be started again after a pause.
    BackingOff,
    /// Failed in a way that a restart would meet again; waits for a person.
    Halted,
    /// Drained and stopped, as asked.
    Stopped,
    /// All sources came to their end.
    Finished,
}

/// A snapshot of a pipeline's numbers. Counters start when the daemon does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// The pipeline's name.
    pub pipeline: String,
    /// Where it is in its life.
    pub state: State,
    /// What the sinks promise, such as `exactly once`.
    pub delivery: String,
    /// How often it was started anew after an error.
    pub restarts: u64,
    /// The last error, with its hint; kept until the next one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<LastError>,
    /// Rows received from sources, rejected ones included.
    pub rows_in: u64,
    /// Seconds between a source's commit and our commit of the same change, for the last epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lag_seconds: Option<f64>,
    /// Commits made, over all tables.
    pub commits: u64,
    /// Copies of source tables that run or have run since the start, by table.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub copies: BTreeMap<String, CopyProgress>,
    /// Each target table, by name; by `sink.name` where several sinks hold one of that name.
    pub tables: BTreeMap<String, TableStatus>,
}

/// An error as it is shown to operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// The error's kind, such as `unavailable`.
    pub kind: String,
    /// The code of its page in `docs/errors/`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<String>,
    /// What could not be done, where and why.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl From<&millstream_core::Error> for LastError {
    fn from(error: &millstream_core::Error) -> Self {
        Self {
            kind: error.kind().name().to_owned(),
            code: error.error_code().map(str::to_owned),
            message: error.summary(),
            hint: error.hint_text().map(str::to_owned),
        }
    }
}

/// A target table's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Rows committed.
    pub rows: u64,
    /// Rows that wait for the next commit.
    pub pending: u64,
    /// Rows that decoding, transforms or checks sent to the table's quarantine, committed with it.
    pub quarantined: u64,
    /// Rows that checks dropped, as configured.
    pub dropped: u64,
    /// Rows that a model's filter left out.
    pub filtered: u64,
    /// Checks that warned.
    pub warnings: u64,
    /// The last commit's number in the table.
    pub version: u64,
    /// The positions that the table holds.
    pub positions: millstream_core::Checkpoint,
}

/// The numbers of one pipeline, and its desks, shared between its engine and the admin interface.
#[derive(Debug, Clone, Default)]
pub struct StatusBoard {
    status: Arc<Mutex<PipelineStatus>>,
    desks: Desks,
}

impl StatusBoard {
    /// A board for the pipeline `name`.
    pub fn new(name: &str) -> Self {
        let status = PipelineStatus {
            pipeline: name.to_owned(),
            ..PipelineStatus::default()
        };
        Self {
            status: Arc::new(Mutex::new(status)),
            desks: Desks::default(),
        }
    }

    /// The numbers now.
    pub fn read(&self) -> PipelineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the numbers.
    pub fn update(&self, change: impl FnOnce(&mut PipelineStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Where the pipeline is asked for copies.
    pub fn desks(&self) -> Desks {
        self.desks.clone()
    }
}
