//! From what the wire reports to what the engine and the operator can act on.

use std::io;

use millstream_core::{Error, ErrorKind, Finding, Severity};
use tokio_rustls::rustls;
use tokio_rustls::rustls::CertificateError;

use crate::wire::{ConnectOptions, WireError};

/// What the engine should think of an error that the server reported with this SQLSTATE
/// (PostgreSQL manual, appendix A), and the code of its page.
fn judge_sqlstate(sqlstate: &str) -> (ErrorKind, &'static str) {
    match sqlstate {
        "28P01" | "28000" => (ErrorKind::Denied, "PG0002"),
        "3D000" => (ErrorKind::Config, "PG0003"),
        "42501" => (ErrorKind::Denied, "PG0013"),
        "42P01" => (ErrorKind::Config, "PG0017"),
        // No such byte sequence, or no such character in the other encoding.
        "22021" | "22P05" => (ErrorKind::Unsupported, "PG0037"),
        // Too many slots or walsenders. The first is a setting, the second may pass.
        "53400" => (ErrorKind::Config, "PG0019"),
        "53300" => (ErrorKind::Unavailable, "PG0019"),
        "55006" => (ErrorKind::Unavailable, "PG0020"),
        // "requested WAL segment has already been removed".
        "58P01" => (ErrorKind::PositionLost, "PG0022"),
        "53100" => (ErrorKind::Unavailable, "PG0027"),
        // Shutting down, starting up, crashed, terminated by an administrator; connection lost;
        // out of memory; a conflict with recovery on a standby.
        code if ["57P0", "08", "53", "40"].iter().any(|class| code.starts_with(class)) => {
            (ErrorKind::Unavailable, "PG0026")
        }
        code if code.starts_with("0A") => (ErrorKind::Unsupported, "PG0027"),
        // Wrong names and statements; values that a row filter cannot compute with.
        code if code.starts_with("42") || code.starts_with("22") => (ErrorKind::Config, "PG0027"),
        _ => (ErrorKind::Unavailable, "PG0027"),
    }
}

/// What the server says of a role that may not replicate, up to version 15 and from 16 on.
const NO_REPLICATION: [&str; 4] = ["walsender", "WAL sender", "replication role", "replication slots"];

/// What the server says of a slot that it has taken the log from; its detail, which says so
/// more clearly, is not kept.
const INVALIDATED: [&str; 3] = [
    "invalidated",
    "can no longer",
    "cannot read from logical replication slot",
];

/// The kind, the code of the page and the hint of a failure: the one place where they are chosen.
fn judge(error: &WireError) -> (ErrorKind, &'static str, Option<String>) {
    let hint = |text: &str| Some(text.to_owned());
    match error {
        WireError::Unreachable { .. } => (
            ErrorKind::Unavailable,
            "PG0001",
            hint("check host and port, that the server listens there (listen_addresses), and the firewall between"),
        ),
        WireError::TimedOut(..) | WireError::Io(_) | WireError::Closed | WireError::AnotherServer => {
            (ErrorKind::Unavailable, "PG0026", None)
        }
        WireError::Authentication(_) => (
            ErrorKind::Denied,
            "PG0002",
            hint("give the password in `password:` or in the URL, and see pg_hba.conf"),
        ),
        WireError::NotBound(_) => (
            ErrorKind::Denied,
            "PG0050",
            hint("use TLS and a role whose password is stored as scram-sha-256, or channel_binding=prefer"),
        ),
        // A failover may be under way.
        WireError::NotWanted { .. } => (
            ErrorKind::Unavailable,
            "PG0049",
            hint("name all servers of the cluster in the URL, and see which of them is in recovery"),
        ),
        WireError::TlsNotOffered => (
            ErrorKind::Config,
            "PG0004",
            hint("turn on `ssl` in the server's configuration, or set sslmode=disable if the network is trusted"),
        ),
        WireError::Tls(error) => judge_tls(error),
        WireError::Certificate { .. } => (
            ErrorKind::Config,
            "PG0008",
            hint("sslrootcert, sslcert and sslkey must be readable PEM files"),
        ),
        WireError::Backlog(error) => (
            match error.kind() {
                io::ErrorKind::InvalidData => ErrorKind::Corrupt,
                _ => ErrorKind::Unavailable,
            },
            "PG0056",
            hint(
                "see the disk that has it; where it is lost, stop the daemon, remove the folder and set `lost_slot: recopy`",
            ),
        ),
        WireError::Protocol(_) => (
            ErrorKind::Unavailable,
            "PG0028",
            hint("is there something else than PostgreSQL at that port?"),
        ),
        WireError::Server(server) => {
            let (kind, code) = match server.code.as_str() {
                // "in prerequisite state" says little; the words tell a slot that was invalidated from the rest.
                "55000" if INVALIDATED.iter().any(|words| server.message.contains(words)) => {
                    (ErrorKind::PositionLost, "PG0022")
                }
                "55000" => (ErrorKind::Config, "PG0027"),
                "42501" if NO_REPLICATION.iter().any(|words| server.message.contains(words)) => {
                    (ErrorKind::Denied, "PG0012")
                }
                "42501" if server.message.contains("row-level security") => (ErrorKind::Denied, "PG0036"),
                code => judge_sqlstate(code),
            };
            let known = match code {
                "PG0002" => hint("check user and password, and that pg_hba.conf admits this host, user and database"),
                "PG0003" => hint("check the database's name at the end of the URL"),
                "PG0012" => hint("ALTER ROLE … REPLICATION; `millstream check` prints the statement"),
                "PG0036" => hint("ALTER ROLE … BYPASSRLS; `millstream check` prints the statement"),
                "PG0037" => hint("mend the text in the database, or leave its column out with a column list"),
                "PG0019" => hint("raise max_replication_slots and max_wal_senders, or drop slots that nobody reads"),
                "PG0020" => hint("another reader holds the slot; stop it, or give this source a slot of its own"),
                "PG0022" => hint(
                    "the server removed WAL that the slot still needed; set `lost_slot: recopy`, or drop the slot and copy anew",
                ),
                _ => None,
            };
            (kind, code, known.or_else(|| server.hint.clone()))
        }
    }
}

fn judge_tls(error: &rustls::Error) -> (ErrorKind, &'static str, Option<String>) {
    let (code, hint) = match error {
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            ("PG0006", "the server's certificate has expired; renew it on the server")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            "PG0007",
            "connect by a name that the certificate lists, or use sslmode=verify-ca",
        ),
        rustls::Error::InvalidCertificate(_) => (
            "PG0005",
            "give the authority that signed the server's certificate as sslrootcert=/path/ca.pem",
        ),
        _ => ("PG0004", "see the server's log for its side of the handshake"),
    };
    (ErrorKind::Config, code, Some(hint.to_owned()))
}

/// An error of the contract: `message` says what could not be done.
pub(crate) fn explain(error: WireError, message: &str, options: &ConnectOptions) -> Error {
    let (kind, code, hint) = judge(&error);
    let mut explained = Error::new(kind, message).code(code).with("server", options.place());
    if let Some(hint) = hint {
        explained = explained.hint(hint);
    }
    explained.caused_by(error)
}

/// The same as a finding of a preflight.
pub(crate) fn finding(error: WireError, message: &str, options: &ConnectOptions) -> Finding {
    let (_, code, hint) = judge(&error);
    let cause = Error::new(ErrorKind::Unavailable, message).caused_by(error).summary();
    let mut finding = Finding::new(Severity::Error, options.place(), cause).code(code);
    finding.hint = hint;
    finding
}

/// What a run would be refused for, as a finding of a preflight.
pub(crate) fn refusal(error: &Error, options: &ConnectOptions) -> Finding {
    let mut finding = Finding::new(Severity::Error, options.place(), error.summary());
    finding.code = error.error_code();
    finding.hint = error.hint_text().map(str::to_owned);
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ServerError;

    fn server(code: &str) -> WireError {
        ServerError {
            code: code.into(),
            message: "said the server".into(),
            hint: None,
        }
        .into()
    }

    #[test]
    fn sqlstates_become_courses_of_action() {
        let kind = |code| judge(&server(code)).0;
        assert_eq!(kind("28P01"), ErrorKind::Denied);
        assert_eq!(kind("42501"), ErrorKind::Denied);
        assert_eq!(kind("57P01"), ErrorKind::Unavailable);
        assert_eq!(kind("08006"), ErrorKind::Unavailable);
        assert_eq!(kind("55006"), ErrorKind::Unavailable);
        assert_eq!(kind("53400"), ErrorKind::Config);
        assert_eq!(kind("22021"), ErrorKind::Unsupported);
        assert_eq!(kind("22012"), ErrorKind::Config);
        assert_eq!(kind("58P01"), ErrorKind::PositionLost);
    }

    #[test]
    fn what_a_role_lacks_is_told_apart() {
        let code = |message: &str| {
            judge(&WireError::Server(ServerError {
                code: "42501".into(),
                message: message.into(),
                hint: None,
            }))
            .1
        };
        assert_eq!(
            code("must be superuser or replication role to start walsender"),
            "PG0012"
        );
        assert_eq!(code("permission denied to start WAL sender"), "PG0012");
        assert_eq!(code("permission denied to use replication slots"), "PG0012");
        let hidden = "query would be affected by row-level security policy for table \"replication\"";
        assert_eq!(code(hidden), "PG0036");
        assert_eq!(code("permission denied for table replication"), "PG0013");
    }

    #[test]
    fn a_finding_names_the_place_and_the_cause_but_no_password() {
        let options = ConnectOptions::parse("postgres://me:hunter2@db:6000/shop").unwrap();
        let finding = finding(server("28P01"), "cannot log in", &options);
        assert_eq!(finding.code, Some("PG0002"));
        assert_eq!(finding.subject, "db:6000/shop");
        assert_eq!(finding.message, "cannot log in: said the server (SQLSTATE 28P01)");
        assert!(!format!("{finding:?}").contains("hunter2"));
    }
}
