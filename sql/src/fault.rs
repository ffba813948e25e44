//! Faults of a model's SQL: what is wrong, where in the text, and what to do.

use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::tokenizer::Span;
use millstream_core::{Error, ErrorKind};

use crate::ModelSpec;
use crate::mixed::{self, Mixed};

/// A fault in a model's SQL, before it is known which model and file it stands in.
#[derive(Debug)]
pub(crate) struct Fault {
    kind: ErrorKind,
    code: &'static str,
    message: String,
    hint: Option<String>,
    /// Line and column of the SQL, both from 1.
    at: Option<(u64, u64)>,
}

impl Fault {
    /// Something that cannot be done over a change stream.
    pub(crate) fn unsupported(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unsupported,
            code,
            message: message.into(),
            hint: None,
            at: None,
        }
    }

    /// Something that is wrong as it is written.
    pub(crate) fn wrong(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Config,
            ..Self::unsupported(code, message)
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the place, unless the span is empty or a place is known already.
    pub(crate) fn at(mut self, span: Span) -> Self {
        if self.at.is_none() && span.start.line > 0 {
            self.at = Some((span.start.line, span.start.column));
        }
        self
    }

    /// What DataFusion found wrong while it parsed or planned.
    pub(crate) fn from_planner(error: &DataFusionError) -> Self {
        let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
        let mut fault = match error.find_root() {
            DataFusionError::SQL(parser, _) => {
                let text = parser.to_string();
                let text = text.strip_prefix("sql parser error: ").unwrap_or(&text);
                let (message, at) = split_place(text);
                Self {
                    at,
                    ..Self::wrong("SQ0001", format!("the SQL cannot be parsed: {message}"))
                        .hint("a model is one SELECT in the SQL of DataFusion, which is close to PostgreSQL's")
                }
            }
            DataFusionError::SchemaError(schema_error, _) => unknown_column(schema_error),
            _ => {
                let message = error.diagnostic().map_or_else(
                    || error.find_root().strip_backtrace(),
                    |diagnostic| diagnostic.message.clone(),
                );
                from_text(&message)
            }
        };
        if let (None, Some(span)) = (fault.at, span) {
            fault.at = Some((span.start.line, span.start.column));
        }
        fault
    }

    /// A comparison of text with a number.
    pub(crate) fn mixed(mixed: &Mixed) -> Self {
        Self {
            at: mixed.span.map(|span| (span.start.line, span.start.column)),
            ..Self::wrong("SQ0025", format!("`{}` compares text with a number", mixed.text)).hint(mixed::HINT)
        }
    }

    /// A constant that fails while it is computed once for all rows. The message can quote it:
    /// it is the user's own SQL, no row's value.
    pub(crate) fn from_constant(error: &DataFusionError) -> Self {
        let root = error.find_root().strip_backtrace();
        Self::wrong("SQ0021", format!("a constant of the SQL cannot be computed: {root}"))
            .hint("it fails for every row; correct the constant")
    }

    /// The error of the contract, with the model and the place.
    pub(crate) fn locate(self, spec: &ModelSpec) -> Error {
        let mut error = Error::new(self.kind, self.message)
            .code(self.code)
            .with("model", &spec.name);
        error = match (&spec.file, self.at) {
            (Some(file), Some((line, column))) => error.with("at", format_args!("{file}:{line}:{column}")),
            (Some(file), None) => error.with("at", file),
            (None, Some((line, column))) => error.with("at", format_args!("line {line}, column {column}")),
            (None, None) => error,
        };
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// `… at Line: 1, Column: 8` at the end of a parser's message becomes a place.
fn split_place(text: &str) -> (&str, Option<(u64, u64)>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return (text, None);
    };
    let at = place
        .split_once(", Column: ")
        .and_then(|(line, column)| Some((line.parse().ok()?, column.parse().ok()?)));
    (message, at)
}

fn unknown_column(error: &SchemaError) -> Fault {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<String> = valid_fields
                .iter()
                .map(Column::name)
                .map(|name| format!("`{name}`"))
                .collect();
            let fault = Fault::wrong("SQ0003", format!("there is no column `{}`", field.name()));
            if names.is_empty() {
                fault
            } else {
                fault.hint(format!("the columns are {}", names.join(", ")))
            }
        }
        SchemaError::DuplicateUnqualifiedField { name } | SchemaError::DuplicateQualifiedField { name, .. } => {
            Fault::wrong("SQ0003", format!("the output has two columns called `{name}`"))
                .hint("rename one of them with AS")
        }
        // DataFusion says so of a reference as well as of an output that has one name twice.
        SchemaError::AmbiguousReference { field } => Fault::wrong(
            "SQ0003",
            format!("the name `{}` means more than one column", field.name()),
        )
        .hint("put the table's name before it, or rename one of the output's columns with AS"),
    }
}

/// The first line says what is wrong; DataFusion's suggestions follow on further lines.
fn from_text(text: &str) -> Fault {
    let text = text.strip_prefix("Error during planning: ").unwrap_or(text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let fault = Fault::wrong(
        "SQ0003",
        format!("the SQL cannot be planned: {}", lines.next().unwrap_or_default()),
    );
    let rest: Vec<&str> = lines.take(3).collect();
    if rest.is_empty() {
        fault.hint("check the names and types of the columns, and what the functions take; CAST converts types")
    } else {
        fault.hint(rest.join(" "))
    }
}
