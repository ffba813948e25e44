//! Any checks on any rows.

use super::*;

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
