//! How a target table's rows are made from source rows, while the source's columns change.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_core::{ChangeBatch, Error, ErrorKind, Result, TableId, TableSchema};
use millstream_sql::checks::{self, Checks};
use millstream_sql::{Model, Transformed};

use super::pad::{lacks_columns_only, pad};
use super::plan::ModelDefinition;

/// A model with its checks; without a model, rows pass through.
pub struct Stage {
    definition: Option<ModelDefinition>,
    inputs: BTreeMap<TableId, Input>,
    model: Option<Model>,
    /// The checks on what comes out.
    pub checks: Checks,
    /// Columns and key of what comes out, as it was planned at first.
    pub schema: Arc<TableSchema>,
}

/// A source table, as the model is planned on it.
struct Input {
    planned: Arc<TableSchema>,
    /// Whether rows with these columns came. Until then rows with fewer columns are older ones,
    /// from before columns were added; after that a column was dropped.
    seen: bool,
}

impl Stage {
    /// A stage that passes rows of `schema` through.
    pub fn of_table(schema: &Arc<TableSchema>) -> Result<Self, Vec<Error>> {
        Ok(Self {
            definition: None,
            inputs: inputs([schema]),
            model: None,
            checks: checks::plan(&[], schema)?,
            schema: schema.clone(),
        })
    }

    /// A stage that computes a model over those of `schemas` that it reads.
    ///
    /// # Errors
    /// Each with the index of the check that it is about; `None` for the SQL.
    pub async fn of_model(
        definition: &ModelDefinition,
        schemas: &[Arc<TableSchema>],
    ) -> Result<Self, Vec<(Option<usize>, Error)>> {
        let model = millstream_sql::plan(&definition.model, schemas)
            .await
            .map_err(|error| vec![(None, error)])?;
        let schema = model.output().clone();
        let checks = checks::plan_model(&definition.checks, &model);
        let of_check = |(check, error)| (Some(check), error);
        Ok(Self {
            definition: Some(definition.clone()),
            inputs: inputs(schemas.iter().filter(|schema| model.inputs().contains(&schema.id))),
            checks: checks.map_err(|faults| faults.into_iter().map(of_check).collect::<Vec<_>>())?,
            model: Some(model),
            schema,
        })
    }

    /// Whether rows are computed, rather than passed through.
    pub fn is_model(&self) -> bool {
        self.model.is_some()
    }

    /// The source tables that feed it.
    pub fn inputs(&self) -> impl Iterator<Item = &TableId> {
        self.inputs.keys()
    }

    /// Makes ready for rows of `schema`: plans the model anew if its columns are newer than
    /// those it was planned on. The checks follow the columns on their own, and keep what they
    /// have seen of the epoch.
    ///
    /// # Errors
    /// `SchemaChange` if the SQL no longer fits; it names the column.
    pub async fn follow(&mut self, schema: &Arc<TableSchema>) -> Result<()> {
        let (Some(definition), Some(input)) = (&self.definition, self.inputs.get_mut(&schema.id)) else {
            return Ok(());
        };
        if same(&input.planned, schema) {
            input.seen = true;
            return Ok(());
        }
        if !input.seen && lacks_columns_only(schema, &input.planned) {
            return Ok(());
        }
        let planned = self.inputs.iter().map(|(id, input)| {
            if *id == schema.id {
                schema.clone()
            } else {
                input.planned.clone()
            }
        });
        let planned: Vec<_> = planned.collect();
        let model = millstream_sql::plan(&definition.model, &planned)
            .await
            .map_err(|fault| no_longer_fits(definition, schema, fault))?;
        tracing::info!(table = %schema.id, target_table = %definition.model.name, "model planned again for changed columns");
        self.checks.follow(&model)?;
        self.model = Some(model);
        let input = Input {
            planned: schema.clone(),
            seen: true,
        };
        self.inputs.insert(schema.id.clone(), input);
        Ok(())
    }

    /// What the model makes of rows that [`follow`](Self::follow) made ready for; `None` if there
    /// is no model. Columns that came after the rows are NULL in them.
    pub async fn transform(&self, batch: &ChangeBatch) -> Result<Option<Transformed>> {
        let Some(model) = &self.model else { return Ok(None) };
        let planned = self.inputs.get(&batch.schema().id).map(|input| &input.planned);
        let transformed = match planned {
            Some(planned) if !same(planned, batch.schema()) => model.apply(&pad(batch, planned)?).await?,
            _ => model.apply(batch).await?,
        };
        Ok(Some(transformed))
    }
}

fn inputs<'a>(schemas: impl IntoIterator<Item = &'a Arc<TableSchema>>) -> BTreeMap<TableId, Input> {
    let input = |schema: &Arc<TableSchema>| Input {
        planned: schema.clone(),
        seen: false,
    };
    schemas
        .into_iter()
        .map(|schema| (schema.id.clone(), input(schema)))
        .collect()
}

fn same(one: &Arc<TableSchema>, other: &Arc<TableSchema>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn no_longer_fits(definition: &ModelDefinition, schema: &TableSchema, fault: Error) -> Error {
    Error::new(
        ErrorKind::SchemaChange,
        "the source's table changed and the model no longer fits",
    )
    .code("EN0002")
    .with("model", &definition.model.name)
    .with("table", &schema.id)
    .hint("adapt the model's SQL to the new columns, then reload")
    .caused_by(fault)
}
