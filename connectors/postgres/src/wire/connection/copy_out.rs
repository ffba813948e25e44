//! A running `COPY … TO STDOUT`.
//!
//! The server sends 8 KiB at a time. Who reads each at once wakes for each, which was seen to cost
//! the server and us a fourteenth of a copy on two cores. So the socket is left alone for a while
//! before the first read and after each that found little, and what comes meanwhile wakes nobody.

use std::fmt;
use std::time::Duration;

use bytes::Buf;
use tokio::time::{Instant, sleep_until};

use super::{Connection, consume, frame, unexpected};
use crate::wire::WireError;
use crate::wire::error::ServerError;
use crate::wire::socket::LOCAL_COPY_ROOM;

/// A read that found less than this, in bytes, found little.
const SMALL_READ: usize = LOCAL_COPY_ROOM / 2;
/// How long the socket is left alone.
const PAUSE: Duration = Duration::from_millis(1);

/// See the module. Dropped before its end, it leaves the connection unusable.
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    /// Bytes at the start of the buffer whose messages were taken.
    consumed: usize,
    next_read: Instant,
}

impl<'a> CopyOut<'a> {
    /// Of a connection whose server has said that it begins.
    pub(super) fn of(connection: &'a mut Connection) -> Self {
        Self {
            connection,
            consumed: 0,
            next_read: Instant::now() + PAUSE,
        }
    }

    /// The CopyData messages that are here and were not taken yet, at least one; `None` at the end,
    /// when the connection can be used again.
    ///
    /// Cancel safe, but that a call that is dropped at the end may lose the server's error.
    pub async fn next(&mut self) -> Result<Option<CopyMessages<'_>>, WireError> {
        let connection = &mut *self.connection;
        consume(&mut connection.inbound, &mut self.consumed);
        loop {
            match frame(&connection.inbound)? {
                None => {
                    sleep_until(self.next_read).await;
                    if connection.fill().await? < SMALL_READ {
                        self.next_read = Instant::now() + PAUSE;
                    }
                    connection.stream.rest();
                }
                Some((b'd', _)) => {
                    return Ok(Some(CopyMessages {
                        buffer: &self.connection.inbound,
                        taken: &mut self.consumed,
                    }));
                }
                Some((b'N' | b'S' | b'A', length)) => connection.inbound.advance(length),
                Some(_) => break,
            }
        }
        let mut failure = None;
        loop {
            match connection.message().await? {
                (b'c' | b'C', _) => {}
                (b'E', body) => failure = Some(ServerError::parse(&body)),
                (b'Z', _) => return failure.map_or(Ok(None), |error| Err(error.into())),
                (other, _) => return Err(unexpected(other, "during COPY")),
            }
        }
    }
}

/// The contents of CopyData messages that follow each other. Those that are not taken are given again.
pub struct CopyMessages<'a> {
    buffer: &'a [u8],
    taken: &'a mut usize,
}

impl<'a> Iterator for CopyMessages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = &self.buffer[*self.taken..];
        // Whatever is wrong with the next message is found when the next ones are asked for.
        let Ok(Some((b'd', length))) = frame(rest) else {
            return None;
        };
        *self.taken += length;
        Some(&rest[5..length])
    }
}

/// Without what they hold, which are values of a table.
impl fmt::Debug for CopyMessages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyMessages").finish_non_exhaustive()
    }
}
