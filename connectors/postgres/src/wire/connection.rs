//! A connection: messages in, messages out, and the three conversations that we hold on it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::error::ServerError;
use super::quiet_socket::MOST_AT_ONCE;
use super::row::Row;
use super::session_attrs::ServerState;
use super::socket::{Duplex, Socket};
use super::{ConnectOptions, SessionAttrs, WireError, auth};

mod copy_out;

pub use copy_out::{CopyMessages, CopyOut};

/// Room for one read. Large, since a system call costs more than the copy.
const READ_BYTES: usize = 256 * 1024;
/// When more than this is taken out of the buffer at once, its memory is given back.
const LONGEST_KEPT: usize = 1 << 20;
/// A server that claims a longer message than this is not a PostgreSQL (its limit is 1 GiB).
const LONGEST_MESSAGE: usize = (1 << 30) + 1024;

/// How long a goodbye may take.
const LONGEST_GOODBYE: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// SQL.
    Sql,
    /// SQL and replication commands of one database.
    Replication,
}

/// An authenticated connection. Dropping it closes the socket.
pub struct Connection {
    stream: Box<dyn Duplex>,
    inbound: BytesMut,
    outbound: BytesMut,
    encrypted: bool,
    local: bool,
    end_point: Option<Vec<u8>>,
    channel_bound: bool,
    backend_pid: u32,
    server_version: u32,
    in_recovery: Option<bool>,
    read_only: Option<bool>,
}

impl Connection {
    /// Connects, authenticates and pins the settings that values are printed by.
    ///
    /// # Errors
    /// Those of the last host tried.
    pub async fn open(options: &ConnectOptions, session: Session) -> Result<Self, WireError> {
        let mut failure = WireError::Protocol("no host is configured".to_owned());
        for (wanted, host) in options.tries() {
            let attempt = async {
                let socket = Socket::open(host, options, session).await?;
                let mut connection = Self::start(socket, options, session).await?;
                if wanted == SessionAttrs::Any || wanted.accepts(connection.state().await?) {
                    return Ok(connection);
                }
                connection.close().await;
                let host = host.to_string();
                Err(WireError::NotWanted { host, wanted })
            };
            match timeout(options.connect_timeout, attempt).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = error,
                Err(_) => {
                    let source = io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no answer within {} s", options.connect_timeout.as_secs()),
                    );
                    failure = WireError::Unreachable {
                        host: host.to_string(),
                        source,
                    };
                }
            }
        }
        Err(failure)
    }

    async fn start(socket: Socket, options: &ConnectOptions, session: Session) -> Result<Self, WireError> {
        let mut connection = Self {
            stream: socket.stream,
            inbound: BytesMut::with_capacity(16 * 1024),
            outbound: BytesMut::new(),
            encrypted: socket.encrypted,
            local: socket.local,
            end_point: socket.end_point,
            channel_bound: false,
            backend_pid: 0,
            server_version: 0,
            in_recovery: None,
            read_only: None,
        };
        let mut parameters = vec![
            ("user", options.user.as_str()),
            ("database", options.database.as_str()),
            ("application_name", "millstream"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("IntervalStyle", "postgres"),
            ("extra_float_digits", "3"),
            ("bytea_output", "hex"),
            ("TimeZone", "UTC"),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
            // Better an error than a first copy without the rows that a policy hides.
            ("row_security", "off"),
            // Statements that are to read in order are planned at costs for which the server would
            // compile them, which takes longer than most of them run.
            ("jit", "off"),
        ];
        if session == Session::Replication {
            parameters.push(("replication", "database"));
        }
        connection
            .send(|out| frontend::startup_message(parameters, out))
            .await?;
        auth::authenticate(&mut connection, options).await?;
        loop {
            let (tag, body) = connection.message().await?;
            match tag {
                b'K' if body.len() >= 4 => connection.backend_pid = (&body[..]).get_u32(),
                b'Z' => return Ok(connection),
                b'E' => return Err(ServerError::parse(&body).into()),
                other => return Err(unexpected(other, "at the start of a session")),
            }
        }
    }

    /// The server's version as in `server_version_num`: 150004.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The process that serves this connection.
    pub fn backend_pid(&self) -> u32 {
        self.backend_pid
    }

    /// Whether TLS protects the connection.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether the login was bound to the TLS channel (SCRAM-SHA-256-PLUS).
    pub fn is_channel_bound(&self) -> bool {
        self.channel_bound
    }

    pub(super) fn bind_channel(&mut self) {
        self.channel_bound = true;
    }

    pub(super) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// Runs statements by the simple protocol and returns the rows of the last that has any.
    ///
    /// Not cancel safe: after a dropped call the connection must be dropped too.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, WireError> {
        self.send(|out| frontend::query(sql, out)).await?;
        let (mut rows, mut failure) = (Vec::new(), None);
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'T' => rows.clear(),
                b'D' => rows.push(Row::read(&body)?),
                b'C' | b'I' => {}
                b'E' => failure = Some(ServerError::parse(&body)),
                b'Z' => break,
                other => return Err(unexpected(other, "in reply to a query")),
            }
        }
        failure.map_or(Ok(rows), |error| Err(error.into()))
    }

    /// Has the server parse and analyse one statement, which is not run (PostgreSQL manual, 55.2.3
    /// "Extended Query").
    ///
    /// # Errors
    /// What the server says of it; that it is more than one statement, too.
    pub async fn parse(&mut self, sql: &str) -> Result<(), WireError> {
        self.send(|out| {
            frontend::parse("", sql, [], out)?;
            frontend::sync(out);
            Ok(())
        })
        .await?;
        let mut failure = None;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'1' => {}
                b'E' => failure = Some(ServerError::parse(&body)),
                b'Z' => return failure.map_or(Ok(()), |error| Err(error.into())),
                other => return Err(unexpected(other, "in reply to a statement")),
            }
        }
    }

    /// Has the server begin a `COPY … TO STDOUT`, which [`copy_out`](Self::copy_out) has to follow. Until then
    /// it sends as much as the socket takes.
    ///
    /// Not cancel safe: after a dropped call the connection must be dropped too.
    pub async fn begin_copy_out(&mut self, sql: &str) -> Result<(), WireError> {
        self.send(|out| frontend::query(sql, out)).await?;
        // Rows that come before they are asked for are to wake nobody.
        self.stream.rest();
        Ok(())
    }

    /// The copy that the server was told to begin.
    ///
    /// Cancel safe, but that a dropped call may lose the server's error.
    ///
    /// # Errors
    /// What the server says of it.
    pub async fn copy_out(&mut self) -> Result<CopyOut<'_>, WireError> {
        self.expect(b'H', "in reply to COPY").await?;
        Ok(CopyOut::of(self))
    }

    /// Starts a `START_REPLICATION …`; the connection serves nothing else afterwards.
    pub async fn replicate(mut self, command: &str) -> Result<ReplicationStream, WireError> {
        self.send(|out| frontend::query(command, out)).await?;
        self.expect(b'W', "in reply to START_REPLICATION").await?;
        Ok(ReplicationStream {
            connection: self,
            consumed: 0,
        })
    }

    /// Has what arrives wake nobody, until something is asked again.
    pub fn rest(&mut self) {
        self.stream.rest();
    }

    /// Says goodbye, so that the server logs no broken connection.
    pub async fn close(mut self) {
        let goodbye = self.send(|out| {
            frontend::terminate(out);
            Ok(())
        });
        // The socket is closed either way.
        let _ = timeout(LONGEST_GOODBYE, goodbye).await;
    }

    /// What a dropped call did not write is written by the next one before its own message, and so takes effect: a
    /// statement too.
    pub(super) async fn send(&mut self, encode: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), WireError> {
        let before = self.outbound.len();
        if let Err(error) = encode(&mut self.outbound) {
            self.outbound.truncate(before);
            return Err(error.into());
        }
        self.stream.write_all_buf(&mut self.outbound).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The body of the next authentication request.
    pub(super) async fn authentication_request(&mut self) -> Result<Bytes, WireError> {
        match self.message().await? {
            (b'R', body) => Ok(body),
            (b'E', body) => Err(ServerError::parse(&body).into()),
            (other, _) => Err(unexpected(other, "during authentication")),
        }
    }

    /// Waits for a message of one kind; after an error, for the server to be ready again.
    async fn expect(&mut self, wanted: u8, when: &str) -> Result<(), WireError> {
        let mut failure = None;
        loop {
            match (self.message().await?, failure.take()) {
                ((tag, _), None) if tag == wanted => return Ok(()),
                ((b'E', body), _) => failure = Some(ServerError::parse(&body)),
                ((b'Z', _), Some(error)) => return Err(error.into()),
                ((other, _), _) => return Err(unexpected(other, when)),
            }
        }
    }

    /// The next message that is not a notice, a notification or a change of a parameter.
    ///
    /// # Errors
    /// `Server` for an error after which the server closes the connection.
    pub(super) async fn message(&mut self) -> Result<(u8, Bytes), WireError> {
        loop {
            while let Some((tag, length)) = frame(&self.inbound)? {
                let body = self.inbound.split_to(length).freeze().slice(5..);
                match tag {
                    b'N' | b'A' => {}
                    b'S' => self.parameter(&body),
                    b'E' if ServerError::is_fatal(&body) => return Err(ServerError::parse(&body).into()),
                    _ => return Ok((tag, body)),
                }
            }
            self.fill().await?;
        }
    }

    fn parameter(&mut self, body: &[u8]) {
        let mut parts = body.split(|byte| *byte == 0);
        let (name, value) = (parts.next(), parts.next().unwrap_or_default());
        match name {
            Some(b"server_version") => self.server_version = version_number(&String::from_utf8_lossy(value)),
            Some(b"in_hot_standby") => self.in_recovery = Some(value == b"on"),
            Some(b"default_transaction_read_only") => self.read_only = Some(value == b"on"),
            _ => {}
        }
    }

    /// What the server is. It says so by itself from version 14 on; what stands in between may not.
    async fn state(&mut self) -> Result<ServerState, WireError> {
        if let (Some(in_recovery), Some(read_only)) = (self.in_recovery, self.read_only) {
            return Ok(ServerState { in_recovery, read_only });
        }
        let query = "SELECT pg_catalog.pg_is_in_recovery(), \
                     pg_catalog.current_setting('default_transaction_read_only') = 'on'";
        let rows = self.query(query).await?;
        let is = |column| rows.first().is_some_and(|row| row.is_true(column));
        Ok(ServerState {
            in_recovery: is(0),
            read_only: is(1),
        })
    }

    /// Waits for bytes, then takes what is there, up to one read's room. Returns how many.
    ///
    /// Cancel safe: what was read is in the buffer.
    async fn fill(&mut self) -> Result<usize, WireError> {
        self.inbound.reserve(READ_BYTES);
        let (stream, inbound, encrypted) = (&mut self.stream, &mut self.inbound, self.encrypted);
        let mut taken = 0;
        poll_fn(|context| {
            loop {
                let read = match pin!(stream.read_buf(inbound)).poll(context) {
                    Poll::Ready(Ok(0)) if taken == 0 => return Poll::Ready(Err(WireError::Closed)),
                    Poll::Ready(Ok(read)) => read,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending if taken == 0 => return Poll::Pending,
                    Poll::Pending => return Poll::Ready(Ok(taken)),
                };
                taken += read;
                // Under TLS one read gives one record; what is ready is several. A plain read that
                // found less than it had room for took all: to look again would be to run after
                // each row that a walsender sends, which makes it send a packet for each.
                let all = read == 0 || !encrypted && read < MOST_AT_ONCE;
                if all || taken >= READ_BYTES || inbound.capacity() == inbound.len() {
                    return Poll::Ready(Ok(taken));
                }
            }
        })
        .await
    }
}

/// A running replication stream.
pub struct ReplicationStream {
    connection: Connection,
    consumed: usize,
}

impl ReplicationStream {
    /// The content of the next CopyData message that was read already.
    ///
    /// # Errors
    /// `Server` if the server ended the stream with an error, `Closed` if without one.
    pub fn next_buffered(&mut self) -> Result<Option<&[u8]>, WireError> {
        let inbound = &mut self.connection.inbound;
        consume(inbound, &mut self.consumed);
        loop {
            match frame(inbound)? {
                None => return Ok(None),
                Some((b'd', length)) => {
                    self.consumed = length;
                    return Ok(Some(&self.connection.inbound[5..length]));
                }
                Some((b'E', length)) => return Err(ServerError::parse(&inbound[5..length]).into()),
                Some((b'N' | b'S' | b'A', length)) => inbound.advance(length),
                Some((b'c' | b'C' | b'Z', _)) => return Err(WireError::Closed),
                Some((other, _)) => return Err(unexpected(other, "in a replication stream")),
            }
        }
    }

    /// Waits until the server sent something, takes what is there, up to one read's room, and
    /// returns how many bytes that was. Call it when [`next_buffered`](Self::next_buffered) has no more.
    ///
    /// Cancel safe.
    pub async fn fill(&mut self) -> Result<usize, WireError> {
        consume(&mut self.connection.inbound, &mut self.consumed);
        self.connection.fill().await
    }

    /// Whether the server is reached by TCP at an address of this host.
    pub fn is_local(&self) -> bool {
        self.connection.local
    }

    /// Has what arrives wake nobody until the next [`fill`](Self::fill).
    pub fn rest(&mut self) {
        self.connection.stream.rest();
    }

    /// Says goodbye and closes the connection, so that the server frees the slot. The stream
    /// gives nothing afterwards. What the server is about to send is not waited for: where it sends just
    /// then, it logs that it could not.
    pub async fn close(&mut self) {
        let goodbye = async {
            self.connection
                .send(|out| {
                    frontend::terminate(out);
                    Ok(())
                })
                .await?;
            self.connection.stream.shutdown().await.map_err(WireError::from)
        };
        // The server finds out either way.
        let _ = timeout(LONGEST_GOODBYE, goodbye).await;
    }

    /// Sends a CopyData message.
    ///
    /// Cancel safe: the rest of a message of which half is on the wire comes before the next, or
    /// before a goodbye.
    pub async fn send(&mut self, content: &[u8]) -> Result<(), WireError> {
        let message = frontend::CopyData::new(content)?;
        self.connection
            .send(|out| {
                message.write(out);
                Ok(())
            })
            .await
    }
}

/// Removes the bytes at the start of `buffer` whose messages were given out. The memory of a huge
/// message is given back: the buffer would keep it as long as the connection lives.
fn consume(buffer: &mut BytesMut, consumed: &mut usize) {
    let length = std::mem::take(consumed);
    if length > LONGEST_KEPT {
        *buffer = BytesMut::from(&buffer[length..]);
    } else {
        buffer.advance(length);
    }
}

/// The tag and whole length of the first message in `buffer`, if all of it is there.
fn frame(buffer: &[u8]) -> Result<Option<(u8, usize)>, WireError> {
    let Some((header, _)) = buffer.split_at_checked(5) else {
        return Ok(None);
    };
    let length = (&header[1..]).get_u32() as usize;
    if !(4..=LONGEST_MESSAGE).contains(&length) {
        return Err(WireError::Protocol(format!("a message of {length} bytes")));
    }
    Ok((buffer.len() > length).then_some((header[0], length + 1)))
}

/// `15.4 (Debian …)` is 150004, `16devel` is 160000.
fn version_number(text: &str) -> u32 {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse::<u32>().unwrap_or(0));
    let major = parts.next().unwrap_or(0);
    let minor = if text.contains('.') {
        parts.next().unwrap_or(0)
    } else {
        0
    };
    major.saturating_mul(10_000).saturating_add(minor)
}

pub(super) fn unexpected(tag: u8, when: &str) -> WireError {
    WireError::Protocol(format!("message `{}` {when}", char::from(tag).escape_default()))
}

#[cfg(test)]
mod tests;
