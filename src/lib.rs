//! The Millstream daemon: see `ARCHITECTURE.md` for the code map.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod engine;
pub mod registry;
pub mod supervisor;
