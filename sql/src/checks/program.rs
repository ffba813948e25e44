//! SQL conditions, compiled once and evaluated on the rows they concern.

use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use arrow_schema::{DataType, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;

use crate::catalog::session;
use crate::evaluate::{Evaluated, evaluate, over_all};
use crate::mixed::{self, Mixed};
use crate::physical::strict;

/// Functions and settings that conditions are planned with: those of models. Nothing is
/// registered in it.
static SESSION: LazyLock<SessionState> = LazyLock::new(session);

/// A boolean expression over some columns of a change batch.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Where the columns stand in the batch.
    columns: Vec<usize>,
    names: Vec<String>,
    expression: Arc<dyn PhysicalExpr>,
}

/// Why a condition cannot be compiled.
#[derive(Debug)]
pub(super) enum ProgramFault {
    /// It names a column that the table lacks.
    UnknownColumn(String),
    /// Its outcome depends on more than the row.
    NotRepeatable(String),
    /// It compares text with a number.
    Mixed(Mixed),
    /// It is no SQL condition; in words, without the row's data, since there is none yet.
    Invalid(String),
}

/// `expression` with its types coerced. Some functions, `coalesce` among them, can only be
/// computed in their simple form.
fn simplified(expression: Expr, scope: &DFSchema) -> Result<Expr, DataFusionError> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(scope.clone()))
        .with_config_options(SESSION.config_options().clone())
        .build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(expression, scope)?;
    simplifier.simplify(coerced)
}

/// What a condition says of each row of a batch. Rows that were not asked about are in none of
/// the masks; a NULL outcome neither.
#[derive(Debug, Clone)]
pub(super) struct Verdicts {
    pub(super) yes: BooleanBuffer,
    pub(super) no: BooleanBuffer,
    /// Rows on which the evaluation itself failed, such as a division by zero.
    pub(super) broken: BooleanBuffer,
}

impl Program {
    /// Compiles the SQL text `condition` over a batch of `schema`.
    pub(super) fn from_sql(condition: &str, schema: &SchemaRef) -> Result<Self, ProgramFault> {
        let scope = DFSchema::try_from(schema.clone()).map_err(|error| fault(&error))?;
        let expression = SESSION
            .create_logical_expr(condition, &scope)
            .map_err(|error| fault(&error))?;
        Self::from_expression(expression, schema)
    }

    /// Compiles `expression` over a batch of `schema`.
    pub(super) fn from_expression(expression: Expr, schema: &SchemaRef) -> Result<Self, ProgramFault> {
        refuse_what_is_no_condition(&expression)?;
        let mut columns = Vec::new();
        for column in expression.column_refs() {
            match schema.index_of(&column.name) {
                Ok(index) => columns.push(index),
                Err(_) => return Err(ProgramFault::UnknownColumn(column.name.clone())),
            }
        }
        columns.sort_unstable();
        columns.dedup();
        let fields: Vec<_> = columns.iter().map(|index| schema.fields()[*index].clone()).collect();
        let names = fields.iter().map(|field| field.name().clone()).collect();
        let projected = Arc::new(Schema::new(fields));
        let scope = DFSchema::try_from(projected.clone()).map_err(|error| fault(&error))?;
        if let Some(mixed) = mixed::in_expr(&expression, &scope) {
            return Err(ProgramFault::Mixed(mixed));
        }
        let expression = mixed::with_floats(expression, &scope)
            .and_then(|floats| simplified(floats.data, &scope))
            .and_then(|expression| SESSION.create_physical_expr(expression, &scope))
            .and_then(|expression| strict(expression, &projected))
            .map_err(|error| fault(&error))?;
        match expression.data_type(&projected).map_err(|error| fault(&error))? {
            DataType::Boolean => Ok(Self {
                columns,
                names,
                expression,
            }),
            other => Err(ProgramFault::Invalid(format!(
                "it gives a value of type {}, not true or false",
                super::type_name::of(&other)
            ))),
        }
    }

    /// Names of the columns that it reads.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// As [`evaluate`](Self::evaluate), where the rows outside `subject` may be looked at, too: to leave out a
    /// few costs more than that. None of them has been kept from the condition by another one.
    pub(super) fn evaluate_among_all(&self, rows: &RecordBatch, subject: &BooleanBuffer) -> Verdicts {
        let asked = subject.count_set_bits();
        if asked < rows.num_rows()
            && asked * 2 >= rows.num_rows()
            && let Ok(projected) = rows.project(&self.columns)
            && let Some(values) = over_all(self.expression.as_ref(), &projected, &DataType::Boolean)
        {
            return of_all(values.as_boolean(), subject);
        }
        self.evaluate(rows, subject)
    }

    /// Evaluates the condition on the rows of `subject` alone: rows outside it may lack values,
    /// so that an evaluation over them could fail.
    pub(super) fn evaluate(&self, rows: &RecordBatch, subject: &BooleanBuffer) -> Verdicts {
        let asked = subject.count_set_bits();
        let everyone = asked == rows.num_rows();
        let subset = rows.project(&self.columns).ok().and_then(|projected| {
            if everyone {
                Some(projected)
            } else {
                filter_record_batch(&projected, &BooleanArray::new(subject.clone(), None)).ok()
            }
        });
        let evaluated = subset.and_then(|subset| evaluate(self.expression.as_ref(), &subset, &DataType::Boolean).ok());
        let Some(Evaluated { values, failures }) = evaluated else {
            let none = BooleanBuffer::new_unset(rows.num_rows());
            return Verdicts {
                yes: none.clone(),
                no: none,
                broken: subject.clone(),
            };
        };
        let values = values.as_boolean();
        let known = values
            .nulls()
            .map_or_else(|| BooleanBuffer::new_set(asked), |nulls| nulls.inner().clone());
        let mut broken = BooleanBufferBuilder::new(asked);
        broken.append_n(asked, false);
        for failure in failures {
            broken.set_bit(failure.row, true);
        }
        Verdicts {
            yes: scatter(&(values.values() & &known), subject),
            no: scatter(&(&!values.values() & &known), subject),
            broken: scatter(&broken.finish(), subject),
        }
    }
}

/// The outcomes of all rows, of which those in `subject` count.
fn of_all(values: &BooleanArray, subject: &BooleanBuffer) -> Verdicts {
    let asked = match values.nulls() {
        Some(known) => known.inner() & subject,
        None => subject.clone(),
    };
    Verdicts {
        yes: values.values() & &asked,
        no: &!values.values() & &asked,
        broken: BooleanBuffer::new_unset(subject.len()),
    }
}

/// Spreads outcomes of the rows in `subject` over all rows.
fn scatter(outcomes: &BooleanBuffer, subject: &BooleanBuffer) -> BooleanBuffer {
    if outcomes.len() == subject.len() {
        return outcomes.clone();
    }
    let mut spread = BooleanBufferBuilder::new(subject.len());
    spread.append_n(subject.len(), false);
    for (place, row) in subject.set_indices().enumerate() {
        if outcomes.value(place) {
            spread.set_bit(row, true);
        }
    }
    spread.finish()
}

fn refuse_what_is_no_condition(expression: &Expr) -> Result<(), ProgramFault> {
    if let Expr::Alias(alias) = expression {
        return Err(ProgramFault::Invalid(format!(
            "the text `{}` follows the condition",
            alias.name
        )));
    }
    let mut found = None;
    // The closure never fails, so neither does the walk.
    let _ = expression.exists(|part| {
        found = found.take().or_else(|| offence(part));
        Ok(found.is_some())
    });
    found.map_or(Ok(()), Err)
}

fn offence(part: &Expr) -> Option<ProgramFault> {
    match part {
        Expr::ScalarFunction(call) => {
            let name = call.func.name();
            // A stable function is folded when it is planned: `now()` would stand still for weeks.
            let clock = ["now", "current_date", "current_time", "current_timestamp", "today"].contains(&name);
            (clock || call.func.signature().volatility == Volatility::Volatile)
                .then(|| ProgramFault::NotRepeatable(name.to_owned()))
        }
        Expr::AggregateFunction(call) => Some(ProgramFault::Invalid(format!(
            "`{}` is an aggregate, and a condition sees one row at a time",
            call.func.name()
        ))),
        Expr::WindowFunction(_) => Some(ProgramFault::Invalid(
            "a window function needs several rows, and a condition sees one".to_owned(),
        )),
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) => Some(ProgramFault::Invalid(
            "a subquery needs another table, and a condition sees one row".to_owned(),
        )),
        _ => None,
    }
}

fn fault(error: &DataFusionError) -> ProgramFault {
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, .. } => ProgramFault::UnknownColumn(field.name.clone()),
            other => ProgramFault::Invalid(other.to_string()),
        },
        root => ProgramFault::Invalid(root.strip_backtrace().lines().next().unwrap_or_default().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array};
    use proptest::prelude::*;

    use super::*;

    fn of_one(program: &Program, value: Option<i64>) -> (bool, bool, bool) {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        let rows = RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap();
        verdict(&program.evaluate(&rows, &BooleanBuffer::new_set(1)), 0)
    }

    fn verdict(verdicts: &Verdicts, at: usize) -> (bool, bool, bool) {
        let Verdicts { yes, no, broken } = verdicts;
        (yes.value(at), no.value(at), broken.value(at))
    }

    proptest! {
        /// However many rows are left out, and whether or not the condition can be computed for these.
        #[test]
        fn a_row_has_the_verdict_that_it_has_alone(
            rows in proptest::collection::vec((proptest::option::of(-2i64..3), any::<bool>()), 1..20),
            condition in prop::sample::select(vec![
                "10 / n > 3",
                "n > 0",
                "n IS NULL OR n = 1",
                "n <> 0 AND 10 / n > 3",
                "n = 0 OR 10 / n > 3",
                "CASE WHEN n = 0 THEN NULL ELSE 10 / n > 3 END",
            ]),
        ) {
            let column: ArrayRef = Arc::new(rows.iter().map(|(value, _)| *value).collect::<Int64Array>());
            let batch = RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap();
            let subject = BooleanBuffer::from_iter(rows.iter().map(|(_, asked)| *asked));
            let program = Program::from_sql(condition, &batch.schema()).unwrap();
            let found = [
                program.evaluate(&batch, &subject),
                program.evaluate_among_all(&batch, &subject),
            ];
            for (at, (value, asked)) in rows.iter().enumerate() {
                let expected = if *asked { of_one(&program, *value) } else { (false, false, false) };
                for verdicts in &found {
                    prop_assert_eq!(verdict(verdicts, at), expected, "{:?} at {}", value, at);
                }
            }
        }
    }
}
