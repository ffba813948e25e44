//! Messages that break the protocol's rules.

use millstream_core::{Error, ErrorKind};

/// What is wrong with a message as a whole. Reading cannot go on after it, because what
/// follows cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// A field reaches past the end of its message.
    #[error("a message ends before its last field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("a message goes on after its last field")]
    Trailing,
    /// A message type that was not asked for.
    #[error("unknown message type 0x{0:02x}")]
    UnknownMessage(u8),
    /// A field holds what the manual does not list.
    #[error("unknown content in {0}")]
    UnknownContent(&'static str),
    /// A name is not valid UTF-8.
    #[error("a name is not valid UTF-8")]
    NotUtf8,
    /// A row has another number of columns than its table.
    #[error("a row has {found} columns where its table has {expected}")]
    ColumnCount {
        /// Columns of the table.
        expected: usize,
        /// Columns of the row.
        found: usize,
    },
    /// A row of a copy has another number of fields than was asked for.
    #[error("a row of the copy has {found} fields where {expected} were asked for")]
    FieldCount {
        /// Fields that were asked for.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// A stream that does not begin with the signature of `COPY … (FORMAT binary)`.
    #[error("the copy stream does not begin with its signature")]
    NoSignature,
    /// The copy stream ended without its trailer.
    #[error("the copy stream ended before its trailer")]
    NoTrailer,
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Error::new(ErrorKind::Corrupt, "cannot read what PostgreSQL sent")
            .code("PG0040")
            .caused_by(error)
            .hint("check that nothing but PostgreSQL 14 or later answers at this address, then report this as a fault")
    }
}
