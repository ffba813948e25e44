//! The messages of one topic on their way into a change batch.

use std::mem;
use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Int64Builder, ListBuilder, StringBuilder, StructBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, Int32Array, RecordBatch};
use millstream_core::envelope::columns_of_positions;
use millstream_core::quarantine::{QuarantineBuilder, Raw, RowPlace};
use millstream_core::{ChangeBatch, Error, ErrorKind, Op, Result, TableId};

use crate::decode::row::{Reject, RowDecoder};
use crate::gathered::{Arrived, HeaderPair, Origin};
use crate::layout::{Layout, header_fields};
use crate::position_text::{PositionBuilder, PositionText};

/// Collects the messages of a topic as rows, or as rejected rows.
pub struct TopicRows<'a> {
    origin: &'a Origin,
    table: String,
    /// Whether the key is, or is part of, the message's own key.
    keyed_by_message_key: bool,
    /// Made by the first message that is not rejected at once.
    rows: Option<Box<Rows>>,
    /// How many there will be at most.
    most: usize,
    rejected: Option<QuarantineBuilder>,
}

/// Rows under construction.
struct Rows {
    payload: Payload,
    key: BinaryBuilder,
    /// The last messages, that have no key, and are not in `key` yet.
    without_key: usize,
    headers: ListBuilder<StructBuilder>,
    /// The same of headers.
    without_headers: usize,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    ops: Vec<Op>,
    positions: PositionBuilder,
}

enum Payload {
    Json(RowDecoder),
    Bytes(BinaryBuilder),
}

impl<'a> TopicRows<'a> {
    /// An empty collection of what comes from `origin`, with room for `most` messages.
    pub fn new(origin: &'a Origin, most: usize) -> Self {
        let schema = &origin.layout.schema;
        Self {
            most,
            table: schema.id.within_source(),
            keyed_by_message_key: schema.key.iter().any(|name| name == "_key"),
            rows: None,
            rejected: None,
            origin,
        }
    }

    /// The table that the topic is.
    pub fn table(&self) -> &'a TableId {
        &self.origin.layout.schema.id
    }

    /// Takes a message: as a row, or, where it cannot be decoded, as a row that was rejected `now`, in microseconds
    /// since the Unix epoch.
    ///
    /// Where the table has a key, a message sets the row of its key, which may have been there
    /// before or not (`u`), and one without a payload deletes it. Where it has none, each is a new
    /// row, without values if there is no payload.
    pub fn push(&mut self, message: &Arrived<'_>, now: i64) {
        let outcome = match &message.headers {
            Ok(headers) => self.try_push(message, headers),
            Err(reject) => Err(reject.clone()),
        };
        if let Err(reject) = outcome {
            let raw = Raw::Bytes(message.payload.or(message.key).unwrap_or_default());
            let row = RowPlace {
                partition: &self.origin.id,
                position: &PositionText::new(message.offset),
                ordinal: 0,
                committed_at: message.committed_at,
            };
            self.rejected
                .get_or_insert_default()
                .append(&self.table, "decode", &reject.to_string(), raw, row, now);
        }
    }

    fn try_push(&mut self, message: &Arrived<'_>, headers: &[HeaderPair<'_>]) -> std::result::Result<(), Reject> {
        let schema = &self.origin.layout.schema;
        if self.keyed_by_message_key && message.key.is_none() {
            return Err(Reject::NoKey("_key".to_owned()));
        }
        let rows = self
            .rows
            .get_or_insert_with(|| Box::new(Rows::new(&self.origin.layout, self.most)));
        let payload = message.payload;
        match (payload, &mut rows.payload) {
            (Some(payload), Payload::Json(decoder)) => decoder.append(payload)?,
            (None, Payload::Json(decoder)) if decoder.has_key() => {
                let key = message.key.ok_or_else(|| Reject::NoKey(schema.key.join(", ")))?;
                decoder
                    .append_key(key)
                    .map_err(|reject| Reject::MessageKey(Box::new(reject)))?;
            }
            (None, Payload::Json(decoder)) => decoder.append_nulls(),
            (payload, Payload::Bytes(values)) => values.append_option(payload),
        }
        let op = match (schema.key.is_empty(), payload) {
            (true, _) => Op::Create,
            (false, Some(_)) => Op::Update,
            (false, None) => Op::Delete,
        };
        rows.append_key(message.key);
        rows.append_headers(headers);
        rows.offset.append_value(message.offset);
        rows.timestamp.append_option(message.committed_at);
        rows.ops.push(op);
        rows.positions.append(message.offset);
        Ok(())
    }

    /// The rows and the rejected rows that were taken.
    pub fn finish(mut self) -> Result<(Option<ChangeBatch>, Option<ChangeBatch>)> {
        let rejected = self.rejected.take().map(|mut rejected| rejected.finish()).transpose()?;
        // Every message that made the builders may have been rejected.
        let Some(rows) = self.rows.take().filter(|rows| !rows.ops.is_empty()) else {
            return Ok((None, rejected));
        };
        let schema = self.origin.layout.schema.clone();
        let rows = RecordBatch::try_new(schema.batch_schema(), rows.finish(self.origin)).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot build a batch of messages")
                .with("table", &schema.id)
                .caused_by(error)
        })?;
        Ok((Some(ChangeBatch::try_new(schema, rows)?), rejected))
    }
}

impl Rows {
    fn new(layout: &Layout, most: usize) -> Self {
        let payload = match &layout.json {
            Some(columns) => Payload::Json(RowDecoder::new(columns, &layout.schema.key, most)),
            None => Payload::Bytes(BinaryBuilder::new()),
        };
        Self {
            payload,
            key: BinaryBuilder::new(),
            without_key: 0,
            without_headers: 0,
            headers: ListBuilder::new(StructBuilder::new(
                header_fields(),
                vec![
                    Box::new(StringBuilder::new()) as Box<dyn ArrayBuilder>,
                    Box::new(BinaryBuilder::new()),
                ],
            )),
            offset: Int64Builder::with_capacity(most),
            timestamp: TimestampMicrosecondBuilder::with_capacity(most).with_timezone("UTC"),
            ops: Vec::with_capacity(most),
            positions: PositionBuilder::with_capacity(most),
        }
    }

    /// Nulls are put aside first: to append many at once costs less than each by itself, and most topics have no others.
    fn append_key(&mut self, key: Option<&[u8]>) {
        let Some(key) = key else {
            self.without_key += 1;
            return;
        };
        append_put_aside(&mut self.without_key, |nulls| self.key.append_nulls(nulls));
        self.key.append_value(key);
    }

    fn append_headers(&mut self, headers: &[HeaderPair<'_>]) {
        if headers.is_empty() {
            self.without_headers += 1;
            return;
        }
        append_put_aside(&mut self.without_headers, |nulls| self.headers.append_nulls(nulls));
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
        self.headers.append(true);
    }

    fn finish(mut self, origin: &Origin) -> Vec<ArrayRef> {
        let timestamps = self.timestamp.finish();
        let mut columns: Vec<ArrayRef> = match &mut self.payload {
            Payload::Json(rows) => {
                let (mut columns, extra) = rows.finish();
                columns.push(extra);
                columns
            }
            Payload::Bytes(values) => vec![Arc::new(values.finish())],
        };
        append_put_aside(&mut self.without_key, |nulls| self.key.append_nulls(nulls));
        append_put_aside(&mut self.without_headers, |nulls| self.headers.append_nulls(nulls));
        columns.push(Arc::new(self.key.finish()));
        columns.push(Arc::new(self.headers.finish()));
        columns.push(Arc::new(Int32Array::from_value(origin.number, self.ops.len())));
        columns.push(Arc::new(self.offset.finish()));
        columns.push(Arc::new(timestamps.clone()));
        let positions = self.positions.finish();
        columns.extend(columns_of_positions(&self.ops, &origin.id, positions, timestamps));
        columns
    }
}

/// Appends so many nulls, if there are any: of none a builder would make a bitmap all the same.
fn append_put_aside(nulls: &mut usize, append: impl FnOnce(usize)) {
    if *nulls > 0 {
        append(mem::take(nulls));
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use millstream_core::PartitionId;

    use super::*;
    use crate::config::KafkaConfig;
    use crate::gathered::HeaderPair;

    fn origin(config: &str) -> Arc<Origin> {
        let config: KafkaConfig = serde_saphyr::from_str(&format!("brokers: b\ntopics: [t]\n{config}")).unwrap();
        let columns = vec![("id".to_owned(), "int64".parse().unwrap())];
        Arc::new(Origin {
            id: PartitionId::new("s", "t/3"),
            number: 3,
            layout: Layout::new("s", "t", &config, columns),
        })
    }

    fn push(
        rows: &mut TopicRows<'_>,
        offset: i64,
        key: Option<&str>,
        payload: Option<&str>,
        headers: &[HeaderPair<'_>],
    ) {
        let message = Arrived {
            offset,
            committed_at: Some(7_000),
            key: key.map(str::as_bytes),
            payload: payload.map(str::as_bytes),
            headers: Ok(headers.to_vec()),
        };
        rows.push(&message, 9);
    }

    #[test]
    fn metadata_stands_beside_the_message() {
        let origin = origin("decode: json");
        let mut topic = TopicRows::new(&origin, 0);
        let headers: [HeaderPair<'_>; 2] = [("trace", Some(b"a")), ("empty", None)];
        push(&mut topic, 5, Some("k"), Some(r#"{"id":1,"more":2}"#), &headers);
        push(&mut topic, 6, None, Some("{"), &[]);
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
    }

    /// Those that lack one are put aside.
    #[test]
    fn keys_and_headers_stay_with_their_messages() {
        let origin = origin("decode: bytes");
        let mut topic = TopicRows::new(&origin, 9);
        let header: &[HeaderPair<'_>] = &[("trace", Some(b"a"))];
        let sent = [
            (None, header),
            (Some("1"), &[]),
            (None, &[]),
            (None, &[]),
            (Some("4"), header),
            (None, &[]),
        ];
        for (offset, (key, headers)) in sent.into_iter().enumerate() {
            push(&mut topic, offset as i64, key, Some("x"), headers);
        }
        let batch = topic.finish().unwrap().0.unwrap();
        let column = |name| batch.rows().column_by_name(name).unwrap();
        let keys = column("_key").as_binary::<i32>().iter();
        assert!(keys.eq(sent.map(|(key, _)| key.map(str::as_bytes))));
        let headers = column("_headers").as_list::<i32>().iter();
        let lengths: Vec<_> = headers.map(|list| list.map(|list| list.len())).collect();
        assert_eq!(lengths, sent.map(|(_, headers)| (!headers.is_empty()).then_some(1)));
    }

    #[test]
    fn a_tombstone_deletes_where_there_is_a_key() {
        let ops = |config: &str, key: Option<&str>| {
            let origin = origin(config);
            let mut topic = TopicRows::new(&origin, 0);
            push(&mut topic, 1, key, None, &[]);
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

    #[test]
    fn a_message_sets_the_row_of_its_key_where_there_is_one() {
        let op = |config: &str| {
            let origin = origin(config);
            let mut topic = TopicRows::new(&origin, 0);
            push(&mut topic, 1, Some("k"), Some(r#"{"id":1}"#), &[]);
            topic.finish().unwrap().0.unwrap().ops().value(0).to_owned()
        };
        assert_eq!(op("decode: json"), "c");
        assert_eq!(op("decode: json\nkey: [id]"), "u");
        assert_eq!(op("decode: json\nkey: [_key]"), "u");
        assert_eq!(op("decode: bytes\nkey: [_key]"), "u");
    }

    #[test]
    fn a_rejected_key_is_said_to_be_one() {
        let origin = origin("decode: json\nkey: [id]");
        let mut topic = TopicRows::new(&origin, 0);
        push(&mut topic, 1, Some("x"), None, &[]);
        let (batch, rejected) = topic.finish().unwrap();
        assert!(batch.is_none());
        let rejected = rejected.unwrap();
        let text = |name: &str| rejected.rows().column_by_name(name).unwrap().clone();
        assert_eq!(
            text("reason").as_string::<i32>().value(0),
            "the message's key, which names the row to delete: column `id`: expected int64, found text that is not JSON"
        );
        assert_eq!(text("raw").as_binary::<i32>().value(0), b"x");
    }
}
