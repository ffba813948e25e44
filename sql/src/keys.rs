//! Which output columns identify a row, and whether a delete can name them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_schema::FieldRef;
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use millstream_core::{TableId, TableSchema};

use crate::ModelSpec;
use crate::catalog::scan_schema;
use crate::fault::Fault;
use crate::injective;
use crate::model::reads;
use crate::reduce::Reduced;

/// The model's key.
#[derive(Debug)]
pub(crate) struct KeyPlan {
    /// Output columns, in the order of the specification.
    pub(crate) columns: Vec<String>,
    /// The tables of which an update can change the output key.
    pub(crate) changes_in: BTreeSet<TableId>,
}

/// Settles the key, and refuses one that a delete could not name.
pub(crate) fn choose(
    spec: &ModelSpec,
    output: &[FieldRef],
    branches: &[Reduced],
    tables: &[&Arc<TableSchema>],
) -> Result<KeyPlan, Fault> {
    let columns = if spec.key.is_empty() {
        inherited(output, branches, tables)?
    } else {
        spec.key.clone()
    };
    let mut indexes = Vec::with_capacity(columns.len());
    for name in &columns {
        let index = output.iter().position(|field| field.name() == name).ok_or_else(|| {
            let names: Vec<String> = output.iter().map(|field| format!("`{}`", field.name())).collect();
            Fault::wrong(
                "SQ0016",
                format!("the key column `{name}` is not among the output columns"),
            )
            .hint(format!("the output columns are {}", names.join(", ")))
        })?;
        if indexes.contains(&index) {
            return Err(Fault::wrong("SQ0016", format!("the key names `{name}` twice")));
        }
        indexes.push(index);
    }
    let mut changes_in = BTreeSet::new();
    for (branch, table) in branches.iter().zip(tables) {
        let exprs: Vec<(&str, &Expr)> = indexes
            .iter()
            .map(|&index| (output[index].name().as_str(), &branch.columns[index]))
            .collect();
        if changes(&exprs, table)? {
            changes_in.insert(table.id.clone());
        }
    }
    Ok(KeyPlan { columns, changes_in })
}

/// The names under which the source's key columns are put out. Every branch must agree.
fn inherited(output: &[FieldRef], branches: &[Reduced], tables: &[&Arc<TableSchema>]) -> Result<Vec<String>, Fault> {
    let mut agreed: Option<Vec<String>> = None;
    for (branch, table) in branches.iter().zip(tables) {
        let mut names = Vec::with_capacity(table.key.len());
        for key in &table.key {
            let index = branch
                .columns
                .iter()
                .position(|expr| matches!(expr, Expr::Column(column) if column.name == *key));
            let Some(index) = index else {
                return Err(Fault::wrong(
                    "SQ0016",
                    format!("the model has no key, and `{key}` of {} is not put out", table.id),
                )
                .hint(format!("select `{key}`, or name the model's `key`")));
            };
            names.push(output[index].name().clone());
        }
        match &agreed {
            Some(others) if *others != names => {
                return Err(
                    Fault::wrong("SQ0016", "the model has no key, and its tables have different ones")
                        .hint("name the model's `key`"),
                );
            }
            _ => agreed = Some(names),
        }
    }
    Ok(agreed.unwrap_or_default())
}

/// Whether an update of `table` can change the output key made of `exprs`.
///
/// A key made of all of the source's key, and nothing else, never changes: sources send an
/// update of their own key as a delete and a create. Any other key needs the before-image; that
/// it tells all rows apart is then for the user to know.
fn changes(exprs: &[(&str, &Expr)], table: &TableSchema) -> Result<bool, Fault> {
    if table.key.is_empty() && !table.before_image {
        // The source can only append to such a table.
        return Ok(false);
    }
    let columns = DFSchema::try_from(scan_schema(table).as_ref().clone());
    let columns = columns.map_err(|error| Fault::from_planner(&error))?;
    let (mut covered, mut read) = (BTreeSet::new(), BTreeSet::new());
    let mut foreign = None;
    for (name, expr) in exprs {
        let (user, reserved) = reads(expr);
        if reserved {
            return Err(Fault::unsupported(
                "SQ0017",
                format!("the key column `{name}` is computed from a reserved column"),
            )
            .hint("reserved columns describe a change, not a row: a later change of the same row has others"));
        }
        if foreign.is_none() && user.iter().any(|column| !table.key.contains(column)) {
            foreign = Some(*name);
        }
        covered.extend(injective::source(expr, &columns));
        read.extend(user);
    }
    let lacking: Vec<&String> = table
        .key
        .iter()
        .filter(|column| !covered.contains(column.as_str()))
        .collect();
    if table.before_image {
        return Ok(foreign.is_some() || !lacking.is_empty());
    }
    let key = table.key.join(", ");
    if let Some(name) = foreign {
        return Err(Fault::unsupported(
            "SQ0017",
            format!(
                "a delete of {} cannot name the key column `{name}`: it sends only {key}",
                table.id
            ),
        )
        .hint(format!(
            "make the key of {key} alone, or run ALTER TABLE {} REPLICA IDENTITY FULL",
            table.id.within_source()
        )));
    }
    if let [lacking, ..] = lacking[..] {
        if read.contains(lacking) {
            return Err(Fault::unsupported(
                "SQ0017",
                format!(
                    "the key is computed so that different values of `{lacking}` of {} can give the same: \
                     a delete of one row would remove another",
                    table.id
                ),
            )
            .hint(format!(
                "put `{lacking}` into the key as it is, cast to text, joined with a constant, or as a hash"
            )));
        }
        return Err(Fault::unsupported(
            "SQ0017",
            format!(
                "the key lacks `{lacking}` of {}: different rows would have the same key",
                table.id
            ),
        )
        .hint(format!("make the key of {key}")));
    }
    Ok(false)
}
