//! Checks on whole batches and epochs: the table that the tests share.

mod epochs;
mod planning;
mod properties;
mod rows;
mod uniqueness;

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use millstream_core::{ChangeBatch, EnvelopeBuilder, ErrorKind, Op, PartitionId, Severity, TableId, TableSchema};
use proptest::prelude::*;

use super::*;

/// A change of the table `orders`; `at` counts microseconds.
#[derive(Debug, Clone)]
struct Row {
    op: Op,
    id: Option<i64>,
    status: Option<&'static str>,
    amount: Option<i128>,
    at: Option<i64>,
    unchanged: &'static [&'static str],
}

const BASE: Row = Row {
    op: Op::Create,
    id: Some(1),
    status: Some("new"),
    amount: Some(500),
    at: Some(1_000_000),
    unchanged: &[],
};

fn row(id: i64) -> Row {
    Row { id: Some(id), ..BASE }
}

fn table() -> TableSchema {
    TableSchema {
        id: TableId::new("shop", Some("public"), "orders"),
        columns: Arc::new(Schema::new(vec![
            Field::new("order_id", DataType::Int64, true),
            Field::new("status", DataType::Utf8, true),
            Field::new("amount", DataType::Decimal128(12, 2), true),
            Field::new(
                "placed_at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
        ])),
        key: vec!["order_id".to_owned()],
        not_null: Vec::new(),
        before_image: false,
    }
}

fn batch_of(table: TableSchema, rows: &[Row]) -> ChangeBatch {
    let mut envelope = EnvelopeBuilder::default();
    let partition = PartitionId::new("shop", "wal");
    for (ordinal, row) in rows.iter().enumerate() {
        envelope.append_partial(
            row.op,
            &partition,
            "00FF",
            ordinal as i64,
            Some(2_000_000),
            row.unchanged,
        );
    }
    let amounts: Decimal128Array = rows.iter().map(|row| row.amount).collect();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.status).collect::<StringArray>()),
        Arc::new(amounts.with_precision_and_scale(12, 2).unwrap()),
        Arc::new(
            rows.iter()
                .map(|row| row.at)
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    ];
    columns.truncate(table.columns.fields().len());
    columns.extend(envelope.finish());
    let rows = RecordBatch::try_new(table.batch_schema(), columns).unwrap();
    ChangeBatch::try_new(Arc::new(table), rows).unwrap()
}

fn batch(rows: &[Row]) -> ChangeBatch {
    batch_of(table(), rows)
}

fn specs(yaml: &str) -> Vec<CheckSpec> {
    serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"))
}

fn checks(yaml: &str) -> Checks {
    plan(&specs(yaml), &table())
        .unwrap_or_else(|faults| panic!("{yaml}: {faults:?}"))
        .with_clock(|| 9_000_000)
}

/// Ordinals of the rows that passed.
fn passed(outcome: &BatchOutcome) -> Vec<i64> {
    outcome
        .passed
        .iter()
        .flat_map(|batch| batch.ordinals().values().to_vec())
        .collect()
}

/// Ordinals, checks, reasons and rows of what was quarantined.
fn quarantined(outcome: &BatchOutcome) -> Vec<(i64, String, String, String)> {
    let Some(batch) = &outcome.quarantined else {
        return Vec::new();
    };
    let text = |name: &str, row| {
        batch
            .rows()
            .column_by_name(name)
            .unwrap()
            .as_string::<i32>()
            .value(row)
            .to_owned()
    };
    let raw = batch.rows().column_by_name("raw").unwrap().as_binary::<i32>();
    (0..batch.num_rows())
        .map(|row| {
            let json = String::from_utf8(raw.value(row).to_vec()).unwrap();
            (
                batch.ordinals().value(row),
                text("check", row),
                text("reason", row),
                json,
            )
        })
        .collect()
}

/// The ordinals that one row check, with `then: drop`, lets pass.
fn kept(yaml: &str, rows: &[Row]) -> Vec<i64> {
    let outcome = checks(&format!("- {yaml}\n  then: drop\n"))
        .on_batch(batch(rows))
        .unwrap();
    let passed = passed(&outcome);
    assert_eq!(passed.len() as u64 + outcome.dropped, rows.len() as u64);
    passed
}
