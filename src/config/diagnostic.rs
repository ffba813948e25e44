//! Faults of a configuration, each with its place.

use std::fmt;
use std::path::{Path, PathBuf};

use millstream_core::{Finding, Severity};
use serde::Serialize;

/// A place in a file of the project folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file, relative to the folder that was given.
    pub file: PathBuf,
    /// The line, from 1; 0 where the whole file is meant.
    pub line: u64,
    /// The column in characters, from 1; 0 where the whole line is meant.
    pub column: u64,
}

impl Place {
    /// The whole of `file`.
    pub fn file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
        }
    }

    /// A place that the YAML parser names.
    pub fn at(file: &Path, location: serde_saphyr::Location) -> Self {
        Self {
            file: file.to_owned(),
            line: location.line(),
            column: location.column(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        Ok(())
    }
}

/// A finding with the place in the configuration that it concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Where to look.
    #[serde(flatten)]
    pub place: Place,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Diagnostic {
    /// A fault at `place`. One that has no remedy of its own names its page.
    pub fn new(place: Place, mut finding: Finding) -> Self {
        if let (Some(code), None, None) = (finding.code, &finding.hint, &finding.sql) {
            finding.hint = Some(format!("docs/errors/{code}.md says what to do"));
        }
        Self { place, finding }
    }

    /// Whether it stops the pipeline from running.
    pub fn is_error(&self) -> bool {
        self.finding.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    /// ```text
    /// error[PG0014]: there is no such publication
    ///   --> orders.yaml:4:5 (publication millstream)
    ///   hint: create it as the owner of the tables
    ///   sql: CREATE PUBLICATION …
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.finding.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let code = self.finding.code.map(|code| format!("[{code}]")).unwrap_or_default();
        // A message begins with its own code where it was made from an error.
        let message = match self.finding.code {
            Some(code) => self
                .finding
                .message
                .strip_prefix(&format!("{code}: "))
                .unwrap_or(&self.finding.message),
            None => &self.finding.message,
        };
        writeln!(f, "{severity}{code}: {message}")?;
        write!(f, "  --> {}", self.place)?;
        let subject = &self.finding.subject;
        if !message.contains(subject.as_str()) && *subject != self.place.file.display().to_string() {
            write!(f, " ({subject})")?;
        }
        if let Some(hint) = &self.finding.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        if let Some(sql) = &self.finding.sql {
            write!(f, "\n  sql: {sql}")?;
        }
        Ok(())
    }
}
