//! A user's project folder: one YAML file for each pipeline, and `millstream.yaml` for the daemon.

mod conflicts;
mod daemon;
mod diagnostic;
mod loaded;
mod pipeline;
mod project;
mod yaml;

pub use daemon::DaemonConfig;
pub use diagnostic::{Diagnostic, Place};
pub use loaded::LoadedPipeline;
pub use pipeline::{ModelConfig, PipelineConfig, SinkEntry};
pub use project::{DAEMON_FILE, Project};
