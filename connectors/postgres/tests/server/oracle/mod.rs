//! Independent oracles: a real subscriber, and PostgreSQL's own tests of replication and of decoding.

mod cases;
mod decoding;
mod follower;
mod pair;
mod perl;
mod reader;
mod replay;
mod rows;
mod script;
mod session;

/// Which of PostgreSQL's own tests are replayed: those with this in their names; `None` for those that
/// always are.
fn wanted() -> Option<String> {
    let only = std::env::var("MILLSTREAM_REPLAY").ok()?;
    Some(if only == "all" { String::new() } else { only })
}
