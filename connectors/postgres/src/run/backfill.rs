//! Copies that somebody asks for while the stream runs.

use millstream_core::{Error, ErrorKind, Result, TableId};

use super::copy::{Copier, Purpose, Rows, Wanted, selects};
use crate::catalog;
use crate::config::Settings;
use crate::fault;
use crate::owed::Why;

/// Runs a copy that was asked for. One that the server refuses is given up, and its reason is logged: the
/// stream must not end for it.
pub(super) async fn run(mut copier: Copier) -> Result<()> {
    let settings = copier.settings.clone();
    let requests = copier.wanted.iter().filter_map(request).collect();
    let outcome = match check(&settings, requests).await {
        Ok(()) => copier.run().await,
        refused => refused,
    };
    let awaited = copier.wanted.iter().any(|wanted| wanted.answer.is_some());
    match outcome {
        Err(error) if awaited || is_final(&error) => refuse(copier, error).await,
        outcome => outcome,
    }
}

/// Tells who waits for an answer; where it was given, the copy has begun and is given up.
async fn refuse(mut copier: Copier, error: Error) -> Result<()> {
    let answer = copier.wanted.iter_mut().find_map(|wanted| wanted.answer.take());
    let Some(answer) = answer else {
        return copier.give_up(error).await;
    };
    // Who asked may have gone.
    let _ = answer.send(Err(error));
    Ok(())
}

/// Whether a copy that failed so would fail again.
fn is_final(error: &Error) -> bool {
    let refused = matches!(
        error.kind(),
        ErrorKind::Config | ErrorKind::Unsupported | ErrorKind::Denied | ErrorKind::SchemaChange
    );
    // Whatever else the server said of the statement, as that an administrator cancelled it; a
    // server that is away, full or shutting down has codes of its own.
    refused || error.error_code() == Some("PG0027")
}

/// What was asked for: a table, and the condition of its rows.
type Request = (TableId, String);

/// What was asked for of a copy; nothing if nobody did.
fn request(wanted: &Wanted) -> Option<Request> {
    match &wanted.purpose {
        Purpose::Backfill {
            rows: Rows::Where(condition),
            why: Why::Asked,
            ..
        } => Some((wanted.table.clone(), condition.clone())),
        Purpose::Backfill { .. } | Purpose::First => None,
    }
}

/// Has the server look at the statements of requests without running them. Each is sent as one, so
/// that a condition cannot end it and begin another.
async fn check(settings: &Settings, requests: Vec<Request>) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let mut sql = super::connect(settings).await?;
    for (table, condition) in &requests {
        let tables = super::read_tables(settings, &mut sql, std::slice::from_ref(table)).await?;
        let names = tables.iter().map(|table| catalog::quoted(&table.present));
        let statements: Vec<String> = names.flat_map(|name| selects(&name, condition)).collect();
        for statement in statements {
            sql.parse(&statement).await.map_err(|error| {
                fault::explain(error, "the table cannot be copied again", &settings.connect)
                    .hint("the condition is one of SQL over the table's columns, such as `placed_at >= '2026-01-01'`")
            })?;
        }
    }
    sql.close().await;
    Ok(())
}

/// Why a request is refused.
pub(super) fn refusal(message: &str) -> Error {
    Error::new(ErrorKind::Config, message)
        .code("PG0070")
        .hint("`millstream status` lists the tables of a pipeline, and the copies that run")
}
