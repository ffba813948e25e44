//! What a run must do first, decided from what the target holds and what the server keeps.

use millstream_core::{Checkpoint, Error, ErrorKind, PartitionId, Position, Result, ResumePoints, TableId};

use crate::catalog::{CatalogTable, Slot};
use crate::decode::Lsn;
use crate::owed::{self, Why};
use crate::recopy::{LostSlot, Recopy};

/// The partition of the write-ahead log.
pub(crate) fn wal_partition(source: &str) -> PartitionId {
    PartitionId::new(source, "wal")
}

/// The partition of a table's first copy.
///
/// Its parts are ranges of the table, so that a `/` in the table's own name must not look like one.
pub(crate) fn copy_partition(table: &TableId) -> PartitionId {
    PartitionId::new(&table.source, format_args!("copy/{}", path_segment(table)))
}

/// The partition of all later copies of a table, one after the other.
pub(crate) fn backfill_partition(table: &TableId) -> PartitionId {
    PartitionId::new(&table.source, format_args!("backfill/{}", path_segment(table)))
}

fn path_segment(table: &TableId) -> String {
    table.within_source().replace('%', "%25").replace('/', "%2F")
}

/// Where the target remembers which relation a table was copied from: its OID, a token. A
/// table that was dropped and made again under its name is another relation, of which the
/// target holds nothing.
pub(crate) fn relation_partition(table: &TableId) -> PartitionId {
    PartitionId::new(&table.source, format_args!("relation/{}", table.within_source()))
}

/// The position in the [`relation_partition`] of a table whose first copy was of the relation `oid`.
pub(crate) fn relation_position(oid: u32) -> Position {
    // OIDs have no order: two of them are the same or cannot be compared.
    Position::Token {
        number: 1,
        token: oid.to_string().into(),
    }
}

/// The same of a table that was copied anew by the backfill of this number, counted from 1.
pub(crate) fn relation_position_of(backfill: u64, oid: u32) -> Position {
    Position::Token {
        number: backfill + 1,
        token: oid.to_string().into(),
    }
}

/// The relation that all of the target's rows of `table` came from, if it is one.
pub(crate) fn held_relation(table: &TableId, resume: &ResumePoints) -> Option<u32> {
    let partition = relation_partition(table);
    let mut held = resume
        .holdings(table)
        .filter_map(|held| match held.position(&partition) {
            Position::Token { token, .. } => Some(token.parse::<u32>().ok()),
            _ => None,
        });
    let first = held.next()??;
    held.all(|other| other == Some(first)).then_some(first)
}

/// Whether a target table that stands at `held` in the [`relation_partition`] has rows of another
/// relation than `oid`.
fn is_of_another(held: &Position, oid: u32) -> bool {
    match held {
        Position::Beginning => false,
        Position::Token { token, .. } => **token != *oid.to_string(),
        _ => true,
    }
}

/// What the server says about itself and the slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server<'a> {
    /// The database that we read.
    pub(crate) database: &'a str,
    /// The slot's name, and the slot if it exists.
    pub(crate) slot_name: &'a str,
    pub(crate) slot: Option<&'a Slot>,
    /// Where its log ends, unless that is not known.
    pub(crate) log_end: Option<Lsn>,
    /// Whether it was adopted in the place of another one, from which all had been read.
    pub(crate) adopted: bool,
    pub(crate) recopy: Recopy,
    pub(crate) lost_slot: LostSlot,
}

/// What to do before the stream, and where the stream begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Whether the slot is to be made. Its snapshot serves the copies; otherwise a temporary
    /// slot's does.
    pub(crate) create_slot: bool,
    /// Whether a slot that can no longer be read is to be dropped before that.
    pub(crate) drop_slot: bool,
    /// Tables that need their first copy.
    pub(crate) copy: Vec<TableId>,
    /// Whether changes of tables that the target holds are lost, and made up for now.
    pub(crate) lost: bool,
    /// Tables that the target holds and that are to be copied anew, and why.
    pub(crate) anew: Vec<(TableId, Why)>,
    /// The commit LSN behind which the stream begins: the least that a target table holds, among
    /// those that the slot still serves. `None` if it serves none.
    pub(crate) held: Option<Lsn>,
    /// Whether the slot is ahead because its server was adopted: what lies between was never
    /// written.
    pub(crate) adopts: bool,
}

/// Compares what each table holds with the slot.
///
/// | slot                         | tables holding positions | then |
/// |------------------------------|--------------------------|------|
/// | missing                      | none                     | make the slot, copy all under its snapshot |
/// | missing, or lost             | some                     | refuse: changes since then are lost |
/// | confirmed past what is held  | some                     | refuse: changes in between are lost |
/// | at or behind what is held    | some or none             | copy the rest under a temporary slot's snapshot |
///
/// The slot was confirmed at most one past a commit LSN that the target holds, so that being
/// ahead is exact: one byte more is a gap. Where a lost slot is to be made up for, those tables
/// are copied anew, and the stream begins where the slot does. A slot that is another's is refused
/// in any case; so is a server whose log ends before what is held.
///
/// # Errors
/// `PositionLost` as above; `Config` for another's slot; `Corrupt` for a table that was copied
/// and holds no WAL position; `SchemaChange` for one that was copied from another relation.
pub(crate) fn plan(server: &Server<'_>, tables: &[CatalogTable], resume: &ResumePoints) -> Result<Plan> {
    let slot = server.slot_name;
    let repairs = server.lost_slot == LostSlot::Recopy && !server.adopted;
    let usable = match server.slot {
        Some(found) => {
            refuse_anothers(server, found)?;
            let is_lost = found.wal_status.as_deref() == Some("lost");
            if is_lost && !repairs {
                return Err(lost_slot(slot, found));
            }
            Some(found).filter(|_| !is_lost)
        }
        None => None,
    };
    let mut plan = Plan {
        create_slot: usable.is_none(),
        drop_slot: usable.is_none() && server.slot.is_some(),
        copy: Vec::new(),
        lost: false,
        anew: Vec::new(),
        held: None,
        adopts: server.adopted,
    };
    // Where the slot begins, for tables that may lack what lies before.
    let begins = usable.map(|found| {
        found
            .confirmed
            .map_or(Lsn(0), |confirmed| Lsn(confirmed.0.saturating_sub(1)))
    });
    let mut missed: Option<Lsn> = None;
    let mut furthest = Lsn(0);
    // A table that feeds no target table needs no copy, and nobody would record that it has one.
    for CatalogTable { id: table, oid, .. } in tables.iter().filter(|table| resume.contains(&table.id)) {
        let copied = *resume.of(table).position(&copy_partition(table)) == Position::End;
        // A target table that has its copy goes on, while another one of the same table gets it.
        let held = resume.least_held(table, &wal_partition(&table.source));
        let held = held.and_then(lsn_of);
        let misses = held.filter(|held| begins.is_none_or(|begins| *held < begins));
        match held {
            Some(held) if misses.is_some() => missed = Some(missed.map_or(held, |least| least.min(held))),
            Some(held) => plan.held = Some(plan.held.map_or(held, |least| least.min(held))),
            None if copied => return Err(copied_to_nowhere(table)),
            None => {}
        }
        let wal = wal_partition(&table.source);
        let all = resume.holdings(table).filter_map(|held| lsn_of(held.position(&wal)));
        furthest = all.fold(furthest, Lsn::max);
        let relation = relation_partition(table);
        let replaced_by = |held: &Checkpoint| is_of_another(held.position(&relation), *oid);
        let is_replaced = resume.holdings(table).any(replaced_by);
        if is_replaced && server.recopy == Recopy::Never {
            return Err(replaced(table));
        }
        let reasons = [
            (misses.is_some() && repairs).then_some(Why::LostSlot),
            is_replaced.then_some(Why::Replaced),
            owed::owed(table, resume),
        ];
        match reasons.into_iter().flatten().max() {
            Some(why) => {
                plan.anew.push((table.clone(), why));
                // One that begins with nothing is the first copy too, where that had not ended.
                if !copied && !why.empties() {
                    plan.copy.push(table.clone());
                }
            }
            None if !copied => plan.copy.push(table.clone()),
            None => {}
        }
    }
    if let Some(end) = server.log_end
        && furthest >= end
    {
        return Err(Error::new(
            ErrorKind::PositionLost,
            "the server's log ends before what the target holds",
        )
        .code("PG0035")
        .with("held", furthest)
        .with("log end", end)
        .hint(
            "the target holds changes that this server never had: connect to the server that has them, or \
                     drop this source's tables in the target and the slot, so that they are copied anew",
        ));
    }
    if let Some(found) = usable.filter(|_| plan.adopts && (plan.held.is_some() || missed.is_some())) {
        // What lies between was never written: nothing is missed.
        plan.held = plan.held.into_iter().chain(missed).min();
        return refuse_unadoptable(slot, found, furthest).map(|()| plan);
    }
    match (missed, usable) {
        (None, _) => Ok(plan),
        (Some(_), found) if repairs => {
            // Where the slot is still to be made, that tells where the stream begins.
            let first = found.and(begins);
            plan.held = plan.held.or(first);
            plan.lost = true;
            Ok(plan)
        }
        (Some(held), None) => Err(lost(
            "the target holds positions but the slot is gone",
            "PG0024",
            slot,
            held,
        )),
        (Some(held), Some(found)) => refuse_ahead(slot, found, held).map(|()| plan),
    }
}

/// Refuses a slot that is not for us.
fn refuse_anothers(server: &Server<'_>, found: &Slot) -> Result<()> {
    let slot = server.slot_name;
    if found.plugin.as_deref() != Some("pgoutput") {
        return Err(Error::new(ErrorKind::Config, "the slot exists, but not for `pgoutput`")
            .code("PG0021")
            .with("slot", slot)
            .hint("drop it if nobody needs it, or give this source another with `slot:`"));
    }
    if let Some(other) = found.database.as_deref().filter(|other| *other != server.database) {
        return Err(
            Error::new(ErrorKind::Config, "the slot exists, but in another database")
                .code("PG0021")
                .with("slot", slot)
                .with("database", other)
                .hint("drop it there if nobody needs it, or give this source another with `slot:`"),
        );
    }
    Ok(())
}

fn lost_slot(name: &str, found: &Slot) -> Error {
    let error = Error::new(ErrorKind::PositionLost, found.loss())
        .code("PG0022")
        .with("slot", name)
        .hint(
            "set `lost_slot: recopy`, so that another slot is made and the tables are copied anew; or drop the slot \
             and this source's tables in the target",
        );
    found
        .invalidation
        .iter()
        .fold(error, |error, reason| error.with("reason", reason))
}

/// Refuses the slot of an adopted server whose log does not go on behind what the target holds:
/// new changes would be taken for old ones. `pg_upgrade` sees to it that the log goes on.
fn refuse_unadoptable(name: &str, slot: &Slot, furthest: Lsn) -> Result<()> {
    match slot.confirmed {
        Some(confirmed) if confirmed > furthest => Ok(()),
        _ => {
            let message = "the adopted server's log does not follow on what the target holds";
            Err(lost(message, "PG0046", name, furthest))
        }
    }
}

/// Refuses a slot whose reader confirmed more than `held`.
///
/// # Errors
/// `PositionLost`: the changes in between will not be sent again.
pub(crate) fn refuse_ahead(name: &str, slot: &Slot, held: Lsn) -> Result<()> {
    match slot.confirmed {
        Some(confirmed) if confirmed.0 > held.0 + 1 => {
            Err(lost("the slot is ahead of the target", "PG0025", name, held).with("confirmed", confirmed))
        }
        _ => Ok(()),
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

/// The error for a table that is another relation than the one that the target's rows came from.
pub(crate) fn replaced(table: &TableId) -> Error {
    Error::new(ErrorKind::SchemaChange, "the table was replaced by another of its name")
        .code("PG0034")
        .with("table", table)
        .hint("set `recopy: replaced`, or drop the table in the target, so that it is copied anew")
}

/// The error for a table whose relation has the name `now`.
pub(crate) fn renamed(table: &TableId, now: &str) -> Error {
    Error::new(ErrorKind::SchemaChange, "a table was renamed")
        .code("PG0032")
        .with("table", table)
        .with("now", now)
        .hint(
            "say under `renamed` what it is called now, and it is read on where it was; or change the pipeline's \
             `tables` to the new name, under which it is copied as a new table",
        )
}

fn lost(message: &str, code: &'static str, slot: &str, held: Lsn) -> Error {
    Error::new(ErrorKind::PositionLost, message)
        .code(code)
        .with("slot", slot)
        .with("held", held)
        .hint(
            "the changes in between are gone: set `lost_slot: recopy`, or drop this source's tables in the target (and \
             the slot, if it exists), so that they are copied anew",
        )
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
    use crate::catalog::ReplicaIdentity;

    fn table(name: &str) -> CatalogTable {
        CatalogTable {
            id: TableId::new("shop", Some("public"), name),
            present: TableId::new("shop", Some("public"), name),
            oid: 7,
            kind: "r".to_owned(),
            identity: ReplicaIdentity::Default,
            readable: true,
            schema_usable: true,
            published: true,
            row_filter: None,
            row_security: false,
            columns: Vec::new(),
        }
    }

    /// Resume points of tables that were copied and hold the log up to an LSN.
    fn copied(tables: &[(&CatalogTable, u64)]) -> ResumePoints {
        let held = tables.iter().map(|(table, lsn)| {
            let positions = [
                (copy_partition(&table.id), Position::End),
                (wal_partition("shop"), position_of(Lsn(*lsn))),
                (relation_partition(&table.id), relation_position(7)),
            ];
            (table.id.clone(), positions.into_iter().collect())
        });
        held.collect()
    }

    fn slot(confirmed: u64) -> Slot {
        Slot {
            plugin: Some("pgoutput".to_owned()),
            database: Some("shop".to_owned()),
            active_pid: None,
            wal_status: Some("reserved".to_owned()),
            confirmed: Some(Lsn(confirmed)),
            invalidation: None,
        }
    }

    fn plan(slot: Option<&Slot>, tables: &[CatalogTable], resume: &ResumePoints) -> Result<Plan> {
        let server = Server {
            database: "shop",
            slot_name: "s",
            slot,
            log_end: Some(Lsn(90)),
            adopted: false,
            recopy: Recopy::Never,
            lost_slot: LostSlot::Halt,
        };
        super::plan(&server, tables, resume)
    }

    /// What `plan` refuses with.
    fn refusal(slot: Option<&Slot>, tables: &[CatalogTable], resume: &ResumePoints) -> (ErrorKind, &'static str) {
        let error = plan(slot, tables, resume).unwrap_err();
        assert!(error.hint_text().is_some());
        (error.kind(), error.error_code().unwrap())
    }

    fn nothing_held(tables: &[CatalogTable]) -> ResumePoints {
        let tables = tables.iter();
        tables.map(|table| (table.id.clone(), Checkpoint::default())).collect()
    }

    #[test]
    fn a_table_that_nothing_reads_is_not_copied() {
        let tables = [table("a"), table("unused")];
        let plan = plan(None, &tables, &nothing_held(&tables[..1])).unwrap();
        assert_eq!(plan.copy, [tables[0].id.clone()]);
    }

    #[test]
    fn a_first_run_makes_the_slot_and_copies_all() {
        let tables = [table("a"), table("b")];
        let plan = plan(None, &tables, &nothing_held(&tables)).unwrap();
        assert_eq!(
            plan,
            Plan {
                create_slot: true,
                drop_slot: false,
                copy: tables.map(|table| table.id).to_vec(),
                lost: false,
                anew: Vec::new(),
                held: None,
                adopts: false,
            }
        );
    }

    #[test]
    fn a_table_without_a_copy_gets_one_and_the_stream_begins_at_the_least() {
        let (a, b, c) = (table("a"), table("b"), table("c"));
        let mut resume = copied(&[(&a, 50), (&b, 40)]);
        resume.add(c.id.clone(), Checkpoint::default());
        let copy = vec![c.id.clone()];
        let plan = plan(Some(&slot(41)), &[a, b, c], &resume).unwrap();
        assert_eq!(
            plan,
            Plan {
                create_slot: false,
                drop_slot: false,
                copy,
                lost: false,
                anew: Vec::new(),
                held: Some(Lsn(40)),
                adopts: false,
            }
        );
    }

    #[test]
    fn a_target_that_joins_later_leaves_no_gap_in_the_one_beside_it() {
        let tables = [table("a")];
        let mut resume = copied(&[(&tables[0], 40)]);
        resume.add(tables[0].id.clone(), Checkpoint::default());
        let plan = plan(Some(&slot(41)), &tables, &resume).unwrap();
        assert_eq!((plan.copy.len(), plan.held), (1, Some(Lsn(40))));
    }

    #[test]
    fn a_gap_is_refused_to_the_byte() {
        let tables = [table("a")];
        let resume = copied(&[(&tables[0], 40)]);
        assert!(plan(Some(&slot(41)), &tables, &resume).is_ok());
        let lost = |code| (ErrorKind::PositionLost, code);
        assert_eq!(refusal(Some(&slot(42)), &tables, &resume), lost("PG0025"));
        assert_eq!(refusal(None, &tables, &resume), lost("PG0024"));
    }

    #[test]
    fn an_adopted_server_may_be_ahead_and_not_behind() {
        let tables = [table("a"), table("b")];
        let resume = copied(&[(&tables[0], 40), (&tables[1], 45)]);
        let slot = |confirmed| slot(confirmed);
        let adopt = |slot: Option<&Slot>| {
            let server = Server {
                database: "shop",
                slot_name: "s",
                slot,
                log_end: Some(Lsn(90)),
                adopted: true,
                recopy: Recopy::Never,
                lost_slot: LostSlot::Halt,
            };
            super::plan(&server, &tables, &resume).map_err(|error| error.error_code().unwrap())
        };
        assert!(adopt(Some(&slot(80))).unwrap().adopts);
        assert_eq!(adopt(Some(&slot(45))), Err("PG0046"));
        assert_eq!(adopt(None), Err("PG0024"));
    }

    #[test]
    fn a_server_whose_log_ends_before_what_any_table_holds_is_refused() {
        let tables = [table("a"), table("b")];
        let resume = |furthest| copied(&[(&tables[0], 40), (&tables[1], furthest)]);
        assert!(plan(Some(&slot(41)), &tables, &resume(89)).is_ok());
        let refused = refusal(Some(&slot(41)), &tables, &resume(90));
        assert_eq!(refused, (ErrorKind::PositionLost, "PG0035"));
    }

    #[test]
    fn a_table_that_was_copied_from_another_relation_is_refused() {
        let mut tables = [table("a")];
        let resume = copied(&[(&tables[0], 40)]);
        tables[0].oid = 8;
        let mut beside_a_new_one = resume.clone();
        beside_a_new_one.add(tables[0].id.clone(), millstream_core::Checkpoint::default());
        for resume in [resume, beside_a_new_one] {
            let refused = refusal(Some(&slot(41)), &tables, &resume);
            assert_eq!(refused, (ErrorKind::SchemaChange, "PG0034"));
        }
    }

    #[test]
    fn a_slot_that_lost_its_log_or_is_anothers_is_refused() {
        let tables = [table("a")];
        let resume = nothing_held(&tables);
        let lost = Slot {
            wal_status: Some("lost".to_owned()),
            ..slot(1)
        };
        assert_eq!(refusal(Some(&lost), &tables, &resume).1, "PG0022");
        let physical = Slot {
            plugin: None,
            ..slot(1)
        };
        assert_eq!(refusal(Some(&physical), &tables, &resume).1, "PG0021");
        let elsewhere = Slot {
            database: Some("other".to_owned()),
            ..slot(1)
        };
        assert_eq!(refusal(Some(&elsewhere), &tables, &resume).1, "PG0021");
    }

    #[test]
    fn a_copy_without_a_place_in_the_log_is_corrupt() {
        let a = table("a");
        let checkpoint = [(copy_partition(&a.id), Position::End)].into_iter().collect();
        let resume = [(a.id.clone(), checkpoint)].into_iter().collect();
        assert_eq!(refusal(Some(&slot(1)), &[a], &resume).0, ErrorKind::Corrupt);
    }
}
