//! Models: SQL that is planned once and then applied to every change batch.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, utils};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::parser::{DFParser, Statement as ParsedStatement};
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use millstream_core::{ChangeBatch, Error, ErrorKind, Result, TableId, TableSchema, envelope};

use crate::catalog::{StreamCatalog, scan_schema};
use crate::constant;
use crate::fault::Fault;
use crate::keys::{self, KeyPlan};
use crate::mixed;
use crate::physical::physical;
use crate::reduce::{Reduced, reduce};
use crate::screen;

/// The source name under which models stand in [`TableId`]s.
pub const MODELS: &str = "models";

/// A model as the pipeline defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The model's name: the name of the table that it makes.
    pub name: String,
    /// One SELECT over source tables.
    pub sql: String,
    /// The file that the SQL stands in, for errors.
    pub file: Option<String>,
    /// The output columns that identify a row. Left empty, the source's key is used, which
    /// must then be among the output columns.
    pub key: Vec<String>,
}

/// A planned model.
#[derive(Debug)]
pub struct Model {
    pub(crate) name: String,
    inputs: Vec<TableId>,
    pub(crate) output: Arc<TableSchema>,
    branches: HashMap<TableId, Branch>,
    /// Whether an update can become two changes, which then need two ordinals.
    pub(crate) splits_updates: bool,
}

/// What a model makes of the changes of one table.
#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) input: Arc<TableSchema>,
    /// The columns that any expression needs: those that `filter` and `outputs` are planned on.
    pub(crate) scan: SchemaRef,
    pub(crate) filter: Option<Filter>,
    pub(crate) outputs: Vec<Output>,
    /// Whether an update can change the output key.
    pub(crate) rekeys: bool,
    /// Whether the output has rows of other tables, too, which a TRUNCATE of this one leaves.
    pub(crate) shares_output: bool,
}

/// The condition under which a row passes.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) expr: Arc<dyn PhysicalExpr>,
    /// The user's columns that it reads.
    pub(crate) reads: Vec<String>,
    /// Whether it reads reserved columns, whose values before a change are not known.
    pub(crate) reads_reserved: bool,
}

/// One output column.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) field: FieldRef,
    pub(crate) expr: Arc<dyn PhysicalExpr>,
    /// The source column that this is, if it is not computed.
    pub(crate) plain: Option<String>,
    /// The user's columns that it reads.
    pub(crate) reads: Vec<String>,
    /// Whether it reads reserved columns, whose values before a change are not known.
    pub(crate) reads_reserved: bool,
    /// Whether it belongs to the model's key.
    pub(crate) key: bool,
}

/// Plans a model over the tables of the pipeline's sources. Reads no rows and has no side
/// effects; plan again when a table's schema changes.
///
/// # Errors
/// `Config` where the SQL or the key is wrong, `Unsupported` where it asks for what a change
/// stream cannot do. Each has a code, a hint, and the line and column where they are known.
pub async fn plan(spec: &ModelSpec, inputs: &[Arc<TableSchema>]) -> Result<Model> {
    try_plan(spec, inputs).await.map_err(|fault| fault.locate(spec))
}

impl Model {
    /// The source tables that the SQL reads, in its order.
    pub fn inputs(&self) -> &[TableId] {
        &self.inputs
    }

    /// The columns and key of the changes that [`apply`](Self::apply) makes.
    pub fn output(&self) -> &Arc<TableSchema> {
        &self.output
    }

    /// How many ordinals a change of the source has in the output.
    pub(crate) fn ordinals_per_change(&self) -> i64 {
        if self.splits_updates { 2 } else { 1 }
    }

    /// The branch for a batch.
    pub(crate) fn branch(&self, batch: &ChangeBatch) -> Result<&Branch> {
        let table = &batch.schema().id;
        let branch = self.branches.get(table).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a model was given a table that it does not read")
                .with("model", &self.name)
                .with("table", table)
        })?;
        if Arc::ptr_eq(&branch.input, batch.schema()) || *branch.input == **batch.schema() {
            Ok(branch)
        } else {
            Err(Error::new(
                ErrorKind::SchemaChange,
                "a model must be planned again: its source table has changed",
            )
            .code("SQ0023")
            .with("model", &self.name)
            .with("table", table)
            .hint("the pipeline plans the model again with the table's new columns"))
        }
    }
}

async fn try_plan(spec: &ModelSpec, inputs: &[Arc<TableSchema>]) -> Result<Model, Fault> {
    let catalog = StreamCatalog::new(inputs).map_err(|error| Fault::from_planner(&error))?;
    let logical = logical_plan(spec, &catalog).await?;
    let mut branches = reduce(&logical, &catalog)?;
    let output = output_columns(&logical, &mut branches)?;
    let mut read = BTreeSet::new();
    if let Some(twice) = branches.iter().find(|branch| !read.insert(branch.table)) {
        let table = &catalog.tables[twice.table].id;
        return Err(
            Fault::unsupported("SQ0019", format!("the table {table} is read twice in one UNION ALL"))
                .hint("read it once, with OR in WHERE and CASE in SELECT"),
        );
    }
    let tables: Vec<&Arc<TableSchema>> = branches.iter().map(|branch| &catalog.tables[branch.table]).collect();
    let key = keys::choose(spec, &output, &branches, &tables)?;
    let before_image = tables.iter().all(|table| table.before_image);
    let inputs = tables.iter().map(|table| table.id.clone()).collect();

    let mut planned = HashMap::new();
    for branch in &branches {
        let table = &catalog.tables[branch.table];
        let compiled = compile(branch, table, &output, &key, &catalog, branches.len() > 1)?;
        planned.insert(table.id.clone(), compiled);
    }
    Ok(Model {
        name: spec.name.clone(),
        inputs,
        output: Arc::new(TableSchema {
            id: TableId::new(MODELS, None, &spec.name),
            columns: Arc::new(Schema::new(output)),
            not_null: Vec::new(),
            key: key.columns,
            before_image,
        }),
        splits_updates: planned.values().any(|branch| branch.rekeys),
        branches: planned,
    })
}

/// Parses, screens, plans and type-checks the SQL.
async fn logical_plan(spec: &ModelSpec, catalog: &StreamCatalog) -> Result<LogicalPlan, Fault> {
    let planner = |error: DataFusionError| Fault::from_planner(&error);
    let mut statements = DFParser::parse_sql_with_dialect(&spec.sql, &GenericDialect {}).map_err(planner)?;
    let statement = match (statements.pop_front(), statements.is_empty()) {
        (Some(ParsedStatement::Statement(statement)), true) => statement,
        (None, _) => return Err(Fault::wrong("SQ0001", "the SQL is empty").hint("write one SELECT")),
        _ => return Err(screen::not_a_query()),
    };
    let Statement::Query(query) = statement.as_ref() else {
        return Err(screen::not_a_query());
    };
    screen::screen(query, catalog)?;
    let state = &catalog.state;
    let plan = state
        .statement_to_plan(ParsedStatement::Statement(statement))
        .await
        .map_err(planner)?;
    if let Some(mixed) = mixed::in_plan(&plan).map_err(planner)? {
        return Err(Fault::mixed(&mixed));
    }
    let plan = mixed::decimals_to_floats(plan).map_err(planner)?;
    state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})
        .map_err(planner)
}

/// The user's output columns. Reserved columns that were selected as they are, by `*` for
/// example, are taken out of the branches: they pass in any case.
fn output_columns(plan: &LogicalPlan, branches: &mut [Reduced]) -> Result<Vec<FieldRef>, Fault> {
    let mut fields = Vec::new();
    let mut kept = Vec::new();
    for (index, field) in plan.schema().fields().iter().enumerate() {
        let name = field.name();
        if envelope::is_reserved(name) {
            let passes =
                |branch: &Reduced| matches!(&branch.columns[index], Expr::Column(column) if column.name == *name);
            if branches.iter().all(passes) {
                continue;
            }
            return Err(
                Fault::wrong("SQ0015", format!("the output column `{name}` has a reserved name")).hint(
                    "names that begin with `__` are Millstream's; the reserved columns pass through by themselves",
                ),
            );
        }
        let data_type = stored_type(field.data_type());
        if data_type == DataType::Null {
            return Err(
                Fault::wrong("SQ0022", format!("the output column `{name}` has no type"))
                    .hint("give NULL a type, as in CAST(NULL AS TEXT)"),
            );
        }
        if fields.iter().any(|known: &FieldRef| known.name() == name) {
            return Err(
                Fault::wrong("SQ0003", format!("the output has two columns called `{name}`"))
                    .hint("rename one of them with AS"),
            );
        }
        fields.push(Arc::new(
            Field::new(name, data_type, true).with_metadata(field.metadata().clone()),
        ));
        kept.push(index);
    }
    if fields.is_empty() {
        return Err(Fault::wrong("SQ0003", "the output has no columns").hint("select at least the key"));
    }
    for branch in branches {
        branch.columns = kept.iter().map(|&index| branch.columns[index].clone()).collect();
    }
    Ok(fields)
}

/// Views are a form of columns in memory; tables store plain text and bytes.
fn stored_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}

/// Makes a branch's expressions ready to run.
fn compile(
    branch: &Reduced,
    table: &Arc<TableSchema>,
    output: &[FieldRef],
    key: &KeyPlan,
    catalog: &StreamCatalog,
    shares_output: bool,
) -> Result<Branch, Fault> {
    let planner = |error: DataFusionError| Fault::from_planner(&error);
    let all = scan_schema(table);
    let all_columns = Arc::new(DFSchema::try_from(all.as_ref().clone()).map_err(planner)?);
    let context = SimplifyContext::builder()
        .with_schema(all_columns.clone())
        .with_config_options(catalog.state.config_options().clone())
        .build();
    let simplifier = ExprSimplifier::new(context);
    let columns: Vec<Expr> = branch
        .columns
        .iter()
        .map(|expr| simplifier.simplify(expr.clone()))
        .collect::<Result<_, _>>()
        .map_err(|error| Fault::from_constant(&error))?;
    let filter = match utils::conjunction(branch.filters.iter().cloned()) {
        None => None,
        Some(filter) => match simplifier
            .simplify(filter)
            .map_err(|error| Fault::from_constant(&error))?
        {
            Expr::Literal(value, _) if value == true.into() => None,
            Expr::Literal(..) => {
                return Err(
                    Fault::wrong("SQ0021", format!("the filter on {} is never true", table.id))
                        .hint("no row would ever pass; correct WHERE"),
                );
            }
            filter => Some(filter),
        },
    };

    let mut used = BTreeSet::new();
    for expr in columns.iter().chain(&filter) {
        used.extend(
            expr.column_refs()
                .into_iter()
                .filter_map(|column| all.index_of(&column.name).ok()),
        );
    }
    let scan: SchemaRef = Arc::new(
        all.project(&used.into_iter().collect::<Vec<_>>())
            .map_err(|e| planner(e.into()))?,
    );
    let scan_columns = DFSchema::try_from(scan.as_ref().clone()).map_err(planner)?;
    for expr in branch.columns.iter().chain(&branch.filters) {
        constant::refuse_wrapped(expr, &catalog.state)?;
    }
    let physical = |expr: &Expr| {
        constant::refuse_failing(expr, &catalog.state)?;
        physical(expr, &scan_columns, &catalog.state).map_err(planner)
    };

    let filter = match filter {
        None => None,
        Some(expr) => {
            let (reads, reads_reserved) = reads(&expr);
            Some(Filter {
                expr: physical(&expr)?,
                reads,
                reads_reserved,
            })
        }
    };
    let mut outputs = Vec::with_capacity(columns.len());
    for (expr, field) in columns.iter().zip(output) {
        let (reads, reads_reserved) = reads(expr);
        let same_type = expr
            .get_type(all_columns.as_ref())
            .is_ok_and(|found| found == *field.data_type());
        let plain = match expr {
            Expr::Column(column) if same_type => Some(column.name.clone()),
            _ => None,
        };
        let key = key.columns.contains(field.name());
        outputs.push(Output {
            field: field.clone(),
            expr: physical(expr)?,
            plain,
            reads,
            reads_reserved,
            key,
        });
    }
    Ok(Branch {
        input: table.clone(),
        scan,
        filter,
        outputs,
        rekeys: key.changes_in.contains(&table.id),
        shares_output,
    })
}

/// The user's columns that an expression reads, and whether it reads reserved ones.
pub(crate) fn reads(expr: &Expr) -> (Vec<String>, bool) {
    let names: BTreeSet<&str> = expr
        .column_refs()
        .into_iter()
        .map(|column| column.name.as_str())
        .collect();
    let (reserved, user): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| envelope::is_reserved(name));
    (user.into_iter().map(str::to_owned).collect(), !reserved.is_empty())
}
