//! A Kafka source's part of a pipeline's configuration.

use std::fmt;
use std::time::Duration;

use millstream_core::config::{Period, Secret, Size, Text};
use millstream_core::{Error, ErrorKind, Result, envelope};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::codes;
use crate::decode::column_type::ColumnType;
use crate::layout::METADATA;

/// A Kafka source.
///
/// ```yaml
/// kafka:
///   brokers: "kafka-1:9092,kafka-2:9092"
///   topics: [clicks]
///   decode: {json: {columns: {id: int64, at: timestamp, price: "decimal(18,2)"}}}
///   key: [id]
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to start from, `host:port`, separated by commas.
    pub brokers: Text,
    /// Topics to read; each is a table of its name.
    pub topics: Vec<Text>,
    /// What the messages are.
    pub decode: Decode,
    /// Columns that identify a row. A message in which one is missing or null is quarantined,
    /// and a message without a payload deletes the row that its key names.
    #[serde(default)]
    pub key: Vec<String>,
    /// Where to start in a partition for which the target holds no position.
    #[serde(default)]
    pub start: Start,
    /// How to connect; in plain text without it.
    #[serde(default)]
    pub security: Security,
    /// How messages are gathered into batches.
    #[serde(default)]
    pub batch: Batch,
    /// Memory for messages that were fetched ahead, over all partitions. Default 64 MiB.
    #[serde(default = "default_buffer")]
    pub buffer: Size,
    /// How often to look for new partitions. Default 30 s.
    #[serde(default = "default_discover_every")]
    pub discover_every: Period,
    /// How long there may be no partition that can be read before the pipeline is restarted. Default 60 s.
    #[serde(default = "default_unavailable_after")]
    pub unavailable_after: Period,
    /// How long to wait for an answer to one request. Default 10 s.
    #[serde(default = "default_timeout")]
    pub timeout: Period,
}

fn default_buffer() -> Size {
    Size(64 << 20)
}

fn default_discover_every() -> Period {
    Period(Duration::from_secs(30))
}

fn default_unavailable_after() -> Period {
    Period(Duration::from_secs(60))
}

fn default_timeout() -> Period {
    Period(Duration::from_secs(10))
}

/// Where to start where no position is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the oldest message that the topic still holds.
    #[default]
    Earliest,
    /// With the first message that arrives after the source started. The place is committed at
    /// once, so that a restart loses nothing. New partitions of a topic that is being read
    /// start at their beginning, and a table that is added to others which read the topic already
    /// starts where these stand.
    Latest,
}

/// How messages are gathered into batches: a batch is sent when any of these is reached.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Messages. Default 8,192.
    pub rows: usize,
    /// Bytes of keys, headers and payloads. Default 8 MiB, at most 1 GiB.
    pub bytes: Size,
    /// Time since the batch's first message. Default 100 ms.
    pub linger: Period,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            rows: 8_192,
            bytes: Size(8 << 20),
            linger: Period(Duration::from_millis(100)),
        }
    }
}

/// What the messages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decode {
    /// Their payload as it is, in one Binary column `value`.
    Bytes,
    /// A JSON object each.
    Json(Json),
}

/// How JSON objects become columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json {
    /// The columns, in order; `None` infers them from a sample of the topic.
    pub columns: Option<Vec<(String, ColumnType)>>,
    /// How many messages to infer from, over all partitions of a topic. Default 1,000.
    pub sample: usize,
}

impl Default for Json {
    fn default() -> Self {
        Self {
            columns: None,
            sample: 1_000,
        }
    }
}

/// TLS and authentication.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// Encrypts the connection.
    pub tls: Option<Tls>,
    /// Authenticates with a name and a password.
    pub sasl: Option<Sasl>,
}

/// TLS of a connection. Paths are those of PEM files.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates of the authorities to trust; the system's without it.
    pub ca: Option<Text>,
    /// The client's certificate.
    pub cert: Option<Text>,
    /// The client's private key.
    pub key: Option<Text>,
    /// Whether to verify the broker's certificate and its host name. Default true.
    #[serde(default = "yes")]
    pub verify: bool,
}

fn yes() -> bool {
    true
}

/// Authentication by SASL.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is proven.
    pub mechanism: Mechanism,
    /// The user.
    pub username: Text,
    /// Its password.
    pub password: Secret,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Mechanism {
    /// The password itself is sent: over TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge and response with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Salted challenge and response with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// Its name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl<'de> Deserialize<'de> for Decode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrMap;
        impl<'de> Visitor<'de> for WordOrMap {
            type Value = Decode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`json`, `bytes` or {json: {columns: {…}}}")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Decode, E> {
                match word {
                    "json" => Ok(Decode::Json(Json::default())),
                    "bytes" => Ok(Decode::Bytes),
                    _ => Err(E::unknown_variant(word, &["json", "bytes"])),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Decode, A::Error> {
                let word: String = map
                    .next_key()?
                    .ok_or_else(|| de::Error::custom("expected the key `json`"))?;
                if word != "json" {
                    return Err(de::Error::unknown_field(&word, &["json"]));
                }
                let JsonFields { columns, sample } = map.next_value()?;
                if let Some(extra) = map.next_key::<String>()? {
                    return Err(de::Error::custom(format!("unexpected key `{extra}` beside `json`")));
                }
                Ok(Decode::Json(Json {
                    columns: columns.map(|c| c.0),
                    sample: sample.unwrap_or(Json::default().sample),
                }))
            }
        }
        deserializer.deserialize_any(WordOrMap)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonFields {
    columns: Option<InOrder>,
    sample: Option<usize>,
}

/// Columns in the order in which they are written.
struct InOrder(Vec<(String, ColumnType)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = InOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of column names to types")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                let mut columns: Vec<(String, ColumnType)> = Vec::new();
                while let Some((name, text)) = map.next_entry::<String, String>()? {
                    if columns.iter().any(|(other, _)| *other == name) {
                        return Err(de::Error::custom(format!("column `{name}` is there twice")));
                    }
                    columns.push((name, text.parse().map_err(de::Error::custom)?));
                }
                Ok(InOrder(columns))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// Bytes of the buffer at least: less would hold nothing of what brokers send.
const LEAST_BUFFER: u64 = 64 << 10;

/// Bytes of a batch at most.
const MOST_BATCH: u64 = 1 << 30;

impl KafkaConfig {
    /// Everything that can be seen to be wrong without connecting.
    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |message: String| Error::new(ErrorKind::Config, message).code(codes::CONFIG);
        if self.brokers.trim().is_empty() {
            return Err(wrong("`brokers` is empty".into()).hint("name at least one broker as host:port"));
        }
        if self.topics.is_empty() {
            return Err(wrong("`topics` is empty".into()).hint("name at least one topic"));
        }
        for (at, topic) in self.topics.iter().enumerate() {
            if topic.is_empty()
                || topic.len() > 249
                || !topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            {
                return Err(wrong("a topic has a name that Kafka does not admit".into())
                    .with("topic", topic)
                    .hint("topics are listed by name; patterns are not supported"));
            }
            if self.topics[..at].contains(topic) {
                return Err(wrong("a topic is listed twice".into()).with("topic", topic));
            }
        }
        if self.batch.rows == 0 || self.batch.bytes.0 == 0 {
            return Err(wrong("a batch must hold at least one row and one byte".into()));
        }
        if self.batch.bytes.0 > MOST_BATCH {
            // Arrow counts the bytes of a column in 31 bits.
            return Err(wrong("`batch.bytes` is more than 1 GiB".into()));
        }
        if self.buffer.0 < LEAST_BUFFER {
            return Err(wrong("`buffer` is less than 64 KiB".into()));
        }
        for (name, period) in [
            ("discover_every", self.discover_every),
            ("unavailable_after", self.unavailable_after),
            ("timeout", self.timeout),
        ] {
            if period.0.is_zero() {
                return Err(wrong(format!("`{name}` must be longer than nothing")));
            }
        }
        let plain = self.security.sasl.as_ref().map(|sasl| sasl.mechanism) == Some(Mechanism::Plain);
        if plain && self.security.tls.is_none() {
            return Err(
                wrong("the mechanism PLAIN would send the password in plain text".into())
                    .hint("set `security.tls`, or use SCRAM-SHA-256 or SCRAM-SHA-512"),
            );
        }
        self.validate_columns()
    }

    fn validate_columns(&self) -> Result<()> {
        let wrong = |message: &str, column: &str| {
            Error::new(ErrorKind::Config, message)
                .code(codes::CONFIG)
                .with("column", column)
        };
        let declared = match &self.decode {
            Decode::Json(Json {
                columns: Some(columns), ..
            }) => Some(columns),
            Decode::Json(Json { columns: None, sample }) => {
                if *sample == 0 {
                    return Err(Error::new(ErrorKind::Config, "`sample` must be at least 1").code(codes::CONFIG));
                }
                None
            }
            Decode::Bytes => None,
        };
        for (name, _) in declared.into_iter().flatten() {
            if is_taken(name) {
                return Err(wrong("a declared column has a name that is taken", name).hint(format!(
                    "names that begin with `__`, and {}, are Millstream's; the field's value is kept in `_extra`",
                    METADATA.join(", ")
                )));
            }
        }
        for name in &self.key {
            let known = match (&self.decode, declared) {
                (_, Some(columns)) => columns.iter().any(|(column, _)| column == name),
                (Decode::Json(_), None) => !is_taken(name),
                (Decode::Bytes, _) => false,
            };
            if !known && name != "_key" {
                return Err(wrong("`key` names no column of the messages", name)
                    .hint("name declared columns, or `_key` for the message's own key"));
            }
        }
        Ok(())
    }
}

/// Whether a field of a message cannot have a column of this name.
pub(crate) fn is_taken(name: &str) -> bool {
    name.is_empty() || envelope::is_reserved(name) || METADATA.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<KafkaConfig, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let config = parse(
            "brokers: a:1\ntopics: [t]\nkey: [id]\nstart: latest\n\
             decode: {json: {columns: {z: utf8, id: int64, a: 'list<utf8>'}}}\n\
             security: {tls: {verify: false}, sasl: {mechanism: PLAIN, username: u, password: hunter2}}\n\
             batch: {rows: 10}\n",
        )
        .unwrap();
        config.validate().unwrap();
        let Decode::Json(Json {
            columns: Some(columns), ..
        }) = &config.decode
        else {
            panic!("{config:?}")
        };
        assert_eq!(
            columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["z", "id", "a"]
        );
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(
            parse("brokers: a\ntopics: [t]\ndecode: bytes").unwrap().decode,
            Decode::Bytes
        );
        assert_eq!(
            parse("brokers: a\ntopics: [t]\ndecode: json").unwrap().decode,
            Decode::Json(Json::default())
        );
    }

    #[test]
    fn faults_are_named() {
        for (yaml, said) in [
            ("brokers: a\ntopics: [t]\ndecode: xml", "xml"),
            ("brokers: a\ntopics: [t]\ndecode: json\ngroup: g", "group"),
            (
                "brokers: a\ntopics: [t]\ndecode: {json: {columns: {id: number}}}",
                "`number` is not a column type",
            ),
            ("brokers: a\ntopics: [t]\ndecode: {json: {colums: {}}}", "colums"),
        ] {
            let error = parse(yaml).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        for (yaml, said) in [
            ("brokers: ''\ntopics: [t]\ndecode: json", "`brokers` is empty"),
            ("brokers: a\ntopics: []\ndecode: json", "`topics` is empty"),
            ("brokers: a\ntopics: [t, t]\ndecode: json", "twice"),
            ("brokers: a\ntopics: ['^t.*']\ndecode: json", "does not admit"),
            (
                "brokers: a\ntopics: [t]\ndecode: {json: {columns: {_key: utf8}}}",
                "column=_key",
            ),
            (
                "brokers: a\ntopics: [t]\ndecode: {json: {columns: {__x: utf8}}}",
                "column=__x",
            ),
            (
                "brokers: a\ntopics: [t]\ndecode: {json: {columns: {a: utf8}}}\nkey: [b]",
                "column=b",
            ),
            ("brokers: a\ntopics: [t]\ndecode: bytes\nkey: [value]", "column=value"),
            (
                "brokers: a\ntopics: [t]\ndecode: bytes\nunavailable_after: 0s",
                "`unavailable_after`",
            ),
            ("brokers: a\ntopics: [t]\ndecode: bytes\nbatch: {bytes: 2GiB}", "1 GiB"),
            ("brokers: a\ntopics: [t]\ndecode: bytes\nbuffer: 1KiB", "64 KiB"),
            (
                "brokers: a\ntopics: [t]\ndecode: bytes\n\
                 security: {sasl: {mechanism: PLAIN, username: u, password: p}}",
                "PLAIN",
            ),
        ] {
            let error = parse(yaml).unwrap().validate().unwrap_err();
            assert!(error.summary().contains(said), "{}", error.summary());
            assert_eq!(error.error_code(), Some(codes::CONFIG));
        }
    }
}
