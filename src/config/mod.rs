//! A user's project folder: one YAML file for each pipeline, and `millstream.yaml` for the daemon.

mod daemon;
mod diagnostic;
mod pipeline;
mod project;

pub use daemon::DaemonConfig;
pub use diagnostic::{Diagnostic, Place};
pub use pipeline::{ModelConfig, PipelineConfig, SinkEntry};
pub use project::{DAEMON_FILE, LoadedPipeline, Project};
