//! Checks on whole batches and epochs.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
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

#[test]
fn each_row_check_fails_the_rows_it_should() {
    let null = Row {
        id: None,
        status: None,
        amount: None,
        at: None,
        ..BASE
    };
    let rows = [
        row(1),
        Row {
            status: Some("gone"),
            amount: Some(-1),
            ..row(2)
        },
        null,
        Row {
            status: Some("é"),
            amount: Some(10_000),
            ..row(4)
        },
    ];
    assert_eq!(kept("not_null: [order_id, amount]", &rows), [0, 1, 3]);
    assert_eq!(
        kept("accepted_values: {column: status, values: [new, paid]}", &rows),
        [0, 2]
    );
    assert_eq!(
        kept("accepted_values: {column: order_id, values: [1, 4]}", &rows),
        [0, 2, 3]
    );
    assert_eq!(
        kept("accepted_values: {column: amount, values: [5, '-0.01']}", &rows),
        [0, 1, 2]
    );
    assert_eq!(
        kept("accepted_range: {column: amount, min: 0, max: 100}", &rows),
        [0, 2, 3]
    );
    assert_eq!(
        kept("accepted_range: {column: amount, max: 100, max_exclusive: true}", &rows),
        [0, 1, 2]
    );
    assert_eq!(
        kept("accepted_range: {column: amount, min: 4.995, max: 5.005}", &rows),
        [0, 2]
    );
    assert_eq!(
        kept("accepted_range: {column: amount, min: 5, min_exclusive: true}", &rows),
        [2, 3]
    );
    assert_eq!(
        kept(
            "accepted_range: {column: placed_at, min: '1970-01-01T00:00:01Z'}",
            &rows
        ),
        [0, 1, 2, 3]
    );
    assert_eq!(
        kept(
            "accepted_range: {column: placed_at, min: '1970-01-01T00:00:02Z'}",
            &rows
        ),
        [2]
    );
    assert_eq!(kept("regex_match: {column: status, pattern: '^n'}", &rows), [0, 2]);
    assert_eq!(kept("length_between: {column: status, min: 2, max: 3}", &rows), [0, 2]);
    assert_eq!(kept("length_between: {column: status, max: 1}", &rows), [2, 3]);
    assert_eq!(kept("expression_is_true: amount >= 5", &rows), [0, 2, 3]);
    assert_eq!(
        kept("expression_is_true: placed_at <= __committed_at", &rows),
        [0, 1, 2, 3]
    );
}

#[test]
fn a_quarantined_row_is_kept_with_its_place_and_reasons() {
    let mut checks = checks(
        "- not_null: [status]\n- accepted_range: {column: amount, min: 0}\n  name: no_debts\n- not_null: placed_at\n  then: drop\n",
    );
    let bad = Row {
        status: None,
        amount: Some(-250),
        at: None,
        ..row(7)
    };
    let outcome = checks
        .on_batch(batch(&[row(1), bad, Row { at: None, ..row(3) }]))
        .unwrap();
    assert_eq!(passed(&outcome), [0]);
    assert_eq!(outcome.dropped, 1);
    let rows = quarantined(&outcome);
    assert_eq!(
        rows,
        [(
            1,
            "not_null_status, no_debts".to_owned(),
            "not_null: column `status` is null; accepted_range: column `amount` is not at or above 0; \
             not_null: column `placed_at` is null"
                .to_owned(),
            r#"{"order_id":7,"status":null,"amount":"-2.50","placed_at":null}"#.to_owned(),
        )]
    );
    let batch = outcome.quarantined.unwrap();
    let text = |name: &str| {
        batch
            .rows()
            .column_by_name(name)
            .unwrap()
            .as_string::<i32>()
            .value(0)
            .to_owned()
    };
    assert_eq!(
        (text("table"), text("raw_format")),
        ("shop.public.orders".to_owned(), "json".to_owned())
    );
    assert_eq!(batch.positions().value(0), "00FF");
    let at = batch.rows().column_by_name("quarantined_at").unwrap();
    assert_eq!(
        at.as_primitive::<arrow_array::types::TimestampMicrosecondType>()
            .value(0),
        9_000_000
    );
    let counts: Vec<_> = outcome
        .reports
        .iter()
        .map(|r| (r.check.as_str(), r.action, r.failing, r.rows))
        .collect();
    assert_eq!(
        counts,
        [
            ("not_null_status", Action::Quarantine, 1, 3),
            ("no_debts", Action::Quarantine, 1, 3),
            ("not_null_placed_at", Action::Drop, 2, 3)
        ]
    );
    let json = serde_json::to_value(&outcome.reports[0]).unwrap();
    assert_eq!(
        (&json["scope"], &json["action"], &json["severity"]),
        (&"batch".into(), &"quarantine".into(), &"warning".into())
    );
}

#[test]
fn deletes_and_truncates_always_pass() {
    let delete = Row {
        op: Op::Delete,
        status: None,
        amount: None,
        at: None,
        ..row(1)
    };
    let truncate = Row {
        op: Op::Truncate,
        id: None,
        ..delete.clone()
    };
    let rows = [delete, truncate, Row { status: None, ..row(2) }];
    for check in [
        "not_null: [status]",
        "expression_is_true: status IS NOT NULL",
        "unique: [status]",
    ] {
        let outcome = checks(&format!("- {check}\n  then: quarantine"))
            .on_batch(batch(&rows))
            .unwrap();
        assert!(passed(&outcome).starts_with(&[0, 1]), "{check}");
    }
}

#[test]
fn a_column_that_was_not_sent_is_not_null_and_not_checked() {
    let toast = Row {
        op: Op::Update,
        status: None,
        unchanged: &["status"],
        ..row(1)
    };
    let rows = [
        toast.clone(),
        Row {
            unchanged: &[],
            ..toast.clone()
        },
        Row { amount: None, ..toast },
    ];
    assert_eq!(kept("not_null: [status]", &rows), [0, 2]);
    assert_eq!(kept("not_null: [status, amount]", &rows), [0]);
    assert_eq!(kept("expression_is_true: coalesce(status, '') <> ''", &rows), [0, 2]);
    assert_eq!(kept("not_null: [amount]\n  where: status IS NULL", &rows), [0, 1, 2]);
    // In quarantine an absent column stays absent.
    let outcome = checks("- not_null: amount").on_batch(batch(&rows)).unwrap();
    assert_eq!(
        quarantined(&outcome)[0].3,
        r#"{"order_id":1,"amount":null,"placed_at":"1970-01-01T00:00:01Z"}"#
    );
}

#[test]
fn warn_reports_and_fail_lets_nothing_become_visible() {
    let mut warn = checks("- not_null: status\n  then: warn");
    let rows = [Row { status: None, ..row(1) }, row(2)];
    let outcome = warn.on_batch(batch(&rows)).unwrap();
    assert_eq!(passed(&outcome), [0, 1]);
    assert_eq!(outcome.reports[0].message, "not_null: column `status` is null (1 rows)");
    let epoch = warn.on_epoch_end();
    assert!(epoch.failed.is_none());
    assert_eq!(
        (
            epoch.reports[0].failing,
            epoch.reports[0].rows,
            epoch.reports[0].severity
        ),
        (1, 2, Severity::Warning)
    );

    let mut fail = checks("- not_null: status\n  then: fail");
    assert_eq!(passed(&fail.on_batch(batch(&rows)).unwrap()), [0, 1]);
    let error = fail.on_epoch_end().failed.unwrap();
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::CheckFailed, Some("CK0101"))
    );
    assert!(
        error.summary().contains("not_null_status: 1 of 2 checked rows failed"),
        "{}",
        error.summary()
    );
    assert!(fail.on_epoch_end().failed.is_none(), "the next epoch starts afresh");
    fail.on_batch(batch(&rows)).unwrap();
    fail.abort_epoch();
    assert!(fail.on_epoch_end().failed.is_none(), "an aborted epoch is forgotten");
}

#[test]
fn a_row_can_fail_the_epoch_and_be_quarantined() {
    let mut checks =
        checks("- not_null: status\n  then: fail\n  mostly: 0.1\n- accepted_range: {column: amount, min: 0}\n");
    let outcome = checks
        .on_batch(batch(&[
            Row {
                status: None,
                amount: Some(-1),
                ..row(1)
            },
            row(2),
        ]))
        .unwrap();
    assert_eq!(passed(&outcome), [1]);
    assert!(checks.on_epoch_end().failed.is_none());
}

#[test]
fn where_picks_the_rows_that_are_checked() {
    let rows = [
        Row {
            status: Some("paid"),
            amount: None,
            ..row(1)
        },
        Row {
            status: Some("new"),
            amount: None,
            ..row(2)
        },
        Row {
            status: None,
            amount: None,
            ..row(3)
        },
    ];
    let mut checks = checks("- not_null: amount\n  where: status = 'paid'");
    let outcome = checks.on_batch(batch(&rows)).unwrap();
    assert_eq!(passed(&outcome), [1, 2]);
    assert_eq!(outcome.reports[0].rows, 1);
}

#[test]
fn mostly_is_a_share_of_the_epoch() {
    let half = [Row { status: None, ..row(1) }, row(2)];
    let mut at_half = checks("- not_null: status\n  then: fail\n  mostly: 0.5");
    at_half.on_batch(batch(&half)).unwrap();
    assert!(at_half.on_epoch_end().failed.is_none());
    at_half.on_batch(batch(&half)).unwrap();
    at_half.on_batch(batch(&half[..1])).unwrap();
    assert!(at_half.on_epoch_end().failed.is_some());

    let mut rowwise = checks("- not_null: status\n  then: drop\n  mostly: 0.9");
    let outcome = rowwise.on_batch(batch(&half)).unwrap();
    assert_eq!((passed(&outcome), outcome.dropped), (vec![1], 1));
    let epoch = rowwise.on_epoch_end();
    assert!(epoch.failed.is_none());
    assert_eq!(epoch.reports[0].severity, Severity::Warning);
}

#[test]
fn thresholds_count_failing_rows_in_the_epoch() {
    let bad = Row { status: None, ..row(1) };
    let mut checks = checks("- not_null: status\n  error_if: '>2'\n  warn_if: '>1'");
    let mut severity = |count: usize| {
        for _ in 0..count {
            assert_eq!(
                quarantined(&checks.on_batch(batch(std::slice::from_ref(&bad))).unwrap()).len(),
                1
            );
        }
        let epoch = checks.on_epoch_end();
        assert_eq!(epoch.failed.is_some(), count > 2);
        epoch.reports.first().map(|report| report.severity)
    };
    assert_eq!(severity(0), None);
    assert_eq!(severity(1), Some(Severity::Info));
    assert_eq!(severity(2), Some(Severity::Warning));
    assert_eq!(severity(3), Some(Severity::Error));
}

#[test]
fn a_row_that_breaks_a_condition_fails_alone() {
    let rows = [row(1), Row { id: Some(0), ..BASE }, row(2)];
    let mut broken = checks("- expression_is_true: 10 / order_id > 1");
    let outcome = broken.on_batch(batch(&rows)).unwrap();
    assert_eq!(passed(&outcome), [0, 2]);
    assert_eq!(
        quarantined(&outcome)[0].2,
        "expression_is_true: the condition cannot be evaluated on the row"
    );
    let mut guarded = checks("- expression_is_true: 10 / order_id > 1\n  where: order_id <> 0");
    assert_eq!(passed(&guarded.on_batch(batch(&rows)).unwrap()), [0, 1, 2]);
}

#[test]
fn unique_follows_what_is_alive() {
    let on_status = |rows: &[Row]| kept("unique: [status]", rows);
    let create = |id, status| Row {
        status: Some(status),
        ..row(id)
    };
    let update = |id, status| Row {
        op: Op::Update,
        ..create(id, status)
    };
    let delete = |id| Row {
        op: Op::Delete,
        status: None,
        amount: None,
        at: None,
        ..row(id)
    };
    assert_eq!(on_status(&[create(1, "a"), create(2, "a"), create(3, "b")]), [0, 2]);
    assert_eq!(on_status(&[create(1, "a"), delete(1), create(2, "a")]), [0, 1, 2]);
    assert_eq!(
        on_status(&[create(1, "a"), update(1, "a"), update(1, "b"), create(2, "a")]),
        [0, 1, 2, 3]
    );
    assert_eq!(
        on_status(&[create(1, "a"), create(2, "b"), update(2, "a"), create(3, "b")]),
        [0, 1]
    );
    let kept_value = Row {
        status: None,
        unchanged: &["status"],
        op: Op::Update,
        ..row(1)
    };
    assert_eq!(on_status(&[create(1, "a"), kept_value, create(2, "a")]), [0, 1]);
    let null = Row { status: None, ..row(1) };
    assert_eq!(on_status(&[null.clone(), Row { id: Some(2), ..null }]), [0, 1]);
    let truncate = Row {
        op: Op::Truncate,
        ..delete(1)
    };
    assert_eq!(on_status(&[create(1, "a"), truncate, create(2, "a")]), [0, 1, 2]);

    let on_key = |rows: &[Row]| kept("unique: [order_id]", rows);
    assert_eq!(
        on_key(&[
            create(1, "a"),
            update(1, "b"),
            create(1, "c"),
            delete(1),
            create(1, "d")
        ]),
        [0, 1, 3, 4]
    );
}

#[test]
fn unique_spans_batches_and_ignores_rows_that_were_held_back() {
    let mut checks = checks("- unique: [order_id]\n- not_null: status\n  then: drop");
    checks
        .on_batch(batch(&[Row { status: None, ..row(1) }, row(2)]))
        .unwrap();
    let outcome = checks.on_batch(batch(&[row(1)])).unwrap();
    assert!(outcome.reports.is_empty());
    assert_eq!(checks.on_batch(batch(&[row(2)])).unwrap().reports[0].failing, 1);
    assert!(checks.on_epoch_end().failed.is_some());
    checks.on_batch(batch(&[row(2)])).unwrap();
    assert!(checks.on_epoch_end().failed.is_none());
}

#[test]
fn row_count_counts_what_would_be_published() {
    let mut checks = checks("- row_count: {min: 2, max: 2}\n- not_null: status");
    let delete = Row {
        op: Op::Delete,
        ..row(9)
    };
    checks
        .on_batch(batch(&[row(1), row(2), Row { status: None, ..row(3) }, delete]))
        .unwrap();
    assert!(checks.on_epoch_end().failed.is_none());
    checks.on_batch(batch(&[row(1)])).unwrap();
    let epoch = checks.on_epoch_end();
    assert_eq!(epoch.reports[0].message, "the epoch has 1 rows, fewer than 2");
    assert!(epoch.failed.is_some());
}

#[test]
fn freshness_trips_by_the_clock() {
    let mut checks = checks("- freshness: {max_age: 10s}\n- freshness: {column: placed_at, max_age: 1h}\n  then: fail");
    let second = 1_000_000;
    assert!(checks.on_timer(second).is_empty());
    checks.on_batch(batch(&[row(1)])).unwrap();
    assert!(checks.on_timer(12 * second).is_empty(), "committed at 2 s");
    let stale = checks.on_timer(13 * second);
    assert_eq!((stale.len(), stale[0].severity), (1, Severity::Warning));
    assert!(stale[0].as_failure().is_none());
    assert!(checks.on_timer(14 * second).is_empty(), "reported once");
    let late = checks.on_timer(3602 * second);
    assert_eq!(late[0].as_failure().unwrap().error_code(), Some("CK0103"));
}

#[test]
fn a_changed_schema_plans_the_checks_again() {
    let mut changed = checks("- schema_match: {columns: {amount: decimal}}\n  then: warn\n- not_null: order_id\n");
    let narrow = TableSchema {
        columns: Arc::new(table().columns.project(&[0, 1]).unwrap()),
        ..table()
    };
    assert!(changed.on_batch(batch(&[row(1)])).unwrap().reports.is_empty());
    assert!(changed.on_epoch_end().reports.is_empty());
    changed.on_batch(batch_of(narrow.clone(), &[row(1)])).unwrap();
    assert_eq!(changed.on_epoch_end().reports[0].message, "column `amount` is missing");
    changed.on_batch(batch_of(narrow.clone(), &[row(1)])).unwrap();
    assert!(
        changed.on_epoch_end().reports.is_empty(),
        "a standing difference is reported once"
    );

    let mut fails = checks("- schema_match: {columns: {amount: decimal}}");
    fails.on_batch(batch_of(narrow.clone(), &[row(1)])).unwrap();
    assert!(fails.on_epoch_end().failed.is_some());

    let mut unplannable = checks("- not_null: amount");
    let error = unplannable.on_batch(batch_of(narrow, &[row(1)])).unwrap_err();
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::SchemaChange, Some("CK0102"))
    );
}

/// Codes and messages of the faults of one check.
fn faults(yaml: &str) -> Vec<String> {
    let faults = plan(&specs(&format!("- {yaml}")), &table())
        .map(|_| ())
        .expect_err(yaml);
    faults
        .iter()
        .map(|fault| format!("{fault} | {}", fault.hint_text().expect("every fault has a hint")))
        .collect()
}

#[test]
fn every_fault_has_its_code() {
    for (yaml, said) in [
        ("not_null: [order_idd]", "CK0001: the table has no column `order_idd`"),
        ("not_null: [order_idd]", "did you mean `order_id`?"),
        ("expression_is_true: amont > 1", "did you mean `amount`?"),
        (
            "regex_match: {column: amount, pattern: a}",
            "CK0002: column `amount` is of type decimal(12,2)",
        ),
        ("freshness: {column: status, max_age: 1h}", "CK0002"),
        (
            "accepted_values: {column: order_id, values: [abc]}",
            "CK0003: `abc` is not a value of type int64",
        ),
        ("accepted_values: {column: status, values: [7]}", "write it in quotes"),
        (
            "accepted_values: {column: status, values: []}",
            "CK0003: `values` is empty",
        ),
        (
            "accepted_range: {column: amount, min: 5, max: 1}",
            "CK0003: `min` is greater than `max`",
        ),
        (
            "accepted_range: {column: amount}",
            "CK0003: `accepted_range` has no bound",
        ),
        ("length_between: {column: status, min: 5, max: 1}", "CK0003"),
        (
            "regex_match: {column: status, pattern: '('}",
            "CK0004: `pattern` is no regular expression: unclosed group",
        ),
        ("expression_is_true: 'amount >'", "CK0005"),
        (
            "expression_is_true: amount + 1",
            "CK0005: `expression_is_true` is not a condition",
        ),
        ("expression_is_true: amount > 1 please", "CK0005"),
        ("expression_is_true: sum(amount) > 1", "CK0005"),
        ("expression_is_true: order_id IN (SELECT 1)", "CK0005"),
        ("expression_is_true: nosuch(amount) > 1", "CK0005"),
        (
            "{not_null: status, where: status}",
            "CK0005: `where` is not a condition",
        ),
        (
            "expression_is_true: placed_at < now()",
            "CK0006: `expression_is_true` calls `now`",
        ),
        ("expression_is_true: random() < 0.5", "CK0006"),
        ("{row_count: {min: 1}, then: drop}", "CK0007: `then: drop` is for rows"),
        ("{freshness: {max_age: 1h}, mostly: 0.5}", "CK0007"),
        ("{not_null: status, mostly: 0.5, error_if: '>1'}", "CK0007"),
        (
            "{schema_match: {columns: {order_id: int64}}, where: order_id > 1}",
            "CK0007",
        ),
        (
            "schema_match: {columns: {order_id: varint}}",
            "CK0003: `varint` names no type",
        ),
        ("schema_match: {columns: {order_id: string}}", "CK0009"),
        (
            "schema_match: {columns: {order_id: bigint}, exact: true}",
            "column `status` is not expected",
        ),
    ] {
        let found = faults(yaml);
        assert!(found.iter().any(|fault| fault.contains(said)), "{yaml}: {found:#?}");
    }
}

#[test]
fn all_faults_come_at_once() {
    let many =
        specs("- not_null: [a, b]\n- unique: order_id\n- regex_match: {column: c, pattern: '('}\n  where: d > 1\n");
    let places: Vec<usize> = plan_each(&many, &table())
        .unwrap_err()
        .into_iter()
        .map(|(index, _)| index)
        .collect();
    assert_eq!(places, [0, 0, 2, 2, 2]);
    let twins = specs("- {not_null: status, name: n}\n- {unique: status, name: n}");
    assert_eq!(plan(&twins, &table()).unwrap_err()[0].error_code(), Some("CK0008"));
    let unnamed = plan(
        &specs("- not_null: status\n- not_null: status\n  where: amount > 1"),
        &table(),
    )
    .unwrap();
    assert_eq!(
        unnamed.names().collect::<Vec<_>>(),
        ["not_null_status", "not_null_status_2"]
    );
}

#[test]
fn the_examples_of_the_reference_are_valid() {
    let page = include_str!("../../../docs/reference/checks.md");
    let table = TableSchema {
        columns: Arc::new(Schema::new(vec![
            Field::new("order_id", DataType::Int64, true),
            Field::new("customer_id", DataType::Int64, true),
            Field::new("status", DataType::Utf8, true),
            Field::new("email", DataType::Utf8, true),
            Field::new("code", DataType::Utf8, true),
            Field::new("amount", DataType::Decimal128(12, 2), true),
            Field::new("discount", DataType::Decimal128(12, 2), true),
            Field::new(
                "placed_at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
        ])),
        ..table()
    };
    let mut kinds = HashSet::new();
    for example in page.split("```yaml\n").skip(1) {
        let example = example.split("```").next().unwrap();
        let specs = specs(example);
        kinds.extend(specs.iter().map(|spec| spec.kind.name()));
        plan(&specs, &table).unwrap_or_else(|faults| panic!("{example}: {faults:?}"));
    }
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

fn any_row() -> impl Strategy<Value = Row> {
    let op = prop_oneof![
        Just(Op::Read),
        Just(Op::Create),
        Just(Op::Update),
        Just(Op::Delete),
        Just(Op::Truncate)
    ];
    let status = proptest::option::of(prop_oneof![Just("new"), Just("paid"), Just("?")]);
    let unchanged = prop_oneof![Just(&[][..]), Just(&["status"][..]), Just(&["amount", "placed_at"][..])];
    (
        op,
        proptest::option::of(0i64..4),
        status,
        proptest::option::of(-3i128..3),
        proptest::option::of(0i64..5),
        unchanged,
    )
        .prop_map(|(op, id, status, amount, at, unchanged)| Row {
            op,
            id,
            status,
            amount,
            at,
            unchanged,
        })
}

const ANY_CHECK: [&str; 8] = [
    "not_null: [status, placed_at]",
    "accepted_values: {column: status, values: [new]}",
    "accepted_range: {column: amount, min: -0.01}",
    "regex_match: {column: status, pattern: n}",
    "length_between: {column: status, max: 3}",
    "expression_is_true: 1 / order_id >= 0",
    "unique: [order_id]",
    "unique: [status]",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_ends_in_one_place(
        rows in proptest::collection::vec(any_row(), 0..24),
        chosen in proptest::collection::vec((0..ANY_CHECK.len(), 0..4usize, any::<bool>()), 1..5),
        cut in 0..24usize,
    ) {
        let yaml: String = chosen.iter().map(|(check, action, condition)| {
            let then = ["warn", "drop", "quarantine", "fail"][*action];
            let condition = if *condition { "\n  where: amount > -0.02" } else { "" };
            format!("- {}\n  then: {then}{condition}\n", ANY_CHECK[*check])
        }).collect();
        let mut checks = checks(&yaml);
        let cut = cut.min(rows.len());
        for part in [&rows[..cut], &rows[cut..]] {
            let outcome = checks.on_batch(batch(part)).unwrap();
            let passed = passed(&outcome);
            let held: Vec<i64> = quarantined(&outcome).iter().map(|(ordinal, ..)| *ordinal).collect();
            prop_assert_eq!(passed.len() + held.len() + outcome.dropped as usize, part.len());
            let places: HashSet<i64> = passed.iter().chain(&held).copied().collect();
            prop_assert_eq!(places.len(), passed.len() + held.len(), "a row is in two places");
            prop_assert!(passed.is_sorted() && held.is_sorted());
            for (ordinal, row) in part.iter().enumerate() {
                if matches!(row.op, Op::Delete | Op::Truncate) {
                    prop_assert!(passed.contains(&(ordinal as i64)), "a delete was held back");
                }
            }
            for (_, check, reason, raw) in quarantined(&outcome) {
                prop_assert!(!check.is_empty() && !reason.is_empty());
                prop_assert!(serde_json::from_str::<serde_json::Value>(&raw).is_ok());
            }
        }
    }
}
