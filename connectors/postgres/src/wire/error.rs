//! What can go wrong on the wire.

use std::fmt;
use std::io;

use tokio_rustls::rustls;

use super::SessionAttrs;

/// A failure of the transport or of the server at its other end.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No host could be reached; the last one's reason.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host that was tried last.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// A step took longer than it may.
    #[error("{0} took longer than {1:?}")]
    TimedOut(&'static str, std::time::Duration),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The server closed the connection without a word.
    #[error("the server closed the connection")]
    Closed,
    /// TLS was required and the server does not do it.
    #[error("the server does not offer TLS")]
    TlsNotOffered,
    /// The TLS handshake failed.
    #[error("the TLS handshake failed")]
    Tls(#[source] rustls::Error),
    /// A certificate or key file cannot be used.
    #[error("cannot use `{path}`")]
    Certificate {
        /// The file.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server wants a way of authenticating that we do not have, or a password we were not given.
    #[error("{0}")]
    Authentication(String),
    /// The login would not be bound to the TLS channel, and `channel_binding=require` asks for it.
    #[error("the login cannot be bound to the TLS channel: {0}")]
    NotBound(&'static str),
    /// The host is not of the kind that `target_session_attrs` asks for.
    #[error("{host} is not what target_session_attrs={wanted} asks for")]
    NotWanted {
        /// The host that was tried last.
        host: String,
        /// What was asked for.
        wanted: SessionAttrs,
    },
    /// Of several hosts another one answers than a moment ago, or one was promoted meanwhile.
    #[error("another server answers than a moment ago")]
    AnotherServer,
    /// What was kept of the log cannot be read.
    #[error("the backlog cannot be read")]
    Backlog(#[source] io::Error),
    /// The server said so.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The server sent what the protocol does not allow here.
    #[error("unexpected data from the server: {0}")]
    Protocol(String),
}

impl WireError {
    /// The SQLSTATE, where the server sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.code),
            _ => None,
        }
    }
}

/// An ErrorResponse (PostgreSQL manual, 55.8). The detail is left out on purpose: it quotes
/// values of rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// The SQLSTATE, five characters.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// What the server proposes, where it does.
    pub hint: Option<String>,
}

impl ServerError {
    /// Whether the server closes the connection after this ErrorResponse.
    pub(super) fn is_fatal(body: &[u8]) -> bool {
        let mut fields = body.split(|byte| *byte == 0);
        fields.any(|field| matches!(field, b"VFATAL" | b"VPANIC"))
    }

    pub(super) fn parse(body: &[u8]) -> Self {
        let mut error = Self::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, value)) = field.split_first() else {
                break;
            };
            let value = || String::from_utf8_lossy(value).into_owned();
            match kind {
                b'C' => error.code = value(),
                b'M' => error.message = value(),
                b'H' => error.hint = Some(value()),
                _ => {}
            }
        }
        // Those of data exceptions quote the value.
        if error.code.starts_with("22") && error.code != "22023" {
            "a value cannot be processed; the server's log says which".clone_into(&mut error.message);
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

impl std::error::Error for ServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_response_is_read_without_its_detail() {
        let error = ServerError::parse(b"SFATAL\0C28P01\0Mwrong password\0DKey (id)=(7)\0Htry again\0\0");
        assert_eq!(error.to_string(), "wrong password (SQLSTATE 28P01)");
        assert_eq!(error.hint.as_deref(), Some("try again"));
        assert!(!format!("{error:?}").contains("(7)"));
        let error = ServerError::parse(b"SERROR\0C22021\0Minvalid byte sequence for encoding \"UTF8\": 0xe4\0\0");
        assert!(!error.to_string().contains("e4"), "{error}");
    }
}
