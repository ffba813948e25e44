//! Asks a server who it is (PostgreSQL manual, 55.4 `IDENTIFY_SYSTEM`, `TIMELINE_HISTORY`).

use millstream_core::Result;

use crate::config::Settings;
use crate::fault;
use crate::identity::{Fork, Identity, parse_history};
use crate::wire::{Connection, Session, WireError};

/// The server that answers now.
pub(crate) async fn identify(settings: &Settings) -> Result<Identity> {
    let asked = async {
        let mut connection = Connection::open(&settings.connect, Session::Replication).await?;
        let identity = of(&mut connection).await?;
        connection.close().await;
        Ok(identity)
    };
    asked
        .await
        .map_err(|error| fault::explain(error, "cannot identify the server", &settings.connect))
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
