//! Loading a project folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::{Finding, Severity};

use super::loaded::LoadedPipeline;
use super::yaml::read_yaml;
use super::{DaemonConfig, Diagnostic, Place, conflicts};

/// The name of the daemon's own file in a project folder.
pub const DAEMON_FILE: &str = "millstream.yaml";

/// A project folder that was read.
#[derive(Debug, Clone, Default)]
pub struct Project {
    /// The daemon's settings.
    pub daemon: DaemonConfig,
    /// The pipelines, by name.
    pub pipelines: BTreeMap<String, Arc<LoadedPipeline>>,
}

impl Project {
    /// As [`read`](Self::read), for those who want a project without faults.
    ///
    /// # Errors
    /// The faults of all files at once.
    pub fn load(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let (project, faults) = Self::read(path);
        if faults.is_empty() { Ok(project) } else { Err(faults) }
    }

    /// Reads every `*.yaml` and `*.yml` file of `folder`; `path` may also be a single pipeline's
    /// file. Returns the pipelines that could be read, and the faults of all files: everything
    /// that can be known without connecting, but for the SQL.
    pub fn read(path: &Path) -> (Self, Vec<Diagnostic>) {
        let mut project = Self::default();
        let (folder, files) = match list(path) {
            Ok(found) => found,
            Err(error) => {
                let finding = Finding::new(
                    Severity::Error,
                    path.display().to_string(),
                    format!("cannot read the project: {error}"),
                )
                .code("CF0002")
                .hint(
                    "give the folder that holds your pipelines' YAML files, readable by the user that runs millstream",
                );
                return (project, vec![Diagnostic::new(Place::file(path), finding)]);
            }
        };
        let mut faults = Vec::new();
        for file in files {
            let shown = file.strip_prefix(&folder).unwrap_or(&file).to_owned();
            if shown == Path::new(DAEMON_FILE) {
                match read_yaml::<DaemonConfig>(&file, &shown) {
                    Ok((daemon, _)) => project.daemon = daemon,
                    Err(found) => faults.extend(found),
                }
                continue;
            }
            let (pipeline, found) = LoadedPipeline::read(&folder, &file, &shown);
            faults.extend(found);
            let Some(pipeline) = pipeline else { continue };
            let name = pipeline.config.pipeline.value.clone();
            let place = Place::at(&shown, pipeline.config.pipeline.referenced);
            if let Some(other) = project.pipelines.get(&name) {
                let message = format!("the pipeline `{name}` is also defined in {}", other.file.display());
                let finding = Finding::new(Severity::Error, name, message)
                    .code("CF0003")
                    .hint("give each pipeline a name of its own");
                faults.push(Diagnostic::new(place, finding));
            } else {
                project.pipelines.insert(name, Arc::new(pipeline));
            }
        }
        faults.extend(conflicts::faults(project.pipelines.values().map(Arc::as_ref)));
        if faults.is_empty() && project.pipelines.is_empty() {
            let finding = Finding::new(Severity::Error, path.display().to_string(), "there is no pipeline here")
                .code("CF0004")
                .hint("write one YAML file for each pipeline; examples/shop is one to copy");
            faults.push(Diagnostic::new(Place::file(path), finding));
        }
        (project, faults)
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
