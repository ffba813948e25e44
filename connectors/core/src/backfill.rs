//! Requests to copy tables again while their source runs.

use tokio::sync::{mpsc, oneshot};

use crate::{Error, ErrorKind, Result};

/// A request to copy a table again, or a part of it.
#[derive(Debug)]
pub struct Backfill {
    /// The table, as the user names it.
    pub table: String,
    /// Which rows, as a condition in the source's own language; `None` for all of them.
    pub condition: Option<String>,
    /// Where the answer goes, once the request is taken or refused.
    pub answer: oneshot::Sender<Result<()>>,
}

/// The receiving end of requests for backfills. A source that serves none drops it at its start, so
/// that they are refused.
#[derive(Debug)]
pub struct BackfillRequests(mpsc::Receiver<Backfill>);

/// The sending end of requests for backfills. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BackfillDesk(mpsc::Sender<Backfill>);

/// Both ends of a desk at which backfills are asked for.
pub fn backfill_desk() -> (BackfillDesk, BackfillRequests) {
    let (sender, receiver) = mpsc::channel(1);
    (BackfillDesk(sender), BackfillRequests(receiver))
}

impl BackfillDesk {
    /// Whether a source takes requests here; one that has not yet started is believed to.
    pub fn is_served(&self) -> bool {
        !self.0.is_closed()
    }

    /// Asks for a copy of `table`; returns when the source has taken the request.
    ///
    /// # Errors
    /// `Unsupported` if the source serves none, or why this one is refused.
    pub async fn ask(&self, table: String, condition: Option<String>) -> Result<()> {
        let unserved = || {
            Error::new(ErrorKind::Unsupported, "the source copies no table again")
                .hint("only PostgreSQL sources do, while they run")
        };
        let (answer, answered) = oneshot::channel();
        let request = Backfill {
            table,
            condition,
            answer,
        };
        self.0.send(request).await.map_err(|_| unserved())?;
        answered.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "the source stopped before it took the request",
            ))
        })
    }
}

impl BackfillRequests {
    /// The next request; `None` when nobody can ask any more.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Backfill> {
        self.0.recv().await
    }
}
