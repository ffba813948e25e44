//! The decisions of the commit protocol, as pure functions of observed facts.

pub mod memory;
pub mod publish;
pub mod recover;
pub mod sweep;
