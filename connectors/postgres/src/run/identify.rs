//! Asks a server who it is (PostgreSQL manual, 55.4 `IDENTIFY_SYSTEM`, `TIMELINE_HISTORY`).

use millstream_core::Result;

use crate::config::Settings;
use crate::fault;
use crate::identity::{Fork, Identity, parse_history};
use crate::wire::{Connection, Row, Session, WireError};

/// The server that answers now.
pub(crate) async fn identify(settings: &Settings) -> Result<Identity> {
    let (identity, connection) = open(settings).await?;
    connection.close().await;
    Ok(identity)
}

/// The server that answers now, with the connection for replication that it was asked by.
pub(super) async fn open(settings: &Settings) -> Result<(Identity, Connection)> {
    let asked = async {
        let mut connection = Connection::open(&settings.connect, Session::Replication).await?;
        Ok((of(&mut connection).await?, connection))
    };
    asked
        .await
        .map_err(|error| fault::explain(error, "cannot identify the server", &settings.connect))
}

/// Whether two sessions are known to be of one server, which copies of it, such as a standby, are not.
pub(super) async fn are_of_one_server(one: &mut Connection, other: &mut Connection) -> bool {
    const STARTED: &str = "SELECT pg_catalog.pg_postmaster_start_time()";
    let (one, other) = tokio::join!(one.query(STARTED), other.query(STARTED));
    let started = |rows: &[Row]| rows.first().and_then(|row| row.get(0)).map(str::to_owned);
    let (one, other) = (started(&one.unwrap_or_default()), started(&other.unwrap_or_default()));
    one.is_some() && one == other
}

/// The server at the other end of a connection for replication.
pub(super) async fn of(connection: &mut Connection) -> Result<Identity, WireError> {
    let rows = connection.query("IDENTIFY_SYSTEM").await?;
    let row = rows
        .first()
        .ok_or_else(|| WireError::Protocol("no answer to IDENTIFY_SYSTEM".to_owned()))?;
    let (system, timeline): (String, u32) = (row.parse(0)?, row.parse(1)?);
    let history = match timeline {
        1 => Vec::new(),
        _ => history(connection, timeline).await?,
    };
    Ok(Identity {
        system,
        timeline,
        history,
    })
}

/// How the server came to its timeline; nothing where its file is not there, as after a restore
/// without an archive.
async fn history(connection: &mut Connection, timeline: u32) -> Result<Vec<Fork>, WireError> {
    const NO_SUCH_FILE: &str = "58P01";
    let rows = match connection.query(&format!("TIMELINE_HISTORY {timeline}")).await {
        Err(error) if error.sqlstate() == Some(NO_SUCH_FILE) => return Ok(Vec::new()),
        rows => rows?,
    };
    let content = rows.first().and_then(|row| row.get(1)).unwrap_or_default();
    parse_history(content).ok_or_else(|| WireError::Protocol("a history of the timeline in another form".to_owned()))
}
