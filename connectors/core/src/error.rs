//! The one error type that crosses the edge between a connector and the engine.

use std::error::Error as StdError;
use std::fmt;

/// Shorthand for results of the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the terms by which the engine decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The configuration cannot work as it stands.
    Config,
    /// The other side rejected who we are or what we may do.
    Denied,
    /// The other side cannot be reached, closed the connection, or asked us to come back later.
    Unavailable,
    /// The source no longer holds what follows the committed position.
    PositionLost,
    /// Another writer has moved the table on.
    Fenced,
    /// Stored state contradicts itself or what was promised.
    Corrupt,
    /// The source's table changed in a way that the target or the policy does not admit.
    SchemaChange,
    /// A check with `then: fail` was tripped.
    CheckFailed,
    /// Something that this version does not do.
    Unsupported,
    /// A disk or a quota is full.
    StorageFull,
    /// The pipeline is being stopped.
    Cancelled,
    /// A fault of our own.
    Internal,
}

/// What the engine does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// Rebuild the pipeline after a backoff with jitter; it resumes from its committed positions.
    Restart,
    /// Stop the pipeline and wait for a person; a restart would meet the same error.
    Halt,
}

impl ErrorKind {
    /// The one place where a kind of error becomes a course of action.
    pub const fn directive(self) -> Directive {
        match self {
            // A full disk, a fenced-out network or a panic may pass; backoff keeps retries cheap.
            Self::Unavailable | Self::StorageFull | Self::Internal => Directive::Restart,
            Self::Config
            | Self::Denied
            | Self::PositionLost
            | Self::Fenced
            | Self::Corrupt
            | Self::SchemaChange
            | Self::CheckFailed
            | Self::Unsupported
            | Self::Cancelled => Directive::Halt,
        }
    }

    /// The kind's name in logs, metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::PositionLost => "position_lost",
            Self::Fenced => "fenced",
            Self::Corrupt => "corrupt",
            Self::SchemaChange => "schema_change",
            Self::CheckFailed => "check_failed",
            Self::Unsupported => "unsupported",
            Self::StorageFull => "storage_full",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// An error with what was attempted, where, and what to do about it.
///
/// Never put a cell's value or a secret into any part of it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    code: Option<&'static str>,
    message: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what could not be done, in a few words, lowercase.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            message: message.into(),
            context: Vec::new(),
            hint: None,
            source: None,
        }
    }

    /// Adds the code under which `docs/errors/` has a page, such as `PG0003`.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Adds where it happened: a table, a slot, a URL without its password.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.context.push((name, value.to_string()));
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind, by which the engine decides.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The code of the error's page, where it has one.
    pub fn error_code(&self) -> Option<&'static str> {
        self.code
    }

    /// What to do about it, where we know.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message with its context and causes on one line, without the hint.
    pub fn summary(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message)?;
        for (index, (name, value)) in self.context.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { " (" } else { ", " })?;
        }
        if self.context.is_empty() {
            Ok(())
        } else {
            f.write_str(")")
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_code_place_and_cause() {
        let error = Error::new(ErrorKind::Unavailable, "cannot connect")
            .code("PG0001")
            .with("host", "db")
            .caused_by("connection refused");
        assert_eq!(error.summary(), "PG0001: cannot connect (host=db): connection refused");
        assert_eq!(error.kind().directive(), Directive::Restart);
    }
}
