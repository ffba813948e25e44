//! The source's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use millstream_core::config::{Period, Secret, Size, Text};
use millstream_core::{Error, ErrorKind, Result, TableId};
use serde::Deserialize;

use crate::decode::Forms;
pub use crate::decode::forms::{ArrayForm, NumericForm};
use crate::recopy::{LostSlot, Recopy};
use crate::selection::{Fault, Selection};
use crate::slot_config::SlotCare;
pub use crate::slot_config::{BacklogConfig, GovernorConfig, HeartbeatConfig, WalBudget};
use crate::wire::ConnectOptions;

/// What stands under `postgres:` in a pipeline's YAML.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user@host:port/database?sslmode=verify-full`; see [`ConnectOptions::parse`].
    pub url: Secret,
    /// The password, if it is not in the URL; it wins over the URL's.
    #[serde(default)]
    pub password: Option<Secret>,
    /// The publication to read. It must exist, and cover every table of `tables`.
    #[serde(default)]
    pub publication: Option<Text>,
    /// Several publications, in place of one: each table must be covered by one of them.
    #[serde(default)]
    pub publications: Vec<Text>,
    /// The tables to read, as `schema.table`; `public` may be left out. With `*` a name is a
    /// pattern, for tables of the publications.
    pub tables: Vec<Text>,
    /// Tables that patterns of `tables` leave out, named or by patterns.
    #[serde(default)]
    pub exclude: Vec<Text>,
    /// The replication slot; `millstream_<pipeline>_<source>` if absent. Made when it is missing.
    #[serde(default)]
    pub slot: Option<Text>,
    /// How often the server is told what is durable, at least. A third of the server's
    /// `wal_sender_timeout` is used where that is less.
    #[serde(default = "default_status_interval")]
    pub status_interval: Period,
    /// How large batches become.
    #[serde(default)]
    pub batch: BatchLimits,
    /// How tables are copied.
    #[serde(default)]
    pub copy: CopyLimits,
    /// When a table is copied anew by itself.
    #[serde(default)]
    pub recopy: Recopy,
    /// What happens when the slot is lost.
    #[serde(default)]
    pub lost_slot: LostSlot,
    /// What `numeric(p,s)` becomes.
    #[serde(default)]
    pub numeric: NumericForm,
    /// What arrays become.
    #[serde(default)]
    pub arrays: ArrayForm,
    /// How often the slot is looked at.
    #[serde(default)]
    pub governor: GovernorConfig,
    /// A message in the log now and then; none if absent.
    #[serde(default)]
    pub heartbeat: Option<HeartbeatConfig>,
    /// How much the slot may hold back before it is told.
    #[serde(default)]
    pub wal_budget: Option<WalBudget>,
    /// Whether standbys keep a copy of the slot (PostgreSQL 17 and later).
    #[serde(default)]
    pub failover: bool,
    /// The system identifier of a server that takes the place of the one that the target was
    /// filled from, after an upgrade for which all was drained.
    #[serde(default)]
    pub adopt: Option<Text>,
    /// Whether the server sends large transactions before they commit.
    #[serde(default = "default_streaming")]
    pub streaming: bool,
    /// Whether the server sends prepared transactions before they commit (PostgreSQL 15 and later).
    #[serde(default)]
    pub two_phase: bool,
    /// What becomes of values that an update leaves out.
    #[serde(default)]
    pub unchanged: Unchanged,
    /// Which transactions are sent.
    #[serde(default)]
    pub origin: Origin,
    /// Whether the server sends what `pg_logical_emit_message` wrote.
    #[serde(default)]
    pub messages: bool,
    /// The folder for what memory has no room for; the system's temporary folder if absent.
    #[serde(default)]
    pub spool: Option<Text>,
    /// How much of transactions in progress is kept in memory.
    #[serde(default = "default_spool_memory")]
    pub spool_memory: Size,
    /// How changes of columns are followed.
    #[serde(default)]
    pub schema_changes: SchemaChanges,
    /// What tables of `tables` are called in the database since they were renamed, as `schema.table`.
    #[serde(default)]
    pub renamed: BTreeMap<Text, Text>,
}

/// Where what the stream does not tell of a table's columns comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaChanges {
    /// Nowhere: names and places decide.
    Stream,
    /// The catalog, as it is when the change is read.
    #[default]
    Catalog,
    /// The log, into which an event trigger writes it; else the catalog.
    Trigger,
}

/// Which transactions the server sends (PostgreSQL manual, `CREATE SUBSCRIPTION`, `origin`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// All of them.
    #[default]
    Any,
    /// Those that it has not received from another server (PostgreSQL 16 and later).
    None,
}

/// What becomes of large values (TOAST) that an update did not change, and that neither the stream
/// nor a before-image tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unchanged {
    /// Their columns are named in `__unchanged`.
    #[default]
    Mark,
    /// The same, and the present values are read from the table and stand beside.
    Reread,
}

/// When decoded rows are handed on.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    /// After this many rows over all tables.
    pub rows: usize,
    /// After this many bytes as the server sent them; at most 128 MiB.
    pub bytes: Size,
    /// After this time, if the server has nothing more to send.
    pub linger: Period,
    /// How often a log in which no row is ours moves the position on.
    pub idle: Period,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            rows: 32_768,
            bytes: Size(8 << 20),
            linger: Period(Duration::from_millis(10)),
            idle: Period(Duration::from_secs(3)),
        }
    }
}

/// How tables are copied.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopyLimits {
    /// Sessions that read at the same time, from 1 to 64.
    pub workers: u32,
    /// Bytes of COPY data per second over all of them; unlimited if absent.
    pub rate: Option<Size>,
    /// How long one snapshot is kept, which holds back the server's clean-up of dead rows. After
    /// that the rest is read under another one.
    pub snapshot_for: Period,
}

impl Default for CopyLimits {
    fn default() -> Self {
        Self {
            workers: 4,
            rate: None,
            snapshot_for: Period(Duration::from_secs(3600)),
        }
    }
}

impl PostgresConfig {
    /// The tables that `tables` names, known without I/O. Nothing of a configuration that
    /// [`PostgresSource::new`](crate::PostgresSource::new) refuses for its tables.
    pub fn named_tables(&self, source: &str) -> Vec<TableId> {
        self.selection(source).map_or(Vec::new(), |selection| selection.named)
    }

    /// Whether more tables than the named ones may be read: whether `tables` has patterns.
    pub fn has_patterns(&self) -> bool {
        self.selection("").is_ok_and(|selection| !selection.patterns.is_empty())
    }

    fn selection(&self, source: &str) -> Result<Selection, Fault> {
        let tables: Vec<&str> = self.tables.iter().map(|name| &**name).collect();
        let exclude: Vec<&str> = self.exclude.iter().map(|name| &**name).collect();
        let read = Selection::read(source, &tables, &exclude);
        let mut selection = read.map_err(|(message, name)| (message, name, None))?;
        for (table, now) in &self.renamed {
            selection.rename(table, now)?;
        }
        Ok(selection)
    }
}

fn default_status_interval() -> Period {
    Period(Duration::from_secs(10))
}

fn default_streaming() -> bool {
    true
}

fn default_spool_memory() -> Size {
    Size(16 << 20)
}

/// A column of a batch holds at most 2 GiB, one value at most 1 GiB, and a text at most eight
/// times the bytes that it is made from (`bit`): so a batch of this size has room for one more row.
const MOST_BATCH_BYTES: u64 = 128 << 20;

/// Each is a session of the server, whose number is limited.
const MOST_WORKERS: u32 = 64;
const SLOWEST_COPY: u64 = 1024;

/// The configuration, read and checked without I/O.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) connect: ConnectOptions,
    /// At least one, each once.
    pub(crate) publications: Vec<String>,
    pub(crate) selection: Selection,
    pub(crate) slot: String,
    pub(crate) status_interval: Duration,
    pub(crate) batch: BatchLimits,
    pub(crate) copy: CopyLimits,
    pub(crate) recopy: Recopy,
    pub(crate) lost_slot: LostSlot,
    pub(crate) forms: Forms,
    pub(crate) care: SlotCare,
    pub(crate) adopt: Option<String>,
    pub(crate) streaming: bool,
    pub(crate) two_phase: bool,
    pub(crate) unchanged: Unchanged,
    pub(crate) origin: Origin,
    pub(crate) messages: bool,
    pub(crate) spool: SpoolSettings,
    pub(crate) schema_changes: SchemaChanges,
}

/// Where transactions are kept until they commit.
#[derive(Debug, Clone)]
pub(crate) struct SpoolSettings {
    pub(crate) folder: PathBuf,
    /// Bytes in memory, over all transactions.
    pub(crate) memory: usize,
}

impl Settings {
    pub(crate) fn read(pipeline: &str, source: &str, config: &PostgresConfig) -> Result<Self> {
        let invalid = |message: &str| {
            Error::new(ErrorKind::Config, message)
                .code("PG0029")
                .with("source", source)
        };
        let mut connect = ConnectOptions::parse(config.url.expose()).map_err(|error| {
            invalid("the URL cannot be used")
                .hint("expected `postgres://user:password@host:port/database?sslmode=verify-full`")
                .caused_by(error)
        })?;
        if let Some(password) = &config.password {
            connect.password = Some(password.clone());
        }
        let mut publications: Vec<String> = Vec::new();
        for name in config.publication.iter().chain(&config.publications) {
            if name.is_empty() {
                return Err(invalid("a publication's name is empty"));
            }
            if publications.iter().any(|known| **known == **name) {
                return Err(invalid("a publication is named twice").with("publication", name));
            }
            publications.push(name.to_string());
        }
        if publications.is_empty() || (config.publication.is_some() && !config.publications.is_empty()) {
            return Err(invalid("give either `publication` or `publications`"));
        }
        if config.tables.is_empty() {
            return Err(invalid("`tables` is empty").hint("name at least one, such as `public.orders`, or `public.*`"));
        }
        let selection = config.selection(source).map_err(|(message, name, hint)| {
            let error = invalid(message).with("table", name);
            hint.into_iter().fold(error, |error, hint| error.hint(hint))
        })?;
        if config.batch.rows == 0 || config.batch.bytes.0 == 0 {
            return Err(invalid("`batch.rows` and `batch.bytes` must be above 0"));
        }
        if config.batch.bytes.0 > MOST_BATCH_BYTES {
            return Err(invalid("`batch.bytes` must be at most 128MiB"));
        }
        if !(1..=MOST_WORKERS).contains(&config.copy.workers) {
            return Err(invalid("`copy.workers` must be from 1 to 64"));
        }
        if config.copy.rate.is_some_and(|rate| rate.0 < SLOWEST_COPY) {
            return Err(invalid("`copy.rate` must be at least 1KiB a second"));
        }
        if config.copy.snapshot_for.0.is_zero() {
            return Err(invalid("`copy.snapshot_for` must be above 0"));
        }
        if config.status_interval.0.is_zero() {
            return Err(invalid("`status_interval` must be above 0"));
        }
        let care = SlotCare::read(
            config.governor,
            config.heartbeat,
            config.wal_budget.clone(),
            config.failover,
            // Two sources may have slots of one name, on servers of their own.
            &default_slot(pipeline, source),
        )
        .map_err(invalid)?;
        if config.two_phase && care.backlog.is_some() {
            return Err(invalid("`two_phase` and `wal_budget.backlog` exclude each other")
                .hint("leave `two_phase` out: a prepared transaction then comes when it is committed"));
        }
        let slot = match &config.slot {
            Some(slot) if is_slot_name(slot) => slot.to_string(),
            Some(slot) => {
                return Err(invalid("`slot` is not a slot's name")
                    .with("slot", slot)
                    .hint("only a-z, 0-9 and _ are allowed, and at most 63 of them"));
            }
            None => default_slot(pipeline, source),
        };
        Ok(Self {
            connect,
            publications,
            selection,
            slot,
            status_interval: config.status_interval.0,
            batch: config.batch,
            copy: config.copy,
            recopy: config.recopy,
            lost_slot: config.lost_slot,
            forms: Forms {
                numeric: config.numeric,
                arrays: config.arrays,
            },
            care,
            adopt: config.adopt.as_ref().map(ToString::to_string),
            // Descriptions come without the subtransaction that wrote them: what was rolled back would count.
            streaming: config.streaming && config.schema_changes != SchemaChanges::Trigger,
            two_phase: config.two_phase,
            unchanged: config.unchanged,
            origin: config.origin,
            messages: config.messages || config.schema_changes == SchemaChanges::Trigger,
            schema_changes: config.schema_changes,
            spool: SpoolSettings {
                folder: config
                    .spool
                    .as_ref()
                    .map_or_else(std::env::temp_dir, |folder| PathBuf::from(&**folder)),
                memory: usize::try_from(config.spool_memory.0).unwrap_or(usize::MAX),
            },
        })
    }
}

/// Longest name of a slot in bytes: NAMEDATALEN - 1.
const LONGEST_NAME: usize = 63;

fn is_slot_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// A slot's name that no other source of the project has. A name that had to be changed or cut
/// ends in a hash of what it was made from.
fn default_slot(pipeline: &str, source: &str) -> String {
    use sha2::{Digest, Sha256};

    let wanted = format!("millstream_{pipeline}_{source}");
    if is_slot_name(&wanted) {
        return wanted;
    }
    let sanitised = wanted
        .to_lowercase()
        .replace(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit(), "_");
    let hash = Sha256::digest(wanted.as_bytes());
    let room = LONGEST_NAME - 9;
    format!(
        "{}_{:02x}{:02x}{:02x}{:02x}",
        &sanitised[..sanitised.len().min(room)],
        hash[0],
        hash[1],
        hash[2],
        hash[3]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> PostgresConfig {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_short_configuration_gets_defaults() {
        let config = config(serde_json::json!({
            "url": "postgres://me:a@db/shop", "password": "b", "publication": "p", "tables": ["orders", "sales.lines"],
        }));
        let settings = Settings::read("orders", "shop", &config).unwrap();
        assert_eq!(settings.slot, "millstream_orders_shop");
        assert_eq!(settings.connect.password.unwrap().expose(), "b");
        assert_eq!(settings.selection.named[0].within_source(), "public.orders");
        assert_eq!(settings.selection.named[1].within_source(), "sales.lines");
        assert_eq!(settings.status_interval, Duration::from_secs(10));
        assert_eq!(
            (settings.recopy, settings.lost_slot),
            (Recopy::Replaced, LostSlot::Halt)
        );
        assert_eq!(settings.schema_changes, SchemaChanges::Catalog);
        assert_eq!(settings.unchanged, Unchanged::Mark);
    }

    #[test]
    fn values_that_are_left_out_are_read_again_if_asked() {
        let json =
            |mode| serde_json::json!({"url": "postgres://a@b", "publication": "p", "tables": ["t"], "unchanged": mode});
        let settings = Settings::read("p", "s", &config(json("reread"))).unwrap();
        assert_eq!(settings.unchanged, Unchanged::Reread);
        assert!(serde_json::from_value::<PostgresConfig>(json("keep")).is_err());
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        let unknown = serde_json::json!({"url": "postgres://a@b", "publication": "p", "tables": ["t"], "slto": "x"});
        assert!(serde_json::from_value::<PostgresConfig>(unknown).is_err());
        let refused = |json| Settings::read("p", "s", &config(json)).unwrap_err();
        let twice = serde_json::json!({"url": "postgres://a@b", "publication": "p", "tables": ["t", "public.t"]});
        assert!(refused(twice).summary().contains("twice"));
        let batch = serde_json::json!({"url": "postgres://a@b", "publication": "p", "tables": ["t"], "batch": {"bytes": "129MiB"}});
        assert!(refused(batch).summary().contains("128MiB"));
        let slot = serde_json::json!({"url": "postgres://a@b", "publication": "p", "tables": ["t"], "slot": "My-Slot"});
        assert!(refused(slot).hint_text().unwrap().contains("a-z"));
        for publications in [
            serde_json::json!({}),
            serde_json::json!({"publication": "p", "publications": ["q"]}),
        ] {
            let mut json = serde_json::json!({"url": "postgres://a@b", "tables": ["t"]});
            json.as_object_mut()
                .unwrap()
                .extend(publications.as_object().unwrap().clone());
            assert!(refused(json).summary().contains("either"));
        }
        let twice = serde_json::json!({"url": "postgres://a@b", "publications": ["p", "p"], "tables": ["t"]});
        assert!(refused(twice).summary().contains("twice"));
        let url = serde_json::json!({"url": "postgres://a:hunter2@b:x", "publication": "p", "tables": ["t"]});
        assert!(!refused(url).summary().contains("hunter2"));
    }

    #[test]
    fn a_default_slot_is_always_a_valid_name_of_its_own() {
        let long = "x".repeat(80);
        for (pipeline, source) in [("A-b", "c"), ("a_b", "c"), (long.as_str(), "é"), ("", "")] {
            assert!(is_slot_name(&default_slot(pipeline, source)), "{pipeline} {source}");
        }
        assert_ne!(default_slot("A-b", "c"), default_slot("a_b", "c"));
    }
}
