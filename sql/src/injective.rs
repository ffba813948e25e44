//! Whether an expression gives each value of a column another result, so that the results tell
//! rows apart as the column does.

use arrow_schema::DataType;
use datafusion::common::ExprSchema;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};

use crate::mixed::is_text;

/// Hashes that no two values are known to share.
const HASHES: [&str; 5] = ["md5", "sha224", "sha256", "sha384", "sha512"];

/// The one column that can be told from the value of `expr`, which is coerced. `None` where two
/// values of a column may give the same, or where that is not known.
pub(crate) fn source<'e>(expr: &'e Expr, schema: &dyn ExprSchema) -> Option<&'e str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        Expr::Alias(alias) => source(&alias.expr, schema),
        Expr::Negative(inner) if is_integer(inner, schema) => source(inner, schema),
        Expr::Cast(cast) => {
            let from = cast.expr.get_type(schema).ok()?;
            keeps(&from, cast.field.data_type())
                .then(|| source(&cast.expr, schema))
                .flatten()
        }
        Expr::BinaryExpr(binary) => {
            let parts = [binary.left.as_ref(), binary.right.as_ref()];
            let distinct = match binary.op {
                // Overflow is an error, so that sums do not meet.
                Operator::Plus | Operator::Minus => parts.into_iter().all(|part| is_integer(part, schema)),
                Operator::StringConcat => true,
                _ => false,
            };
            distinct.then(|| only_column(parts, schema)).flatten()
        }
        Expr::ScalarFunction(call) => match call.func.name() {
            "concat" => only_column(&call.args, schema),
            name if HASHES.contains(&name) => only_column(&call.args, schema),
            _ => None,
        },
        _ => None,
    }
}

/// The column of the one part that is no constant.
fn only_column<'e>(parts: impl IntoIterator<Item = &'e Expr>, schema: &dyn ExprSchema) -> Option<&'e str> {
    let mut columns = parts.into_iter().filter(|part| !part.column_refs().is_empty());
    match (columns.next(), columns.next()) {
        (Some(one), None) => source(one, schema),
        _ => None,
    }
}

fn is_integer(expr: &Expr, schema: &dyn ExprSchema) -> bool {
    expr.get_type(schema).is_ok_and(|found| found.is_integer())
}

/// Whether a cast, which fails for what does not fit, gives different values for different ones.
fn keeps(from: &DataType, to: &DataType) -> bool {
    use DataType::{Boolean, Date32, Decimal128, Decimal256, Timestamp};
    match (from, to) {
        _ if from == to => true,
        _ if is_text(from) => is_text(to),
        _ if is_text(to) => {
            from.is_integer() || matches!(from, Boolean | Date32 | Decimal128(..) | Decimal256(..) | Timestamp(..))
        }
        _ if from.is_integer() => to.is_integer() || matches!(to, Decimal128(_, 0..) | Decimal256(_, 0..)),
        (Decimal128(_, known) | Decimal256(_, known), Decimal128(_, scale) | Decimal256(_, scale)) => scale >= known,
        (Date32, Timestamp(..)) => true,
        _ => false,
    }
}
