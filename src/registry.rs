//! Which connectors this binary holds: the one place that names them, and the one place with
//! `#[cfg(feature)]`.

use std::sync::Arc;

use millstream_core::{Finding, Result, Sink, Source, TableId};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

#[cfg(not(all(any(feature = "postgres", feature = "kafka"), feature = "parquet")))]
compile_error!("a daemon needs a source and a sink: build with the feature `parquet`, and `postgres` or `kafka`");

/// The configuration of a source: `{postgres: {…}}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// PostgreSQL logical replication.
    #[cfg(feature = "postgres")]
    Postgres(millstream_postgres::PostgresConfig),
    /// Kafka topics.
    #[cfg(feature = "kafka")]
    Kafka(millstream_kafka::KafkaConfig),
}

impl SourceConfig {
    /// The connector's name, as in the configuration.
    pub fn connector(&self) -> &'static str {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "postgres",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
        }
    }

    /// Builds the source `name` of `pipeline`, without I/O.
    ///
    /// # Errors
    /// `Config` for settings that contradict each other.
    pub fn build(&self, pipeline: &str, name: &str) -> Result<Box<dyn Source>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => Ok(Box::new(millstream_postgres::PostgresSource::new(
                pipeline,
                name,
                config.clone(),
            )?)),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => Ok(Box::new(millstream_kafka::KafkaSource::new(
                pipeline,
                name,
                config.clone(),
            )?)),
        }
    }
}

impl SourceConfig {
    /// The tables that the source `name` will have, known without I/O.
    pub fn tables(&self, name: &str) -> Vec<TableId> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => config.named_tables(name),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => config
                .topics
                .iter()
                .map(|topic| TableId::new(name, None, topic))
                .collect(),
        }
    }

    /// Whether the source may have more tables than those, which its system alone knows.
    pub fn is_open(&self) -> bool {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => config.has_patterns(),
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => false,
        }
    }

    /// What an administrator has to run for the source `name`, and where. `None` for a source
    /// that has no such statements, or whose settings cannot be used.
    pub async fn setup(&self, pipeline: &str, name: &str) -> Option<Setup> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => {
                let source = millstream_postgres::PostgresSource::new(pipeline, name, config.clone()).ok()?;
                let setup = source.setup().await;
                Some(Setup {
                    server: source.server(),
                    unreachable: setup.unreachable,
                    statements: setup.statements,
                })
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => None,
        }
    }

    /// What of its system the source `name` has to itself, in words; `None` if nothing.
    pub fn claim(&self, pipeline: &str, name: &str) -> Option<String> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => {
                let source = millstream_postgres::PostgresSource::new(pipeline, name, config.clone()).ok()?;
                Some(format!("the slot `{}` on {}", source.slot(), source.server()))
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => None,
        }
    }
}

/// What an administrator has to run for a source.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The server.
    pub server: String,
    /// Why it could not be looked at; the statements are then all that a new one needs.
    pub unreachable: Option<String>,
    /// The statements, each the `sql` of a finding, in order. An `Error` must be run.
    pub statements: Vec<Finding>,
}

/// The configuration of a sink: what stands under `parquet:` and the like.
#[derive(Debug, Clone)]
pub enum SinkConfig {
    /// Parquet files on an object store.
    #[cfg(feature = "parquet")]
    Parquet(millstream_parquet::ParquetConfig),
}

/// The sinks that a configuration may name.
pub const SINKS: &[&str] = &[
    #[cfg(feature = "parquet")]
    "parquet",
];

impl SinkConfig {
    /// Reads the configuration of the sink connector called `connector`.
    ///
    /// # Errors
    /// An unknown field where no connector has that name.
    pub fn deserialize<'de, D: Deserializer<'de>>(connector: &str, deserializer: D) -> Result<Self, D::Error> {
        match connector {
            #[cfg(feature = "parquet")]
            "parquet" => millstream_parquet::ParquetConfig::deserialize(deserializer).map(Self::Parquet),
            other => Err(D::Error::custom(format!("there is no sink connector `{other}`"))),
        }
    }

    /// The connector's name, as in the configuration.
    pub fn connector(&self) -> &'static str {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => "parquet",
        }
    }

    /// Where the sink's tables lie, the same text for the same place; not for showing. `None` if
    /// the settings cannot be used.
    pub fn location(&self) -> Option<String> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(config) => config.location(),
        }
    }

    /// Builds the sink, without I/O.
    ///
    /// # Errors
    /// `Config` for settings that contradict each other.
    pub fn build(&self) -> Result<Arc<dyn Sink>> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(config) => Ok(Arc::new(millstream_parquet::ParquetSink::new(config.clone())?)),
        }
    }
}
