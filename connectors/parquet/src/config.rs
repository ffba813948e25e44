//! The sink's section of a pipeline file.

use std::collections::BTreeMap;
use std::fmt;

use millstream_core::config::{Secret, Size, Text};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::partition::PartitionExpr;
use crate::storage::{Location, Storage};

/// Where and how tables are written as Parquet.
///
/// ```yaml
/// url: s3://lake/shop
/// partition_by: ["day(placed_at)"]
/// compression: zstd
/// file: {bytes: 128MiB}
/// options:
///   aws_region: eu-central-1
///   aws_secret_access_key: {env: LAKE_SECRET}
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// A folder (`./lake`, `file:///srv/lake`) or a prefix in a bucket (`s3://`, `gs://`, `az://`, `abfss://`).
    #[serde(deserialize_with = "location")]
    pub url: Text,
    /// Hive-style partition folders: `col`, `day(col)`, `hour(col)`, `bucket(n, col)`, outermost first.
    #[serde(default)]
    pub partition_by: Vec<PartitionExpr>,
    /// How column chunks are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Which encodings columns may have.
    #[serde(default)]
    pub encodings: EncodingChoice,
    /// When a file is closed and the next one begun, within one commit.
    #[serde(default)]
    pub file: FileTarget,
    /// Bytes of memory for the open files of one table and the rows that wait for one; 32 MiB
    /// unless given. Rejected rows have a quarter more.
    #[serde(default = "default_buffer")]
    pub buffer: Size,
    /// Options of the object store, as `object_store` names them: `aws_access_key_id`,
    /// `aws_endpoint`, `google_service_account`, `azure_storage_account_key` … They win over
    /// the environment's `AWS_*`, `GOOGLE_*` and `AZURE_*` variables.
    #[serde(default, deserialize_with = "options")]
    pub options: BTreeMap<String, Secret>,
}

impl ParquetConfig {
    /// A configuration with only the URL given.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Text::literal(url),
            partition_by: Vec::new(),
            compression: Compression::default(),
            encodings: EncodingChoice::default(),
            file: FileTarget::default(),
            buffer: default_buffer(),
            options: BTreeMap::new(),
        }
    }

    /// Where the tables lie: the same text for urls that mean the same place, with the endpoint
    /// where one is given, so that it is not for showing. `None` for a url or an option that
    /// cannot be used.
    pub fn location(&self) -> Option<String> {
        let storage = Storage::of(self).ok()?;
        let mut location = storage.location(&storage.prefix);
        let endpoints = self
            .options
            .iter()
            .filter(|(name, _)| name.to_ascii_lowercase().ends_with("endpoint"));
        for (_, endpoint) in endpoints {
            location = format!("{location} at {}", endpoint.expose().trim_end_matches('/'));
        }
        Some(location)
    }
}

fn default_buffer() -> Size {
    Size(32 << 20)
}

/// The size at which a data file is closed. A commit closes its files whatever their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTarget {
    /// Compressed bytes; 128 MiB unless given.
    #[serde(default = "default_file_bytes", deserialize_with = "file_bytes")]
    pub bytes: Size,
    /// Rows; no limit unless given.
    #[serde(default)]
    pub rows: Option<u64>,
}

impl Default for FileTarget {
    fn default() -> Self {
        Self {
            bytes: default_file_bytes(),
            rows: None,
        }
    }
}

fn default_file_bytes() -> Size {
    Size(128 << 20)
}

/// An upload has at most 10,000 parts on S3, and ours have 5 MiB each.
const MAX_FILE_BYTES: u64 = 40 << 30;

fn file_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    let size = Size::deserialize(deserializer)?;
    if (1..=MAX_FILE_BYTES).contains(&size.0) {
        Ok(size)
    } else {
        Err(de::Error::custom(
            "the target size of a file must be between 1 byte and 40GiB",
        ))
    }
}

fn location<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
    let text = Text::deserialize(deserializer)?;
    Location::parse(&text).map_err(de::Error::custom)?;
    Ok(text)
}

/// Compression of column chunks: `zstd`, `zstd(N)`, `snappy` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard at a level from 1 to 22; level 1 unless given, which is close to level 3 in
    /// size on change data and much cheaper.
    Zstd(i32),
    /// Snappy.
    Snappy,
    /// None.
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        let zstd_level = || {
            let level = text.strip_prefix("zstd(")?.strip_suffix(')')?.trim().parse().ok()?;
            (1..=22).contains(&level).then_some(level)
        };
        match &*text {
            "zstd" => Ok(Self::default()),
            "snappy" => Ok(Self::Snappy),
            "none" => Ok(Self::None),
            other => zstd_level().map(Self::Zstd).ok_or_else(|| {
                de::Error::custom(format!(
                    "unknown compression `{other}`, expected `zstd`, `zstd(1)` to `zstd(22)`, `snappy` or `none`"
                ))
            }),
        }
    }
}

/// Which of Parquet's encodings are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodingChoice {
    /// Those of readers of today: `DELTA_BINARY_PACKED` too, where numbers take least so.
    #[default]
    All,
    /// Those of all readers.
    Basic,
}

/// An option's value: a secret, or a plain `true` or number.
struct OptionValue(Secret);

impl<'de> Deserialize<'de> for OptionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> Visitor<'de> for Value {
            type Value = OptionValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number, a boolean, or one of {env: NAME}, {file: PATH}, {credential: NAME}")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<OptionValue, E> {
                Ok(OptionValue(Secret::new(value.to_string())))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<OptionValue, E> {
                Ok(OptionValue(Secret::new(value.to_string())))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<OptionValue, E> {
                Ok(OptionValue(Secret::new(value.to_string())))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OptionValue, E> {
                Secret::deserialize(de::value::StrDeserializer::new(text)).map(OptionValue)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OptionValue, A::Error> {
                Secret::deserialize(de::value::MapAccessDeserializer::new(map)).map(OptionValue)
            }
        }
        deserializer.deserialize_any(Value)
    }
}

fn options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let raw = BTreeMap::<String, OptionValue>::deserialize(deserializer)?;
    Ok(raw
        .into_iter()
        .map(|(name, OptionValue(secret))| (name, secret))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ParquetConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_whole_section_is_read() {
        let config = parse(
            r#"{"url": "s3://lake/shop", "partition_by": ["day(placed_at)", "bucket(16, id)"], "compression": "zstd(3)",
                "encodings": "basic", "file": {"bytes": "1MiB", "rows": 5}, "options": {"aws_allow_http": true, "aws_region": "x"}}"#,
        )
        .unwrap();
        assert_eq!(config.compression, Compression::Zstd(3));
        assert_eq!(config.encodings, EncodingChoice::Basic);
        assert_eq!(ParquetConfig::new("x").encodings, EncodingChoice::All);
        assert_eq!(
            config.file,
            FileTarget {
                bytes: Size(1 << 20),
                rows: Some(5)
            }
        );
        assert_eq!(config.options["aws_allow_http"].expose(), "true");
        assert_eq!(config.partition_by.len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        for (json, said) in [
            (r#"{"url": "ftp://x"}"#, "ftp"),
            (r#"{"url": "x", "compression": "gzip"}"#, "unknown compression `gzip`"),
            (r#"{"url": "x", "compression": "zstd(99)"}"#, "zstd(22)"),
            (r#"{"url": "x", "encodings": "plain"}"#, "`all` or `basic`"),
            (r#"{"url": "x", "partition_by": ["week(a)"]}"#, "week(a)"),
            (r#"{"url": "x", "partition": ["a"]}"#, "unknown field `partition`"),
            (r#"{"url": "x", "file": {"bytes": "0"}}"#, "between 1 byte and 40GiB"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(said), "{json}: {error}");
        }
    }

    #[test]
    fn urls_of_one_place_have_one_location() {
        let location = |url: &str| ParquetConfig::new(url).location().unwrap();
        let here = std::env::current_dir().unwrap().display().to_string();
        for same in ["lake", "./lake/", "./x/../lake", &format!("file://{here}/lake")] {
            assert_eq!(location(same), format!("{here}/lake"), "{same}");
        }
        assert_eq!(location("/srv/lake"), "/srv/lake");
        let at = |url: &str, endpoint: &str| {
            let options = format!(r#"{{"aws_endpoint": "{endpoint}", "aws_region": "x"}}"#);
            parse(&format!(r#"{{"url": "{url}", "options": {options}}}"#))
                .unwrap()
                .location()
        };
        assert_eq!(at("s3://lake/shop/", "https://a"), at("s3://lake/shop", "https://a/"));
        assert_ne!(at("s3://lake/shop", "https://a"), at("s3://lake/shop", "https://b"));
    }
}
