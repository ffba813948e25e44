//! Evaluates an expression over rows of which some may not be computable.

use std::error::Error as StdError;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Decimal256Type};
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, DataType};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use millstream_core::{Error, ErrorKind, Result};

use crate::caught::caught;

/// A column, and the rows in which it could not be computed; these are null.
#[derive(Debug)]
pub(crate) struct Evaluated {
    pub(crate) values: ArrayRef,
    /// In the order of the rows.
    pub(crate) failures: Vec<Failure>,
}

/// A row in which an expression could not be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) row: usize,
    /// What went wrong, without any value.
    pub(crate) reason: &'static str,
}

/// The values of `expr` as `data_type`. DataFusion fails a whole batch for one bad row; the
/// batch is then halved until the bad rows are found.
///
/// # Errors
/// `Internal` if the fault lies in the expression rather than in a row.
pub(crate) fn evaluate(expr: &dyn PhysicalExpr, rows: &RecordBatch, data_type: &DataType) -> Result<Evaluated> {
    let (mut parts, mut failures) = (Vec::new(), Vec::new());
    halve(expr, rows, data_type, 0, &mut parts, &mut failures)?;
    let values = match parts.as_slice() {
        [] => new_null_array(data_type, 0),
        [one] => one.clone(),
        many => {
            let many: Vec<&dyn Array> = many.iter().map(AsRef::as_ref).collect();
            arrow_select::concat::concat(&many).map_err(|error| broken(error.into()))?
        }
    };
    Ok(Evaluated { values, failures })
}

/// The values of `expr` over all rows; `None` if there are rows for which it cannot be computed.
pub(crate) fn over_all(expr: &dyn PhysicalExpr, rows: &RecordBatch, data_type: &DataType) -> Option<ArrayRef> {
    caught(|| attempt(expr, rows, data_type)).and_then(Result::ok)
}

fn halve(
    expr: &dyn PhysicalExpr,
    rows: &RecordBatch,
    data_type: &DataType,
    offset: usize,
    parts: &mut Vec<ArrayRef>,
    failures: &mut Vec<Failure>,
) -> Result<()> {
    let count = rows.num_rows();
    if count == 0 {
        return Ok(());
    }
    let reason = match caught(|| attempt(expr, rows, data_type)) {
        Some(Ok(values)) => {
            parts.push(values);
            return Ok(());
        }
        Some(Err(error)) => reason(&error).ok_or_else(|| broken(error))?,
        // A panic tells nothing of who is to blame. A row at fault must not halt the others.
        None => "a function cannot deal with its argument",
    };
    if count == 1 {
        parts.push(new_null_array(data_type, 1));
        failures.push(Failure { row: offset, reason });
        return Ok(());
    }
    let half = count / 2;
    halve(expr, &rows.slice(0, half), data_type, offset, parts, failures)?;
    halve(
        expr,
        &rows.slice(half, count - half),
        data_type,
        offset + half,
        parts,
        failures,
    )
}

fn attempt(expr: &dyn PhysicalExpr, rows: &RecordBatch, data_type: &DataType) -> Result<ArrayRef, DataFusionError> {
    let values = expr.evaluate(rows)?.into_array(rows.num_rows())?;
    // Some functions answer in a view type, or name the items of a list otherwise than planned.
    let values = if values.data_type() == data_type {
        values
    } else {
        arrow_cast::cast(&values, data_type)?
    };
    // Arithmetic may give more digits than the type of its result has.
    match data_type {
        DataType::Decimal128(precision, 0..) => values
            .as_primitive::<Decimal128Type>()
            .validate_decimal_precision(*precision)?,
        DataType::Decimal256(precision, 0..) => values
            .as_primitive::<Decimal256Type>()
            .validate_decimal_precision(*precision)?,
        _ => {}
    }
    Ok(values)
}

/// Why a row is not computable; `None` if the row is not to blame. The messages of DataFusion
/// and Arrow cannot be used: they quote the value.
fn reason(error: &DataFusionError) -> Option<&'static str> {
    match error.find_root() {
        DataFusionError::ArrowError(arrow, _) => arrow_reason(arrow),
        DataFusionError::Execution(_) | DataFusionError::External(_) => Some("a function refuses its argument"),
        _ => None,
    }
}

fn arrow_reason(error: &ArrowError) -> Option<&'static str> {
    match error {
        ArrowError::DivideByZero => Some("division by zero"),
        ArrowError::ArithmeticOverflow(_) => Some("a number is out of range"),
        ArrowError::CastError(_) | ArrowError::ParseError(_) => {
            Some("a value does not have the form of the type that it is cast to")
        }
        ArrowError::InvalidArgumentError(_) => Some("a value does not fit the type"),
        ArrowError::ComputeError(_) | ArrowError::JsonError(_) => Some("a function refuses its argument"),
        ArrowError::ExternalError(inner) => {
            let inner: &(dyn StdError + 'static) = inner.as_ref();
            match inner.downcast_ref::<ArrowError>() {
                Some(arrow) => arrow_reason(arrow),
                None => Some("a function refuses its argument"),
            }
        }
        _ => None,
    }
}

/// The cause is left out: it may quote a value.
fn broken(error: DataFusionError) -> Error {
    let kind = match error.find_root() {
        DataFusionError::NotImplemented(_) => "not implemented",
        DataFusionError::ResourcesExhausted(_) => "out of memory",
        _ => "internal",
    };
    Error::new(ErrorKind::Internal, "an expression cannot be evaluated").with("fault", kind)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::TimestampMicrosecondArray;
    use arrow_schema::TimeUnit;
    use datafusion::common::DFSchema;

    use super::*;
    use crate::catalog::session;

    /// Infinite times come as the ends of the range, where calendars end long before.
    #[test]
    fn a_function_that_panics_on_a_value_fails_its_row() {
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, i64::MIN, 1, i64::MAX, 2]));
        let rows = RecordBatch::try_from_iter([("at", at)]).unwrap();
        let columns = DFSchema::try_from(rows.schema().as_ref().clone()).unwrap();
        for sql in [
            "date_trunc('week', at)",
            "date_trunc('month', at)",
            "date_trunc('day', at)",
            "date_trunc('hour', at)",
            "at - INTERVAL '1 month'",
            "at + INTERVAL '1 day'",
        ] {
            let expr = session().create_logical_expr(sql, &columns).unwrap();
            let expr = session().create_physical_expr(expr, &columns).unwrap();
            let found = evaluate(expr.as_ref(), &rows, &DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap();
            let failed: Vec<usize> = found.failures.iter().map(|failure| failure.row).collect();
            assert!(
                found.values.is_valid(0) && failed.iter().all(|row| row % 2 == 1),
                "{sql}: {failed:?}"
            );
        }
    }
}
