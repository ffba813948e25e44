//! The source against real PostgreSQL servers, each started for one test.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod authority;
mod backfills;
mod changes;
mod conformance;
mod copies;
mod failover;
mod hosts;
mod in_progress;
mod in_progress_random;
mod login;
mod membership;
mod old_rows;
mod oracle;
mod preflight;
mod publications;
mod refusals;
mod replies;
mod resume;
mod setup;
mod slots;
mod snapshot;
mod stream;
mod target;
mod throughput;
mod types;
mod values;
