//! As much of HTTP/1.1 (RFC 9112) as a proxy of one request per connection needs.

use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The answer of a server that is overloaded, in S3's words.
pub const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\n\
    Content-Length: 51\r\nConnection: close\r\n\r\n<Error><Code>SlowDown</Code><Message/></Error>     ";

/// The answer of a server that has stored an object.
pub const SUCCESS: &[u8] = b"HTTP/1.1 200 OK\r\nETag: \"0\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// More than any client sends.
const MAX_HEAD: usize = 64 << 10;

/// The head of a request, and what of its body came with it.
pub struct Request {
    head: String,
    begun_body: Vec<u8>,
}

impl Request {
    /// Reads a request up to the end of its head. `None` if the client ends instead.
    pub async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut read = Vec::with_capacity(4 << 10);
        loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                let begun_body = read.split_off(end + 4);
                let head = String::from_utf8(read).map_err(|_| malformed("a head that is not UTF-8"))?;
                return Ok(Some(Self { head, begun_body }));
            }
            if read.len() > MAX_HEAD {
                return Err(malformed("a head without an end"));
            }
            if client.read_buf(&mut read).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// `GET`, `PUT` …
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The head, asking the server to close the connection after its answer.
    pub fn closing_head(&self) -> Vec<u8> {
        let kept = self
            .head
            .trim_end()
            .split("\r\n")
            .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let mut head = kept.collect::<Vec<_>>().join("\r\n");
        head.push_str("\r\nConnection: close\r\n\r\n");
        head.into_bytes()
    }

    /// Copies the body, whose length the head must tell.
    pub async fn pass_body(
        &self,
        client: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        if self.header("transfer-encoding").is_some() {
            return Err(malformed("a body of unknown length, which this proxy does not pass"));
        }
        let length: u64 = self
            .header("content-length")
            .unwrap_or("0")
            .parse()
            .map_err(malformed)?;
        to.write_all(&self.begun_body).await?;
        let rest = length.saturating_sub(self.begun_body.len() as u64);
        let copied = io::copy(&mut client.take(rest), to).await?;
        if copied < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.flush().await
    }
}

fn malformed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
