//! The other end of the admin interface, for `millstream status` and the demo.

use std::net::SocketAddr;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The JSON of `/api/v1/pipelines`. HTTP/1.0 keeps the answer free of chunks, which spares a
/// client library.
///
/// # Errors
/// If nothing answers at `admin`, or something else than a daemon does; with a hint.
pub async fn pipelines(admin: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(admin).await.map_err(|error| {
        anyhow!(
            "cannot reach a daemon at {admin}: {error}\n\
             hint: start it with `millstream run`, or name its address with --admin"
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
