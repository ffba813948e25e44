//! What becomes of single rows.

use super::*;

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
    assert_eq!(
        kept("expression_is_true: coalesce(status, 'none') <> ''", &rows),
        [0, 1, 2]
    );
    assert!(kept("expression_is_true: nvl(status, '') = 'x'", &[row(1)]).is_empty());
    assert_eq!(kept("not_null: [amount]\n  where: status IS NULL", &rows), [0, 1, 2]);
    // In quarantine an absent column stays absent.
    let outcome = checks("- not_null: amount").on_batch(batch(&rows)).unwrap();
    assert_eq!(
        quarantined(&outcome)[0].3,
        r#"{"order_id":1,"amount":null,"placed_at":"1970-01-01T00:00:01Z"}"#
    );
}

#[test]
fn a_value_that_was_left_out_and_read_again_is_checked() {
    let read = |status| Row {
        op: Op::Update,
        status: Some(status),
        unchanged: &["status"],
        ..row(1)
    };
    let rows = [read("good"), read("bad")];
    assert_eq!(kept("not_null: [status]", &rows), [0, 1]);
    assert_eq!(kept("expression_is_true: status <> 'bad'", &rows), [0]);
    assert_eq!(kept("not_null: [amount]\n  where: status <> 'bad'", &rows), [0, 1]);
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

/// A table with one column `x` beside its key.
fn keyed(column: ArrayRef, key: &[&str]) -> ChangeBatch {
    let table = TableSchema {
        columns: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("x", column.data_type().clone(), true),
        ])),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        ..table()
    };
    let mut envelope = EnvelopeBuilder::default();
    let partition = PartitionId::new("shop", "wal");
    for ordinal in 0..column.len() as i64 {
        envelope.append(Op::Create, &partition, "00FF", ordinal, None);
    }
    let ids: ArrayRef = Arc::new((0..column.len() as i64).collect::<Int64Array>());
    let columns = [ids, column].into_iter().chain(envelope.finish()).collect();
    let rows = RecordBatch::try_new(table.batch_schema(), columns).unwrap();
    ChangeBatch::try_new(Arc::new(table), rows).unwrap()
}

/// The ordinals that pass one row check on a column `x`.
fn kept_of(column: ArrayRef, yaml: &str) -> Vec<i64> {
    let batch = keyed(column, &["id"]);
    let planned = plan(&specs(&format!("- {yaml}\n  then: drop")), batch.schema());
    let mut checks = planned.unwrap_or_else(|faults| panic!("{yaml}: {faults:?}"));
    passed(&checks.on_batch(batch).unwrap())
}

#[test]
fn floats_are_checked_as_numbers() {
    let doubles = || -> ArrayRef {
        Arc::new(Float64Array::from(vec![
            0.1,
            -0.0,
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            1e-30,
        ]))
    };
    for (yaml, expected) in [
        ("accepted_range: {column: x, max: 100}", vec![0, 1, 5]),
        ("accepted_range: {column: x, min: 0}", vec![0, 1, 2, 3, 4, 5]),
        (
            "accepted_range: {column: x, min: 0, min_exclusive: true, max: 1}",
            vec![0, 5],
        ),
        ("accepted_values: {column: x, values: [0.1, 0]}", vec![0, 1]),
        ("accepted_values: {column: x, values: ['NaN']}", vec![2, 3]),
        ("expression_is_true: x > 0.0", vec![0, 2, 3, 4, 5]),
        ("expression_is_true: x - x = 0.0", vec![0, 1, 5]),
        ("expression_is_true: x - x < 1.0", vec![0, 1, 5]),
        ("expression_is_true: x * 10.0 <= 1.0", vec![0, 1, 5]),
        ("not_null: x", vec![0, 1, 2, 3, 4, 5]),
        ("not_null: x\n  where: x <> x", vec![0, 1, 2, 3, 4, 5]),
        ("unique: x", vec![0, 1, 2, 4, 5]),
    ] {
        assert_eq!(kept_of(doubles(), yaml), expected, "{yaml}");
    }
    let reals = || -> ArrayRef { Arc::new(Float32Array::from(vec![0.1, 0.2, -0.0, f32::NAN])) };
    for (yaml, expected) in [
        ("accepted_range: {column: x, max: 0.1}", vec![0, 2]),
        ("accepted_range: {column: x, min: 0.1, max: 1}", vec![0, 1]),
        ("accepted_values: {column: x, values: [0.1, 0]}", vec![0, 2]),
        ("unique: x", vec![0, 1, 2, 3]),
    ] {
        assert_eq!(kept_of(reals(), yaml), expected, "{yaml}");
    }
}

#[test]
fn dates_are_checked_as_dates() {
    // 1970-01-02, 'infinity', '-infinity'.
    let days = || -> ArrayRef { Arc::new(Date32Array::from(vec![Some(1), Some(i32::MAX), Some(i32::MIN), None])) };
    for (yaml, expected) in [
        ("accepted_range: {column: x, min: '1970-01-01'}", vec![0, 1, 3]),
        ("accepted_range: {column: x, max: '9999-12-31'}", vec![0, 2, 3]),
        ("accepted_values: {column: x, values: ['1970-01-02']}", vec![0, 3]),
        ("expression_is_true: x >= '1970-01-02'", vec![0, 1, 3]),
        ("expression_is_true: x < DATE '1970-01-03'", vec![0, 2, 3]),
        ("not_null: x", vec![0, 1, 2]),
        ("unique: x", vec![0, 1, 2, 3]),
    ] {
        assert_eq!(kept_of(days(), yaml), expected, "{yaml}");
    }
}

#[test]
fn a_condition_that_overflows_or_panics_is_broken_on_its_row() {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, i64::MAX, i64::MIN]));
    assert_eq!(kept_of(numbers.clone(), "expression_is_true: x + 1 > x"), [0, 2]);
    assert_eq!(kept_of(numbers.clone(), "expression_is_true: -x <> x"), [0, 1]);
    assert_eq!(kept_of(numbers, "expression_is_true: x * 2 <> 7"), [0]);
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1, i64::MIN, 2]));
    assert_eq!(kept_of(times, "expression_is_true: date_trunc('day', x) <= x"), [0, 2]);
}

#[test]
fn decimals_are_compared_to_the_last_digit() {
    let amounts = Decimal128Array::from(vec![1_234_567_890_123_456_789, 1_234_567_890_123_456_788]);
    let amounts: ArrayRef = Arc::new(amounts.with_precision_and_scale(20, 2).unwrap());
    assert_eq!(
        kept_of(amounts, "expression_is_true: x > 12345678901234567.88"),
        [0],
        "a number with a point is a decimal"
    );
}
