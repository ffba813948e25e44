//! Rounds on their way to be events: some are decoded at once, and all are passed on in their order.

use std::collections::VecDeque;

use millstream_core::{Error, ErrorKind, Result, SourceEvent};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::reader::Round;

/// So many rounds are decoded at once: what follows takes a core for itself, and fetching takes next to nothing.
const AT_ONCE: usize = 2;

/// Rounds that are decoded, the oldest first.
#[derive(Default)]
pub struct Decoding {
    rounds: VecDeque<Decoded>,
}

/// A round that is decoded on a pool's thread, which makes the next event while the one before is passed on.
struct Decoded {
    events: mpsc::Receiver<SourceEvent>,
    task: JoinHandle<Result<()>>,
}

impl Decoding {
    /// Whether another round may be decoded.
    pub fn has_room(&self) -> bool {
        self.rounds.len() < AT_ONCE
    }

    /// Whether nothing is decoded.
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Begins to decode a round. It ends where nobody takes its events any more.
    pub fn begin(&mut self, round: Round) {
        let (sender, events) = mpsc::channel(1);
        let task = spawn_blocking(move || {
            let mut pass_on = |event| sender.blocking_send(event).is_ok();
            for item in round {
                if !item.decode(&mut pass_on)? {
                    break;
                }
            }
            Ok(())
        });
        self.rounds.push_back(Decoded { events, task });
    }

    /// The next event; `None` if nothing is decoded. Cancellation safe.
    pub async fn next(&mut self) -> Option<Result<SourceEvent>> {
        loop {
            let oldest = self.rounds.front_mut()?;
            if let Some(event) = oldest.events.recv().await {
                return Some(Ok(event));
            }
            let outcome = joined((&mut oldest.task).await);
            self.rounds.pop_front();
            if let Err(error) = outcome.flatten() {
                return Some(Err(error));
            }
        }
    }
}

/// What a task came to, whose panic is ours.
///
/// # Errors
/// `Cancelled` if it was not run to its end.
pub fn joined<T>(outcome: std::result::Result<T, JoinError>) -> Result<T> {
    match outcome {
        Ok(outcome) => Ok(outcome),
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => Err(Error::new(ErrorKind::Cancelled, "the source is stopping")),
    }
}
