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
