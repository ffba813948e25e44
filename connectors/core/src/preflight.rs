//! What a connector finds out before a pipeline runs.

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// It will run, but something is likely to disappoint.
    Warning,
    /// It will not run.
    Error,
}

/// One thing that a preflight check found. A preflight has no side effects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The code under which `docs/errors/` has a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// What it concerns: a server, a table, a slot; empty where the message says so itself.
    pub subject: String,
    /// What was found.
    pub message: String,
    /// What to do, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The statement that mends it, ready to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
}

impl Finding {
    /// A finding about `subject`.
    pub fn new(severity: Severity, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity,
            code: None,
            subject: subject.into(),
            message: message.into(),
            hint: None,
            sql: None,
        }
    }

    /// Adds the code of its page.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the statement that mends it.
    #[must_use]
    pub fn sql(mut self, sql: impl Into<String>) -> Self {
        self.sql = Some(sql.into());
        self
    }
}

impl From<&crate::Error> for Finding {
    /// An error met while looking becomes a finding of its own.
    fn from(error: &crate::Error) -> Self {
        Self {
            severity: Severity::Error,
            code: error.error_code(),
            subject: String::new(),
            message: error.summary(),
            hint: error.hint_text().map(str::to_owned),
            sql: None,
        }
    }
}
