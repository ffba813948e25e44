//! Reduces a logical plan to what can be done row by row: for each table that it reads, one
//! expression over the table's columns per output column, and filters.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::catalog::StreamCatalog;
use crate::fault::Fault;
use crate::screen;

/// What a query makes of the rows of one table.
#[derive(Debug)]
pub(crate) struct Reduced {
    /// Index in [`StreamCatalog::tables`].
    pub(crate) table: usize,
    /// One expression for each output column, over unqualified columns of the table.
    pub(crate) columns: Vec<Expr>,
    /// A row passes if all of these are true. The inner filters come first, so that they can
    /// guard the outer ones.
    pub(crate) filters: Vec<Expr>,
}

/// The branches of an analysed plan, in the order of its UNION ALL.
///
/// The optimizer is not used: its rewrites hold for tables and sets, and would hide which
/// column an expression needs. The screened SQL leaves few kinds of node; any other is refused.
pub(crate) fn reduce(plan: &LogicalPlan, catalog: &StreamCatalog) -> Result<Vec<Reduced>, Fault> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let parts = scan.table_name.to_vec();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let table = catalog
                .resolve(&parts)
                .ok_or_else(|| screen::other("a table of another kind"))?;
            let names = scan.projected_schema.fields().iter();
            let columns = names
                .map(|field| Expr::Column(Column::new_unqualified(field.name())))
                .collect();
            Ok(vec![Reduced {
                table,
                columns,
                filters: Vec::new(),
            }])
        }
        LogicalPlan::SubqueryAlias(alias) => reduce(&alias.input, catalog),
        LogicalPlan::Projection(projection) => {
            let mut branches = reduce(&projection.input, catalog)?;
            for branch in &mut branches {
                let inline = |expr: &Expr| over_table(expr, projection.input.schema(), &branch.columns);
                branch.columns = projection.expr.iter().map(inline).collect::<Result<_, _>>()?;
            }
            Ok(branches)
        }
        LogicalPlan::Filter(filter) => {
            let mut branches = reduce(&filter.input, catalog)?;
            for branch in &mut branches {
                let predicate = over_table(&filter.predicate, filter.input.schema(), &branch.columns)?;
                branch.filters.push(predicate);
            }
            Ok(branches)
        }
        LogicalPlan::Union(union) => {
            let mut branches = Vec::new();
            for input in &union.inputs {
                branches.extend(reduce(input, catalog)?);
            }
            Ok(branches)
        }
        LogicalPlan::Join(_) => Err(screen::joined()),
        LogicalPlan::Aggregate(_) => Err(screen::aggregated("GROUP BY")),
        LogicalPlan::Window(_) => Err(screen::windowed()),
        LogicalPlan::Limit(_) => Err(screen::limited()),
        LogicalPlan::Subquery(_) => Err(screen::subquery()),
        LogicalPlan::Unnest(_) => Err(screen::multiplied("unnest")),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Err(screen::no_table()),
        LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_) => {
            Err(screen::not_a_query())
        }
        other => Err(screen::other(&format!("the step {}", other.display()))),
    }
}

/// `expr`, which is over the columns of `schema`, over what these are made of.
fn over_table(expr: &Expr, schema: &DFSchema, columns: &[Expr]) -> Result<Expr, Fault> {
    let replaced = expr.clone().transform_up(|node| match &node {
        Expr::Column(column) => {
            let index = schema.index_of_column(column)?;
            let inner = columns.get(index).cloned();
            inner
                .map(Transformed::yes)
                .ok_or_else(|| DataFusionError::Internal("a column has no expression".into()))
        }
        Expr::Alias(alias) => Ok(Transformed::yes((*alias.expr).clone())),
        _ => Ok(Transformed::no(node)),
    });
    replaced
        .map(|transformed| transformed.data)
        .map_err(|error| Fault::from_planner(&error))
}
