//! Independent oracles: a real subscriber, and PostgreSQL's own tests of replication and decoding.

mod cases;
mod decoding;
mod follower;
mod pair;
mod perl;
mod replay;
mod rows;
mod session;
