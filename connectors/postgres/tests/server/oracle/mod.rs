//! Independent oracles: a real subscriber, and PostgreSQL's own tests of replication.

mod cases;
mod follower;
mod pair;
mod perl;
mod replay;
mod rows;
mod session;
