//! The Parquet sink on a local folder and on stores that fail, read back with the parquet crate.

mod conformance;
#[cfg(feature = "failpoints")]
#[expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
mod crashes;
mod faulty_store;
mod fencing;
mod files;
mod lake;
mod outcomes;
mod probe;
mod sweeping;
