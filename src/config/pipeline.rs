//! One pipeline's YAML file.

use std::collections::BTreeMap;
use std::fmt;

use millstream_core::config::{Period, Size, Text};
use millstream_sql::checks::CheckSpec;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_saphyr::Spanned;

use crate::engine::epoch::CommitPolicy;
use crate::registry::{self, SinkConfig, SourceConfig};

/// A pipeline, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// The pipeline's name: it names the slot, the metrics and the API's paths.
    pub pipeline: Spanned<String>,
    /// What is read, by the name under which SQL knows it.
    pub sources: BTreeMap<String, Spanned<SourceConfig>>,
    /// SQL transforms, by name.
    #[serde(default)]
    pub models: BTreeMap<String, ModelConfig>,
    /// Where tables are published, by name.
    pub sinks: BTreeMap<String, Spanned<SinkEntry>>,
    /// Bytes of decoded batches that may be in flight, for each source.
    #[serde(default = "default_memory")]
    pub memory: Size,
}

fn default_memory() -> Size {
    Size(32 << 20)
}

/// A model, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A path that ends in `.sql`, relative to the project folder, or the SQL itself.
    pub sql: Spanned<Text>,
    /// The columns that identify a row of the model.
    #[serde(default)]
    pub key: Vec<String>,
    /// Checks on the model's rows.
    #[serde(default)]
    pub checks: Vec<Spanned<CheckSpec>>,
}

/// A sink, as written: one connector's key, beside what every sink has.
#[derive(Debug, Clone)]
pub struct SinkEntry {
    /// The connector and its settings.
    pub connector: SinkConfig,
    /// The tables and models to publish; all, where it is left out.
    pub tables: Option<Vec<Spanned<String>>>,
    /// When to commit.
    pub commit: CommitConfig,
}

impl SinkEntry {
    /// The names under `tables`.
    pub fn table_names(&self) -> Option<Vec<String>> {
        let names = self.tables.as_ref()?.iter().map(|name| name.value.clone());
        Some(names.collect())
    }
}

/// When an epoch is committed, as written.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommitConfig {
    every: Option<AboveZero<Period>>,
    rows: Option<AboveZero<u64>>,
    bytes: Option<AboveZero<Size>>,
    idle_every: Option<AboveZero<Period>>,
}

impl CommitConfig {
    /// The policy, with defaults filled in.
    pub fn policy(&self) -> CommitPolicy {
        let default = CommitPolicy::default();
        CommitPolicy {
            every: self.every.map_or(default.every, |period| period.0.0),
            rows: self.rows.map_or(default.rows, |rows| rows.0),
            bytes: self.bytes.map_or(default.bytes, |size| size.0.0),
            idle_every: self.idle_every.map_or(default.idle_every, |period| period.0.0),
        }
    }
}

/// A bound that is met at once when it is zero: such an epoch would be cut before it holds a row.
#[derive(Debug, Clone, Copy)]
struct AboveZero<T>(T);

impl<'de, T: Deserialize<'de> + Into<Amount> + Copy> Deserialize<'de> for AboveZero<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = T::deserialize(deserializer)?;
        if matches!(value.into(), Amount(0)) {
            return Err(D::Error::custom("must be above zero"));
        }
        Ok(Self(value))
    }
}

/// Rows, bytes or nanoseconds.
struct Amount(u128);

impl From<u64> for Amount {
    fn from(rows: u64) -> Self {
        Self(rows.into())
    }
}

impl From<Size> for Amount {
    fn from(Size(bytes): Size) -> Self {
        Self(bytes.into())
    }
}

impl From<Period> for Amount {
    fn from(Period(period): Period) -> Self {
        Self(period.as_nanos())
    }
}

impl<'de> Deserialize<'de> for SinkEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SinkVisitor)
    }
}

struct SinkVisitor;

impl<'de> Visitor<'de> for SinkVisitor {
    type Value = SinkEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a sink: one of {}, and optionally `tables` and `commit`",
            registry::SINKS.join(", ")
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SinkEntry, A::Error> {
        let (mut connector, mut tables, mut commit) = (None, None, CommitConfig::default());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "tables" => tables = Some(map.next_value()?),
                "commit" => commit = map.next_value()?,
                name if registry::SINKS.contains(&name) => {
                    if connector.is_some() {
                        return Err(A::Error::custom(
                            "a sink has one connector; give the second a name of its own",
                        ));
                    }
                    connector = Some(map.next_value_seed(ConnectorSeed(name))?);
                }
                other => {
                    let known = registry::SINKS.join("`, `");
                    return Err(A::Error::custom(format!(
                        "unknown field `{other}`, expected one of `{known}`, `tables`, `commit`"
                    )));
                }
            }
        }
        let known = registry::SINKS.join("` or `");
        let connector = connector.ok_or_else(|| A::Error::custom(format!("a sink needs a connector: `{known}`")))?;
        Ok(SinkEntry {
            connector,
            tables,
            commit,
        })
    }
}

struct ConnectorSeed<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for ConnectorSeed<'_> {
    type Value = SinkConfig;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SinkConfig, D::Error> {
        SinkConfig::deserialize(self.0, deserializer)
    }
}
