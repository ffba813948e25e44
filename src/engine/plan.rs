//! What a pipeline is, and how its target tables come from its sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result, Sink, Source, TableId, TableSchema};
use millstream_sql::ModelSpec;
use millstream_sql::checks::CheckSpec;

use super::epoch::CommitPolicy;
use super::stage::Stage;

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
            inputs: stage.inputs().cloned().collect(),
            stage,
        }
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
