//! Refuses what a change stream cannot do, from the parsed SQL, where every fault has its place.

use std::ops::ControlFlow;

use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, SetOperator,
    SetQuantifier, Spanned, TableFactor, TableWithJoins, visit_expressions,
};

use crate::catalog::StreamCatalog;
use crate::fault::Fault;

/// Refuses `query` unless it is made of projections and filters of single tables, and UNION ALL.
pub(crate) fn screen(query: &Query, catalog: &StreamCatalog) -> Result<(), Fault> {
    Screen { catalog }.query(query, &mut Vec::new(), true)
}

struct Screen<'a> {
    catalog: &'a StreamCatalog,
}

impl Screen<'_> {
    /// `names` are the common table expressions in scope; `named` asks for names of computed columns.
    fn query(&self, query: &Query, names: &mut Vec<String>, named: bool) -> Result<(), Fault> {
        let outer = names.len();
        if let Some(with) = &query.with {
            if with.recursive {
                return Err(other("a recursive query").at(with.with_token.0.span));
            }
            for cte in &with.cte_tables {
                self.query(&cte.query, names, cte.alias.columns.is_empty())?;
                names.push(normal(&cte.alias.name));
            }
        }
        self.body(&query.body, names, named)?;
        names.truncate(outer);
        if let Some(order) = &query.order_by {
            return Err(
                Fault::unsupported("SQ0009", "a change stream cannot be sorted: ORDER BY")
                    .hint(
                        "remove ORDER BY; changes keep the order of their source, and queries over the table can sort",
                    )
                    .at(order.span()),
            );
        }
        if let Some(limit) = &query.limit_clause {
            return Err(limited().at(limit.span()));
        }
        if let Some(fetch) = &query.fetch {
            return Err(limited().at(fetch.span()));
        }
        let more = !query.locks.is_empty()
            || query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty();
        if more {
            Err(other("a clause after the query").at(query.body.span()))
        } else {
            Ok(())
        }
    }

    fn body(&self, body: &SetExpr, names: &mut Vec<String>, named: bool) -> Result<(), Fault> {
        match body {
            SetExpr::Select(select) => self.select(select, names, named),
            SetExpr::Query(query) => self.query(query, names, named),
            SetExpr::SetOperation {
                left,
                op,
                set_quantifier,
                right,
            } => {
                self.body(left, names, named)?;
                // The names of a union's columns are those of its first branch.
                self.body(right, names, false)?;
                match (op, set_quantifier) {
                    (SetOperator::Union, SetQuantifier::All) => Ok(()),
                    _ => Err(Fault::unsupported(
                        "SQ0011",
                        format!(
                            "a change stream cannot compute {}",
                            format!("{op} {set_quantifier}").trim_end()
                        ),
                    )
                    .hint("only UNION ALL can be done row by row; a key makes rows of the result unique")
                    .at(right.span())),
                }
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => Err(not_a_query()),
            SetExpr::Values(values) => Err(no_table().at(values.span())),
            SetExpr::Table(_) => Err(other("TABLE as a query").hint("write SELECT * FROM …")),
        }
    }

    fn select(&self, select: &Select, names: &mut Vec<String>, named: bool) -> Result<(), Fault> {
        let keyword = select.select_token.0.span;
        if select.distinct.is_some() {
            return Err(Fault::unsupported("SQ0007", "a change stream cannot compute DISTINCT")
                .hint("give the model a key: the table then holds one row for each key")
                .at(keyword));
        }
        if select.top.is_some() {
            return Err(limited().at(keyword));
        }
        if select.into.is_some() {
            return Err(not_a_query().at(keyword));
        }
        match select.from.as_slice() {
            [] => return Err(no_table().at(keyword)),
            [from] => self.from(from, names)?,
            [_, second, ..] => return Err(joined().at(second.relation.span())),
        }
        if !select.lateral_views.is_empty() {
            return Err(multiplied("LATERAL VIEW").at(keyword));
        }
        if let GroupByExpr::All(_) = &select.group_by {
            return Err(aggregated("GROUP BY").at(keyword));
        }
        if let GroupByExpr::Expressions(expressions, modifiers) = &select.group_by
            && !(expressions.is_empty() && modifiers.is_empty())
        {
            return Err(aggregated("GROUP BY").at(select.group_by.span()));
        }
        if let Some(having) = &select.having {
            return Err(aggregated("HAVING").at(having.span()));
        }
        if let Some(qualify) = &select.qualify {
            return Err(windowed().at(qualify.span()));
        }
        if !select.named_window.is_empty() {
            return Err(windowed().at(keyword));
        }
        if !(select.sort_by.is_empty() && select.cluster_by.is_empty() && select.distribute_by.is_empty()) {
            return Err(Fault::unsupported("SQ0009", "a change stream cannot be sorted: SORT BY").at(keyword));
        }
        if select.prewhere.is_some() || !select.connect_by.is_empty() || select.value_table_mode.is_some() {
            return Err(other("this form of SELECT").at(keyword));
        }
        for item in &select.projection {
            self.expressions(item)?;
            if let (true, SelectItem::UnnamedExpr(expression)) = (named, item)
                && !is_column(expression)
            {
                return Err(Fault::wrong("SQ0020", "a computed column has no name")
                    .hint("give it one with AS")
                    .at(expression.span()));
            }
        }
        select
            .selection
            .as_ref()
            .map_or(Ok(()), |filter| self.expressions(filter))
    }

    fn from(&self, from: &TableWithJoins, names: &mut Vec<String>) -> Result<(), Fault> {
        self.factor(&from.relation, names)?;
        match from.joins.first() {
            Some(join) => match &join.relation {
                TableFactor::UNNEST { .. } | TableFactor::Function { .. } | TableFactor::TableFunction { .. } => {
                    Err(multiplied("UNNEST or a table function").at(join.relation.span()))
                }
                relation => Err(joined().at(relation.span())),
            },
            None => Ok(()),
        }
    }

    fn factor(&self, factor: &TableFactor, names: &mut Vec<String>) -> Result<(), Fault> {
        match factor {
            TableFactor::Table {
                name, args: Some(_), ..
            } => Err(multiplied(&format!("the table function {name}")).at(name.span())),
            TableFactor::Table {
                sample: Some(_), name, ..
            } => Err(Fault::unsupported(
                "SQ0014",
                "a sample differs each time that the stream is replayed: TABLESAMPLE",
            )
            .hint("filter on a hash of the key instead")
            .at(name.span())),
            TableFactor::Table { name, .. } => self.table(name, names),
            TableFactor::Derived {
                lateral: true,
                subquery,
                ..
            } => Err(joined().at(subquery.span())),
            TableFactor::Derived { subquery, alias, .. } => {
                let renamed = alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
                self.query(subquery, names, !renamed)
            }
            TableFactor::NestedJoin { table_with_joins, .. } => self.from(table_with_joins, names),
            TableFactor::UNNEST { .. } => Err(multiplied("UNNEST").at(factor.span())),
            TableFactor::TableFunction { .. } | TableFactor::Function { .. } => {
                Err(multiplied("a table function").at(factor.span()))
            }
            _ => Err(other("this form of FROM").at(factor.span())),
        }
    }

    fn table(&self, name: &ObjectName, names: &[String]) -> Result<(), Fault> {
        let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(normal).collect();
        let borrowed: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let [one] = borrowed[..]
            && names.iter().any(|cte| cte == one)
        {
            return Ok(());
        }
        if self.catalog.resolve(&borrowed).is_some() {
            return Ok(());
        }
        let fault = Fault::wrong("SQ0002", format!("there is no table `{name}`")).at(name.span());
        let own_name = borrowed.last().copied().unwrap_or_default();
        let own_name = own_name.rsplit('.').next().unwrap_or_default();
        Err(match self.catalog.written_like(own_name) {
            Some(written) => fault.hint(format!("write {written}")),
            None => fault.hint(match self.catalog.written_names() {
                none if none.is_empty() => "the pipeline's sources have no tables".to_owned(),
                tables => format!("the tables are {}", tables.join(", ")),
            }),
        })
    }

    fn expressions<V: datafusion::sql::sqlparser::ast::Visit>(&self, within: &V) -> Result<(), Fault> {
        let flow = visit_expressions(within, |expression| match self.expression(expression) {
            Ok(()) => ControlFlow::Continue(()),
            Err(fault) => ControlFlow::Break(fault),
        });
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(fault) => Err(fault),
        }
    }

    fn expression(&self, expression: &Expr) -> Result<(), Fault> {
        match expression {
            Expr::Subquery(query) | Expr::InSubquery { subquery: query, .. } | Expr::Exists { subquery: query, .. } => {
                Err(subquery().at(query.span()))
            }
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } if matches!(**right, Expr::Subquery(_)) => {
                Err(subquery().at(right.span()))
            }
            Expr::Function(function) => {
                let name = function
                    .name
                    .0
                    .last()
                    .and_then(ObjectNamePart::as_ident)
                    .map(normal)
                    .unwrap_or_default();
                if function.over.is_some() || self.catalog.state.window_functions().contains_key(&name) {
                    return Err(windowed().at(function.name.span()));
                }
                if name == "unnest" {
                    return Err(multiplied(&name).at(function.name.span()));
                }
                if self.catalog.state.aggregate_functions().contains_key(&name) {
                    return Err(aggregated(&format!("{name}()")).at(function.name.span()));
                }
                match self.catalog.state.scalar_functions().get(&name) {
                    Some(known) if known.signature().volatility != Volatility::Immutable => {
                        Err(volatile(&name).at(function.name.span()))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

fn is_column(expression: &Expr) -> bool {
    match expression {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        Expr::Nested(inner) => is_column(inner),
        _ => false,
    }
}

/// An identifier as PostgreSQL and DataFusion read it: in lowercase unless it is quoted.
fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_ascii_lowercase()
    }
}

pub(crate) fn not_a_query() -> Fault {
    Fault::unsupported("SQ0004", "a model's SQL must be one SELECT")
        .hint("write one SELECT … FROM … WHERE …; the sink creates and writes the table")
}

pub(crate) fn joined() -> Fault {
    Fault::unsupported("SQ0005", "a change stream cannot be joined")
        .hint("publish both tables and join them where they are queried")
}

pub(crate) fn aggregated(what: &str) -> Fault {
    Fault::unsupported("SQ0006", format!("a change stream cannot be aggregated: {what}"))
        .hint("publish the rows and aggregate them where they are queried")
}

pub(crate) fn windowed() -> Fault {
    Fault::unsupported("SQ0008", "a change stream has no window functions")
        .hint("each row is computed alone; use window functions where the table is queried")
}

pub(crate) fn limited() -> Fault {
    Fault::unsupported(
        "SQ0010",
        "a change stream has no end: LIMIT, OFFSET and FETCH cannot be done",
    )
    .hint("filter with WHERE instead")
}

pub(crate) fn subquery() -> Fault {
    Fault::unsupported(
        "SQ0012",
        "an expression cannot read another stream: subquery in an expression",
    )
    .hint("list the values, as in `status IN ('paid', 'sent')`, or join where the table is queried")
}

pub(crate) fn multiplied(what: &str) -> Fault {
    Fault::unsupported("SQ0013", format!("one change must give one row: {what} makes several"))
        .hint("keep the array as a column and unnest it where the table is queried")
}

fn volatile(name: &str) -> Fault {
    Fault::unsupported(
        "SQ0014",
        format!("{name}() gives another value each time that the stream is replayed"),
    )
    .hint("use __committed_at, the time at which the source committed the change, or a hash of the key")
}

pub(crate) fn no_table() -> Fault {
    Fault::unsupported("SQ0018", "the query reads no table")
        .hint("select FROM a table of one of the pipeline's sources")
}

pub(crate) fn other(what: &str) -> Fault {
    Fault::unsupported("SQ0018", format!("{what} cannot be done over a change stream"))
        .hint("a model is made of SELECT … FROM one table WHERE …, and UNION ALL")
}
