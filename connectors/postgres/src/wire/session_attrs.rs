//! Which of several servers will do: libpq's `target_session_attrs` (PostgreSQL manual, 34.1.2).

use std::fmt;

/// What a server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    /// Any server.
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that takes none: a standby, or one whose transactions are read only by default.
    ReadOnly,
    /// No standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby; any server, if none of the hosts is one.
    PreferStandby,
}

/// What a server says of itself at the start of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerState {
    pub(super) in_recovery: bool,
    pub(super) read_only: bool,
}

impl SessionAttrs {
    /// libpq's words.
    pub(super) const EXPECTED: &'static str =
        "one of `any`, `read-write`, `read-only`, `primary`, `standby`, `prefer-standby`";

    pub(super) fn parse(word: &str) -> Option<Self> {
        let all = [
            Self::Any,
            Self::ReadWrite,
            Self::ReadOnly,
            Self::Primary,
            Self::Standby,
            Self::PreferStandby,
        ];
        all.into_iter().find(|attrs| attrs.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }

    /// What is looked for, one after the other, each among all hosts.
    pub(super) fn passes(self) -> Vec<Self> {
        match self {
            Self::PreferStandby => vec![Self::Standby, Self::Any],
            other => vec![other],
        }
    }

    /// Whether a server in this state will do.
    pub(super) fn accepts(self, state: ServerState) -> bool {
        let writes = !state.in_recovery && !state.read_only;
        match self {
            Self::Any | Self::PreferStandby => true,
            Self::ReadWrite => writes,
            Self::ReadOnly => !writes,
            Self::Primary => !state.in_recovery,
            Self::Standby => state.in_recovery,
        }
    }
}

impl fmt::Display for SessionAttrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_takes_the_servers_that_libpq_takes() {
        let state = |in_recovery, read_only| ServerState { in_recovery, read_only };
        let (primary, read_only, standby) = (state(false, false), state(false, true), state(true, false));
        for (word, taken) in [
            ("any", [true, true, true]),
            ("read-write", [true, false, false]),
            ("read-only", [false, true, true]),
            ("primary", [true, true, false]),
            ("standby", [false, false, true]),
        ] {
            let attrs = SessionAttrs::parse(word).unwrap();
            assert_eq!(
                [primary, read_only, standby].map(|state| attrs.accepts(state)),
                taken,
                "{word}"
            );
        }
        assert_eq!(SessionAttrs::parse("master"), None);
    }
}
