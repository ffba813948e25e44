//! What reads from one broker: partitions that are assigned to it, over one connection, one request after the other.
//!
//! The next request goes out when the answer before was taken, or waits alone to be: so no broker has more than two
//! answers in memory, of which one is still coming.

use std::time::Duration;

use kafka_protocol::messages::{FetchRequest, FetchResponse};
use tokio::sync::mpsc;

use crate::wire::{Connection, Connector, Cursor, HIGHEST_FETCH, Part, Stop, WireFault, request, take};

/// How long a broker holds back an answer that has nothing to tell.
const WAIT: Duration = Duration::from_millis(500);

/// Where a quota is used up a broker says for how long it answers nothing more (KIP-219): asked meanwhile, it would look as
/// if it were gone. It is not believed for longer than this.
const MOST_THROTTLE: Duration = Duration::from_secs(60);

/// What comes of a broker.
pub enum Came {
    /// An answer.
    Answer {
        /// Whose it is.
        fetcher: u64,
        /// What it has of each partition, also if that is nothing.
        parts: Vec<Part>,
        /// Partitions that are not read on, and from where.
        stopped: Vec<(Cursor, Stop)>,
    },
    /// The broker cannot be read from. Nothing more comes of this fetcher.
    Gone {
        /// Whose word that is.
        fetcher: u64,
        /// Why.
        fault: WireFault,
    },
}

/// Reads from one broker until nobody takes what comes.
pub struct Fetcher {
    /// No other has this number, also of the same broker.
    pub number: u64,
    /// Where the broker is.
    pub address: String,
    /// How to connect to it.
    pub connector: Connector,
    /// Bytes of an answer, and of one partition in it, where no batch is larger.
    pub most: (usize, usize),
    /// How long a request may take, beside the time that the broker holds it back.
    pub timeout: Duration,
    /// Partitions to be read.
    pub assigned: mpsc::UnboundedReceiver<Cursor>,
    /// Where what comes goes.
    pub came: mpsc::Sender<Came>,
}

impl Fetcher {
    /// Reads. May be dropped at any time.
    pub async fn run(mut self) {
        let Err(fault) = self.read().await else { return };
        let gone = Came::Gone {
            fetcher: self.number,
            fault,
        };
        // Nobody is there where the source was stopped.
        let _ = self.came.send(gone).await;
    }

    async fn read(&mut self) -> Result<(), WireFault> {
        let mut cursors = Vec::new();
        let mut connection = self.connector.connect(&self.address).await?;
        loop {
            while let Ok(cursor) = self.assigned.try_recv() {
                cursors.push(cursor);
            }
            if cursors.is_empty() {
                match self.assigned.recv().await {
                    Some(cursor) => cursors.push(cursor),
                    None => return Ok(()),
                }
            }
            if !connection.is_usable() {
                connection = self.connector.connect(&self.address).await?;
            }
            let answer = self.fetch(&mut connection, &cursors).await?;
            let throttled = u64::try_from(answer.throttle_time_ms).unwrap_or(0);
            let throttled = Duration::from_millis(throttled).min(MOST_THROTTLE);
            let (parts, stopped) = take(&mut cursors, answer);
            let answer = Came::Answer {
                fetcher: self.number,
                parts,
                stopped,
            };
            if self.came.send(answer).await.is_err() {
                return Ok(());
            }
            if !throttled.is_zero() {
                tokio::time::sleep(throttled).await;
            }
        }
    }

    async fn fetch(&self, connection: &mut Connection, cursors: &[Cursor]) -> Result<FetchResponse, WireFault> {
        let (most, of_partition) = self.most;
        let version = connection.version::<FetchRequest>(HIGHEST_FETCH)?;
        let question = request(cursors, version, most, of_partition, WAIT);
        connection.call_within(&question, version, self.timeout + WAIT).await
    }
}
