//! Where a running pipeline is asked for copies of its sources' tables.

use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::{BackfillDesk, Error, ErrorKind, Result};

/// The desks of the sources of one pipeline, as long as they run. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Desks(Arc<Mutex<Vec<(String, BackfillDesk)>>>);

impl Desks {
    /// Replaces the desks by those of sources that were just started, by name.
    pub fn open(&self, desks: Vec<(String, BackfillDesk)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = desks;
    }

    /// Closes all desks: the pipeline does not run.
    pub fn close(&self) {
        self.open(Vec::new());
    }

    /// Asks the source of `table` for a copy. The name may begin with the source's; without that a pipeline
    /// with several sources must have one alone that copies tables.
    ///
    /// # Errors
    /// If the pipeline does not run, or why its source refuses.
    pub async fn ask(&self, table: String, condition: Option<String>) -> Result<()> {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if desks.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "the pipeline does not run")
                .hint("`millstream status` says why; ask again when it runs"));
        }
        let named = |source: &str| table.strip_prefix(source).is_some_and(|rest| rest.starts_with('.'));
        if let Some(of_source) = desks.iter().position(|(source, _)| named(source)) {
            return desks.swap_remove(of_source).1.ask(table, condition).await;
        }
        let mut refusal = None;
        for (_, desk) in desks {
            match desk.ask(table.clone(), condition.clone()).await {
                Ok(()) => return Ok(()),
                // The answer of a source that copies tables says more than that of one that does not.
                Err(error) if error.kind() == ErrorKind::Unsupported => refusal = refusal.or(Some(error)),
                Err(error) => refusal = Some(error),
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}
