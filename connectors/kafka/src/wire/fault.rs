//! What can go wrong between us and a broker.

use std::io;
use std::time::Duration;

use tokio_rustls::rustls;

/// A connection or a request failed. The connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum WireFault {
    /// No connection, or it broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// A certificate was refused, by one side or the other, or there is no common way to encrypt.
    #[error("{0}")]
    Tls(#[source] rustls::Error),
    /// The broker does not let us in.
    #[error("{0}")]
    Refused(String),
    /// The broker answers what no broker would.
    #[error("{0}")]
    Malformed(String),
}

impl WireFault {
    /// An answer that cannot be understood.
    pub fn malformed(what: impl std::fmt::Display) -> Self {
        Self::Malformed(format!("an answer cannot be understood: {what:#}"))
    }

    /// Whether to try again is of no use before somebody changes something.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Refused(_))
    }
}
