//! Values of different kinds beside each other, before DataFusion makes them one type.
//!
//! Text beside a number it would cast to the number's own type, `'5.54'` to `decimal(2,1)` beside
//! `5.5`, and compare what is left: such comparisons are refused. A float beside a decimal, as
//! every number with a point is one, it would cast to `decimal(30,15)`, which holds neither
//! `1e-16` nor NaN: here the decimal becomes a float, as in PostgreSQL.

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ExprSchema, Span};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, utils};

use crate::physical::is_comparison;

/// What to do about such a comparison.
pub(crate) const HINT: &str = "make both numbers or both texts: CAST(code AS DECIMAL(38, 10)) is an exact number, and a \
                               literal is text in quotes and a number without";

/// A comparison of text with a number.
#[derive(Debug)]
pub(crate) struct Mixed {
    /// The comparison, as SQL.
    pub(crate) text: String,
    /// Where its first column stands in the SQL.
    pub(crate) span: Option<Span>,
}

/// The first such comparison of a plan whose types have not been coerced yet.
pub(crate) fn in_plan(plan: &LogicalPlan) -> Result<Option<Mixed>, DataFusionError> {
    let mut found = None;
    plan.apply(|step| {
        let schema = utils::merge_schema(&step.inputs());
        step.apply_expressions(|expr| {
            found = in_expr(expr, &schema);
            Ok(stop_if(found.is_some()))
        })?;
        Ok(stop_if(found.is_some()))
    })?;
    Ok(found)
}

/// The first such comparison of an expression whose types have not been coerced yet.
pub(crate) fn in_expr(expr: &Expr, schema: &dyn ExprSchema) -> Option<Mixed> {
    let mut found = None;
    // The closure never fails, so neither does the walk.
    let _ = expr.apply(|part| {
        if mixes(&compared(part), schema) {
            let columns = part.column_refs().into_iter();
            found = Some(Mixed {
                text: part.human_display().to_string(),
                span: columns.filter_map(|column| column.spans().first()).min(),
            });
        }
        Ok(stop_if(found.is_some()))
    });
    found
}

fn stop_if(found: bool) -> TreeNodeRecursion {
    if found {
        TreeNodeRecursion::Stop
    } else {
        TreeNodeRecursion::Continue
    }
}

/// The values that `part` compares with each other.
fn compared(part: &Expr) -> Vec<&Expr> {
    match part {
        Expr::BinaryExpr(binary) if is_comparison(binary.op) => vec![&binary.left, &binary.right],
        Expr::Between(between) => vec![&between.expr, &between.low, &between.high],
        Expr::InList(list) => std::iter::once(list.expr.as_ref()).chain(&list.list).collect(),
        Expr::Case(case) => match &case.expr {
            Some(subject) => {
                let cases = case.when_then_expr.iter().map(|(when, _)| when.as_ref());
                std::iter::once(subject.as_ref()).chain(cases).collect()
            }
            None => Vec::new(),
        },
        Expr::ScalarFunction(call) if ["nullif", "greatest", "least"].contains(&call.func.name()) => {
            call.args.iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The values of which `part` gives one.
fn results(part: &Expr) -> Vec<&Expr> {
    match part {
        Expr::Case(case) => {
            let cases = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            cases.chain(case.else_expr.as_deref()).collect()
        }
        Expr::ScalarFunction(call) if ["coalesce", "nvl"].contains(&call.func.name()) => call.args.iter().collect(),
        _ => Vec::new(),
    }
}

fn mixes(compared: &[&Expr], schema: &dyn ExprSchema) -> bool {
    // An expression without a type is refused by the planner.
    let types: Vec<DataType> = compared.iter().filter_map(|expr| expr.get_type(schema).ok()).collect();
    types.iter().any(is_text) && types.iter().any(DataType::is_numeric)
}

/// `plan`, whose types have not been coerced yet, with decimals beside floats as floats.
pub(crate) fn decimals_to_floats(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let rewritten = plan.transform_up(|step| {
        let schema = utils::merge_schema(&step.inputs());
        let names = NamePreserver::new(&step);
        let changed = step.map_expressions(|expr| {
            let name = names.save(&expr);
            let floats = with_floats(expr, &schema)?;
            Ok(floats.update_data(|expr| name.restore(expr)))
        })?;
        changed.map_data(LogicalPlan::recompute_schema)
    });
    rewritten.map(|transformed| transformed.data)
}

/// `expr`, whose types have not been coerced yet, with decimals beside floats as floats.
pub(crate) fn with_floats(expr: Expr, schema: &dyn ExprSchema) -> Result<Transformed<Expr>, DataFusionError> {
    let data_type = |expr: &Expr| expr.get_type(schema).unwrap_or(DataType::Null);
    expr.transform_up(|part| {
        // What is compared and what comes out are apart: a CASE over a float may give exact money.
        let mixed = [compared(&part), results(&part)].into_iter().filter(|alike| {
            let types: Vec<DataType> = alike.iter().map(|expr| data_type(expr)).collect();
            types.iter().any(DataType::is_floating) && types.iter().any(DataType::is_decimal)
        });
        let decimals: Vec<Expr> = mixed.flatten().cloned().collect();
        if decimals.is_empty() {
            return Ok(Transformed::no(part));
        }
        part.map_children(
            |child| match decimals.contains(&child) && data_type(&child).is_decimal() {
                true => Ok(Transformed::yes(as_float(child)?)),
                false => Ok(Transformed::no(child)),
            },
        )
    })
}

/// A literal stays one, since lists of literals are looked up at once.
fn as_float(decimal: Expr) -> Result<Expr, DataFusionError> {
    match decimal {
        Expr::Literal(value, metadata) => Ok(Expr::Literal(value.cast_to(&DataType::Float64)?, metadata)),
        other => Ok(Expr::Cast(Cast::new(Box::new(other), DataType::Float64))),
    }
}

/// Whether the type is one of texts.
pub(crate) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => other.is_string(),
    }
}
