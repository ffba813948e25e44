//! The engine: carries events from sources through SQL and checks into sinks, and commits.
//!
//! Decisions are pure functions ([`epoch`], [`resume`], [`held`]); [`run`] carries them out.
//! Nothing here knows a particular connector, the command line or the admin interface.

mod commit;
pub mod desks;
pub mod epoch;
mod held;
mod inlet;
mod output;
mod pad;
pub mod plan;
pub mod resume;
mod run;
mod stage;
pub mod status;
mod table_names;

pub use commit::FAILPOINTS;
pub use plan::{ModelDefinition, PipelineSpec, SinkSpec};
pub use run::{Outcome, run};
