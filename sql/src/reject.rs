//! Rows that a model cannot compute, on their way to quarantine.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use arrow_json::writer::LineDelimited;
use arrow_json::{LineDelimitedWriter, WriterBuilder};
use millstream_core::quarantine::{self, QuarantineBuilder, Raw, RowPlace};
use millstream_core::{ChangeBatch, PartitionId, Result, envelope};

/// The name under which transforms reject rows.
const CHECK: &str = "transform";

/// The rows of `batch` listed in `reasons`, as a quarantine batch that holds the same permits.
pub(crate) fn rejected(
    batch: &ChangeBatch,
    model: &str,
    reasons: &BTreeMap<usize, String>,
) -> Result<Option<ChangeBatch>> {
    if reasons.is_empty() {
        return Ok(None);
    }
    let partitions = batch.partitions();
    let partition_names = partitions.values().as_string::<i32>();
    let committed = batch.rows().column_by_name(envelope::COMMITTED_AT);
    let committed = committed.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let now = chrono::Utc::now().timestamp_micros();
    let mut builder = QuarantineBuilder::default();
    for (&row, reason) in reasons {
        let partition = partitions.key(row).map_or("", |key| partition_names.value(key));
        let place = RowPlace {
            partition: &PartitionId::from(partition),
            position: batch.positions().value(row),
            ordinal: batch.ordinals().value(row),
            committed_at: committed
                .filter(|column| column.is_valid(row))
                .map(|column| column.value(row)),
        };
        let json = row_as_json(batch.rows(), row);
        builder.append(model, CHECK, reason, Raw::Json(&json), place, now);
    }
    let built = builder.finish()?;
    batch.derive(quarantine::schema(), built.rows().clone()).map(Some)
}

/// One row as a JSON object. Columns that are null are written as null, those in
/// `__unchanged` are too and are named there. A column whose type has no JSON form is left out.
fn row_as_json(rows: &RecordBatch, row: usize) -> String {
    let one = rows.slice(row, 1);
    encode(&one).unwrap_or_else(|| {
        let writable: Vec<usize> = (0..one.num_columns())
            .filter(|&index| one.project(&[index]).is_ok_and(|column| encode(&column).is_some()))
            .collect();
        one.project(&writable)
            .ok()
            .and_then(|rows| encode(&rows))
            .unwrap_or_else(|| "{}".to_owned())
    })
}

fn encode(rows: &RecordBatch) -> Option<String> {
    let mut writer: LineDelimitedWriter<_> = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, LineDelimited>(Vec::new());
    writer.write(rows).ok()?;
    writer.finish().ok()?;
    let mut text = String::from_utf8(writer.into_inner()).ok()?;
    text.truncate(text.trim_end().len());
    Some(text)
}
