//! What a run must do first, decided from what the target holds and what the server keeps.

use millstream_core::{Error, ErrorKind, PartitionId, Position, Result, ResumePoints, TableId};

use crate::catalog::Slot;
use crate::decode::Lsn;

/// The partition of the write-ahead log.
pub(crate) fn wal_partition(source: &str) -> PartitionId {
    PartitionId::new(source, "wal")
}

/// The partition of a table's first copy.
pub(crate) fn copy_partition(table: &TableId) -> PartitionId {
    PartitionId::new(&table.source, format_args!("copy/{}", table.within_source()))
}

/// What to do before the stream, and where the stream begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Whether the slot is to be made. Its snapshot serves the copies; otherwise a temporary
    /// slot's does.
    pub(crate) create_slot: bool,
    /// Tables that need their first copy.
    pub(crate) copy: Vec<TableId>,
    /// The least commit LSN that a target table holds; `None` if none holds any.
    pub(crate) held: Option<Lsn>,
}

impl Plan {
    /// The last commit LSN that need not be sent again, given the position that the copies, if
    /// any, raise their tables to.
    pub(crate) fn stream_after(&self, copied: Option<Lsn>) -> Option<Lsn> {
        match (self.held, copied) {
            (Some(held), Some(copied)) => Some(held.min(copied)),
            (one, other) => one.or(other),
        }
    }
}

/// Compares what each table holds with the slot.
///
/// | slot                         | tables holding positions | then |
/// |------------------------------|--------------------------|------|
/// | missing                      | none                     | make the slot, copy all under its snapshot |
/// | missing                      | some                     | refuse: changes since then are lost |
/// | confirmed past what is held  | some                     | refuse: changes in between are lost |
/// | at or behind what is held    | some or none             | copy the rest under a temporary slot's snapshot |
///
/// The slot was confirmed at most one past a commit LSN that the target holds, so that being
/// ahead is exact: one byte more is a gap. A slot that the server has taken the log from, or
/// that is another's, is refused in any case.
///
/// # Errors
/// `PositionLost` as above; `Config` for another's slot; `Corrupt` for a table that was copied and holds no WAL position.
pub(crate) fn plan(slot: &str, found: Option<&Slot>, tables: &[TableId], resume: &ResumePoints) -> Result<Plan> {
    if let Some(found) = found {
        if found.wal_status.as_deref() == Some("lost") {
            return Err(Error::new(
                ErrorKind::PositionLost,
                "the server removed WAL that the slot still needed",
            )
            .code("PG0022")
            .with("slot", slot)
            .hint("drop the slot and this source's tables in the target, so that they are copied anew"));
        }
        if found.plugin.as_deref() != Some("pgoutput") {
            return Err(Error::new(ErrorKind::Config, "the slot exists, but not for `pgoutput`")
                .code("PG0021")
                .with("slot", slot)
                .hint("drop it if nobody needs it, or give this source another with `slot:`"));
        }
    }
    let mut plan = Plan {
        create_slot: found.is_none(),
        copy: Vec::new(),
        held: None,
    };
    for table in tables {
        let copied = *resume.of(table).position(&copy_partition(table)) == Position::End;
        if !copied {
            plan.copy.push(table.clone());
        }
        // A target table that has its copy goes on, while another one of the same table gets it.
        let held = resume.least_held(table, &wal_partition(&table.source));
        match held.and_then(lsn_of) {
            Some(held) => plan.held = Some(plan.held.map_or(held, |least| least.min(held))),
            None if copied => return Err(copied_to_nowhere(table)),
            None => {}
        }
    }
    let Some(held) = plan.held else { return Ok(plan) };
    let lost =
        |message: &str, code| {
            Error::new(ErrorKind::PositionLost, message).code(code).with("slot", slot).with("held", held).hint(
            "the changes in between are gone: drop this source's tables in the target (and the slot, if it exists) \
             so that they are copied anew",
        )
        };
    match found {
        None => Err(lost("the target holds positions but the slot is gone", "PG0024")),
        Some(Slot {
            confirmed: Some(confirmed),
            ..
        }) if confirmed.0 > held.0 + 1 => {
            Err(lost("the slot is ahead of the target", "PG0025").with("confirmed", confirmed))
        }
        Some(_) => Ok(plan),
    }
}

fn copied_to_nowhere(table: &TableId) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the target holds a first copy without its place in the log",
    )
    .code("PG0024")
    .with("table", table)
    .hint("drop the table in the target, so that it is copied anew")
}

/// The LSN of a position in the WAL's partition.
pub(crate) fn lsn_of(position: &Position) -> Option<Lsn> {
    position.ordered().and_then(Lsn::from_padded)
}

/// The position in the WAL's partition at which everything up to `lsn` was read.
pub(crate) fn position_of(lsn: Lsn) -> Position {
    Position::at(lsn.padded())
}

#[cfg(test)]
mod tests {
    use millstream_core::Checkpoint;

    use super::*;

    fn table(name: &str) -> TableId {
        TableId::new("shop", Some("public"), name)
    }

    fn copied(table: &TableId, lsn: u64) -> (TableId, Checkpoint) {
        let wal = (wal_partition("shop"), position_of(Lsn(lsn)));
        (
            table.clone(),
            [(copy_partition(table), Position::End), wal].into_iter().collect(),
        )
    }

    fn slot(confirmed: u64) -> Slot {
        Slot {
            plugin: Some("pgoutput".to_owned()),
            database: None,
            active_pid: None,
            wal_status: Some("reserved".to_owned()),
            confirmed: Some(Lsn(confirmed)),
        }
    }

    #[test]
    fn a_first_run_makes_the_slot_and_copies_all() {
        let tables = [table("a"), table("b")];
        let plan = plan("s", None, &tables, &ResumePoints::default()).unwrap();
        assert_eq!(
            plan,
            Plan {
                create_slot: true,
                copy: tables.to_vec(),
                held: None
            }
        );
        assert_eq!(plan.stream_after(Some(Lsn(9))), Some(Lsn(9)));
    }

    #[test]
    fn a_table_without_a_copy_gets_one_and_the_stream_begins_at_the_least() {
        let (a, b, c) = (table("a"), table("b"), table("c"));
        let resume: ResumePoints = [copied(&a, 50), copied(&b, 40)].into_iter().collect();
        let plan = plan("s", Some(&slot(41)), &[a, b, c.clone()], &resume).unwrap();
        assert_eq!(
            plan,
            Plan {
                create_slot: false,
                copy: vec![c],
                held: Some(Lsn(40))
            }
        );
        assert_eq!(plan.stream_after(Some(Lsn(70))), Some(Lsn(40)));
    }

    #[test]
    fn a_target_that_joins_later_leaves_no_gap_in_the_one_beside_it() {
        let a = table("a");
        let mut resume: ResumePoints = [copied(&a, 40)].into_iter().collect();
        resume.add(a.clone(), Checkpoint::default());
        let plan = plan("s", Some(&slot(41)), std::slice::from_ref(&a), &resume).unwrap();
        assert_eq!(
            (plan.copy.as_slice(), plan.held),
            (std::slice::from_ref(&a), Some(Lsn(40)))
        );
        assert_eq!(plan.stream_after(Some(Lsn(70))), Some(Lsn(40)));
    }

    #[test]
    fn a_gap_is_refused_to_the_byte() {
        let a = table("a");
        let resume: ResumePoints = [copied(&a, 40)].into_iter().collect();
        assert!(plan("s", Some(&slot(41)), std::slice::from_ref(&a), &resume).is_ok());
        let ahead = plan("s", Some(&slot(42)), std::slice::from_ref(&a), &resume).unwrap_err();
        assert_eq!(
            (ahead.kind(), ahead.error_code()),
            (ErrorKind::PositionLost, Some("PG0025"))
        );
        let gone = plan("s", None, &[a], &resume).unwrap_err();
        assert_eq!(
            (gone.kind(), gone.error_code()),
            (ErrorKind::PositionLost, Some("PG0024"))
        );
    }

    #[test]
    fn a_slot_that_lost_its_log_or_is_anothers_is_refused() {
        let lost = Slot {
            wal_status: Some("lost".to_owned()),
            ..slot(1)
        };
        let resume = ResumePoints::default();
        assert_eq!(
            plan("s", Some(&lost), &[table("a")], &resume).unwrap_err().error_code(),
            Some("PG0022")
        );
        let physical = Slot {
            plugin: None,
            ..slot(1)
        };
        assert_eq!(
            plan("s", Some(&physical), &[table("a")], &resume)
                .unwrap_err()
                .error_code(),
            Some("PG0021")
        );
    }

    #[test]
    fn a_copy_without_a_place_in_the_log_is_corrupt() {
        let a = table("a");
        let checkpoint = [(copy_partition(&a), Position::End)].into_iter().collect();
        let resume: ResumePoints = [(a.clone(), checkpoint)].into_iter().collect();
        assert_eq!(
            plan("s", Some(&slot(1)), &[a], &resume).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
}
