//! Parts of a model's SQL that read no column, and fail for every row.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{ColumnarValue, Expr, Operator};

use crate::caught::caught;
use crate::fault::Fault;
use crate::physical::physical;

/// The simplifier computes constants without a check for overflow, so that this looks at the
/// expression as it is written.
pub(crate) fn refuse_wrapped(expr: &Expr, session: &SessionState) -> Result<(), Fault> {
    let mut failing = None;
    let walked = expr.apply(|part| {
        let wraps = match part {
            Expr::BinaryExpr(binary) => matches!(binary.op, Operator::Plus | Operator::Minus | Operator::Multiply),
            Expr::Negative(_) => true,
            _ => false,
        };
        if !wraps || !part.column_refs().is_empty() {
            return Ok(TreeNodeRecursion::Continue);
        }
        match constant(part, session) {
            Err(error) if is_overflow(&error) => {
                failing = Some(constant_fault(part, &error));
                Ok(TreeNodeRecursion::Stop)
            }
            _ => Ok(TreeNodeRecursion::Jump),
        }
    });
    walked.map_err(|error| Fault::from_planner(&error))?;
    failing.map_or(Ok(()), Err)
}

fn is_overflow(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ArrowError(arrow, _) if matches!(**arrow, ArrowError::ArithmeticOverflow(_)))
}

/// The value of an expression that reads no column.
fn constant(expr: &Expr, session: &SessionState) -> Result<ColumnarValue, DataFusionError> {
    let count = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &count)?;
    let expr = physical(expr, &DFSchema::empty(), session)?;
    caught(|| expr.evaluate(&row)).unwrap_or_else(|| {
        Err(DataFusionError::Execution(
            "a function cannot deal with its argument".into(),
        ))
    })
}

/// The text is the user's own SQL, no row's value.
fn constant_fault(part: &Expr, error: &DataFusionError) -> Fault {
    Fault::wrong(
        "SQ0021",
        format!("`{part}` cannot be computed: {}", error.find_root().strip_backtrace()),
    )
    .hint("it fails for every row; correct the constant")
}

/// A part that reads no column and is still no literal after simplification fails for every
/// row, unless a condition keeps it from being computed.
pub(crate) fn refuse_failing(expr: &Expr, session: &SessionState) -> Result<(), Fault> {
    let mut failing = None;
    let walked = expr.apply(|part| {
        let conditional = match part {
            Expr::Case(_) => true,
            Expr::BinaryExpr(binary) => binary.op.is_logic_operator(),
            Expr::ScalarFunction(function) => function.func.short_circuits(),
            _ => false,
        };
        if conditional {
            return Ok(TreeNodeRecursion::Jump);
        }
        if matches!(part, Expr::Literal(..)) || !part.column_refs().is_empty() {
            return Ok(TreeNodeRecursion::Continue);
        }
        if let Err(error) = constant(part, session) {
            failing = Some(constant_fault(part, &error));
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Jump)
    });
    walked.map_err(|error| Fault::from_planner(&error))?;
    failing.map_or(Ok(()), Err)
}
