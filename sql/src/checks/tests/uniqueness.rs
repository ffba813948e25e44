//! What is unique in an epoch.

use super::*;

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

fn create(id: i64, status: &'static str) -> Row {
    Row {
        status: Some(status),
        ..row(id)
    }
}

fn delete(id: i64) -> Row {
    Row {
        op: Op::Delete,
        status: None,
        ..row(id)
    }
}

/// How many rows each batch adds to the failing ones.
fn failing(checks: &mut Checks, rows: &[Row]) -> u64 {
    checks
        .on_batch(batch(rows))
        .unwrap()
        .reports
        .iter()
        .map(|report| report.failing)
        .sum()
}

#[test]
fn a_duplicate_that_was_let_pass_holds_its_value() {
    let mut checks = checks("- unique: [status]\n  then: warn");
    assert_eq!(
        failing(
            &mut checks,
            &[create(1, "a"), create(2, "a"), delete(1), create(3, "a")]
        ),
        2
    );
    assert_eq!(failing(&mut checks, &[delete(2), delete(3), create(4, "a")]), 0);
    let moved = Row {
        op: Op::Update,
        ..create(4, "b")
    };
    assert_eq!(failing(&mut checks, &[moved, create(5, "a"), create(6, "b")]), 1);
}

#[test]
fn in_a_table_without_a_key_no_row_frees_the_value_of_another() {
    let keyless = TableSchema {
        key: Vec::new(),
        ..table()
    };
    let yaml = "- unique: [status]\n  where: amount > 0\n  then: drop";
    let mut checks = plan(&specs(yaml), &keyless).unwrap();
    let inactive = Row {
        amount: Some(-1),
        ..create(2, "x")
    };
    let rows = [create(1, "x"), inactive, create(3, "x"), create(4, "y")];
    let outcome = checks.on_batch(batch_of(keyless, &rows)).unwrap();
    assert_eq!(passed(&outcome), [0, 1, 3]);
}

#[test]
fn a_where_that_picks_a_row_no_longer_frees_its_value() {
    let yaml = "unique: [status]\n  where: amount > 0";
    let inactive = Row {
        op: Op::Update,
        amount: Some(-1),
        ..create(1, "x")
    };
    assert_eq!(
        kept(yaml, &[create(1, "x"), inactive, create(2, "x"), create(3, "x")]),
        [0, 1, 2]
    );
    let other = Row {
        amount: Some(-1),
        ..create(2, "x")
    };
    assert_eq!(kept(yaml, &[create(1, "x"), other, create(3, "x")]), [0, 1]);
}

#[test]
fn an_epoch_that_has_failed_is_not_followed_on() {
    let mut checks = checks("- unique: [status]");
    assert_eq!(failing(&mut checks, &[create(1, "a"), create(2, "a")]), 1);
    assert_eq!(failing(&mut checks, &[create(3, "a"), create(4, "a")]), 0);
    assert!(checks.on_epoch_end().failed.is_some());
    assert_eq!(failing(&mut checks, &[create(1, "a"), create(2, "b")]), 0);
    assert!(checks.on_epoch_end().failed.is_none());
}

#[test]
fn rows_of_a_copy_are_held_against_their_own_reading() {
    let mut checks = checks("- unique: [status]\n  then: warn");
    let read = |id, status| Row {
        op: Op::Read,
        ..create(id, status)
    };
    // A change that is later than the reading may have come before it.
    assert_eq!(failing(&mut checks, &[create(1, "a"), read(2, "a")]), 0);
    assert_eq!(failing(&mut checks, &[read(3, "b"), create(4, "b")]), 0);
    assert_eq!(failing(&mut checks, &[read(5, "b")]), 1);
    assert_eq!(failing(&mut checks, &[create(6, "b")]), 1);
    // What a change tells is not forgotten for a reading.
    assert_eq!(failing(&mut checks, &[delete(4), create(7, "b")]), 1);
    assert_eq!(failing(&mut checks, &[delete(6), delete(7), create(8, "b")]), 0);
}
