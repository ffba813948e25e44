//! Reading a bounded sample of a topic, to infer its columns from.

use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result};

use crate::client::{Client, unreadable};
use crate::codes;
use crate::config::is_taken;
use crate::decode::column_type::ColumnType;
use crate::decode::infer::infer;
use crate::wire::{Cursor, RecordBatch};

/// A sample takes at most so many times as long as one request may.
const TIMEOUTS: u32 = 6;

/// Where nothing came, it is looked again after this time.
const AGAIN: Duration = Duration::from_millis(100);

/// A sample holds at most this many bytes of payload.
const MOST_BYTES: usize = 16 << 20;

/// Infers the columns of `topic` from its oldest messages: `sample` of them, an equal share
/// from each partition, taken in the order of partitions and offsets. Commits nothing. A request may take `timeout`.
///
/// # Errors
/// `Unavailable` if the sample cannot be read whole: half a sample would infer other columns.
pub async fn infer_columns(
    client: &mut Client,
    topic: &str,
    sample: usize,
    timeout: Duration,
) -> Result<Vec<(String, ColumnType)>> {
    let started = Instant::now();
    let count = client.leaders_of(topic).await?.len().max(1);
    let numbers: Vec<i32> = (0..count as i32).collect();
    let marks = client.watermarks(topic, &numbers).await?;
    let (most_rows, most_bytes) = (sample.div_ceil(count), MOST_BYTES / count);
    let mut payloads = Vec::new();
    for (number, marks) in marks {
        let mut share = Share {
            payloads: Vec::new(),
            messages: 0,
            bytes: 0,
            from: marks.low,
            end: marks.high,
            most: (most_rows, most_bytes),
        };
        let mut cursor = Cursor::new(topic, number, marks.low);
        while share.is_open(cursor.next) {
            let before = cursor.next;
            let part = client.fetch(&mut cursor).await?;
            if cursor.next == before {
                // What is there is not to be seen yet.
                tokio::time::sleep(AGAIN).await;
            }
            for batch in &part.batches {
                share
                    .take(batch)
                    .map_err(|damaged| unreadable(topic, number).with("offset", batch.base).caused_by(damaged))?;
            }
            if started.elapsed() >= timeout * TIMEOUTS {
                return Err(Error::new(ErrorKind::Unavailable, "a sample of a topic takes too long")
                    .code(codes::UNREACHABLE)
                    .with("topic", topic)
                    .hint("declare the columns under `decode: {json: {columns: …}}`, or raise `timeout`"));
            }
        }
        payloads.append(&mut share.payloads);
    }
    Ok(infer(payloads.iter().map(Vec::as_slice), is_taken))
}

/// The part of a sample that comes from one partition.
struct Share {
    payloads: Vec<Vec<u8>>,
    /// Those without a payload included.
    messages: usize,
    bytes: usize,
    /// Where it began, and its end then.
    from: i64,
    end: i64,
    /// Messages and bytes.
    most: (usize, usize),
}

impl Share {
    /// Whether more is wanted of what comes from `next` on.
    fn is_open(&self, next: i64) -> bool {
        self.messages < self.most.0 && self.bytes < self.most.1 && next < self.end
    }

    fn take(&mut self, batch: &RecordBatch) -> std::result::Result<(), crate::wire::Damaged> {
        for record in batch.open()?.iter() {
            let record = record?;
            if record.offset < self.from || !self.is_open(record.offset) {
                continue;
            }
            self.messages += 1;
            if let Some(payload) = record.value {
                self.bytes += payload.len();
                self.payloads.push(payload.to_vec());
            }
        }
        Ok(())
    }
}
