//! One pipeline of a project, with its SQL read in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::Schema;
use millstream_core::config::Secret;
use millstream_core::{Finding, Result, Severity, Source, TableId, TableSchema};
use millstream_sql::ModelSpec;
use sha2::{Digest, Sha256};

use super::yaml::read_yaml;
use super::{Diagnostic, PipelineConfig, Place};
use crate::engine::plan::{self, PlanFault, Subject, Target};
use crate::engine::{ModelDefinition, PipelineSpec, SinkSpec};

/// A pipeline with its SQL read in.
#[derive(Debug)]
pub struct LoadedPipeline {
    /// The file it comes from, relative to the project folder.
    pub file: PathBuf,
    /// What the file says.
    pub config: PipelineConfig,
    /// The SQL of its models, as far as it could be read.
    pub models: BTreeMap<String, ModelDefinition>,
    /// Whether the SQL of every model could be read.
    pub complete: bool,
    /// Changes whenever the file, its SQL or one of its secrets does; a reload leaves pipelines
    /// alone that keep theirs. Never shown.
    pub fingerprint: String,
}

impl LoadedPipeline {
    /// Reads a pipeline's file and the SQL that it names. `None` where the YAML itself is at fault.
    pub(super) fn read(folder: &Path, file: &Path, shown: &Path) -> (Option<Self>, Vec<Diagnostic>) {
        let (read, secrets) = Secret::resolved_in(|| read_yaml::<PipelineConfig>(file, shown));
        let (config, text) = match read {
            Ok(read) => read,
            Err(faults) => return (None, faults),
        };
        let mut fingerprint = Sha256::new();
        fingerprint.update(&text);
        for secret in &secrets {
            fingerprint.update(Sha256::digest(secret.expose()));
        }
        let mut faults = invalid_names(&config, shown);
        let mut models = BTreeMap::new();
        for (name, model) in &config.models {
            let (sql, sql_file) = match read_sql(folder, &model.sql.value) {
                Ok(read) => read,
                Err(error) => {
                    let message = format!("cannot read `{}`: {error}", model.sql.value);
                    let finding = Finding::new(Severity::Error, name, message).code("CF0005").hint(
                        "the path is relative to the project folder; the user that runs millstream needs to read it",
                    );
                    faults.push(Diagnostic::new(Place::at(shown, model.sql.referenced), finding));
                    continue;
                }
            };
            fingerprint.update(&sql);
            let spec = ModelSpec {
                name: name.clone(),
                sql,
                file: sql_file,
                key: model.key.clone(),
            };
            let checks = model.checks.iter().map(|check| check.value.clone()).collect();
            models.insert(name.clone(), ModelDefinition { model: spec, checks });
        }
        let pipeline = Self {
            file: shown.to_owned(),
            complete: models.len() == config.models.len(),
            config,
            models,
            fingerprint: hex::encode(fingerprint.finalize()),
        };
        faults.extend(pipeline.connector_faults());
        let (_, unknown) = pipeline.targets();
        faults.extend(unknown.iter().map(|fault| pipeline.diagnostic(fault)));
        (Some(pipeline), faults)
    }

    /// What the connectors find wrong in their settings, without I/O.
    fn connector_faults(&self) -> Vec<Diagnostic> {
        let sources = self.build_sources();
        let sources = sources.filter_map(|(name, source)| Some((self.source_place(name), source.err()?)));
        let sinks = self.build_sinks();
        let sinks = sinks.filter_map(|(name, sink)| Some((self.sink_place(name), sink.err()?)));
        let faults = sources.chain(sinks);
        faults
            .map(|(place, error)| Diagnostic::new(place, Finding::from(&error)))
            .collect()
    }

    /// The source tables as far as the file names them: without columns.
    pub fn named_tables(&self) -> Vec<Arc<TableSchema>> {
        let sources = self.config.sources.iter();
        // One that is listed twice is a fault of its own.
        let tables: BTreeSet<TableId> = sources.flat_map(|(name, source)| source.value.tables(name)).collect();
        let schema = |id| TableSchema {
            id,
            columns: Arc::new(Schema::empty()),
            key: Vec::new(),
            not_null: Vec::new(),
            before_image: false,
        };
        tables.into_iter().map(|id| Arc::new(schema(id))).collect()
    }

    /// The target tables by name, and what is wrong with the names. Nothing for a pipeline
    /// whose models are not all there, since their names would be reported as unknown.
    pub fn targets(&self) -> (Vec<Target>, Vec<PlanFault>) {
        if !self.complete {
            return (Vec::new(), Vec::new());
        }
        let names = self.config.sinks.values().map(|sink| sink.value.table_names());
        let names: Vec<Option<Vec<String>>> = names.collect();
        let sinks = self.config.sinks.keys().zip(&names);
        let sinks: Vec<_> = sinks.map(|(name, tables)| (name.as_str(), tables.as_deref())).collect();
        let (targets, mut faults) = plan::targets(&self.models, &sinks, &self.named_tables());
        if self.is_open() {
            faults.retain(|fault| fault.error.error_code() != Some("EN0003"));
        }
        (targets, faults)
    }

    /// Whether a source may have more tables than the file names: a name that is not among them
    /// is then no fault.
    pub fn is_open(&self) -> bool {
        self.config.sources.values().any(|source| source.value.is_open())
    }

    /// A fault of planning, with its place.
    pub fn diagnostic(&self, fault: &PlanFault) -> Diagnostic {
        Diagnostic::new(self.place(&fault.subject), Finding::from(&fault.error))
    }

    /// Builds what one run of the pipeline works with.
    ///
    /// # Errors
    /// The first connector whose settings contradict each other.
    pub fn build(&self) -> Result<PipelineSpec> {
        Ok(PipelineSpec {
            name: self.config.pipeline.value.clone(),
            sources: self.build_sources().map(|(_, source)| source).collect::<Result<_>>()?,
            models: self.models.clone(),
            sinks: self.build_sinks().map(|(_, sink)| sink).collect::<Result<_>>()?,
            memory: self.config.memory.0,
        })
    }

    /// Builds each source, without I/O.
    pub fn build_sources(&self) -> impl Iterator<Item = (&str, Result<Box<dyn Source>>)> {
        let pipeline = &self.config.pipeline.value;
        let sources = self.config.sources.iter();
        sources.map(move |(name, source)| (name.as_str(), source.value.build(pipeline, name)))
    }

    /// Builds each sink, without I/O.
    pub fn build_sinks(&self) -> impl Iterator<Item = (&str, Result<SinkSpec>)> {
        self.config.sinks.iter().map(|(name, entry)| {
            let spec = entry.value.connector.build().map(|sink| SinkSpec {
                name: name.clone(),
                sink,
                tables: entry.value.table_names(),
                commit: entry.value.commit.policy(),
            });
            (name.as_str(), spec)
        })
    }

    /// Where the source `name` is configured.
    pub fn source_place(&self, name: &str) -> Place {
        self.config
            .sources
            .get(name)
            .map_or_else(|| Place::file(&self.file), |s| Place::at(&self.file, s.referenced))
    }

    /// Where the sink `name` is configured.
    pub fn sink_place(&self, name: &str) -> Place {
        self.config
            .sinks
            .get(name)
            .map_or_else(|| Place::file(&self.file), |s| Place::at(&self.file, s.referenced))
    }

    /// Where the model `name` is defined.
    pub fn model_place(&self, name: &str) -> Place {
        self.config
            .models
            .get(name)
            .map_or_else(|| Place::file(&self.file), |m| Place::at(&self.file, m.sql.referenced))
    }

    /// Where a fault of planning is to be mended.
    pub fn place(&self, subject: &Subject) -> Place {
        let model = |name: &str| self.config.models.get(name);
        match subject {
            Subject::Model(name) => self.model_place(name),
            Subject::Check { model: name, check } => {
                let check = model(name).and_then(|model| model.checks.get(*check));
                check.map_or_else(
                    || self.model_place(name),
                    |check| Place::at(&self.file, check.referenced),
                )
            }
            Subject::SinkTable { sink, entry } => {
                let Some((name, config)) = self.config.sinks.iter().nth(*sink) else {
                    return Place::file(&self.file);
                };
                let table = entry.and_then(|entry| config.value.tables.as_ref()?.get(entry));
                table.map_or_else(
                    || self.sink_place(name),
                    |table| Place::at(&self.file, table.referenced),
                )
            }
        }
    }
}

/// SQL given in place, or the content of the file that is named, with the file's name.
fn read_sql(folder: &Path, given: &str) -> std::io::Result<(String, Option<String>)> {
    let is_path = given.ends_with(".sql") && !given.contains(char::is_whitespace);
    if is_path {
        let sql = std::fs::read_to_string(folder.join(given))?;
        Ok((sql, Some(given.to_owned())))
    } else {
        Ok((given.to_owned(), None))
    }
}

/// Names become slot names, folders and SQL identifiers, so they are kept plain.
fn invalid_names(config: &PipelineConfig, shown: &Path) -> Vec<Diagnostic> {
    let plain = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named = [(&config.pipeline.value, config.pipeline.referenced)]
        .into_iter()
        .chain(config.sources.iter().map(|(name, source)| (name, source.referenced)))
        .chain(config.models.iter().map(|(name, model)| (name, model.sql.referenced)))
        .chain(config.sinks.iter().map(|(name, sink)| (name, sink.referenced)));
    named
        .filter(|(name, _)| !plain(name))
        .map(|(name, location)| {
            let finding = Finding::new(Severity::Error, name, format!("`{name}` cannot be used as a name"))
                .code("CF0006")
                .hint("use lower-case letters, digits and `_`, with a letter first");
            Diagnostic::new(Place::at(shown, location), finding)
        })
        .collect()
}
