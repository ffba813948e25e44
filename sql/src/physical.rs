//! Expressions as they run. DataFusion's own are made strict: arithmetic on integers that
//! overflows is an error of its row rather than a wrapped number, and floats compare by operators
//! and IN as [`crate::float`] says.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{ColumnarValue, Expr, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, InListExpr, Literal, NegativeExpr};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::float::{self, Zeros};

/// Compiles `expr`, whose types have been coerced, over rows of `columns`.
pub(crate) fn physical(
    expr: &Expr,
    columns: &DFSchema,
    session: &SessionState,
) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let none = PhysicalPlanningContext::default();
    strict(
        create_physical_expr(expr, columns, session.execution_props(), &none)?,
        columns.as_arrow(),
    )
}

/// `expr` with every part made strict.
pub(crate) fn strict(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let rewritten = expr.transform_up(|part| {
        let (part, changed) = match checked(&part, schema)? {
            Some(checked) => (checked, true),
            None => (part, false),
        };
        // A literal stays one, since functions look for them.
        let normal = match part.downcast_ref::<Literal>() {
            Some(literal) => float::is_normal(literal.value()),
            None => !is_float(&part, schema),
        };
        Ok(match (normal, changed) {
            (true, true) => Transformed::yes(part),
            (true, false) => Transformed::no(part),
            (false, _) => Transformed::yes(Arc::new(Float {
                arg: part,
                zeros: Zeros::Signed,
            }) as Arc<dyn PhysicalExpr>),
        })
    });
    rewritten.map(|transformed| transformed.data)
}

/// What `part` must be replaced by, if anything.
fn checked(part: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    if let Some(binary) = part.downcast_ref::<BinaryExpr>() {
        let (left, op, right) = (binary.left(), *binary.op(), binary.right());
        return Ok(match op {
            Operator::Plus | Operator::Minus | Operator::Multiply => Some(Arc::new(
                BinaryExpr::new(left.clone(), op, right.clone()).with_fail_on_overflow(true),
            )),
            _ if is_comparison(op) && (is_float(left, schema) || is_float(right, schema)) => {
                Some(Arc::new(BinaryExpr::new(comparable(left), op, comparable(right))))
            }
            _ => None,
        });
    }
    if let Some(negative) = part.downcast_ref::<NegativeExpr>() {
        let data_type = negative.arg().data_type(schema)?;
        if data_type.is_signed_integer() {
            let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
            let difference = BinaryExpr::new(zero, Operator::Minus, negative.arg().clone());
            return Ok(Some(Arc::new(difference.with_fail_on_overflow(true))));
        }
    }
    if let Some(list) = part.downcast_ref::<InListExpr>()
        && is_float(list.expr(), schema)
    {
        let mut children: Vec<Arc<dyn PhysicalExpr>> = part.children().into_iter().cloned().collect();
        children[0] = comparable(&children[0]);
        return part.clone().with_new_children(children).map(Some);
    }
    Ok(None)
}

fn is_float(part: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    part.data_type(schema).is_ok_and(|found| found.is_floating())
}

/// Whether the operator compares two values.
pub(crate) fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// `part` as it is compared.
fn comparable(part: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let inner = part.downcast_ref::<Float>().map_or(part, |float| &float.arg);
    Arc::new(Float {
        arg: inner.clone(),
        zeros: Zeros::Equal,
    })
}

/// The value of another expression, with floats in their normal form.
#[derive(Debug, Eq)]
struct Float {
    arg: Arc<dyn PhysicalExpr>,
    zeros: Zeros,
}

// Derived, these would move the shared expression out.
impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.arg.eq(&other.arg) && self.zeros == other.zeros
    }
}

impl Hash for Float {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.arg.hash(state);
        self.zeros.hash(state);
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.arg.fmt(f)
    }
}

impl PhysicalExpr for Float {
    fn return_field(&self, input_schema: &Schema) -> Result<FieldRef> {
        self.arg.return_field(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        Ok(match self.arg.evaluate(batch)? {
            ColumnarValue::Array(values) => ColumnarValue::Array(float::normal(&values, self.zeros)),
            ColumnarValue::Scalar(value) => ColumnarValue::Scalar(float::normal_scalar(value, self.zeros)),
        })
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.arg]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let [arg] = children
            .try_into()
            .map_err(|_| DataFusionError::Internal("a float has one child".into()))?;
        Ok(Arc::new(Self { arg, zeros: self.zeros }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.arg.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type};
    use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array};
    use arrow_schema::DataType;

    use super::*;
    use crate::catalog::session;
    use crate::evaluate::{Evaluated, evaluate};
    use crate::mixed::with_floats;

    fn evaluated(sql: &str, column: ArrayRef, data_type: &DataType) -> Evaluated {
        let rows = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let columns = DFSchema::try_from(rows.schema().as_ref().clone()).unwrap();
        let session = session();
        let expr = session.create_logical_expr(sql, &columns).unwrap();
        let expr = with_floats(expr, &columns).unwrap().data;
        let expr = session.create_physical_expr(expr, &columns).unwrap();
        evaluate(strict(expr, &rows.schema()).unwrap().as_ref(), &rows, data_type).unwrap()
    }

    #[test]
    fn no_integer_wraps() {
        let numbers = [i64::MIN, -2, 0, 2, i64::MAX];
        for (sql, expected) in [
            ("x + 1", [Some(i64::MIN + 1), Some(-1), Some(1), Some(3), None]),
            ("x - 1", [None, Some(-3), Some(-1), Some(1), Some(i64::MAX - 1)]),
            ("x * 2", [None, Some(-4), Some(0), Some(4), None]),
            ("-x", [None, Some(2), Some(0), Some(-2), Some(-i64::MAX)]),
            ("abs(x)", [None, Some(2), Some(0), Some(2), Some(i64::MAX)]),
            ("x / -1", [None, Some(2), Some(0), Some(-2), Some(-i64::MAX)]),
            (
                "CAST(CAST(x AS INT) AS BIGINT)",
                [None, Some(-2), Some(0), Some(2), None],
            ),
            (
                "CASE WHEN x > 0 THEN x + 1 ELSE x END",
                [Some(i64::MIN), Some(-2), Some(0), Some(3), None],
            ),
        ] {
            let column = Arc::new(Int64Array::from_iter_values(numbers));
            let found = evaluated(sql, column, &DataType::Int64);
            let values: Vec<_> = found.values.as_primitive::<Int64Type>().iter().collect();
            assert_eq!(values, expected, "{sql}");
            let failed: Vec<usize> = found.failures.iter().map(|failure| failure.row).collect();
            let nulls: Vec<usize> = (0..5).filter(|row| expected[*row].is_none()).collect();
            assert_eq!(failed, nulls, "{sql}");
        }
    }

    #[test]
    fn a_nan_is_above_all_numbers_whatever_its_sign() {
        let inf = f64::INFINITY;
        let numbers = vec![-f64::NAN, f64::NAN, inf, 5.0, -0.0];
        for (sql, expected) in [
            ("x < 6.0", [false, false, false, true, true]),
            ("x > 6.0", [true, true, true, false, false]),
            ("x = 'NaN'::double", [true, true, false, false, false]),
            ("x - x = 0.0", [false, false, false, true, true]),
            ("x - x > 0.0", [true, true, true, false, false]),
            ("x = 0.0", [false, false, false, false, true]),
            ("x BETWEEN 0.0 AND 5.0", [false, false, false, true, true]),
            ("x IN (0.0, 5.0)", [false, false, false, true, true]),
        ] {
            let found = evaluated(sql, Arc::new(Float64Array::from(numbers.clone())), &DataType::Boolean);
            assert_eq!(
                found.values.as_boolean(),
                &BooleanArray::from(expected.to_vec()),
                "{sql}"
            );
        }
        let found = evaluated("x", Arc::new(Float64Array::from(numbers)), &DataType::Float64);
        let bits: Vec<u64> = found
            .values
            .as_primitive::<Float64Type>()
            .values()
            .iter()
            .map(|v| v.to_bits())
            .collect();
        let expected = [f64::NAN, f64::NAN, inf, 5.0, -0.0].map(f64::to_bits);
        assert_eq!(bits, expected, "values keep their sign of zero");
    }
}
