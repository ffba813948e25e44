//! What a pipeline is, and how its target tables come from its sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result, Sink, Source, TableId, TableSchema};
use millstream_sql::checks::{self, CheckSpec, Checks};
use millstream_sql::{Model, ModelSpec};

use super::epoch::CommitPolicy;

/// Everything that one run of a pipeline works with. Built anew for each start.
pub struct PipelineSpec {
    /// The pipeline's name.
    pub name: String,
    /// What is read.
    pub sources: Vec<Box<dyn Source>>,
    /// SQL transforms with their checks, by name.
    pub models: BTreeMap<String, ModelDefinition>,
    /// Where tables are published.
    pub sinks: Vec<SinkSpec>,
    /// Bytes of decoded batches that may be in flight, for each source.
    pub memory: u64,
}

/// A model and the checks on what it puts out.
#[derive(Debug, Clone)]
pub struct ModelDefinition {
    /// The SQL and the key.
    pub model: ModelSpec,
    /// The checks, in the order in which they are written.
    pub checks: Vec<CheckSpec>,
}

/// A sink, and which tables it publishes.
#[derive(Clone)]
pub struct SinkSpec {
    /// The sink's name in the pipeline.
    pub name: String,
    /// The sink.
    pub sink: Arc<dyn Sink>,
    /// Names of models and source tables; `None` for all models, or all source tables where
    /// there is no model.
    pub tables: Option<Vec<String>>,
    /// When an epoch is committed.
    pub commit: CommitPolicy,
}

/// A target table, planned.
pub struct PlannedTable {
    /// Index of its sink.
    pub sink: usize,
    /// The table's name in the target.
    pub name: String,
    /// The source tables that feed it.
    pub inputs: Vec<TableId>,
    /// How its rows are made.
    pub stage: Stage,
}

/// How a target table's rows are made from source rows.
pub struct Stage {
    definition: Option<ModelDefinition>,
    inputs: BTreeMap<TableId, Arc<TableSchema>>,
    /// The model; `None` passes rows through.
    pub model: Option<Model>,
    /// The checks on what comes out.
    pub checks: Checks,
    /// Columns and key of what comes out.
    pub schema: Arc<TableSchema>,
}

/// What a fault of planning concerns, so that it can be shown with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A model, by name.
    Model(String),
    /// An entry of a sink's `tables`, or the sink itself where the tables are implied.
    SinkTable {
        /// Index of the sink.
        sink: usize,
        /// Index of the entry.
        entry: Option<usize>,
    },
}

/// A reason why a pipeline cannot run as it is configured.
#[derive(Debug)]
pub struct PlanFault {
    /// What it concerns.
    pub subject: Subject,
    /// What is wrong.
    pub error: Error,
}

/// Plans every table of every sink against the source tables as they are now. Reports all
/// faults at once.
pub async fn plan(
    models: &BTreeMap<String, ModelDefinition>,
    sinks: &[SinkSpec],
    schemas: &[Arc<TableSchema>],
) -> Result<Vec<PlannedTable>, Vec<PlanFault>> {
    let mut faults = Vec::new();
    let mut planned = Vec::new();
    let mut broken_models = std::collections::BTreeSet::new();
    for (sink, spec) in sinks.iter().enumerate() {
        let implied: Vec<String>;
        let (names, explicit) = match &spec.tables {
            Some(names) => (names, true),
            None if models.is_empty() => {
                implied = schemas.iter().map(|schema| schema.id.to_string()).collect();
                (&implied, false)
            }
            None => {
                implied = models.keys().cloned().collect();
                (&implied, false)
            }
        };
        for (entry, name) in names.iter().enumerate() {
            let subject = Subject::SinkTable {
                sink,
                entry: explicit.then_some(entry),
            };
            if let Some(definition) = models.get(name) {
                match Stage::of_model(definition, schemas).await {
                    Ok(stage) => planned.push(PlannedTable::new(sink, name, stage)),
                    Err(errors) if broken_models.insert(name.clone()) => {
                        let subject = || Subject::Model(name.clone());
                        faults.extend(errors.into_iter().map(|error| PlanFault {
                            subject: subject(),
                            error,
                        }));
                    }
                    Err(_) => {}
                }
                continue;
            }
            match find_table(name, schemas) {
                Ok(schema) => match Stage::of_table(schema) {
                    Ok(stage) => planned.push(PlannedTable::new(sink, &target_name(schema, schemas), stage)),
                    Err(errors) => faults.extend(errors.into_iter().map(|error| PlanFault {
                        subject: subject.clone(),
                        error,
                    })),
                },
                Err(error) => faults.push(PlanFault { subject, error }),
            }
        }
    }
    for (name, definition) in models {
        let used = planned.iter().any(|table| table.name == *name) || broken_models.contains(name);
        if !used && let Err(errors) = Stage::of_model(definition, schemas).await {
            let subject = || Subject::Model(name.clone());
            faults.extend(errors.into_iter().map(|error| PlanFault {
                subject: subject(),
                error,
            }));
        }
    }
    if faults.is_empty() { Ok(planned) } else { Err(faults) }
}

impl PlannedTable {
    fn new(sink: usize, name: &str, stage: Stage) -> Self {
        Self {
            sink,
            name: name.to_owned(),
            inputs: stage.inputs.keys().cloned().collect(),
            stage,
        }
    }
}

impl Stage {
    fn of_table(schema: &Arc<TableSchema>) -> Result<Self, Vec<Error>> {
        Ok(Self {
            definition: None,
            inputs: [(schema.id.clone(), schema.clone())].into_iter().collect(),
            model: None,
            checks: checks::plan(&[], schema)?,
            schema: schema.clone(),
        })
    }

    async fn of_model(definition: &ModelDefinition, schemas: &[Arc<TableSchema>]) -> Result<Self, Vec<Error>> {
        let model = millstream_sql::plan(&definition.model, schemas)
            .await
            .map_err(|error| vec![error])?;
        let schema = model.output().clone();
        let checks = checks::plan(&definition.checks, &schema)?;
        let inputs = schemas
            .iter()
            .filter(|s| model.inputs().contains(&s.id))
            .map(|s| (s.id.clone(), s.clone()));
        Ok(Self {
            definition: Some(definition.clone()),
            inputs: inputs.collect(),
            model: Some(model),
            checks,
            schema,
        })
    }

    /// Plans anew if `schema` differs from what the stage was planned for.
    ///
    /// # Errors
    /// `SchemaChange` if the SQL or a check no longer fits; it names the column.
    pub async fn follow(&mut self, schema: &Arc<TableSchema>) -> Result<()> {
        let known = self.inputs.get(&schema.id);
        if known.is_some_and(|known| Arc::ptr_eq(known, schema) || known == schema) {
            return Ok(());
        }
        self.inputs.insert(schema.id.clone(), schema.clone());
        let Some(definition) = &self.definition else {
            self.schema = schema.clone();
            return Ok(());
        };
        let schemas: Vec<_> = self.inputs.values().cloned().collect();
        let replanned = Self::of_model(definition, &schemas).await.map_err(|mut errors| {
            let first = errors.swap_remove(0);
            Error::new(
                ErrorKind::SchemaChange,
                "the source's table changed and the model no longer fits",
            )
            .code("EN0002")
            .with("model", &definition.model.name)
            .with("table", &schema.id)
            .hint("adapt the model's SQL or checks to the new columns, then reload")
            .caused_by(first)
        })?;
        tracing::info!(table = %schema.id, target_table = %definition.model.name, "model planned again for changed columns");
        let before = std::mem::replace(self, replanned);
        // The checks follow the columns on their own, and keep what they have seen of the epoch.
        self.checks = before.checks;
        Ok(())
    }
}

/// The source table that `name` means: `orders`, `public.orders` or `shop.public.orders`.
fn find_table<'a>(name: &str, schemas: &'a [Arc<TableSchema>]) -> Result<&'a Arc<TableSchema>> {
    let matches: Vec<_> = schemas
        .iter()
        .filter(|schema| {
            let id = &schema.id;
            *id.name == *name
                || id.within_source() == name
                || id.to_string() == name
                || format!("{}.{}", id.source, id.name) == name
        })
        .collect();
    match matches.as_slice() {
        [one] => Ok(one),
        [] => {
            let known: Vec<_> = schemas.iter().map(|schema| schema.id.within_source()).collect();
            Err(Error::new(
                ErrorKind::Config,
                format!("there is no model or source table called `{name}`"),
            )
            .code("EN0003")
            .hint(if known.is_empty() {
                "no source has any table".to_owned()
            } else {
                format!("name a model, or one of the source tables: {}", known.join(", "))
            }))
        }
        several => {
            let full: Vec<_> = several.iter().map(|schema| schema.id.to_string()).collect();
            Err(
                Error::new(ErrorKind::Config, format!("`{name}` means more than one source table"))
                    .code("EN0004")
                    .hint(format!("write one of: {}", full.join(", "))),
            )
        }
    }
}

/// The table's own name where no other table has it, else with its source and name space.
fn target_name(schema: &TableSchema, schemas: &[Arc<TableSchema>]) -> String {
    let unique = schemas.iter().filter(|other| other.id.name == schema.id.name).count() == 1;
    if unique {
        schema.id.name.to_string()
    } else {
        schema.id.to_string().replace('.', "_")
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field, Schema};

    use super::*;

    fn table(source: &str, namespace: Option<&str>, name: &str) -> Arc<TableSchema> {
        Arc::new(TableSchema {
            id: TableId::new(source, namespace, name),
            columns: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)])),
            key: vec!["id".to_owned()],
            not_null: Vec::new(),
            before_image: false,
        })
    }

    #[test]
    fn a_name_finds_its_table_or_says_what_there_is() {
        let schemas = [
            table("shop", Some("public"), "orders"),
            table("shop", Some("old"), "orders"),
            table("k", None, "c"),
        ];
        assert_eq!(find_table("c", &schemas).unwrap().id, schemas[2].id);
        assert_eq!(find_table("old.orders", &schemas).unwrap().id, schemas[1].id);
        assert_eq!(find_table("orders", &schemas).unwrap_err().error_code(), Some("EN0004"));
        assert_eq!(find_table("x", &schemas).unwrap_err().error_code(), Some("EN0003"));
        assert_eq!(target_name(&schemas[0], &schemas), "shop_public_orders");
        assert_eq!(target_name(&schemas[2], &schemas), "c");
    }
}
