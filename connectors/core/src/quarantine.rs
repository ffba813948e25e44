//! Quarantine: rows that could not be decoded, mapped or passed, kept with their reason.
//!
//! Each target table keeps the rows that were meant for it and rejected, as change batches of
//! one fixed schema, and publishes them in the same commits as its own rows
//! ([`TableWriter::quarantine`](crate::TableWriter::quarantine)). The reserved columns hold the
//! position of the rejected row.
//!
//! | column           | type                | meaning |
//! |------------------|---------------------|---------|
//! | `table`          | Utf8                | the table or model that the row was meant for |
//! | `check`          | Utf8                | the check that rejected it, or `decode`, or `transform` |
//! | `reason`         | Utf8                | what was wrong, without any cell's value |
//! | `raw_format`     | Utf8                | `bytes` (as the source sent them) or `json` (the row as JSON) |
//! | `raw`            | Binary              | the row itself |
//! | `quarantined_at` | Timestamp(µs, UTC)  | when it was rejected |

use std::sync::{Arc, LazyLock};

use arrow_array::RecordBatch;
use arrow_array::builder::{BinaryBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use crate::{ChangeBatch, EnvelopeBuilder, Op, PartitionId, Result, TableId, TableSchema};

/// What sinks call a table's quarantine: a folder within it, or a suffix to its name.
pub const NAME: &str = "_quarantine";

static SCHEMA: LazyLock<Arc<TableSchema>> = LazyLock::new(|| {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        ("table", DataType::Utf8),
        ("check", DataType::Utf8),
        ("reason", DataType::Utf8),
        ("raw_format", DataType::Utf8),
        ("raw", DataType::Binary),
        ("quarantined_at", utc),
    ];
    Arc::new(TableSchema {
        id: TableId::new("millstream", None, NAME),
        columns: Arc::new(Schema::new(
            columns.map(|(name, r#type)| Field::new(name, r#type, true)).to_vec(),
        )),
        key: Vec::new(),
        not_null: Vec::new(),
        before_image: false,
    })
});

/// The schema of rejected rows.
pub fn schema() -> Arc<TableSchema> {
    SCHEMA.clone()
}

/// The row as it was rejected.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    /// The bytes that the source sent.
    Bytes(&'a [u8]),
    /// The row as a JSON object.
    Json(&'a str),
}

/// Collects rejected rows into a change batch.
pub struct QuarantineBuilder {
    table: StringBuilder,
    check: StringBuilder,
    reason: StringBuilder,
    raw_format: StringBuilder,
    raw: BinaryBuilder,
    quarantined_at: TimestampMicrosecondBuilder,
    envelope: EnvelopeBuilder,
}

impl Default for QuarantineBuilder {
    fn default() -> Self {
        Self {
            table: StringBuilder::new(),
            check: StringBuilder::new(),
            reason: StringBuilder::new(),
            raw_format: StringBuilder::new(),
            raw: BinaryBuilder::new(),
            quarantined_at: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            envelope: EnvelopeBuilder::default(),
        }
    }
}

/// Where a rejected row stood in its source.
#[derive(Debug, Clone, Copy)]
pub struct RowPlace<'a> {
    /// The row's partition.
    pub partition: &'a PartitionId,
    /// The text of its `__position`.
    pub position: &'a str,
    /// Its `__ordinal`.
    pub ordinal: i64,
    /// When the source committed it, in microseconds since the Unix epoch.
    pub committed_at: Option<i64>,
}

impl QuarantineBuilder {
    /// Adds one rejected row; `now` counts microseconds since the Unix epoch.
    pub fn append(&mut self, table: &str, check: &str, reason: &str, raw: Raw<'_>, place: RowPlace<'_>, now: i64) {
        self.table.append_value(table);
        self.check.append_value(check);
        self.reason.append_value(reason);
        let (format, bytes) = match raw {
            Raw::Bytes(bytes) => ("bytes", bytes),
            Raw::Json(text) => ("json", text.as_bytes()),
        };
        self.raw_format.append_value(format);
        self.raw.append_value(bytes);
        self.quarantined_at.append_value(now);
        self.envelope.append(
            Op::Create,
            place.partition,
            place.position,
            place.ordinal,
            place.committed_at,
        );
    }

    /// Rows added since the last [`finish`](Self::finish).
    pub fn len(&self) -> usize {
        self.envelope.len()
    }

    /// Whether no row was added.
    pub fn is_empty(&self) -> bool {
        self.envelope.is_empty()
    }

    /// The batch; the builder is empty afterwards.
    ///
    /// # Errors
    /// None in practice: the columns are built to the schema.
    pub fn finish(&mut self) -> Result<ChangeBatch> {
        let mut columns: Vec<arrow_array::ArrayRef> = vec![
            Arc::new(self.table.finish()),
            Arc::new(self.check.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.raw_format.finish()),
            Arc::new(self.raw.finish()),
            Arc::new(self.quarantined_at.finish()),
        ];
        columns.extend(self.envelope.finish());
        let rows = RecordBatch::try_new(schema().batch_schema(), columns).map_err(|e| {
            crate::Error::new(crate::ErrorKind::Internal, "cannot build a quarantine batch").caused_by(e)
        })?;
        ChangeBatch::try_new(schema(), rows)
    }
}
