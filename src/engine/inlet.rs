//! Inlets: the running sources of a pipeline and their event channels.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use millstream_core::{
    BackfillDesk, Checkpoint, CopyBoard, CopyProgress, Error, ErrorKind, EventReceiver, EventSender, Result,
    ResumePoints, Source, SourceContext, SourceEvent, backfill_desk,
};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One running source.
pub struct Inlet {
    /// The source's name.
    pub name: String,
    /// Whether everything received so far ends at a boundary.
    at_boundary: bool,
    /// Whether the source has sent everything it ever will.
    finished: bool,
    events: EventReceiver,
    durable: watch::Sender<Checkpoint>,
    /// How far the source's copies are.
    pub copies: CopyBoard,
    /// Where backfills are asked for.
    pub desk: BackfillDesk,
    task: Option<JoinHandle<Result<()>>>,
}

impl Inlet {
    /// Starts `source` on the I/O runtime.
    pub fn start(
        source: Box<dyn Source>,
        resume: ResumePoints,
        durable: Checkpoint,
        channel: (EventSender, EventReceiver),
        cancel: CancellationToken,
        io: &Handle,
    ) -> Self {
        let name = source.name().to_owned();
        let (durable, durable_receiver) = watch::channel(durable);
        let (sender, events) = channel;
        let copies = CopyBoard::default();
        let (desk, backfills) = backfill_desk();
        let context = SourceContext {
            resume,
            events: sender,
            durable: durable_receiver,
            cancel,
            copies: copies.clone(),
            backfills,
        };
        let task = io.spawn(source.run(context));
        Self {
            name,
            at_boundary: true,
            finished: false,
            events,
            durable,
            copies,
            desk,
            task: Some(task),
        }
    }

    /// Tells the source what is durable in the target.
    pub fn acknowledge(&self, durable: Checkpoint) {
        self.durable.send_if_modified(|current| {
            let moved = *current != durable;
            *current = durable;
            moved
        });
    }

    /// How the source ended, once its channel is closed.
    ///
    /// Cancel safe: a dropped call can be made again.
    async fn outcome(&mut self) -> Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        ended.unwrap_or_else(|failure| {
            // The message of a panic is not passed on: it may quote a cell.
            let what = if failure.is_panic() {
                "a source panicked"
            } else {
                "a source's task ended without an answer"
            };
            Err(Error::new(ErrorKind::Internal, what).with("source", &self.name))
        })
    }

    /// Waits until the source has stopped, after its cancellation; its errors no longer matter.
    async fn stopped(&mut self) {
        self.events.close();
        while self.events.recv().await.is_some() {}
        if let Err(error) = self.outcome().await {
            tracing::debug!(source = %self.name, error = %error.summary(), "source stopped with an error");
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // A source that outlived its pipeline would keep a slot or an assignment busy.
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// The inlets of one pipeline.
#[derive(Default)]
pub struct Inlets {
    inlets: Vec<Inlet>,
    /// The inlet asked first next time, so that a busy one does not starve the others.
    turn: usize,
}

impl Inlets {
    /// Gathers running sources.
    pub fn new(inlets: Vec<Inlet>) -> Self {
        Self { inlets, turn: 0 }
    }

    /// The inlets, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Inlet> {
        self.inlets.iter()
    }

    /// Whether every source stands at a boundary, so that an epoch can be cut.
    pub fn at_boundary(&self) -> bool {
        self.inlets.iter().all(|inlet| inlet.at_boundary)
    }

    /// Where the sources are asked for copies, by name.
    pub fn desks(&self) -> Vec<(String, BackfillDesk)> {
        let desk = |inlet: &Inlet| (inlet.name.clone(), inlet.desk.clone());
        self.inlets.iter().map(desk).collect()
    }

    /// How far the sources' copies are, by table.
    pub fn copies(&self) -> BTreeMap<String, CopyProgress> {
        let all = self.inlets.iter().flat_map(|inlet| inlet.copies.read());
        all.map(|(table, copy)| (table.to_string(), copy)).collect()
    }

    /// Waits until all sources have stopped, after their cancellation.
    pub async fn stopped(&mut self) {
        for inlet in &mut self.inlets {
            inlet.stopped().await;
        }
    }

    /// The next event of any inlet. While `only_to_boundary`, inlets that stand at a boundary
    /// are left alone, so that all of them come to stand at one. `None` when no inlet can send
    /// any more.
    ///
    /// Cancel safe: an event is either returned or still in its channel.
    ///
    /// # Errors
    /// The error that a source ended with.
    pub async fn next_event(&mut self, only_to_boundary: bool) -> Result<Option<SourceEvent>> {
        loop {
            let closed = match std::future::poll_fn(|cx| self.poll_any(only_to_boundary, cx)).await {
                Polled::Event(event) => return Ok(Some(event)),
                Polled::Exhausted => return Ok(None),
                Polled::Closed(index) => index,
            };
            let inlet = &mut self.inlets[closed];
            inlet.outcome().await?;
            if !inlet.at_boundary {
                return Err(
                    Error::new(ErrorKind::Internal, "a source ended in the middle of a transaction")
                        .with("source", &inlet.name),
                );
            }
            inlet.finished = true;
        }
    }

    fn poll_any(&mut self, only_to_boundary: bool, cx: &mut Context<'_>) -> Poll<Polled> {
        let count = self.inlets.len();
        let mut waiting = false;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let inlet = &mut self.inlets[index];
            if inlet.finished || only_to_boundary && inlet.at_boundary {
                continue;
            }
            match Pin::new(&mut inlet.events).poll_recv(cx) {
                Poll::Ready(Some(event)) => {
                    inlet.at_boundary = match event {
                        SourceEvent::Boundary(_) => true,
                        SourceEvent::TablesChanged => inlet.at_boundary,
                        SourceEvent::Changes(_) | SourceEvent::Rejected { .. } => false,
                    };
                    self.turn = index + 1;
                    return Poll::Ready(Polled::Event(event));
                }
                Poll::Ready(None) => return Poll::Ready(Polled::Closed(index)),
                Poll::Pending => waiting = true,
            }
        }
        if waiting {
            Poll::Pending
        } else {
            Poll::Ready(Polled::Exhausted)
        }
    }
}

enum Polled {
    Event(SourceEvent),
    Closed(usize),
    Exhausted,
}
