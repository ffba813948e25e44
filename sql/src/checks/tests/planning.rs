//! Faults that are found before anything runs.

use super::*;

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
            "accepted_range: {column: status, min: 0}",
            "CK0002: column `status` holds text, and a bound is a number",
        ),
        (
            "accepted_range: {column: status, max: '99.5'}",
            "CAST(status AS DECIMAL(38, 10))",
        ),
        (
            "expression_is_true: status > 5.5",
            "CK0002: `expression_is_true` compares text with a number: `status > 5.5`",
        ),
        ("expression_is_true: amount > '5.555'", "CK0002"),
        (
            "{not_null: status, where: \"status IN (1, 2)\"}",
            "CK0002: `where` compares",
        ),
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
        unnamed
            .checks
            .iter()
            .map(|check| check.name.as_str())
            .collect::<Vec<_>>(),
        ["not_null_status", "not_null_status_2"]
    );
}

#[test]
fn the_examples_of_the_reference_are_valid() {
    let page = include_str!("../../../../docs/reference/checks.md");
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
