//! The other end of the admin interface, for the command line and the demo.

use std::net::SocketAddr;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::BackfillRequest;

/// The daemon's answer to a request for a backfill.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackfillAnswer {
    /// Why it is refused; `None` if it has begun.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// The JSON of `/api/v1/pipelines`.
///
/// # Errors
/// If nothing answers at `admin`, or something else than a daemon does; with a hint.
pub async fn pipelines(admin: SocketAddr) -> anyhow::Result<String> {
    let (status, body) = exchange(admin, "GET", "/api/v1/pipelines", "").await?;
    if status != "200" {
        bail!("{admin} answers `{status}`\nhint: is it Millstream's admin address?");
    }
    Ok(body)
}

/// Asks for a copy of `table` by `pipeline`.
///
/// # Errors
/// As [`pipelines`].
pub async fn backfill(
    admin: SocketAddr,
    pipeline: &str,
    table: &str,
    condition: Option<&str>,
) -> anyhow::Result<BackfillAnswer> {
    let request = BackfillRequest {
        pipeline: pipeline.to_owned(),
        table: table.to_owned(),
        condition: condition.map(str::to_owned),
    };
    let (_, body) = exchange(admin, "POST", "/api/v1/backfills", &serde_json::to_string(&request)?).await?;
    serde_json::from_str(&body).with_context(|| format!("{admin} does not answer as Millstream does"))
}

/// One request, and the status and body of its answer. HTTP/1.0 keeps the answer free of chunks,
/// which spares a client library.
async fn exchange(admin: SocketAddr, method: &str, path: &str, content: &str) -> anyhow::Result<(String, String)> {
    let mut stream = TcpStream::connect(admin).await.map_err(|error| {
        anyhow!(
            "cannot reach a daemon at {admin}: {error}\n\
             hint: start it with `millstream run`, or name its address with --admin"
        )
    })?;
    let length = content.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{content}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}
