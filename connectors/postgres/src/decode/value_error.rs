//! Why one value cannot be stored.

/// What is wrong with a value, never the value itself. The row goes to quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    /// The binary form has another length than its type.
    #[error("the binary value has a wrong length")]
    Length,
    /// The value breaks the rules of its type's format.
    #[error("malformed value: {0}")]
    Malformed(&'static str),
    /// The value is sound but has no place in the Arrow type.
    #[error("out of range: {0}")]
    OutOfRange(&'static str),
    /// NaN in a decimal column, where PostgreSQL allows it, or an infinity, where it does not.
    #[error("NaN and infinity have no place in a decimal column")]
    NotFinite,
    /// An array of two or more dimensions in a list column.
    #[error("a multi-dimensional array has no place in a list column")]
    MultiDimensional,
    /// An array whose first element has another number than 1 in a list column.
    #[error("an array with another lower bound than 1 has no place in a list column")]
    LowerBound,
    /// Text that is not UTF-8, as a database in `SQL_ASCII` may store and send it.
    #[error("the text is not valid UTF-8")]
    NotUtf8,
    /// A binary value of a type that is read as text only.
    #[error("the binary form of this type is not known")]
    NoBinaryForm,
}

/// Shorthand for results about one value.
pub(crate) type Result<T> = std::result::Result<T, ValueError>;
