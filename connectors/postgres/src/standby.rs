//! What a server cannot do with slots: standbys, and those that are to be known to standbys.

use millstream_core::{Error, ErrorKind, Finding, Result, Severity};
use postgres_protocol::escape::escape_literal;

/// Slots of a standby came with this version.
const STANDBY_SLOTS: u32 = 160_000;
/// Slots that standbys keep copies of came with this version.
const FAILOVER_SLOTS: u32 = 170_000;

/// Why a server cannot serve a source, and what helps. `version` is as in `server_version_num`.
fn refusal(version: u32, in_recovery: bool, failover: bool) -> Option<(&'static str, &'static str)> {
    match (in_recovery, failover) {
        (true, _) if version < STANDBY_SLOTS => Some((
            "the server is a standby, and those have slots from PostgreSQL 16 on",
            "connect to the primary: name all servers in the URL with target_session_attrs=primary",
        )),
        (true, true) => Some((
            "the server is a standby, which cannot make a slot that other standbys know",
            "leave `failover` out, or connect to the primary with target_session_attrs=primary",
        )),
        (_, true) if version < FAILOVER_SLOTS => Some((
            "slots that standbys know came with PostgreSQL 17",
            "leave `failover` out; after a failover the tables are then copied anew",
        )),
        _ => None,
    }
}

/// Refuses a server that cannot do what is asked for.
///
/// # Errors
/// `Unsupported` (PG0048).
pub(crate) fn refuse(version: u32, in_recovery: bool, failover: bool) -> Result<()> {
    match refusal(version, in_recovery, failover) {
        None => Ok(()),
        Some((message, hint)) => Err(Error::new(ErrorKind::Unsupported, message).code("PG0048").hint(hint)),
    }
}

/// The same as a finding of a preflight.
pub(crate) fn finding(place: &str, version: u32, in_recovery: bool, failover: bool) -> Option<Finding> {
    let (message, hint) = refusal(version, in_recovery, failover)?;
    Some(Finding::new(Severity::Error, place, message).code("PG0048").hint(hint))
}

/// Whether the stream may be ahead of the standbys: a warning, since a pipeline that has read what
/// the promoted standby lacks is refused there. `held_back` is `synchronized_standby_slots`;
/// `standbys` are the physical slots.
pub(crate) fn unguarded(
    place: &str,
    failover: bool,
    held_back: Option<&str>,
    standbys: Option<&str>,
) -> Option<Finding> {
    if !failover || held_back != Some("") {
        return None;
    }
    let message = "`failover` is on, and nothing holds the stream back until a standby has received what it sends";
    let finding = Finding::new(Severity::Warning, place, message).code("PG0051");
    Some(match standbys {
        Some(names) => finding
            .sql(format!(
                "ALTER SYSTEM SET synchronized_standby_slots = {};",
                escape_literal(names)
            ))
            .hint("then SELECT pg_reload_conf(); name the slots of those standbys that may be promoted"),
        None => finding.hint("give the standby a physical slot, and name it in synchronized_standby_slots"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_no_standby_holds_back_is_a_warning() {
        let finding = |failover, held_back, standbys| unguarded("db", failover, held_back, standbys);
        let sql = finding(true, Some(""), Some("a, b")).unwrap().sql.unwrap();
        assert!(sql.contains("'a, b'"), "{sql}");
        assert!(finding(true, Some(""), None).unwrap().hint.is_some());
        assert_eq!(finding(false, Some(""), None), None);
        assert_eq!(finding(true, Some("a"), None), None);
        // An older server has no such setting, and no such slots.
        assert_eq!(finding(true, None, None), None);
    }

    #[test]
    fn each_version_does_what_it_can() {
        let refused = |version, in_recovery, failover| refusal(version, in_recovery, failover).is_some();
        for (version, standby, failover) in [
            (140_000, true, true),
            (150_004, true, true),
            (160_000, false, true),
            (170_000, false, false),
            (180_006, false, false),
        ] {
            assert!(!refused(version, false, false));
            assert_eq!(refused(version, true, false), standby, "{version}");
            assert_eq!(refused(version, false, true), failover, "{version}");
            assert!(refused(version, true, true), "{version}");
        }
    }
}
