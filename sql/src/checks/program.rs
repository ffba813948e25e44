//! SQL conditions, compiled once and evaluated on the rows they concern.

use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use arrow_schema::{DataType, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;

/// Functions and settings that conditions are planned with. Nothing is registered in it.
static SESSION: LazyLock<SessionState> = LazyLock::new(|| SessionStateBuilder::new().with_default_features().build());

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
    /// It is no SQL condition; in words, without the row's data, since there is none yet.
    Invalid(String),
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
        let expression = SESSION
            .create_physical_expr(expression, &scope)
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

    /// Evaluates the condition on the rows of `subject` alone: rows outside it may lack values,
    /// so that an evaluation over them could fail.
    pub(super) fn evaluate(&self, rows: &RecordBatch, subject: &BooleanBuffer) -> Verdicts {
        let asked = subject.count_set_bits();
        let everyone = asked == rows.num_rows();
        let subset = rows.project(&self.columns).and_then(|projected| {
            if everyone {
                Ok(projected)
            } else {
                filter_record_batch(&projected, &BooleanArray::new(subject.clone(), None))
            }
        });
        let mut outcome = Outcomes::with_capacity(asked);
        match subset {
            Ok(subset) => self.run(&subset, &mut outcome),
            Err(_) => outcome.broken.append_n(asked, true),
        }
        outcome.finish(subject)
    }

    /// Evaluates whole batches, and halves a batch that fails until the failing rows are alone.
    fn run(&self, rows: &RecordBatch, outcomes: &mut Outcomes) {
        let count = rows.num_rows();
        if count == 0 {
            return;
        }
        let evaluated = self.expression.evaluate(rows).and_then(|value| value.into_array(count));
        match evaluated {
            Ok(array) if array.data_type() == &DataType::Boolean => outcomes.append(array.as_boolean()),
            Ok(_) | Err(_) if count == 1 => outcomes.append_broken(),
            Ok(_) | Err(_) => {
                let half = count / 2;
                self.run(&rows.slice(0, half), outcomes);
                self.run(&rows.slice(half, count - half), outcomes);
            }
        }
    }
}

/// Outcomes of the rows asked about, in order.
struct Outcomes {
    yes: BooleanBufferBuilder,
    no: BooleanBufferBuilder,
    broken: BooleanBufferBuilder,
}

impl Outcomes {
    fn with_capacity(rows: usize) -> Self {
        Self {
            yes: BooleanBufferBuilder::new(rows),
            no: BooleanBufferBuilder::new(rows),
            broken: BooleanBufferBuilder::new(rows),
        }
    }

    fn append(&mut self, array: &BooleanArray) {
        let known = array
            .nulls()
            .map_or_else(|| BooleanBuffer::new_set(array.len()), |nulls| nulls.inner().clone());
        self.yes.append_buffer(&(array.values() & &known));
        self.no.append_buffer(&(&!array.values() & &known));
        self.broken.append_n(array.len(), false);
    }

    fn append_broken(&mut self) {
        self.yes.append(false);
        self.no.append(false);
        self.broken.append(true);
    }

    fn finish(mut self, subject: &BooleanBuffer) -> Verdicts {
        let rows = self.broken.len();
        // A subset that could not even be formed has outcomes in `broken` alone.
        self.yes.append_n(rows - self.yes.len(), false);
        self.no.append_n(rows - self.no.len(), false);
        Verdicts {
            yes: scatter(&self.yes.finish(), subject),
            no: scatter(&self.no.finish(), subject),
            broken: scatter(&self.broken.finish(), subject),
        }
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
