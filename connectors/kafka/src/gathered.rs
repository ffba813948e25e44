//! Messages of a partition as they came, copied out of librdkafka's memory.
//!
//! The thread that polls librdkafka does no more than this: decoding costs more than fetching, and
//! goes on beside it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use millstream_core::{PartitionId, Result, SourceEvent};
use rdkafka::Message;
use rdkafka::message::Headers;

use crate::decode::row::Reject;
use crate::layout::Layout;
use crate::offsets;
use crate::topic_rows::{Place, TopicRows};

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
    /// The events that it is.
    pub fn decode(self) -> Result<Vec<SourceEvent>> {
        match self {
            Self::Event(event) => Ok(vec![event]),
            Self::Messages(messages) => messages.decode(),
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

/// The messages of one partition in one round.
pub struct Gathered {
    origin: Arc<Origin>,
    /// When the round began, in microseconds since the Unix epoch.
    now: i64,
    /// Keys, payloads and headers.
    bytes: Vec<u8>,
    messages: Vec<Kept>,
}

/// What the messages of a round took. Those of the next take about as much, so that it need not be
/// found out by growing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Room {
    bytes: usize,
    messages: usize,
}

/// A partition that had a round for itself once may have a small part of the others.
const MOST_ROOM: usize = 2 << 20;

struct Kept {
    offset: i64,
    committed_at: Option<i64>,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    /// Where there are any.
    headers: Option<Box<KeptHeaders>>,
}

type KeptHeaders = std::result::Result<Vec<(Range<usize>, Option<Range<usize>>)>, Reject>;

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

impl Gathered {
    /// None yet.
    pub fn new(origin: Arc<Origin>, now: i64, room: Room) -> Self {
        Self {
            origin,
            now,
            bytes: Vec::with_capacity(room.bytes),
            messages: Vec::with_capacity(room.messages),
        }
    }

    /// What they took.
    pub fn room(&self) -> Room {
        let (bytes, messages) = (self.bytes.len(), self.messages.len());
        Room {
            bytes: bytes.min(MOST_ROOM),
            messages: messages.min(MOST_ROOM / size_of::<Kept>()),
        }
    }

    /// Copies a message. Returns the bytes of its key, headers and payload.
    pub fn take(&mut self, message: &impl Message) -> u64 {
        let before = self.bytes.len();
        let key = message.key().map(|key| self.keep(key));
        let payload = message.payload().map(|payload| self.keep(payload));
        let headers = message.headers().map(|headers| Box::new(self.keep_headers(headers)));
        self.messages.push(Kept {
            offset: message.offset(),
            committed_at: micros(message),
            key,
            payload,
            headers,
        });
        (self.bytes.len() - before) as u64
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        from..self.bytes.len()
    }

    fn keep_headers(&mut self, headers: &impl Headers) -> KeptHeaders {
        // rdkafka panics on a header whose name is not UTF-8, and such a message must not stop its topic.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let pair = |header: rdkafka::message::Header<'_, &[u8]>| {
                let name = self.keep(header.key.as_bytes());
                (name, header.value.map(|value| self.keep(value)))
            };
            headers.iter().map(pair).collect()
        }));
        read.map_err(|_| Reject::HeaderName)
    }

    /// The messages, in the order in which they came.
    pub fn messages(&self) -> impl Iterator<Item = Arrived<'_>> {
        let at = |range: &Range<usize>| &self.bytes[range.clone()];
        let text = move |range: &Range<usize>| std::str::from_utf8(at(range)).expect("it was copied from a str");
        self.messages.iter().map(move |kept| Arrived {
            offset: kept.offset,
            committed_at: kept.committed_at,
            key: kept.key.as_ref().map(at),
            payload: kept.payload.as_ref().map(at),
            headers: match kept.headers.as_deref() {
                None => Ok(Vec::new()),
                Some(Err(reject)) => Err(reject.clone()),
                Some(Ok(pairs)) => {
                    let pairs = pairs.iter();
                    Ok(pairs
                        .map(|(name, value)| (text(name), value.as_ref().map(at)))
                        .collect())
                }
            },
        })
    }

    /// Their rows, and those that were rejected.
    fn decode(self) -> Result<Vec<SourceEvent>> {
        let mut rows = TopicRows::new(&self.origin, self.messages.len());
        for message in self.messages() {
            let position = offsets::PositionText::new(message.offset);
            rows.push(
                &message,
                Place {
                    position: &position,
                    now: self.now,
                },
            );
        }
        let (rows, rejected) = rows.finish()?;
        let rejected = rejected.map(|rows| SourceEvent::Rejected {
            origin: self.origin.layout.schema.id.clone(),
            rows,
        });
        Ok(rows.map(SourceEvent::Changes).into_iter().chain(rejected).collect())
    }
}

/// The message's timestamp, which Kafka counts in milliseconds, in microseconds.
pub fn micros(message: &impl Message) -> Option<i64> {
    message
        .timestamp()
        .to_millis()
        .and_then(|millis| millis.checked_mul(1_000))
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Header;

    use super::*;
    use crate::config::KafkaConfig;

    /// As rdkafka's on a name that is not UTF-8.
    struct Panics;

    impl Headers for Panics {
        fn count(&self) -> usize {
            1
        }

        fn try_get(&self, _: usize) -> Option<Header<'_, &[u8]>> {
            panic!("not UTF-8")
        }
    }

    #[test]
    fn a_header_that_cannot_be_read_rejects_its_message() {
        let config: KafkaConfig = serde_saphyr::from_str("brokers: b\ntopics: [t]\ndecode: bytes").unwrap();
        let origin = Origin {
            id: PartitionId::new("s", "t/3"),
            number: 3,
            layout: Layout::new("s", "t", &config, Vec::new()),
        };
        let mut gathered = Gathered::new(Arc::new(origin), 9, Room::default());
        let payload = Some(gathered.keep(b"v"));
        let headers = Some(Box::new(gathered.keep_headers(&Panics)));
        gathered.messages.push(Kept {
            offset: 7,
            committed_at: None,
            key: None,
            payload,
            headers,
        });
        let events = gathered.decode().unwrap();
        let [SourceEvent::Rejected { rows, .. }] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(rows.num_rows(), 1);
    }
}
