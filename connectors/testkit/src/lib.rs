//! What tests of Millstream stand on: throw-away servers, connectors in memory, fault
//! injection, and the conformance suites that every connector runs.
//!
//! A dev-dependency only. Servers are started on free loopback ports with their data in
//! temporary folders, and are stopped when their handle is dropped, also by a panic; a test
//! process that is killed takes them with it.

pub mod change_log;
pub mod fault_proxy;
pub mod kafka;
pub mod memory_log;
pub mod memory_sink;
pub mod memory_source;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod seaweedfs;
pub mod sink_suite;
pub mod source_suite;
pub mod tools;

/// Says on standard error, past the capture of a test's output, that a part of the tests is
/// not what it should be.
pub fn loudly(what: &str) {
    use std::io::Write as _;
    let rule = "*".repeat(88);
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "\n{rule}\n* {what}\n{rule}");
}
