//! What reads from one broker: all partitions that it leads, over one connection, one request after the other.
//!
//! The next request is on its way while the answer before is waiting to be taken, and no sooner: so each broker
//! has at most two answers in memory.

use std::time::Duration;

use kafka_protocol::messages::FetchResponse;
use tokio::sync::mpsc;

use crate::wire::{Connection, Connector, Cursor, HIGHEST_FETCH, Part, Stop, WireFault, request, take};

/// How long a broker holds back an answer that has nothing to tell.
const WAIT: Duration = Duration::from_millis(500);

/// What comes of a broker.
pub enum Came {
    /// An answer.
    Answer {
        /// What it has of each partition, also if that is nothing.
        parts: Vec<Part>,
        /// Partitions that are not read on, and from where.
        stopped: Vec<(Cursor, Stop)>,
    },
    /// The broker cannot be read from. Nothing more comes of this fetcher.
    Gone {
        /// Its number.
        broker: i32,
        /// The partitions that were read from it, and from where.
        cursors: Vec<Cursor>,
        /// Why.
        fault: WireFault,
    },
}

/// Reads from one broker until nobody takes what comes.
pub struct Fetcher {
    /// The broker's number.
    pub broker: i32,
    /// Where it is.
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
        let mut cursors = Vec::new();
        let Err(fault) = self.read(&mut cursors).await else {
            return;
        };
        // Whoever assigns one from now on keeps it.
        self.assigned.close();
        while let Some(cursor) = self.assigned.recv().await {
            cursors.push(cursor);
        }
        let gone = Came::Gone {
            broker: self.broker,
            cursors,
            fault,
        };
        // Nobody is there where the source was stopped.
        let _ = self.came.send(gone).await;
    }

    async fn read(&mut self, cursors: &mut Vec<Cursor>) -> Result<(), WireFault> {
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
            let answer = self.fetch(&mut connection, cursors).await?;
            let (parts, stopped) = take(cursors, answer);
            if self.came.send(Came::Answer { parts, stopped }).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn fetch(&self, connection: &mut Connection, cursors: &[Cursor]) -> Result<FetchResponse, WireFault> {
        let (most, of_partition) = self.most;
        let question = request(cursors, most, of_partition, WAIT);
        connection
            .call_within(&question, HIGHEST_FETCH, self.timeout + WAIT)
            .await
    }
}
