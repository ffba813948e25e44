//! Codes of the errors that a user can meet; each has a page in `docs/errors/`.

/// No broker can be reached.
pub const UNREACHABLE: &str = "KF0001";
/// The brokers refused who we are or what we may do.
pub const DENIED: &str = "KF0002";
/// A topic does not exist.
pub const NO_TOPIC: &str = "KF0003";
/// The topic no longer holds what follows the committed offset.
pub const POSITION_LOST: &str = "KF0004";
/// A committed position is not an offset.
pub const NOT_AN_OFFSET: &str = "KF0005";
/// No TLS connection can be made.
pub const TLS: &str = "KF0006";
/// There is no message to infer columns from.
pub const NO_SAMPLE: &str = "KF0007";
/// A batch of the log cannot be read.
pub const UNREADABLE: &str = "KF0008";
/// The configuration cannot work.
pub const CONFIG: &str = "KF0009";
/// A topic that was being read is gone, or has lost partitions.
pub const TOPIC_GONE: &str = "KF0010";
/// The columns of a topic are inferred anew at each start.
pub const INFERRED: &str = "KF0011";
