//! Loading a project folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::{Finding, Severity};
use millstream_sql::ModelSpec;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{DaemonConfig, Diagnostic, PipelineConfig, Place};
use crate::engine::plan::Subject;
use crate::engine::{ModelDefinition, PipelineSpec, SinkSpec};

/// The name of the daemon's own file in a project folder.
pub const DAEMON_FILE: &str = "millstream.yaml";

/// A project folder that was read without faults.
#[derive(Debug, Clone, Default)]
pub struct Project {
    /// The daemon's settings.
    pub daemon: DaemonConfig,
    /// The pipelines, by name.
    pub pipelines: BTreeMap<String, Arc<LoadedPipeline>>,
}

/// A pipeline with its SQL read in.
#[derive(Debug)]
pub struct LoadedPipeline {
    /// The file it comes from, relative to the project folder.
    pub file: PathBuf,
    /// What the file says.
    pub config: PipelineConfig,
    /// The SQL of its models.
    pub models: BTreeMap<String, ModelDefinition>,
    /// Changes whenever the file or its SQL does; a reload leaves pipelines alone that keep theirs.
    pub fingerprint: String,
}

impl Project {
    /// Reads every `*.yaml` and `*.yml` file of `folder`; `path` may also be a single pipeline's
    /// file. Reports the faults of all files at once.
    pub fn load(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let (folder, files) = match list(path) {
            Ok(found) => found,
            Err(error) => {
                let finding = Finding::new(
                    Severity::Error,
                    path.display().to_string(),
                    format!("cannot read the project: {error}"),
                )
                .code("CF0002")
                .hint("give the folder that holds your pipelines' YAML files");
                return Err(vec![Diagnostic::new(Place::file(path), finding)]);
            }
        };
        let mut project = Self::default();
        let mut faults = Vec::new();
        for file in files {
            let shown = file.strip_prefix(&folder).unwrap_or(&file).to_owned();
            if shown == Path::new(DAEMON_FILE) {
                match read_yaml::<DaemonConfig>(&file, &shown) {
                    Ok((daemon, _)) => project.daemon = daemon,
                    Err(fault) => faults.push(*fault),
                }
                continue;
            }
            match LoadedPipeline::read(&folder, &file, &shown) {
                Ok(pipeline) => {
                    let name = pipeline.config.pipeline.value.clone();
                    let place = Place::at(&shown, pipeline.config.pipeline.referenced);
                    if let Some(other) = project.pipelines.insert(name.clone(), Arc::new(pipeline)) {
                        let message = format!("the pipeline `{name}` is also defined in {}", other.file.display());
                        let finding = Finding::new(Severity::Error, name, message)
                            .code("CF0003")
                            .hint("give each pipeline a name of its own");
                        faults.push(Diagnostic::new(place, finding));
                    }
                }
                Err(found) => faults.extend(found),
            }
        }
        if faults.is_empty() && project.pipelines.is_empty() {
            let finding = Finding::new(Severity::Error, path.display().to_string(), "there is no pipeline here")
                .code("CF0004")
                .hint("write one YAML file for each pipeline; examples/shop is one to copy");
            faults.push(Diagnostic::new(Place::file(path), finding));
        }
        if faults.is_empty() { Ok(project) } else { Err(faults) }
    }
}

/// The project folder, and its YAML files in order.
fn list(path: &Path) -> std::io::Result<(PathBuf, Vec<PathBuf>)> {
    if path.is_file() {
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        return Ok((folder.to_owned(), vec![path.to_owned()]));
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            files.push(file);
        }
    }
    files.sort();
    Ok((path.to_owned(), files))
}

/// Parses a YAML file; also returns its text.
fn read_yaml<T: DeserializeOwned>(file: &Path, shown: &Path) -> Result<(T, String), Box<Diagnostic>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("cannot read the file: {error}");
        let finding = Finding::new(Severity::Error, shown.display().to_string(), message)
            .code("CF0002")
            .hint("the user that runs millstream needs to read every file of the project");
        Box::new(Diagnostic::new(Place::file(shown), finding))
    })?;
    match serde_saphyr::from_str(&text) {
        Ok(value) => Ok((value, text)),
        Err(error) => {
            let place = error
                .location()
                .map_or_else(|| Place::file(shown), |location| Place::at(shown, location));
            let message = yaml_message(&error);
            let hint = if message.ends_with("is not set") {
                "set it where millstream runs; under systemd with Environment= or EnvironmentFile="
            } else {
                "docs/reference/configuration.md lists every key with its form"
            };
            let finding = Finding::new(Severity::Error, shown.display().to_string(), message)
                .code("CF0001")
                .hint(hint);
            Err(Box::new(Diagnostic::new(place, finding)))
        }
    }
}

/// The parser's message without the snippet and the place, which we show in our own way, and
/// without the names that YAML's grammar has for lists and maps.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let place = error
        .location()
        .map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    let message = place
        .and_then(|place| text.strip_suffix(&place).map(str::to_owned))
        .unwrap_or(text);
    match message.as_str() {
        "expected sequence start" => "expected a list, such as `[first, second]`".to_owned(),
        "expected mapping start" => "expected keys and values, such as `{key: value}`".to_owned(),
        _ => message,
    }
}

impl LoadedPipeline {
    fn read(folder: &Path, file: &Path, shown: &Path) -> Result<Self, Vec<Diagnostic>> {
        let (config, text) = read_yaml::<PipelineConfig>(file, shown).map_err(|fault| vec![*fault])?;
        let mut fingerprint = Sha256::new();
        fingerprint.update(&text);
        let mut faults = invalid_names(&config, shown);
        let mut models = BTreeMap::new();
        for (name, model) in &config.models {
            let (sql, sql_file) = match read_sql(folder, &model.sql.value) {
                Ok(read) => read,
                Err(error) => {
                    let message = format!("cannot read `{}`: {error}", model.sql.value);
                    let finding = Finding::new(Severity::Error, name, message)
                        .code("CF0005")
                        .hint("the path is relative to the project folder");
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
            models.insert(
                name.clone(),
                ModelDefinition {
                    model: spec,
                    checks: model.checks.clone(),
                },
            );
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let fingerprint = hex::encode(fingerprint.finalize());
        Ok(Self {
            file: shown.to_owned(),
            config,
            models,
            fingerprint,
        })
    }

    /// Builds what one run of the pipeline works with.
    ///
    /// # Errors
    /// The first connector whose settings contradict each other.
    pub fn build(&self) -> millstream_core::Result<PipelineSpec> {
        let name = &self.config.pipeline.value;
        let sources = self
            .config
            .sources
            .iter()
            .map(|(source, config)| config.value.build(name, source));
        Ok(PipelineSpec {
            name: name.clone(),
            sources: sources.collect::<Result<_, _>>()?,
            models: self.models.clone(),
            sinks: self.build_sinks()?,
            memory: self.config.memory.0,
        })
    }

    fn build_sinks(&self) -> millstream_core::Result<Vec<SinkSpec>> {
        let sinks = self.config.sinks.iter().map(|(name, entry)| {
            let entry = &entry.value;
            let tables = entry
                .tables
                .as_ref()
                .map(|names| names.iter().map(|name| name.value.clone()).collect());
            Ok(SinkSpec {
                name: name.clone(),
                sink: entry.connector.build()?,
                tables,
                commit: entry.commit.policy(),
            })
        });
        sinks.collect()
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

    /// Where a fault of planning is to be mended.
    pub fn place(&self, subject: &Subject) -> Place {
        match subject {
            Subject::Model(name) => self.config.models.get(name).map_or_else(
                || Place::file(&self.file),
                |model| Place::at(&self.file, model.sql.referenced),
            ),
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
