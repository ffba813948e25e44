//! Which server it is whose log the target holds, and whether another one has the same log.
//!
//! A position in the log means something on one server only, and on those that share its log up
//! to there. The target therefore keeps, beside its position, the server's system identifier and
//! timeline: a standby that is promoted, and a server that is restored to a moment of the past,
//! have the same identifier and begin a new timeline where they parted.

use millstream_core::{Error, ErrorKind, PartitionId, Position, Result, ResumePoints};

use crate::decode::Lsn;
use crate::plan::{lsn_of, wal_partition};

/// Where the target remembers which server its positions are of.
pub(crate) fn system_partition(source: &str) -> PartitionId {
    PartitionId::new(source, "system")
}

/// A server, and one history of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Made once for each cluster; its standbys and copies have the same.
    pub(crate) system: String,
    /// 1 at first, and a new one each time that a copy became a primary.
    pub(crate) timeline: u32,
    /// The timelines before, oldest first, and where each was left. Empty where the server does not
    /// know them any more.
    pub(crate) history: Vec<Fork>,
}

/// The end of a timeline in the history of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fork {
    pub(crate) timeline: u32,
    /// The log up to here is that of `timeline`.
    pub(crate) end: Lsn,
}

/// Reads a timeline's history file: lines of a timeline, where it was left, and why
/// (`timeline.c`, `readTimeLineHistory`). `None` for another form.
pub(crate) fn parse_history(content: &str) -> Option<Vec<Fork>> {
    let lines = content.lines().map(str::trim);
    let forks = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    forks
        .map(|line| {
            let mut fields = line.split_whitespace();
            Some(Fork {
                timeline: fields.next()?.parse().ok()?,
                end: fields.next()?.parse().ok()?,
            })
        })
        .collect()
}

impl Identity {
    /// What the target remembers: two servers have the same only if they have the same log. Two
    /// copies can choose the same number for timelines that begin at different places.
    pub(crate) fn token(&self) -> String {
        format!("{}:{}:{}", self.system, self.timeline, self.begun().padded())
    }

    /// Where the timeline began; 0 for the first, and where that is not known.
    fn begun(&self) -> Lsn {
        self.history.last().map_or(Lsn(0), |fork| fork.end)
    }

    /// Whether the timeline is the one that `held` names.
    fn is_on(&self, held: &Remembered<'_>) -> bool {
        let unknown = Lsn(0);
        let (begun, held_begun) = (self.begun(), held.begun);
        self.timeline == held.timeline && (begun == held_begun || begun == unknown || held_begun == unknown)
    }

    /// Whether this server's log up to and including `end` is that of the server with this `token`.
    pub(crate) fn has_log(&self, token: &str, end: Lsn) -> bool {
        Remembered::parse(token).is_some_and(|known| {
            let shared = || self.shared_with(&known).is_some_and(|shared| end < shared);
            known.system == self.system && (self.is_on(&known) || shared())
        })
    }

    /// The log up to here is that of the timeline that `held` names. `None` if this server never
    /// was on it.
    fn shared_with(&self, held: &Remembered<'_>) -> Option<Lsn> {
        let at = self.history.iter().position(|fork| fork.timeline == held.timeline)?;
        let begun = at.checked_sub(1).map_or(Lsn(0), |before| self.history[before].end);
        (begun == held.begun).then_some(self.history[at].end)
    }
}

/// What a token says.
struct Remembered<'a> {
    system: &'a str,
    timeline: u32,
    begun: Lsn,
}

impl<'a> Remembered<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        let mut parts = token.split(':');
        let (system, timeline) = (parts.next()?, parts.next()?.parse().ok()?);
        let begun = Lsn::from_padded(parts.next()?)?;
        Some(Self {
            system,
            timeline,
            begun,
        })
    }
}

/// Compares the server that answers with those that the target's positions are of, and returns
/// what the target is to remember from now on. Each server that was accepted after another has
/// the next higher number.
///
/// | the server has                          | and the target holds       | then |
/// |-----------------------------------------|----------------------------|------|
/// | the same identifier and timeline        | anything                   | go on |
/// | the same identifier, a later timeline   | nothing past the fork      | go on: a standby was promoted |
/// | the same identifier, a later timeline   | something past the fork    | refuse: this server never had it |
/// | the same identifier, another timeline   | –                          | refuse: they parted before |
/// | another identifier                      | –                          | refuse, unless it is `adopted` |
///
/// The log up to a fork is the same on both sides, and a position before it is that of a commit
/// record which ends before it too. That the slot has what follows the position is judged apart
/// from this ([`plan`](crate::plan::plan)), as it is on any server.
///
/// # Errors
/// `PositionLost` as above; `Corrupt` if what the target remembers cannot be read.
pub(crate) fn judge(
    source: &str,
    present: &Identity,
    adopted: Option<&str>,
    resume: &ResumePoints,
) -> Result<(PartitionId, Position)> {
    let (partition, wal) = (system_partition(source), wal_partition(source));
    let token = present.token();
    let mut number = 0;
    for table in resume.tables() {
        for holding in resume.holdings(table) {
            let (known_number, known) = match holding.position(&partition) {
                Position::Beginning => continue,
                Position::Token { number, token } => (*number, token),
                _ => return Err(unreadable()),
            };
            if **known == *token {
                number = number.max(known_number);
                continue;
            }
            let held = lsn_of(holding.position(&wal)).unwrap_or_default();
            let remembered = Remembered::parse(known).ok_or_else(unreadable)?;
            if remembered.system != present.system {
                if adopted != Some(&present.system) {
                    return Err(another_server(&remembered, present));
                }
            } else if !present.is_on(&remembered) {
                match present.shared_with(&remembered) {
                    Some(end) if held < end => {}
                    shared => return Err(parted(&remembered, present, held, shared)),
                }
            }
            number = number.max(known_number + 1);
        }
    }
    let position = Position::Token {
        number: number.max(1),
        token: token.into(),
    };
    Ok((partition, position))
}

/// Whether the server was adopted in the place of the one that some table's positions are of.
pub(crate) fn is_adoption(source: &str, present: &Identity, resume: &ResumePoints) -> bool {
    let partition = system_partition(source);
    let mut holdings = resume.tables().flat_map(|table| resume.holdings(table));
    holdings.any(|held| match held.position(&partition) {
        Position::Token { token, .. } => Remembered::parse(token).is_some_and(|known| known.system != present.system),
        _ => false,
    })
}

fn another_server(held: &Remembered<'_>, present: &Identity) -> Error {
    Error::new(
        ErrorKind::PositionLost,
        "this is another server than the one that the target was filled from",
    )
    .code("PG0046")
    .with("held system", held.system)
    .with("system", &present.system)
    .hint(
        "connect to the server that the target was filled from; after an upgrade see `adopt`; otherwise drop \
             this source's tables in the target, so that they are copied anew",
    )
}

fn parted(held: &Remembered<'_>, present: &Identity, position: Lsn, shared: Option<Lsn>) -> Error {
    let error = Error::new(
        ErrorKind::PositionLost,
        "the server's log is not the one that the target holds: they parted before",
    )
    .code("PG0047")
    .with("held", position)
    .with("held timeline", held.timeline)
    .with("timeline", present.timeline);
    let error = shared.iter().fold(error, |error, end| error.with("parted at", end));
    error.hint(
        "connect to the server that has the changes; or drop this source's tables in the target and the slot, so \
         that they are copied anew",
    )
}

fn unreadable() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "what the target remembers of its server cannot be read",
    )
    .code("PG0047")
}

#[cfg(test)]
mod tests {
    use millstream_core::{Checkpoint, TableId};

    use super::*;
    use crate::plan::position_of;

    /// A server on the last of the timelines 1, 2, …, which were left at `ends`.
    fn server(system: &str, ends: &[u64]) -> Identity {
        let forks = ends.iter().zip(1..);
        Identity {
            system: system.to_owned(),
            timeline: 1 + ends.len() as u32,
            history: forks
                .map(|(end, timeline)| Fork {
                    timeline,
                    end: Lsn(*end),
                })
                .collect(),
        }
    }

    /// A target with one table for each server and position.
    fn target(tables: &[(&Identity, u64)]) -> ResumePoints {
        let tables = tables.iter().enumerate().map(|(index, (server, held))| {
            let (partition, position) = judge("s", server, None, &ResumePoints::default()).unwrap();
            let held: Checkpoint = [(partition, position), (wal_partition("s"), position_of(Lsn(*held)))]
                .into_iter()
                .collect();
            (TableId::new("s", Some("public"), &format!("t{index}")), held)
        });
        tables.collect()
    }

    fn verdict(present: &Identity, resume: &ResumePoints) -> Result<u64, &'static str> {
        match judge("s", present, None, resume) {
            Ok((_, Position::Token { number, .. })) => Ok(number),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PositionLost);
                assert!(error.hint_text().is_some());
                Err(error.error_code().unwrap())
            }
        }
    }

    #[test]
    fn a_promoted_standby_is_accepted_up_to_the_fork_to_the_byte() {
        let (old, promoted) = (server("a", &[]), server("a", &[100]));
        assert_eq!(verdict(&old, &ResumePoints::default()), Ok(1));
        assert_eq!(verdict(&old, &target(&[(&old, 500)])), Ok(1));
        assert_eq!(verdict(&promoted, &target(&[(&old, 99)])), Ok(2));
        assert_eq!(verdict(&promoted, &target(&[(&old, 100)])), Err("PG0047"));
        assert_eq!(verdict(&promoted, &target(&[(&old, 99), (&old, 100)])), Err("PG0047"));
        // Promoted twice while the pipeline stood still.
        assert_eq!(verdict(&server("a", &[100, 200]), &target(&[(&old, 99)])), Ok(2));
    }

    #[test]
    fn an_old_primary_and_a_restored_server_are_refused() {
        let (old, promoted) = (server("a", &[]), server("a", &[100]));
        // The old primary came back.
        assert_eq!(verdict(&old, &target(&[(&promoted, 150)])), Err("PG0047"));
        // Restored to an earlier moment, with the same number for its timeline.
        assert_eq!(
            verdict(&server("a", &[60]), &target(&[(&promoted, 150)])),
            Err("PG0047")
        );
        // And with a later one, which never was on the timeline that we hold.
        assert_eq!(
            verdict(&server("a", &[60, 90]), &target(&[(&promoted, 150)])),
            Err("PG0047")
        );
        assert_eq!(verdict(&server("b", &[]), &target(&[(&old, 1)])), Err("PG0046"));
    }

    #[test]
    fn a_server_that_forgot_its_history_is_the_same_on_the_same_timeline_only() {
        let (first, promoted) = (server("a", &[]), server("a", &[100]));
        let forgetful = Identity {
            history: Vec::new(),
            ..promoted.clone()
        };
        assert_eq!(verdict(&forgetful, &target(&[(&promoted, 150)])), Ok(2));
        assert_eq!(verdict(&promoted, &target(&[(&forgetful, 150)])), Ok(2));
        assert_eq!(verdict(&forgetful, &target(&[(&first, 50)])), Err("PG0047"));
    }

    #[test]
    fn another_server_is_accepted_only_by_its_name_and_remembered_instead() {
        let (old, new) = (server("a", &[10, 20]), server("b", &[]));
        let resume = target(&[(&old, 50)]);
        assert!(judge("s", &new, Some("c"), &resume).is_err());
        assert!(is_adoption("s", &new, &resume) && !is_adoption("s", &old, &resume));
        let (partition, position) = judge("s", &new, Some("b"), &resume).unwrap();
        let mut held = resume.of(resume.tables().next().unwrap());
        held.raise(&partition, &position);
        assert_eq!(*held.position(&partition), position);
        let table = TableId::new("s", Some("public"), "t0");
        let resume: ResumePoints = [(table, held)].into_iter().collect();
        assert_eq!(verdict(&new, &resume), Ok(2));
        assert_eq!(verdict(&old, &resume), Err("PG0046"));
    }

    #[test]
    fn a_history_file_is_read() {
        let file =
            "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t0/50000A0\tno recovery target specified\n";
        let fork = |timeline, end| Fork {
            timeline,
            end: Lsn(end),
        };
        assert_eq!(
            parse_history(file),
            Some(vec![fork(1, 0x300_0148), fork(2, 0x500_00A0)])
        );
        assert_eq!(parse_history("1 somewhere"), None);
    }
}
