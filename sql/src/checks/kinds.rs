//! From a check as it is written to a test that can run, kind by kind.

use arrow_schema::DataType;
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, lit};
use millstream_core::{Error, envelope};
use regex::Regex;

use super::fault::{self, Scope};
use super::freshness::FreshnessTest;
use super::literal::is_number;
use super::plan::{ColumnTest, RowTest, Test, take};
use super::program::Program;
use super::spec::{AcceptedRange, AcceptedValues, Action, CheckKind, CheckSpec, SchemaMatch};
use super::type_name;
use super::unique::UniqueTest;
use crate::catalog::quoted;
use crate::mixed::is_text;

/// The test of a check; what is wrong with it goes to `faults`.
pub(super) fn test(spec: &CheckSpec, scope: &Scope<'_>, strict: bool, faults: &mut Vec<Error>) -> Option<Test> {
    match &spec.kind {
        CheckKind::NotNull(columns) => {
            let tests: Vec<_> = columns
                .iter()
                .filter_map(|column| {
                    let index = take(scope.column(column), faults)?;
                    Some(column_test(
                        index,
                        column,
                        format!("not_null: column `{column}` is null"),
                    ))
                })
                .collect();
            Some(Test::Rows(RowTest::NotNull(tests)))
        }
        CheckKind::AcceptedValues(values) => accepted_values(values, scope, faults),
        CheckKind::AcceptedRange(range) => accepted_range(range, scope, faults),
        CheckKind::RegexMatch(check) => {
            let index = take(typed_column(&check.column, scope, "text", is_text), faults);
            let regex = take(
                Regex::new(&check.pattern).map_err(|error| {
                    let reason = error.to_string();
                    let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    scope
                        .fault(
                            fault::BAD_PATTERN,
                            format!("`pattern` is no regular expression: {reason}"),
                        )
                        .hint("look-around and back-references are not supported; put YAML text in single quotes")
                }),
                faults,
            );
            let reason = format!("regex_match: column `{}` does not match its pattern", check.column);
            Some(Test::Rows(RowTest::Regex(
                column_test(index?, &check.column, reason),
                regex?,
            )))
        }
        CheckKind::LengthBetween(check) => {
            let index = take(typed_column(&check.column, scope, "text or binary", has_length), faults)?;
            let (min, max) = (check.min.unwrap_or(0), check.max.unwrap_or(u64::MAX));
            let bounds = bounds(check.min.as_ref(), check.max.as_ref());
            let reason = format!(
                "length_between: the length of column `{}` is not {bounds}",
                check.column
            );
            Some(Test::Rows(RowTest::Length {
                column: column_test(index, &check.column, reason),
                min,
                max,
            }))
        }
        CheckKind::ExpressionIsTrue(sql) => {
            let program = Program::from_sql(sql, &scope.batch);
            let program = take(
                program.map_err(|fault| scope.condition("expression_is_true", fault)),
                faults,
            )?;
            let reason = format!("expression_is_true: `{sql}` is false").into();
            Some(Test::Rows(RowTest::Condition { program, reason }))
        }
        CheckKind::Unique(columns) => {
            let indices: Vec<_> = columns
                .iter()
                .filter_map(|column| take(scope.column(column), faults))
                .collect();
            let test = UniqueTest::new(columns, indices, scope.table).map_err(|error| {
                scope
                    .fault(
                        fault::WRONG_TYPE,
                        "the columns hold values that cannot be compared for equality",
                    )
                    .caused_by(error)
                    .hint("use columns of numbers, texts or times")
            });
            take(test, faults).map(Test::Unique)
        }
        CheckKind::RowCount(count) => Some(Test::RowCount {
            min: count.min.unwrap_or(0),
            max: count.max.unwrap_or(u64::MAX),
        }),
        CheckKind::Freshness(freshness) => {
            let column = match &freshness.column {
                None => scope
                    .batch
                    .index_of(envelope::COMMITTED_AT)
                    .map_err(|_| scope.unknown_column("__committed_at")),
                Some(name) => typed_column(name, scope, "timestamp or date", is_time),
            };
            let index = take(column, faults)?;
            let max_age = i64::try_from(freshness.max_age.0.as_micros()).unwrap_or(i64::MAX);
            Some(Test::Freshness(FreshnessTest::new(
                index,
                freshness.column.clone(),
                max_age,
            )))
        }
        CheckKind::SchemaMatch(expected) => schema_match(spec, expected, scope, strict, faults),
    }
}

fn column_test(index: usize, name: &str, reason: String) -> ColumnTest {
    ColumnTest {
        index,
        name: name.to_owned(),
        reason: reason.into(),
    }
}

fn accepted_values(check: &AcceptedValues, scope: &Scope<'_>, faults: &mut Vec<Error>) -> Option<Test> {
    if check.values.is_empty() {
        faults.push(
            scope
                .fault(fault::BAD_VALUE, "`values` is empty")
                .hint("list the values that may pass"),
        );
    }
    let index = take(scope.column(&check.column), faults)?;
    let column = scope.table.columns.field(index).data_type();
    let known = faults.len();
    let values: Vec<Expr> = check
        .values
        .iter()
        .filter_map(|value| literal(value.for_column(column), scope, faults))
        .collect();
    if faults.len() > known {
        return None;
    }
    let condition = Expr::Column(Column::from_name(&check.column)).in_list(values, false);
    let reason = format!(
        "accepted_values: column `{}` holds none of the accepted values",
        check.column
    );
    compiled_condition(condition, reason, scope, faults)
}

fn accepted_range(check: &AcceptedRange, scope: &Scope<'_>, faults: &mut Vec<Error>) -> Option<Test> {
    let index = take(scope.column(&check.column), faults)?;
    let data_type = scope.table.columns.field(index).data_type();
    if is_text(data_type) && check.min.iter().chain(&check.max).any(is_number) {
        let message = format!(
            "column `{}` holds text, and a bound is a number: as texts, '9' is above '100'",
            check.column
        );
        let column = quoted(&check.column);
        let (number, text) = (
            format!("CAST({column} AS DECIMAL(38, 10)) BETWEEN 0 AND 100"),
            format!("{column} BETWEEN '000' AND '100'"),
        );
        faults.push(scope.fault(fault::WRONG_TYPE, message).hint(format!(
            "use `expression_is_true` with a cast, as in {number}; or to compare texts of one length, as in {text}"
        )));
        return None;
    }
    let known = faults.len();
    let min = check
        .min
        .as_ref()
        .and_then(|min| literal(min.for_column(data_type), scope, faults));
    let max = check
        .max
        .as_ref()
        .and_then(|max| literal(max.for_column(data_type), scope, faults));
    if faults.len() > known {
        return None;
    }
    if let (Some(Expr::Literal(min, _)), Some(Expr::Literal(max, _))) = (&min, &max)
        && min.partial_cmp(max) == Some(std::cmp::Ordering::Greater)
    {
        faults.push(
            scope
                .fault(fault::BAD_VALUE, "`min` is greater than `max`")
                .hint("swap them"),
        );
    }
    let column = || Expr::Column(Column::from_name(&check.column));
    let above = min.map(|min| {
        if check.min_exclusive {
            column().gt(min)
        } else {
            column().gt_eq(min)
        }
    });
    let below = max.map(|max| {
        if check.max_exclusive {
            column().lt(max)
        } else {
            column().lt_eq(max)
        }
    });
    let condition = above.into_iter().chain(below).reduce(Expr::and)?;
    let bounds = bounds(check.min.as_ref(), check.max.as_ref());
    let reason = format!("accepted_range: column `{}` is not {bounds}", check.column);
    compiled_condition(condition, reason, scope, faults)
}

fn bounds(min: Option<&impl std::fmt::Display>, max: Option<&impl std::fmt::Display>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("between {min} and {max}"),
        (Some(min), None) => format!("at or above {min}"),
        (None, Some(max)) => format!("at or below {max}"),
        (None, None) => String::new(),
    }
}

fn literal(
    value: Result<datafusion::common::ScalarValue, String>,
    scope: &Scope<'_>,
    faults: &mut Vec<Error>,
) -> Option<Expr> {
    let value = value.map_err(|why| {
        scope
            .fault(fault::BAD_VALUE, why)
            .hint("write values as the column's type has them; times as 2026-01-31T12:00:00Z")
    });
    take(value, faults).map(lit)
}

fn compiled_condition(condition: Expr, reason: String, scope: &Scope<'_>, faults: &mut Vec<Error>) -> Option<Test> {
    let program = Program::from_expression(condition, &scope.batch).map_err(|fault| {
        let why = match fault {
            super::program::ProgramFault::Invalid(why) => why,
            _ => "the column cannot be compared".to_owned(),
        };
        scope
            .fault(
                fault::WRONG_TYPE,
                format!("the column's type does not fit the check: {why}"),
            )
            .hint("use `expression_is_true` with a cast")
    });
    let program = take(program, faults)?;
    Some(Test::Rows(RowTest::Condition {
        program,
        reason: reason.into(),
    }))
}

fn typed_column(name: &str, scope: &Scope<'_>, wanted: &str, fits: impl Fn(&DataType) -> bool) -> Result<usize, Error> {
    let index = scope.column(name)?;
    let found = scope.table.columns.field(index).data_type();
    let value = match found {
        DataType::Dictionary(_, value) => value,
        other => other,
    };
    if fits(value) {
        return Ok(index);
    }
    let message = format!(
        "column `{name}` is of type {}, the check needs {wanted}",
        type_name::of(found)
    );
    Err(scope
        .fault(fault::WRONG_TYPE, message)
        .hint("name another column, or use `expression_is_true` with a cast"))
}

fn has_length(column: &DataType) -> bool {
    is_text(column) || matches!(column, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_time(column: &DataType) -> bool {
    matches!(column, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}

fn schema_match(
    spec: &CheckSpec,
    expected: &SchemaMatch,
    scope: &Scope<'_>,
    strict: bool,
    faults: &mut Vec<Error>,
) -> Option<Test> {
    let known = faults.len();
    let mut differences = Vec::new();
    for (column, written) in &expected.columns {
        let Some(wanted) = type_name::canonical(written) else {
            faults.push(
                scope
                    .fault(
                        fault::BAD_VALUE,
                        format!("`{written}` names no type (column `{column}`)"),
                    )
                    .hint("for example int64, decimal(12,2), string, timestamptz, date, bool, list(string)"),
            );
            continue;
        };
        match scope.table.columns.field_with_name(column) {
            Err(_) => differences.push(format!("column `{column}` is missing")),
            Ok(field) if !type_name::admits(&wanted, field.data_type()) => differences.push(format!(
                "column `{column}` is {}, expected {wanted}",
                type_name::of(field.data_type())
            )),
            Ok(_) => {}
        }
    }
    if expected.exact {
        let further = scope
            .table
            .columns
            .fields()
            .iter()
            .filter(|field| !expected.columns.contains_key(field.name()));
        differences.extend(further.map(|field| format!("column `{}` is not expected", field.name())));
    }
    if faults.len() > known {
        return None;
    }
    let differs = (!differences.is_empty()).then(|| differences.join("; "));
    match differs {
        Some(differs) if strict && spec.action() == Action::Fail => {
            let error = scope.fault(
                fault::SCHEMA_DIFFERS,
                format!("the table is not as `schema_match` says: {differs}"),
            );
            faults.push(error.hint("correct the check or the table, or set `then: warn`"));
            None
        }
        differs => Some(Test::Schema { differs }),
    }
}
