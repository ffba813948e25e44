//! `millstream status`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Format, StatusArgs};
use crate::engine::status::PipelineStatus;

pub fn main(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(5), fetch(args.admin))
            .await
            .with_context(|| format!("no answer from {} within 5 seconds", args.admin))?
    })?;
    match args.format {
        Format::Json => println!("{body}"),
        Format::Text => print(&serde_json::from_str::<Vec<PipelineStatus>>(&body)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// One GET to the daemon's API. HTTP/1.0 keeps the answer free of chunks, which spares a client library.
async fn fetch(admin: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(admin).await.with_context(|| {
        format!(
            "cannot reach a daemon at {admin}\nhint: start it with `millstream run`, or name its address with --admin"
        )
    })?;
    let request = format!("GET /api/v1/pipelines HTTP/1.0\r\nHost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!(
            "{admin} answers `{}`\nhint: is it Millstream's admin address?",
            head.lines().next().unwrap_or_default()
        );
    }
    Ok(body.to_owned())
}

fn print(pipelines: &[PipelineStatus]) {
    for pipeline in pipelines {
        let state = serde_json::to_value(pipeline.state)
            .ok()
            .and_then(|state| state.as_str().map(str::to_owned));
        let lag = pipeline
            .lag_seconds
            .map(|lag| format!(", {lag:.1} s behind"))
            .unwrap_or_default();
        println!(
            "{}: {} ({}{lag}), {} rows in, {} commits, {} restarts",
            pipeline.pipeline,
            state.unwrap_or_default(),
            pipeline.delivery,
            pipeline.rows_in,
            pipeline.commits,
            pipeline.restarts
        );
        println!(
            "  {:<32} {:>12} {:>10} {:>12} {:>10} {:>8}",
            "table", "rows", "pending", "quarantined", "dropped", "version"
        );
        for (name, table) in &pipeline.tables {
            println!(
                "  {name:<32} {:>12} {:>10} {:>12} {:>10} {:>8}",
                table.rows, table.pending, table.quarantined, table.dropped, table.version
            );
        }
        if let Some(error) = &pipeline.last_error {
            println!("  last error: {}", error.message);
            if let Some(hint) = &error.hint {
                println!("  hint: {hint}");
            }
        }
    }
}
