//! The source against real PostgreSQL servers, each started for one test.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod attached;
mod attached_random;
mod authority;
mod backfills;
mod backlog;
mod backlog_random;
mod changes;
mod conformance;
mod copies;
mod copy_sessions;
mod dice;
mod failover;
mod hosts;
mod in_progress;
mod in_progress_random;
mod login;
mod lost_slot;
mod membership;
mod old_rows;
mod oracle;
mod partitions;
mod preflight;
mod publications;
mod refusals;
mod renamed;
mod renamed_others;
mod replaced;
mod replaced_random;
mod replies;
mod resume;
mod schema_changes;
mod schema_changes_random;
mod setup;
mod slots;
mod snapshot;
mod stream;
mod target;
mod throughput;
mod toast;
mod toast_random;
mod trigger;
mod types;
mod values;
