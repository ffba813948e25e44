//! Plans checks against a table: every fault is found at once, before a row is read.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_core::{Error, TableSchema};
use regex::Regex;

use super::fault::{self, Scope};
use super::freshness::FreshnessTest;
use super::kinds::test;
use super::program::Program;
use super::spec::{Action, CheckKind, CheckSpec};
use super::threshold::Threshold;
use super::unique::UniqueTest;

/// A check that is ready to run.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) action: Action,
    pub(super) mostly: Option<f64>,
    pub(super) warn_if: Option<Threshold>,
    pub(super) error_if: Option<Threshold>,
    pub(super) condition: Option<Program>,
    pub(super) test: Test,
}

/// What a check does.
#[derive(Debug)]
pub(super) enum Test {
    /// Row by row.
    Rows(RowTest),
    Unique(UniqueTest),
    RowCount {
        min: u64,
        max: u64,
    },
    Freshness(FreshnessTest),
    /// In words, what differs from the table's schema.
    Schema {
        differs: Option<String>,
    },
}

/// A test of single rows. Columns are indices into the batch; reasons name no value.
#[derive(Debug)]
pub(super) enum RowTest {
    NotNull(Vec<ColumnTest>),
    Regex(ColumnTest, Regex),
    Length {
        column: ColumnTest,
        min: u64,
        max: u64,
    },
    /// Rows for which the condition is false fail.
    Condition {
        program: Program,
        reason: Arc<str>,
    },
}

/// A column and what to say of a row that fails on it.
#[derive(Debug)]
pub(super) struct ColumnTest {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) reason: Arc<str>,
}

/// Compiles all checks; errors carry the index of their check in `specs`. A `schema_match` that
/// fails is an error only if `strict`: when a schema changes on the way, the epoch fails instead.
pub(super) fn compile_all(
    specs: &[CheckSpec],
    table: &TableSchema,
    strict: bool,
) -> Result<Vec<Compiled>, Vec<(usize, Error)>> {
    let names = names(specs);
    let mut faults = Vec::new();
    let mut compiled = Vec::with_capacity(specs.len());
    let mut explicit: HashMap<&str, usize> = HashMap::new();
    for (index, (spec, name)) in specs.iter().zip(&names).enumerate() {
        let scope = Scope {
            table,
            batch: table.batch_schema(),
            check: name,
        };
        if let Some(given) = &spec.name
            && explicit.insert(given, index).is_some()
        {
            let error = scope.fault(fault::SAME_NAME, "two checks of the table have the same name");
            faults.push((index, error.hint("give each check a `name` of its own, or none")));
        }
        let mut own = options(spec, &scope);
        let condition = spec
            .condition
            .as_deref()
            .map(|sql| Program::from_sql(sql, &scope.batch).map_err(|fault| scope.condition("where", fault)));
        let condition = take(condition.transpose(), &mut own);
        let test = test(spec, &scope, strict, &mut own);
        if let (Some(condition), Some(test), true) = (condition, test, own.is_empty()) {
            compiled.push(Compiled {
                name: name.clone(),
                kind: spec.kind.name(),
                action: spec.action(),
                mostly: spec.mostly,
                warn_if: spec.warn_if,
                error_if: spec.error_if,
                condition,
                test,
            });
        }
        faults.extend(own.into_iter().map(|error| (index, error)));
    }
    if faults.is_empty() { Ok(compiled) } else { Err(faults) }
}

/// Each check's name; names that we make ourselves get a number where they meet another.
fn names(specs: &[CheckSpec]) -> Vec<String> {
    let mut taken: HashMap<String, usize> = specs
        .iter()
        .filter_map(|spec| spec.name.clone())
        .map(|name| (name, 1))
        .collect();
    specs
        .iter()
        .map(|spec| {
            let name = spec.display_name();
            if spec.name.is_some() {
                return name;
            }
            let uses = taken.entry(name.clone()).or_default();
            *uses += 1;
            if *uses == 1 { name } else { format!("{name}_{uses}") }
        })
        .collect()
}

/// Keeps the value, or notes the fault.
pub(super) fn take<T>(result: Result<T, Error>, faults: &mut Vec<Error>) -> Option<T> {
    result.map_err(|error| faults.push(error)).ok()
}

/// Options that contradict the kind of check or each other.
fn options(spec: &CheckSpec, scope: &Scope<'_>) -> Vec<Error> {
    let kind = spec.kind.name();
    let mut faults = Vec::new();
    let mut refuse = |message: String, hint: &str| faults.push(scope.fault(fault::BAD_OPTIONS, message).hint(hint));
    if !spec.kind.judges_rows() {
        if let Action::Drop | Action::Quarantine = spec.action() {
            refuse(
                format!(
                    "`then: {}` is for rows, and `{kind}` looks at the whole",
                    spec.action().name()
                ),
                "use `then: warn` or `then: fail`",
            );
        }
        if spec.mostly.is_some() || spec.warn_if.is_some() || spec.error_if.is_some() {
            refuse(
                format!("`mostly`, `warn_if` and `error_if` count failing rows, and `{kind}` has none"),
                "leave them out and set the bounds of the check itself",
            );
        }
        if spec.condition.is_some() && matches!(spec.kind, CheckKind::SchemaMatch(_)) {
            refuse(
                "`where` picks rows, and `schema_match` looks at columns alone".to_owned(),
                "leave `where` out",
            );
        }
    }
    if spec.mostly.is_some() && (spec.warn_if.is_some() || spec.error_if.is_some()) {
        refuse(
            "`mostly` and `warn_if` or `error_if` are two ways to say how many rows may fail".to_owned(),
            "use `mostly` for a share of the rows, or the others for a number of rows",
        );
    }
    let reversed = match &spec.kind {
        CheckKind::LengthBetween(length) => length.min.zip(length.max).is_some_and(|(min, max)| min > max),
        CheckKind::RowCount(count) => count.min.zip(count.max).is_some_and(|(min, max)| min > max),
        _ => false,
    };
    let unbounded = match &spec.kind {
        CheckKind::LengthBetween(length) => length.min.is_none() && length.max.is_none(),
        CheckKind::RowCount(count) => count.min.is_none() && count.max.is_none(),
        CheckKind::AcceptedRange(range) => range.min.is_none() && range.max.is_none(),
        _ => false,
    };
    if reversed {
        faults.push(
            scope
                .fault(fault::BAD_VALUE, "`min` is greater than `max`")
                .hint("swap them"),
        );
    }
    if unbounded {
        faults.push(
            scope
                .fault(fault::BAD_VALUE, format!("`{kind}` has no bound"))
                .hint("set `min`, `max` or both"),
        );
    }
    faults
}
