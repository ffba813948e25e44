//! Events on their way to the engine, which may take them slowly.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::BoxFuture;
use millstream_core::{EventSender, Result, SourceEvent};
use tokio::sync::Mutex;

use super::reread::{Incomplete, Rereader};

/// Events that wait for the engine, and the one that is being sent. The future of that one is
/// kept, since dropping it would drop the event: its owner polls [`drive`](Self::drive) beside
/// the socket.
pub(super) struct Outbox {
    sender: EventSender,
    rereader: Option<Arc<Mutex<Rereader>>>,
    waiting: VecDeque<Waiting>,
    sending: Option<BoxFuture<'static, Result<()>>>,
}

enum Waiting {
    Event(SourceEvent),
    /// Rows whose missing values are re-read when their turn has come.
    Incomplete(Box<Incomplete>),
}

impl Outbox {
    pub(super) fn new(sender: EventSender) -> Self {
        Self {
            sender,
            rereader: None,
            waiting: VecDeque::new(),
            sending: None,
        }
    }

    /// Has missing values re-read.
    pub(super) fn complete_with(&mut self, rereader: Rereader) {
        self.rereader = Some(Arc::new(Mutex::new(rereader)));
    }

    /// Puts an event behind those that wait.
    pub(super) fn push(&mut self, event: SourceEvent) {
        self.waiting.push_back(Waiting::Event(event));
    }

    /// Whether missing values are re-read.
    pub(super) fn completes(&self) -> bool {
        self.rereader.is_some()
    }

    /// Puts rows with missing values behind the events that wait.
    pub(super) fn push_incomplete(&mut self, incomplete: Incomplete) {
        self.waiting.push_back(Waiting::Incomplete(Box::new(incomplete)));
    }

    /// Events that wait, the one under way left out.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.sending.is_none() && self.waiting.is_empty()
    }

    /// Sends until nothing waits.
    ///
    /// Cancel safe: the event under way stays under way.
    ///
    /// # Errors
    /// `Cancelled` if the engine takes no more.
    pub(super) async fn drive(&mut self) -> Result<()> {
        loop {
            let sending = match &mut self.sending {
                Some(sending) => sending,
                None => {
                    let Some(event) = self.waiting.pop_front() else {
                        return Ok(());
                    };
                    let sender = self.sender.clone();
                    let future: BoxFuture<'static, Result<()>> = match (event, &self.rereader) {
                        (Waiting::Event(event), _) => Box::pin(async move { sender.send(event).await }),
                        (Waiting::Incomplete(incomplete), Some(rereader)) => {
                            let rereader = rereader.clone();
                            Box::pin(async move { rereader.lock().await.complete(&incomplete, &sender).await })
                        }
                        (Waiting::Incomplete(incomplete), None) => {
                            Box::pin(async move { sender.send(incomplete.as_it_is()).await })
                        }
                    };
                    self.sending.insert(future)
                }
            };
            let sent = sending.await;
            self.sending = None;
            sent?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_core::{Boundary, ByteBudget, PartitionId, Position, event_channel};

    use super::*;

    fn boundary(lsn: &str) -> SourceEvent {
        SourceEvent::Boundary(Boundary {
            partition: PartitionId::new("s", "wal"),
            from: Position::Beginning,
            position: Position::at(lsn),
            table: None,
            raises: Vec::new(),
            committed_at: None,
            urgent: false,
        })
    }

    #[tokio::test]
    async fn an_interrupted_send_loses_nothing() {
        let (sender, mut receiver) = event_channel(ByteBudget::new(1024), 1);
        let mut outbox = Outbox::new(sender);
        for lsn in ["1", "2", "3"] {
            outbox.push(boundary(lsn));
        }
        assert!(
            tokio::time::timeout(Duration::from_millis(5), outbox.drive())
                .await
                .is_err()
        );
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            tokio::select! {
                sent = outbox.drive() => sent.unwrap(),
                event = receiver.recv() => taken.push(event),
            }
        }
        receiver.close();
        while let Some(event) = receiver.recv().await {
            taken.push(Some(event));
        }
        let positions: Vec<_> = taken
            .into_iter()
            .map(|event| match event {
                Some(SourceEvent::Boundary(boundary)) => boundary.position,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(positions, ["1", "2", "3"].map(Position::at));
    }
}
