//! What can be said of a pipeline's models while the columns of some source are not known.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use millstream_core::{Error, Finding, TableId, TableSchema};
use millstream_sql::{MODELS, checks};

use crate::config::{Diagnostic, LoadedPipeline, Place};
use crate::engine::ModelDefinition;

/// The faults of SQL that show in its text alone: syntax, and what a stream cannot do.
const SQL_WITHOUT_COLUMNS: &[&str] = &[
    "SQ0001", "SQ0002", "SQ0004", "SQ0005", "SQ0006", "SQ0007", "SQ0008", "SQ0009", "SQ0010", "SQ0011", "SQ0012",
    "SQ0013", "SQ0014", "SQ0018", "SQ0020",
];

/// The faults of a check that show without the model's columns: patterns, options, names.
const CHECKS_WITHOUT_COLUMNS: &[&str] = &["CK0004", "CK0007", "CK0008"];

/// The faults of a pipeline's models. A model that reads only `known` tables is planned wholly.
pub async fn faults(pipeline: &LoadedPipeline, known: &[Arc<TableSchema>]) -> Vec<Diagnostic> {
    let mut tables = known.to_vec();
    let named = pipeline.named_tables();
    tables.extend(
        named
            .into_iter()
            .filter(|table| known.iter().all(|known| known.id != table.id)),
    );
    let mut faults = Vec::new();
    for (name, definition) in &pipeline.models {
        let model_place = || pipeline.model_place(name);
        let report = |(place, error): (Place, Error)| Diagnostic::new(place, Finding::from(&error));
        let check_place = |(check, error): (usize, Error)| {
            let specs = &pipeline.config.models[name].checks;
            let place = specs.get(check).map(|spec| Place::at(&pipeline.file, spec.referenced));
            (place.unwrap_or_else(model_place), error)
        };
        let known_only = millstream_sql::plan(&definition.model, known).await;
        let (sql, of_checks) = match known_only {
            Ok(model) => {
                let faults = checks::plan_each(&definition.checks, model.output()).err();
                (None, faults.unwrap_or_default())
            }
            // It may read a table whose columns are not known.
            Err(error) if error.error_code() == Some("SQ0002") => {
                let error = millstream_sql::plan(&definition.model, &tables).await.err();
                // A table that is not named may be one that a source selects by a pattern.
                let unsure = |error: &Error| pipeline.is_open() && error.error_code() == Some("SQ0002");
                let shows = error.filter(|error| says_one_of(error, SQL_WITHOUT_COLUMNS) && !unsure(error));
                (shows, check_faults(definition))
            }
            Err(error) => (Some(error), check_faults(definition)),
        };
        faults.extend(sql.map(|error| report((model_place(), error))));
        faults.extend(of_checks.into_iter().map(check_place).map(report));
    }
    faults
}

fn check_faults(definition: &ModelDefinition) -> Vec<(usize, Error)> {
    // Text columns of the names that the checks use let what does not depend on columns show.
    let names: BTreeSet<&str> = definition
        .checks
        .iter()
        .flat_map(|check| check.kind.columns())
        .collect();
    let columns: Vec<Field> = names
        .into_iter()
        .map(|name| Field::new(name, DataType::Utf8, true))
        .collect();
    let table = TableSchema {
        id: TableId::new(MODELS, None, &definition.model.name),
        columns: Arc::new(Schema::new(columns)),
        key: Vec::new(),
        not_null: Vec::new(),
        before_image: false,
    };
    let mut faults = checks::plan_each(&definition.checks, &table).err().unwrap_or_default();
    faults.retain(|(_, error)| says_one_of(error, CHECKS_WITHOUT_COLUMNS));
    faults
}

fn says_one_of(error: &Error, codes: &[&str]) -> bool {
    error.error_code().is_some_and(|code| codes.contains(&code))
}
