//! The messages of one topic on their way into a change batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, StructBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use millstream_core::quarantine::{QuarantineBuilder, Raw, RowPlace};
use millstream_core::{ChangeBatch, EnvelopeBuilder, Error, ErrorKind, Op, PartitionId, Result};
use rdkafka::Message;
use rdkafka::message::Headers;

use crate::decode::row::{Reject, RowDecoder};
use crate::layout::{Layout, header_fields};

/// Collects the messages of a topic as rows, or as rejected rows.
pub struct TopicRows {
    layout: Layout,
    payload: Payload,
    /// Whether the key is, or is part of, the message's own key.
    keyed_by_message_key: bool,
    key: BinaryBuilder,
    headers: ListBuilder<StructBuilder>,
    partition: Int32Builder,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    envelope: EnvelopeBuilder,
    rejected: QuarantineBuilder,
    table: String,
}

enum Payload {
    Json(RowDecoder),
    Bytes(BinaryBuilder),
}

/// Where a message stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its partition's name in checkpoints.
    pub partition: &'a PartitionId,
    /// The text of its position.
    pub position: &'a str,
    /// The present time in microseconds since the Unix epoch.
    pub now: i64,
}

impl TopicRows {
    /// An empty collection for the table of `layout`.
    pub fn new(layout: Layout) -> Self {
        let key = &layout.schema.key;
        let payload = match &layout.json {
            Some(columns) => Payload::Json(RowDecoder::new(columns, key)),
            None => Payload::Bytes(BinaryBuilder::new()),
        };
        Self {
            payload,
            keyed_by_message_key: key.iter().any(|name| name == "_key"),
            key: BinaryBuilder::new(),
            headers: ListBuilder::new(StructBuilder::new(
                header_fields(),
                vec![
                    Box::new(StringBuilder::new()) as Box<dyn ArrayBuilder>,
                    Box::new(BinaryBuilder::new()),
                ],
            )),
            partition: Int32Builder::new(),
            offset: Int64Builder::new(),
            timestamp: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            envelope: EnvelopeBuilder::default(),
            rejected: QuarantineBuilder::default(),
            table: layout.schema.id.within_source(),
            layout,
        }
    }

    /// The table.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes a message: as a row, or, where it cannot be decoded, as a rejected row.
    ///
    /// A message without a payload is a delete where the table has a key, and a row without
    /// values where it has none.
    pub fn push(&mut self, message: &impl Message, place: Place<'_>) {
        let committed_at = micros(message);
        match self.try_push(message, place, committed_at) {
            Ok(()) => {}
            Err(reject) => {
                let raw = Raw::Bytes(message.payload().or(message.key()).unwrap_or_default());
                let row = RowPlace {
                    partition: place.partition,
                    position: place.position,
                    ordinal: 0,
                    committed_at,
                };
                self.rejected
                    .append(&self.table, "decode", &reject.to_string(), raw, row, place.now);
            }
        }
    }

    fn try_push(
        &mut self,
        message: &impl Message,
        place: Place<'_>,
        committed_at: Option<i64>,
    ) -> std::result::Result<(), Reject> {
        if self.keyed_by_message_key && message.key().is_none() {
            return Err(Reject::NoKey("_key".to_owned()));
        }
        let headers = read_headers(message)?;
        let op = match (message.payload(), &mut self.payload) {
            (Some(payload), Payload::Json(rows)) => rows.append(payload).map(|()| Op::Create)?,
            (None, Payload::Json(rows)) if rows.has_key() => {
                let key = message
                    .key()
                    .ok_or_else(|| Reject::NoKey(self.layout.schema.key.join(", ")))?;
                rows.append_key(key).map(|()| Op::Delete)?
            }
            (None, Payload::Json(rows)) => {
                rows.append_nulls();
                if self.keyed_by_message_key {
                    Op::Delete
                } else {
                    Op::Create
                }
            }
            (payload, Payload::Bytes(values)) => {
                values.append_option(payload);
                if payload.is_none() && self.keyed_by_message_key {
                    Op::Delete
                } else {
                    Op::Create
                }
            }
        };
        self.key.append_option(message.key());
        self.append_headers(&headers);
        self.partition.append_value(message.partition());
        self.offset.append_value(message.offset());
        self.timestamp.append_option(committed_at);
        self.envelope
            .append(op, place.partition, place.position, 0, committed_at);
        Ok(())
    }

    fn append_headers(&mut self, headers: &[HeaderPair<'_>]) {
        let entries = self.headers.values();
        for (name, value) in headers {
            entries
                .field_builder::<StringBuilder>(0)
                .expect("field 0 of a header is its key")
                .append_value(name);
            entries
                .field_builder::<BinaryBuilder>(1)
                .expect("field 1 of a header is its value")
                .append_option(*value);
            entries.append(true);
        }
        self.headers.append(!headers.is_empty());
    }

    /// The rows and the rejected rows that were taken since the last call.
    pub fn finish(&mut self) -> Result<(Option<ChangeBatch>, Option<ChangeBatch>)> {
        let rejected = if self.rejected.is_empty() {
            None
        } else {
            Some(self.rejected.finish()?)
        };
        if self.envelope.is_empty() {
            return Ok((None, rejected));
        }
        let mut columns: Vec<ArrayRef> = match &mut self.payload {
            Payload::Json(rows) => {
                let (mut columns, extra) = rows.finish();
                columns.push(extra);
                columns
            }
            Payload::Bytes(values) => vec![Arc::new(values.finish())],
        };
        columns.push(Arc::new(self.key.finish()));
        columns.push(Arc::new(self.headers.finish()));
        columns.push(Arc::new(self.partition.finish()));
        columns.push(Arc::new(self.offset.finish()));
        columns.push(Arc::new(self.timestamp.finish()));
        columns.extend(self.envelope.finish());
        let schema = self.layout.schema.clone();
        let rows = RecordBatch::try_new(schema.batch_schema(), columns).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot build a batch of messages")
                .with("table", &schema.id)
                .caused_by(error)
        })?;
        Ok((Some(ChangeBatch::try_new(schema, rows)?), rejected))
    }
}

/// The message's timestamp, which Kafka counts in milliseconds, in microseconds.
pub fn micros(message: &impl Message) -> Option<i64> {
    message
        .timestamp()
        .to_millis()
        .and_then(|millis| millis.checked_mul(1_000))
}

/// A header's name and value.
type HeaderPair<'a> = (&'a str, Option<&'a [u8]>);

fn read_headers<M: Message>(message: &M) -> std::result::Result<Vec<HeaderPair<'_>>, Reject> {
    let Some(headers) = message.headers() else {
        return Ok(Vec::new());
    };
    // rdkafka panics on a header whose name is not UTF-8, and such a message must not stop its topic.
    catch_unwind(AssertUnwindSafe(|| {
        headers.iter().map(|header| (header.key, header.value)).collect()
    }))
    .map_err(|_| Reject::HeaderName)
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    use super::*;
    use crate::config::KafkaConfig;

    fn rows(config: &str) -> TopicRows {
        let config: KafkaConfig = serde_saphyr::from_str(&format!("brokers: b\ntopics: [t]\n{config}")).unwrap();
        let columns = vec![("id".to_owned(), "int64".parse().unwrap())];
        TopicRows::new(Layout::new("s", "t", &config, columns))
    }

    fn push(
        rows: &mut TopicRows,
        offset: i64,
        key: Option<&str>,
        payload: Option<&str>,
        headers: Option<OwnedHeaders>,
    ) {
        let bytes = |text: Option<&str>| text.map(|t| t.as_bytes().to_vec());
        let message = OwnedMessage::new(
            bytes(payload),
            bytes(key),
            "t".into(),
            Timestamp::CreateTime(7),
            3,
            offset,
            headers,
        );
        let partition = PartitionId::new("s", "t/3");
        rows.push(
            &message,
            Place {
                partition: &partition,
                position: &crate::offsets::position_text(offset),
                now: 9,
            },
        );
    }

    #[test]
    fn metadata_stands_beside_the_message() {
        let mut topic = rows("decode: json");
        let headers = OwnedHeaders::new()
            .insert(Header {
                key: "trace",
                value: Some("a"),
            })
            .insert(Header {
                key: "empty",
                value: None::<&str>,
            });
        push(&mut topic, 5, Some("k"), Some(r#"{"id":1,"more":2}"#), Some(headers));
        push(&mut topic, 6, None, Some("{"), None);
        let (batch, rejected) = topic.finish().unwrap();
        let batch = batch.unwrap();
        let rows = batch.rows();
        assert_eq!(
            rows.column_by_name("_extra").unwrap().as_string::<i32>().value(0),
            r#"{"more":2}"#
        );
        assert_eq!(rows.column_by_name("_key").unwrap().as_binary::<i32>().value(0), b"k");
        assert_eq!(
            rows.column_by_name("_headers").unwrap().as_list::<i32>().value(0).len(),
            2
        );
        assert_eq!(batch.positions().value(0), "00000000000000000005");
        let rejected = rejected.unwrap();
        assert_eq!(rejected.positions().value(0), "00000000000000000006");
        assert_eq!(
            rejected
                .rows()
                .column_by_name("raw")
                .unwrap()
                .as_binary::<i32>()
                .value(0),
            b"{"
        );
        assert_eq!(
            rejected
                .rows()
                .column_by_name("check")
                .unwrap()
                .as_string::<i32>()
                .value(0),
            "decode"
        );
        assert!(topic.finish().unwrap().0.is_none());
    }

    #[test]
    fn a_tombstone_deletes_where_there_is_a_key() {
        let ops = |config: &str, key: Option<&str>| {
            let mut topic = rows(config);
            push(&mut topic, 1, key, None, None);
            let (batch, rejected) = topic.finish().unwrap();
            (batch.map(|b| b.ops().value(0).to_owned()), rejected.is_some())
        };
        assert_eq!(ops("decode: json", Some("1")), (Some("c".into()), false));
        assert_eq!(ops("decode: json\nkey: [id]", Some("1")), (Some("d".into()), false));
        assert_eq!(ops("decode: json\nkey: [id]", Some("x")), (None, true));
        assert_eq!(ops("decode: json\nkey: [id]", None), (None, true));
        assert_eq!(ops("decode: json\nkey: [_key]", Some("x")), (Some("d".into()), false));
        assert_eq!(ops("decode: bytes\nkey: [_key]", Some("x")), (Some("d".into()), false));
        assert_eq!(ops("decode: bytes", Some("x")), (Some("c".into()), false));
        assert_eq!(ops("decode: bytes\nkey: [_key]", None), (None, true));
    }
}
