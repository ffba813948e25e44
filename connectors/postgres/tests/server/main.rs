//! The source against real PostgreSQL servers, each started for one test.

mod conformance;
mod login;
mod old_rows;
mod preflight;
mod replies;
mod resume;
mod stream;
mod target;
mod throughput;
mod values;
