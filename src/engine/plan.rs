//! What a pipeline is, and how its target tables come from its sources.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result, Sink, Source, TableId, TableSchema};
use millstream_sql::ModelSpec;
use millstream_sql::checks::CheckSpec;

use super::epoch::CommitPolicy;
use super::stage::Stage;
use super::table_names::TableNames;

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
    /// A check of a model.
    Check {
        /// The model's name.
        model: String,
        /// Index of the check.
        check: usize,
    },
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

/// A target table, as a sink's `tables` names it.
pub struct Target {
    /// Index of its sink.
    pub sink: usize,
    /// The table's name in the target.
    pub name: String,
    /// What is published in it.
    pub from: Published,
    subject: Subject,
}

/// What a target table publishes.
pub enum Published {
    /// A model's rows, by the model's name.
    Model(String),
    /// A source table's rows.
    Table(Arc<TableSchema>),
}

/// The target tables of every sink. Looks at the names of the source tables alone, not at their
/// columns.
pub fn targets(
    models: &BTreeMap<String, ModelDefinition>,
    sinks: &[(&str, Option<&[String]>)],
    schemas: &[Arc<TableSchema>],
) -> (Vec<Target>, Vec<PlanFault>) {
    let mut faults = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    let names = TableNames::new(schemas);
    for (sink, &(sink_name, tables)) in sinks.iter().enumerate() {
        let mut taken = HashSet::new();
        let implied: Vec<String> = match tables {
            Some(_) => Vec::new(),
            None if models.is_empty() => schemas.iter().map(|schema| schema.id.to_string()).collect(),
            None => models.keys().cloned().collect(),
        };
        for (entry, name) in tables.unwrap_or(&implied).iter().enumerate() {
            let subject = Subject::SinkTable {
                sink,
                entry: tables.is_some().then_some(entry),
            };
            let (name, from) = match (models.contains_key(name), names.find(name)) {
                (true, _) => (name.clone(), Published::Model(name.clone())),
                (false, Ok(schema)) => (names.in_target(schema), Published::Table(schema.clone())),
                (false, Err(error)) => {
                    faults.push(PlanFault { subject, error });
                    continue;
                }
            };
            if !taken.insert(name.clone()) {
                let error = Error::new(
                    ErrorKind::Config,
                    format!("the table `{name}` is published twice in one sink"),
                )
                .code("EN0007")
                .with("sink", sink_name)
                .hint("a table has one writer: leave one entry out, or give the model another name");
                faults.push(PlanFault { subject, error });
                continue;
            }
            targets.push(Target {
                sink,
                name,
                from,
                subject,
            });
        }
    }
    (targets, faults)
}

/// Plans every table of every sink against the source tables as they are now. Reports all
/// faults at once.
pub async fn plan(
    models: &BTreeMap<String, ModelDefinition>,
    sinks: &[SinkSpec],
    schemas: &[Arc<TableSchema>],
) -> Result<Vec<PlannedTable>, Vec<PlanFault>> {
    let named: Vec<_> = sinks
        .iter()
        .map(|spec| (spec.name.as_str(), spec.tables.as_deref()))
        .collect();
    let (targets, mut faults) = targets(models, &named, schemas);
    let mut planned = Vec::new();
    let mut seen = BTreeSet::new();
    for target in targets {
        let stage = match &target.from {
            Published::Table(schema) => Stage::of_table(schema).map_err(|errors| at(&target.subject, errors)),
            Published::Model(name) => {
                let first = seen.insert(name.clone());
                let planned = plan_model(&models[name], schemas).await;
                // A model that goes to two sinks has each fault once.
                planned.map_err(|faults| if first { faults } else { Vec::new() })
            }
        };
        match stage {
            Ok(stage) => planned.push(PlannedTable::new(target.sink, &target.name, stage)),
            Err(found) => faults.extend(found),
        }
    }
    for (_, unused) in models.iter().filter(|(name, _)| !seen.contains(*name)) {
        faults.extend(plan_model(unused, schemas).await.err().into_iter().flatten());
    }
    if faults.is_empty() { Ok(planned) } else { Err(faults) }
}

async fn plan_model(definition: &ModelDefinition, schemas: &[Arc<TableSchema>]) -> Result<Stage, Vec<PlanFault>> {
    let name = &definition.model.name;
    Stage::of_model(definition, schemas).await.map_err(|errors| {
        let faults = errors.into_iter().map(|(check, error)| {
            let subject = match check {
                Some(check) => Subject::Check {
                    model: name.clone(),
                    check,
                },
                None => Subject::Model(name.clone()),
            };
            PlanFault { subject, error }
        });
        faults.collect()
    })
}

fn at(subject: &Subject, errors: Vec<Error>) -> Vec<PlanFault> {
    let fault = |error| PlanFault {
        subject: subject.clone(),
        error,
    };
    errors.into_iter().map(fault).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::table_names::tests::table;

    fn model(name: &str, sql: &str) -> (String, ModelDefinition) {
        let model = ModelSpec {
            name: name.to_owned(),
            sql: sql.to_owned(),
            file: None,
            key: vec!["id".to_owned()],
        };
        (
            name.to_owned(),
            ModelDefinition {
                model,
                checks: Vec::new(),
            },
        )
    }

    #[test]
    fn a_table_is_published_once_in_a_sink() {
        let schemas = [table("shop", Some("public"), "orders")];
        let models = [model("orders", "SELECT id FROM shop.orders")].into_iter().collect();
        let none = BTreeMap::new();
        let codes = |models: &BTreeMap<_, _>, tables: &[&str]| {
            let tables: Vec<String> = tables.iter().map(|name| (*name).to_owned()).collect();
            let (targets, faults) = targets(models, &[("a", Some(&tables[..])), ("b", Some(&tables[..1]))], &schemas);
            let codes: Vec<_> = faults.iter().map(|fault| fault.error.error_code().unwrap()).collect();
            let places: Vec<_> = faults.iter().map(|fault| fault.subject.clone()).collect();
            (targets.len(), codes, places)
        };
        let second = Subject::SinkTable {
            sink: 0,
            entry: Some(1),
        };
        let twice = (2, vec!["EN0007"], vec![second]);
        assert_eq!(codes(&none, &["orders", "orders"]), twice);
        assert_eq!(codes(&none, &["orders", "public.orders"]), twice);
        assert_eq!(
            codes(&models, &["orders", "public.orders"]),
            twice,
            "a model of the name"
        );
        assert_eq!(codes(&none, &["orders"]).0, 2, "two sinks may have it");
    }

    #[tokio::test]
    async fn a_model_that_no_sink_publishes_is_planned_too() {
        let schemas = [table("shop", Some("public"), "orders")];
        let models = [model("orders", "SELECT nothing FROM shop.orders")]
            .into_iter()
            .collect();
        let sinks = [SinkSpec {
            name: "a".to_owned(),
            sink: Arc::new(
                millstream_parquet::ParquetSink::new(millstream_parquet::ParquetConfig::new("lake")).unwrap(),
            ),
            tables: Some(vec!["shop.public.orders".to_owned()]),
            commit: CommitPolicy::default(),
        }];
        let faults = plan(&models, &sinks, &schemas).await.map(|_| ()).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].subject, Subject::Model("orders".to_owned()));
    }
}
