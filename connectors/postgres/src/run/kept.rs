//! A session that is kept for what comes next, since to begin one costs both sides some milliseconds.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Settings;
use crate::wire::{Connection, Session, WireError};

/// Not every server (`idle_session_timeout`) or network suffers a session that idles for longer.
const LONGEST_IDLE: Duration = Duration::from_millis(500);

/// A session of which nothing is asked just now, in no transaction of ours and with its first settings.
///
/// Dropping it closes the socket without a goodbye, of which the server's log tells only where a snapshot was exported.
pub(crate) struct Kept {
    connection: Connection,
    session: Session,
    since: Instant,
}

impl Kept {
    /// Opens one.
    ///
    /// # Errors
    /// Those of [`Connection::open`].
    pub(super) async fn open(settings: &Settings, session: Session) -> Result<Self, WireError> {
        Ok(Self::of(Connection::open(&settings.connect, session).await?, session))
    }

    /// Keeps a connection that was opened as `session`. Whoever takes it may be on another runtime.
    pub(crate) fn of(mut connection: Connection, session: Session) -> Self {
        connection.rest();
        Self {
            connection,
            session,
            since: Instant::now(),
        }
    }

    /// The connection, or another one if it has idled for too long.
    ///
    /// # Errors
    /// Those of [`Connection::open`].
    pub(super) async fn take(self, settings: &Settings) -> Result<Connection, WireError> {
        if self.since.elapsed() < LONGEST_IDLE {
            return Ok(self.connection);
        }
        self.connection.close().await;
        Connection::open(&settings.connect, self.session).await
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        self.connection.close().await;
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// The sessions of a run that begins.
pub(super) struct Sessions {
    pub(super) sql: Kept,
    /// For replication, if there is one.
    pub(super) replication: Option<Kept>,
}
