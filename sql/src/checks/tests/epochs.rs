//! What is judged over an epoch.

use super::*;

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
fn row_count_does_not_judge_an_epoch_without_rows() {
    let mut checks = checks("- row_count: {min: 1}\n- not_null: status");
    assert!(checks.on_epoch_end().failed.is_none(), "positions alone");
    let delete = Row {
        op: Op::Delete,
        ..row(9)
    };
    checks.on_batch(batch(&[delete])).unwrap();
    assert!(checks.on_epoch_end().failed.is_none(), "deletes alone");
    checks.on_batch(batch(&[Row { status: None, ..row(1) }])).unwrap();
    assert!(checks.on_epoch_end().failed.is_some(), "all rows held back");
    checks.on_batch(batch(&[Row { status: None, ..row(1) }])).unwrap();
    checks.abort_epoch();
    assert!(checks.on_epoch_end().failed.is_none(), "an aborted epoch is forgotten");
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
fn freshness_looks_at_rows_that_pass() {
    let second = 1_000_000;
    let on_column = "- freshness: {column: placed_at, max_age: 2s}\n- not_null: status\n  then: quarantine";
    let held_back = Row {
        status: None,
        at: Some(8 * second),
        ..BASE
    };
    let future = Row {
        at: Some(10_000 * second),
        ..BASE
    };
    for rows in [vec![row(1), held_back], vec![row(1), future]] {
        let mut checks = checks(on_column);
        checks.on_batch(batch(&rows)).unwrap();
        assert_eq!(checks.on_timer(9 * second).len(), 1, "the newest that counts is 1 s");
    }
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
