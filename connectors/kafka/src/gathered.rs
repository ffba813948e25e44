//! Batches of a partition as they came.
//!
//! Whoever reads does no more than gather them: decompressing and decoding cost more than fetching, and go on
//! beside it.

use std::sync::Arc;

use millstream_core::{PartitionId, Result, SourceEvent};

use crate::client::unreadable;
use crate::config::Batch;
use crate::decode::row::Reject;
use crate::layout::Layout;
use crate::topic_rows::TopicRows;
use crate::wire::{Record, RecordBatch};

/// What a header takes beside its name and value, at least: so that any number of empty ones counts.
const LENGTHS: usize = 2;

/// A header's name and value.
pub type HeaderPair<'a> = (&'a str, Option<&'a [u8]>);

/// One step of a round.
pub enum Item {
    /// To be passed on as it is.
    Event(SourceEvent),
    /// To be decoded first.
    Messages(Gathered),
}

impl Item {
    /// Gives the events that it is to `pass_on`, until that says that nobody takes them any more. Returns whether somebody
    /// took all.
    ///
    /// # Errors
    /// `Corrupt` if a batch cannot be read.
    pub fn decode(self, pass_on: &mut impl FnMut(SourceEvent) -> bool) -> Result<bool> {
        match self {
            Self::Event(event) => Ok(pass_on(event)),
            Self::Messages(messages) => messages.decode(pass_on),
        }
    }
}

/// Where messages come from.
pub struct Origin {
    /// The partition's name in checkpoints.
    pub id: PartitionId,
    /// Its number.
    pub number: i32,
    /// The topic's table.
    pub layout: Layout,
}

/// The batches of one partition in one round.
pub struct Gathered {
    /// Where they come from.
    pub origin: Arc<Origin>,
    /// When the round began, in microseconds since the Unix epoch.
    pub now: i64,
    /// The first offset that was asked for: a batch may begin before it.
    pub from: i64,
    /// The batches, in order.
    pub batches: Vec<RecordBatch>,
    /// How large a batch of rows may become.
    pub limits: Batch,
}

/// A message of those that were gathered.
pub struct Arrived<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in microseconds since the Unix epoch.
    pub committed_at: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its payload.
    pub payload: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: std::result::Result<Vec<HeaderPair<'a>>, Reject>,
}

impl Arrived<'_> {
    /// The bytes of its key, headers and payload.
    fn bytes(&self) -> u64 {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers = self.headers.iter().flatten();
        let headers: usize = headers.map(|(name, value)| name.len() + length(*value) + LENGTHS).sum();
        (length(self.key) + length(self.payload) + headers) as u64
    }
}

impl<'a> From<Record<'a>> for Arrived<'a> {
    fn from(record: Record<'a>) -> Self {
        let pair = |(name, value): (&'a [u8], _)| match std::str::from_utf8(name) {
            Ok(name) => Ok((name, value)),
            Err(_) => Err(Reject::HeaderName),
        };
        Self {
            offset: record.offset,
            committed_at: micros(record.timestamp),
            key: record.key,
            payload: record.value,
            headers: match record.headers {
                Some(headers) => headers.into_iter().map(pair).collect(),
                None => Err(Reject::Headers),
            },
        }
    }
}

impl Gathered {
    /// Their rows, and those that were rejected: no more at once than a batch of rows may have.
    fn decode(self, pass_on: &mut impl FnMut(SourceEvent) -> bool) -> Result<bool> {
        let origin = &self.origin;
        let mut left: usize = self.batches.iter().map(|batch| batch.records).sum();
        let mut rows = TopicRows::new(origin, left.min(self.limits.rows));
        let (mut count, mut bytes) = (0, 0);
        for batch in &self.batches {
            let damaged = |damaged| {
                unreadable(&origin.layout.topic, origin.number)
                    .with("offset", batch.base)
                    .caused_by(damaged)
            };
            let records = batch.open().map_err(damaged)?;
            for record in records.iter() {
                let message = Arrived::from(record.map_err(damaged)?);
                left -= 1;
                if message.offset < self.from {
                    continue;
                }
                let size = message.bytes();
                if count == self.limits.rows || (count > 0 && bytes + size > self.limits.bytes.0) {
                    if !finish(rows, pass_on)? {
                        return Ok(false);
                    }
                    rows = TopicRows::new(origin, (left + 1).min(self.limits.rows));
                    (count, bytes) = (0, 0);
                }
                (count, bytes) = (count + 1, bytes + size);
                rows.push(&message, self.now);
            }
        }
        finish(rows, pass_on)
    }
}

fn finish(rows: TopicRows<'_>, pass_on: &mut impl FnMut(SourceEvent) -> bool) -> Result<bool> {
    let origin = rows.table().clone();
    let (changes, rejected) = rows.finish()?;
    let changes = changes.map(SourceEvent::Changes);
    let rejected = rejected.map(|rows| SourceEvent::Rejected { origin, rows });
    Ok(changes.into_iter().chain(rejected).all(pass_on))
}

/// A message's timestamp, which Kafka counts in milliseconds and which is -1 where there is none, in microseconds.
pub fn micros(millis: Option<i64>) -> Option<i64> {
    millis
        .filter(|millis| *millis != -1)
        .and_then(|millis| millis.checked_mul(1_000))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::records::Record as Written;

    use super::*;
    use crate::config::KafkaConfig;
    use crate::wire::testing::{log, record, spoilt};

    fn gathered(log: Bytes, limits: Batch) -> Gathered {
        let config: KafkaConfig = serde_saphyr::from_str("brokers: b\ntopics: [t]\ndecode: bytes").unwrap();
        let origin = Origin {
            id: PartitionId::new("s", "t/3"),
            number: 3,
            layout: Layout::new("s", "t", &config, Vec::new()),
        };
        let mut log = log;
        let batches = std::iter::from_fn(|| RecordBatch::take(&mut log).unwrap()).collect();
        Gathered {
            origin: Arc::new(origin),
            now: 9,
            from: 2,
            batches,
            limits,
        }
    }

    fn rows_of(log: Bytes, limits: Batch) -> Vec<(&'static str, Vec<String>)> {
        let mut events = Vec::new();
        let whole = gathered(log, limits).decode(&mut |event| {
            events.push(event);
            true
        });
        assert!(whole.unwrap());
        let positions = |rows: &millstream_core::ChangeBatch| {
            let positions = rows.positions().iter().flatten();
            positions.map(|text| text.trim_start_matches('0').to_owned()).collect()
        };
        let events = events.iter().map(|event| match event {
            SourceEvent::Changes(rows) => ("changes", positions(rows)),
            SourceEvent::Rejected { rows, .. } => ("rejected", positions(rows)),
            other => panic!("{other:?}"),
        });
        events.collect()
    }

    #[test]
    fn a_batch_that_begins_before_the_place_gives_the_rest_in_parts() {
        let written: Vec<Written> = (1..=6).map(|offset| record(offset, "12345")).collect();
        let rows = |rows: usize, bytes: u64| {
            let limits = Batch {
                rows,
                bytes: millstream_core::config::Size(bytes),
                ..Batch::default()
            };
            let parts = rows_of(log(&written), limits).into_iter();
            parts.map(|(_, positions)| positions.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(rows(100, 100), ["2 3 4 5 6"]);
        assert_eq!(rows(2, 100), ["2 3", "4 5", "6"]);
        assert_eq!(rows(100, 12), ["2 3", "4 5", "6"]);
        assert_eq!(rows(100, 1), ["2", "3", "4", "5", "6"]);
    }

    #[test]
    fn headers_count_as_bytes_of_a_message() {
        let message = Arrived {
            offset: 1,
            committed_at: None,
            key: Some(b"k"),
            payload: Some(b"vv"),
            headers: Ok(vec![("trace", Some(b"abc")), ("none", None)]),
        };
        assert_eq!(message.bytes(), 1 + 2 + (5 + 3 + 2) + (4 + 2));
    }

    #[test]
    fn a_header_that_cannot_be_read_rejects_its_message() {
        let mut written = record(7, "v");
        written.headers = std::iter::once(("h".into(), None)).collect();
        let log = spoilt(&[written], |bytes| {
            let at = bytes.iter().rposition(|byte| *byte == b'h').unwrap();
            bytes[at] = 0xff;
        });
        assert_eq!(rows_of(log, Batch::default()), [("rejected", vec!["7".to_owned()])]);
    }

    #[test]
    fn headers_that_cannot_be_told_apart_reject_their_message() {
        let log = spoilt(&[record(7, "v"), record(8, "v")], |bytes| {
            // How many headers the last record has.
            *bytes.last_mut().unwrap() = 2;
        });
        let parts = rows_of(log, Batch::default());
        assert_eq!(
            parts,
            [("changes", vec!["7".to_owned()]), ("rejected", vec!["8".to_owned()])]
        );
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_an_error_that_says_where() {
        let log = spoilt(&[record(5, "v")], |bytes| bytes.truncate(bytes.len() - 1));
        let error = gathered(log, Batch::default()).decode(&mut |_| true).unwrap_err();
        assert_eq!(
            error.summary(),
            "KF0008: a batch of the log cannot be read (topic=t, partition=3, offset=5): a record in it is cut off"
        );
    }

    #[test]
    fn decoding_ends_where_nobody_takes_it() {
        let written: Vec<Written> = (1..=6).map(|offset| record(offset, "12345")).collect();
        let limits = Batch {
            rows: 2,
            ..Batch::default()
        };
        let mut taken = 0;
        let whole = gathered(log(&written), limits).decode(&mut |_| {
            taken += 1;
            taken < 2
        });
        assert!(!whole.unwrap());
        assert_eq!(taken, 2);
    }
}
