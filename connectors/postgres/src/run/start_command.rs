//! The command that starts a stream, by what the server offers.

use millstream_core::{Error, ErrorKind, Result};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::config::{Origin, Settings};
use crate::decode::Lsn;
use crate::wire::{Connection, WireError};

/// Versions as in `server_version_num`.
const TWO_PHASE_SINCE: u32 = 150_000;
const ORIGIN_SINCE: u32 = 160_000;

/// Refuses a server that lacks what the configuration asks for.
///
/// # Errors
/// `Config` (PG0042), with the option and the version that it came with.
pub(crate) fn refuse_old_server(settings: &Settings, version: u32) -> Result<()> {
    let refused = |option: &str, since: u32| {
        Error::new(ErrorKind::Config, "the server is too old for an option")
            .code("PG0042")
            .with("option", option)
            .with("server", version / 10_000)
            .with("needed", since / 10_000)
            .hint("leave the option out, or upgrade the server")
    };
    if settings.two_phase && version < TWO_PHASE_SINCE {
        return Err(refused("two_phase: true", TWO_PHASE_SINCE));
    }
    if settings.origin != Origin::Any && version < ORIGIN_SINCE {
        return Err(refused("origin: none", ORIGIN_SINCE));
    }
    Ok(())
}

/// What a stream is asked to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    /// Binary values.
    pub(crate) binary: bool,
    /// Large transactions before they commit.
    pub(crate) in_parts: bool,
}

impl Mode {
    /// How a [backlog](crate::backlog) is filled.
    pub(crate) const OF_A_BACKLOG: Self = Self {
        binary: false,
        in_parts: false,
    };
}

/// Where the slot is confirmed, if the server sends prepared transactions before they commit. It
/// does so on a slot on which that was once asked for, whoever reads it later.
pub(super) async fn read_two_phase(settings: &Settings, session: &mut Connection) -> Result<Option<Lsn>, WireError> {
    let sql = format!(
        "SELECT two_phase, confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        escape_literal(&settings.slot)
    );
    let rows = session.query(&sql).await?;
    let slot = rows.first();
    let kept = slot.is_some_and(|row| row.is_true(0));
    if kept && !settings.two_phase {
        tracing::warn!(slot = %settings.slot, "the slot keeps two-phase commit until it is dropped");
    }
    if !(kept || settings.two_phase) {
        return Ok(None);
    }
    let confirmed = slot.filter(|row| row.get(1).is_some()).map(|row| row.parse(1));
    Ok(Some(confirmed.transpose()?.unwrap_or_default()))
}

/// `START_REPLICATION` (PostgreSQL manual, 55.4 and 55.5), for the first transaction whose commit
/// record begins after `held`. With `two_phase`, which a slot keeps that once had it, it begins
/// where the slot was confirmed, since a transaction that commits after `held` may have been
/// prepared before; see [`in_progress`](super::in_progress).
///
/// | server | protocol | what it adds |
/// |---|---|---|
/// | 14 | 2 | transactions in progress |
/// | 15 | 3 | two-phase commit |
/// | 16 and later | 4 | where a transaction in progress was aborted |
///
/// Protocol 1 is used where nothing of that is asked for.
pub(super) fn start_command(settings: &Settings, version: u32, two_phase: bool, held: Lsn, mode: Mode) -> String {
    let Mode { binary, in_parts } = mode;
    let newest = match version {
        ..150_000 => 2,
        150_000..160_000 => 3,
        160_000.. => 4,
    };
    let needed = in_parts || two_phase;
    let protocol = if needed { newest } else { 1 };
    let publications: Vec<String> = settings
        .publications
        .iter()
        .map(|name| escape_identifier(name))
        .collect();
    let publications = publications.join(",").replace('\'', "''");
    let mut options = format!("proto_version '{protocol}', publication_names '{publications}', binary '{binary}'");
    if in_parts {
        options.push_str(if protocol < 4 {
            ", streaming 'on'"
        } else {
            ", streaming 'parallel'"
        });
    }
    if two_phase {
        options.push_str(", two_phase 'on'");
    }
    if settings.origin == Origin::None {
        options.push_str(", origin 'none'");
    }
    if settings.messages {
        options.push_str(", messages 'true'");
    }
    let from = if two_phase { Lsn(0) } else { Lsn(held.0 + 1) };
    format!(
        "START_REPLICATION SLOT \"{}\" LOGICAL {from} ({options})",
        settings.slot
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(extra: &serde_json::Value) -> Settings {
        let mut config =
            serde_json::json!({"url": "postgres://a@b", "publication": "it's", "tables": ["t"], "slot": "s"});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        Settings::read("p", "s", &serde_json::from_value(config).unwrap()).unwrap()
    }

    fn mode(binary: bool, in_parts: bool) -> Mode {
        Mode { binary, in_parts }
    }

    #[test]
    fn the_newest_protocol_that_the_server_has_is_asked_for() {
        let settings = settings(&serde_json::json!({}));
        let options = |version| {
            let command = start_command(&settings, version, false, Lsn(0x1_0000_0009), mode(true, true));
            let begin = "START_REPLICATION SLOT \"s\" LOGICAL 1/A (";
            command.strip_prefix(begin).unwrap().trim_end_matches(')').to_owned()
        };
        let common = "publication_names '\"it''s\"', binary 'true'";
        assert_eq!(options(140_010), format!("proto_version '2', {common}, streaming 'on'"));
        assert_eq!(options(150_001), format!("proto_version '3', {common}, streaming 'on'"));
        assert_eq!(
            options(160_000),
            format!("proto_version '4', {common}, streaming 'parallel'")
        );
        assert_eq!(options(180_006), options(160_000));
    }

    #[test]
    fn only_what_is_configured_is_asked_for() {
        let plain = settings(&serde_json::json!({}));
        let command = start_command(&plain, 180_000, false, Lsn(0), mode(false, false));
        assert!(
            command.contains("proto_version '1'") && !command.contains("streaming"),
            "{command}"
        );
        let all = serde_json::json!({"two_phase": true, "origin": "none", "messages": true});
        let command = start_command(&settings(&all), 180_000, true, Lsn(7), mode(false, false));
        let expected = "LOGICAL 0/0 (proto_version '4', publication_names '\"it''s\"', binary 'false', \
                        two_phase 'on', origin 'none', messages 'true')";
        assert!(command.ends_with(expected), "{command}");
    }

    #[test]
    fn a_server_that_is_too_old_is_told_with_the_option() {
        for (key, value, since) in [
            ("two_phase", serde_json::json!(true), 150_000),
            ("origin", "none".into(), 160_000),
        ] {
            let settings = settings(&serde_json::json!({key: value}));
            assert!(refuse_old_server(&settings, since).is_ok());
            let error = refuse_old_server(&settings, since - 1).unwrap_err();
            assert_eq!(error.error_code(), Some("PG0042"));
            assert!(error.summary().contains(key), "{}", error.summary());
        }
    }
}
