//! Rows of a batch that a model or a check rejects, on their way to quarantine.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, PrimitiveArray};
use arrow_schema::ArrowError;
use millstream_core::quarantine::{self, QuarantineBuilder, Raw, RowPlace};
use millstream_core::{ChangeBatch, Error, ErrorKind, PartitionId, Result, TableId, envelope};

use crate::MODELS;
use crate::row_json::RowEncoder;
use crate::unsent::Unsent;

/// What quarantine and reports call a table: a model by its name alone.
pub(crate) fn shown_name(table: &TableId) -> String {
    match &table.namespace {
        None if *table.source == *MODELS => table.name.to_string(),
        _ => table.to_string(),
    }
}

/// Collects the rejected rows of one batch.
pub(crate) struct Rejects<'a> {
    batch: &'a ChangeBatch,
    /// The table that the rows were meant for.
    table: &'a str,
    /// By what the batch's ordinals are divided to give the source's.
    ordinals_per_change: i64,
    /// Microseconds since the Unix epoch.
    now: i64,
    encoder: RowEncoder<'a>,
    unsent: &'a Unsent,
    partitions: Vec<PartitionId>,
    committed: Option<&'a PrimitiveArray<TimestampMicrosecondType>>,
    builder: QuarantineBuilder,
    raw: Vec<u8>,
}

impl<'a> Rejects<'a> {
    /// Rows are kept with the user's columns and the `reserved` ones that are there.
    pub(crate) fn try_new(
        batch: &'a ChangeBatch,
        unsent: &'a Unsent,
        table: &'a str,
        reserved: &[&str],
        ordinals_per_change: i64,
        now: i64,
    ) -> Result<Self> {
        let rows = batch.rows();
        let user = 0..batch.schema().columns.fields().len();
        let reserved = reserved.iter().filter_map(|name| rows.schema_ref().index_of(name).ok());
        let names = batch.partitions().values().as_string::<i32>().iter();
        Ok(Self {
            encoder: RowEncoder::try_new(rows, user.chain(reserved)).map_err(|error| unwritable(table, error))?,
            partitions: names.map(|name| PartitionId::from(name.unwrap_or_default())).collect(),
            committed: rows
                .column_by_name(envelope::COMMITTED_AT)
                .and_then(|column| column.as_primitive_opt()),
            builder: QuarantineBuilder::default(),
            raw: Vec::new(),
            batch,
            table,
            ordinals_per_change,
            now,
            unsent,
        })
    }

    /// Adds a row, which `check` rejected.
    pub(crate) fn add(&mut self, row: usize, check: &str, reason: &str) -> Result<()> {
        let unsent = self.unsent;
        self.encoder.encode(row, |column| unsent.is(column, row), &mut self.raw);
        let raw = std::str::from_utf8(&self.raw)
            .map_err(|error| unwritable(self.table, ArrowError::JsonError(error.to_string())))?;
        let place = RowPlace {
            partition: &self.partitions[self.batch.partitions().keys().value(row) as usize],
            position: self.batch.positions().value(row),
            ordinal: self.batch.ordinals().value(row) / self.ordinals_per_change,
            committed_at: self
                .committed
                .filter(|times| times.is_valid(row))
                .map(|times| times.value(row)),
        };
        self.builder
            .append(self.table, check, reason, Raw::Json(raw), place, self.now);
        Ok(())
    }

    /// The rows, as a batch of the quarantine table that holds the same permits.
    pub(crate) fn finish(mut self) -> Result<ChangeBatch> {
        let built = self.builder.finish()?;
        self.batch.derive(quarantine::schema(), built.rows().clone())
    }
}

fn unwritable(table: &str, cause: ArrowError) -> Error {
    Error::new(ErrorKind::Internal, "cannot write a row as JSON")
        .with("table", table)
        .caused_by(cause)
}
