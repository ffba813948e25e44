//! The tables of a stream: what the server calls them, and their decoders.

use std::collections::HashMap;

use millstream_core::{Error, PartitionId, Result, SourceEvent, TableId};

use super::outbox::Outbox;
use super::owes::owes_copy;
use super::reread::Incomplete;
use super::versions::{Version, Versions};
use super::whereabouts::{Doubt, Whereabouts};
use crate::catalog::RelationLook;
use crate::config::SchemaChanges;
use crate::ddl;
use crate::decode::pgoutput::Relation;
use crate::decode::{Catalog, Lsn, ProtocolError, TableDecoder};
use crate::owed::Why;
use crate::plan;
use crate::recopy::Recopy;
use crate::shape::{Shape, TypeNames};
use crate::shape_looked_up::Before;

/// What is needed before a message can be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The names and kinds of these types, which nobody asked the server about.
    Types(UnknownTypes),
    /// The stream in text mode: a column's binary form cannot be read, or its type is gone.
    Text,
    /// A look at this relation in the catalog.
    Relation(u32),
    /// A look for a table that may have been renamed, since a relation came that may be it.
    Whereabouts(Doubt),
    /// A copy of a table that the target holds and whose rows the stream does not tell.
    Copy(OwedCopy),
}

/// A table that is to be copied anew.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OwedCopy {
    pub(super) table: TableId,
    pub(super) why: Why,
    /// The name that its relation has now, if that was seen under another.
    pub(super) renamed: Option<String>,
}

/// Types as `(OID, typmod)`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownTypes(pub(super) Vec<(u32, i32)>);

/// A table to be streamed.
pub(super) struct TableStart {
    pub(super) shape: Shape,
    /// What the catalog calls it now, and what the configuration says that it is called now or soon.
    pub(super) present: TableId,
    pub(super) renamed: TableId,
    /// The relation that the target's rows came from.
    pub(super) oid: u32,
    /// The last commit up to which all of the target holds it: the engine leaves out its rows up
    /// to there, which are sent all the same.
    pub(super) held: Lsn,
}

/// Our tables, found by the OIDs that the stream gives to relations.
pub(super) struct Tables {
    partition: PartitionId,
    /// Whether the stream sends binary values.
    binary: bool,
    /// When a table is copied anew, in place of an error.
    pub(super) recopy: Recopy,
    /// The log's end before the catalog was read that the first shapes are from; the greatest if it is not known.
    pub(super) read_at: Lsn,
    /// Where what the stream does not tell of columns comes from.
    pub(super) schema_changes: SchemaChanges,
    types: TypeNames,
    tables: Vec<StreamedTable>,
    /// `None` for a relation that is not ours.
    by_oid: HashMap<u32, Option<usize>>,
    /// Relations of the past: the table, and why its rows are not decoded. The target holds the
    /// ones that come, or the pipeline ends.
    past: HashMap<u32, (usize, Error)>,
    /// The relation of the last row: rows of one table come in runs.
    last: (u32, Option<usize>),
}

/// A table and what is decoded of it.
struct StreamedTable {
    shape: Shape,
    /// What it is called, as far as the stream was read, and what it may be called from some place on.
    present: TableId,
    renamed: TableId,
    oid: u32,
    /// Where it was last looked for, since this relation came: it holds for the message that is given
    /// again, and no longer.
    found: Option<(u32, Whereabouts)>,
    /// Relations that have, or had, a name of the table's and are not in its place, with that name.
    strangers: HashMap<u32, TableId>,
    held: Lsn,
    /// The last commit at which its relation was seen under another name, or another one under its
    /// name, while its snapshot was still to be taken.
    displaced: Lsn,
    /// Whether nothing more is decoded of it: the source is to be started anew, and the target is
    /// given all of it then.
    left: bool,
    /// Made by the first Relation message.
    decoder: Option<TableDecoder>,
    rows: metrics::Counter,
    /// What is known of its columns besides what the stream tells.
    versions: Versions,
}

impl StreamedTable {
    /// Whether the relation is this table, or has taken its name. Its own relation may come with the
    /// name that it has in the pipeline, with that which it is called now, and with that which it was
    /// said to get; another one counts that has either of the last two.
    fn is_called_by(&self, relation: &Relation<'_>) -> bool {
        let is_named = |id: &TableId| is_name_of(id, relation);
        let is_stranger = self.strangers.get(&relation.oid).is_some_and(is_named);
        let is_ours = self.oid == relation.oid && is_named(&self.shape.id);
        is_ours || (is_named(&self.present) || is_named(&self.renamed)) && !is_stranger
    }

    /// Whether a relation that seems to be in its place, or it in another, is to be looked for first.
    fn doubts(&self, relation: u32) -> bool {
        let is_answered = self.found.as_ref().is_some_and(|(found, _)| *found == relation);
        self.renamed != self.shape.id && !self.left && !is_answered
    }

    /// Why it cannot be read on, if the look for it that this relation gave rise to found nothing in its
    /// place.
    fn absence(&mut self, relation: u32) -> Option<Error> {
        let (_, found) = self.found.take_if(|(found, _)| *found == relation)?;
        found.absence(&self.shape.id, &self.renamed)
    }

    /// Takes the name that the table has, where that is one of its own.
    fn follow(&mut self, relation: &Relation<'_>) {
        let own = [&self.shape.id, &self.renamed];
        let now = own.into_iter().find(|id| is_name_of(id, relation)).cloned();
        if let Some(now) = now.filter(|now| self.oid == relation.oid && *now != self.present) {
            tracing::info!(table = %self.shape.id, %now, "the table has another name");
            self.present = now;
        }
    }

    /// Takes the shape that `relation` told, and says what became of columns since the one before,
    /// where that `is_earlier`: the catalog's may be a later one.
    fn take(&mut self, shape: Shape, relation: &Relation<'_>, is_earlier: bool) {
        self.versions.took(relation);
        if is_earlier {
            shape.tell_what_became_of(&self.shape);
        }
        self.shape = shape;
    }
}

fn is_name_of(id: &TableId, relation: &Relation<'_>) -> bool {
    *id.name == *relation.name && id.namespace.as_deref() == Some(relation.namespace)
}

impl Tables {
    /// `tables` are as the catalog describes them now, which may be later than what the stream
    /// begins with.
    pub(super) fn new(partition: PartitionId, tables: Vec<TableStart>, types: TypeNames, binary: bool) -> Self {
        let tables = tables.into_iter().map(|start| StreamedTable {
            rows: rows_counter(&start.shape.id, "stream"),
            shape: start.shape,
            present: start.present,
            renamed: start.renamed,
            oid: start.oid,
            found: None,
            strangers: HashMap::new(),
            held: start.held,
            displaced: Lsn(0),
            left: false,
            decoder: None,
            versions: Versions::default(),
        });
        // OID 0 is no relation's.
        Self {
            partition,
            binary,
            recopy: Recopy::default(),
            read_at: Lsn(u64::MAX),
            schema_changes: SchemaChanges::Stream,
            types,
            tables: tables.collect(),
            by_oid: HashMap::new(),
            past: HashMap::new(),
            last: (0, None),
        }
    }

    /// Looks at a change of `oid` in a transaction that commits at `commit`, before it is ignored.
    ///
    /// # Errors
    /// Why a relation of the past cannot be decoded, if the target does not hold the change and the
    /// table is not copied anew.
    pub(super) fn refuse_past(&mut self, oid: u32, commit: Lsn) -> Result<Option<Need>> {
        let owed = self
            .past
            .get(&oid)
            .is_some_and(|(table, _)| commit > self.tables[*table].held);
        match owed.then(|| self.past.remove(&oid)).flatten() {
            Some((table, error)) => self.copy_or(table, None, error).map(Some),
            None => Ok(None),
        }
    }

    /// The need of a copy of the table `index`, for the reason that `error` gives.
    ///
    /// # Errors
    /// `error`, where that is no reason to copy it anew.
    fn copy_or(&self, index: usize, renamed: Option<String>, error: Error) -> Result<Need> {
        let (why, least) = match error.error_code() {
            Some("PG0034") => (Why::Replaced, Recopy::Replaced),
            // Something may have its place.
            Some("PG0032") if renamed.is_some() => (Why::Replaced, Recopy::Replaced),
            Some("PG0033") => (Why::KeyChanged, Recopy::Changed),
            _ => return Err(error),
        };
        if self.recopy < least {
            return Err(error);
        }
        Ok(Need::Copy(OwedCopy {
            table: self.tables[index].shape.id.clone(),
            why,
            renamed,
        }))
    }

    /// The relation of a `message` that is a change of a table that is not ours, or no longer.
    pub(super) fn ignores(&mut self, message: &[u8]) -> Option<u32> {
        match message {
            [b'I' | b'U' | b'D', a, b, c, d, ..] => {
                let oid = u32::from_be_bytes([*a, *b, *c, *d]);
                if self.last.0 != oid {
                    match self.by_oid.get(&oid) {
                        Some(index) => self.last = (oid, *index),
                        // Unknown: the decoder will complain.
                        None => return None,
                    }
                }
                self.last.1.is_none().then_some(oid)
            }
            _ => None,
        }
    }

    /// The decoder of a relation that a change names, and the commit up to which the target holds its
    /// table; `None` if it is not ours.
    pub(super) fn decoder(&mut self, oid: u32) -> Result<Option<(&mut TableDecoder, &metrics::Counter, Lsn)>> {
        let unknown = || ProtocolError::UnknownContent("a change before its relation");
        let index = if self.last.0 == oid {
            self.last.1
        } else {
            *self.by_oid.get(&oid).ok_or_else(unknown)?
        };
        let Some(index) = index else { return Ok(None) };
        let table = &mut self.tables[index];
        let decoder = table.decoder.as_mut().ok_or_else(unknown)?;
        Ok(Some((decoder, &table.rows, table.held)))
    }

    /// Takes a Relation message: changed columns end the decoder's batch and begin another's.
    /// `commit` is where the transaction commits that it came in. After `Some`, that need is to
    /// be met and the message given again.
    ///
    /// A relation that had a table's name before the commit that the target holds of the table
    /// is of the past: its changes are none that the target lacks.
    pub(super) fn describe(
        &mut self,
        relation: &Relation<'_>,
        commit: Lsn,
        outbox: &mut Outbox,
    ) -> Result<Option<Need>> {
        let found = self.tables.iter().position(|table| table.is_called_by(relation));
        if let Some(index) = found {
            self.tables[index].follow(relation);
        }
        let known = self.by_oid.get(&relation.oid).copied().flatten();
        let before = known.or_else(|| self.tables.iter().position(|table| table.oid == relation.oid));
        let before = before.filter(|before| found != Some(*before));
        let other = found.filter(|index| self.tables[*index].oid != relation.oid);
        let mut doubtful = before.into_iter().chain(other);
        if let Some(index) = doubtful.find(|index| self.tables[*index].doubts(relation.oid)) {
            return Ok(Some(Need::Whereabouts(Doubt {
                table: self.tables[index].shape.id.clone(),
                oid: self.tables[index].oid,
                relation: relation.oid,
                name: TableId::new(self.partition.source(), Some(relation.namespace), relation.name),
            })));
        }
        if let Some(before) = before {
            let table = &mut self.tables[before];
            let absence = table.absence(relation.oid);
            if commit > table.held {
                let now = format!("{}.{}", relation.namespace, relation.name);
                let (now, error) = match absence {
                    Some(error) => (None, error),
                    None => (Some(now.clone()), plan::renamed(&table.shape.id, &now)),
                };
                return self.copy_or(before, now, error).map(Some);
            }
            table.displaced = table.displaced.max(commit);
        }
        self.past.remove(&relation.oid);
        if let Some(index) = other {
            let table = &mut self.tables[index];
            let absence = table.absence(relation.oid);
            let error = absence.unwrap_or_else(|| plan::replaced(&table.shape.id));
            if commit > table.held {
                return self.copy_or(index, None, error).map(Some);
            }
            table.displaced = table.displaced.max(commit);
            self.past.insert(relation.oid, (index, error));
        }
        let Some(index) = found.filter(|_| other.is_none()) else {
            self.by_oid.insert(relation.oid, None);
            self.last = (0, None);
            return Ok(None);
        };
        if self.tables[index].left {
            self.by_oid.insert(relation.oid, None);
            self.last = (0, None);
            return Ok(None);
        }
        let unknown = self.types.unknown(relation);
        if !unknown.is_empty() {
            return Ok(Some(Need::Types(UnknownTypes(unknown))));
        }
        self.by_oid.insert(relation.oid, Some(index));
        self.last = (0, None);
        let table = &mut self.tables[index];
        let before = Before {
            shape: &table.shape,
            is_past: table.decoder.is_some(),
        };
        let version = table
            .versions
            .shape(self.schema_changes, relation, commit, before, &self.types);
        let shape = match version {
            Version::Same => return Ok(None),
            Version::Unknown => return Ok(Some(Need::Relation(relation.oid))),
            Version::New(shape) => shape,
        };
        let described = shape.and_then(|shape| Ok((shape.schema(&self.types.catalog)?, shape)));
        let (schema, shape) = match described {
            Ok(described) => described,
            Err(error) if commit <= table.held => {
                // The target was filled from a later copy, whose columns are sound. What comes
                // that it does not hold is looked at again.
                tracing::info!(table = %table.shape.id, reason = %error.summary(), "rows that the target holds are not decoded");
                self.by_oid.insert(relation.oid, None);
                self.past.insert(relation.oid, (index, error));
                return Ok(None);
            }
            Err(error) => return self.copy_or(index, None, error).map(Some),
        };
        let changes = table.decoder.is_some() || commit > self.read_at;
        let owes = owes_copy(&table.shape, &shape).filter(|_| self.recopy == Recopy::Changed);
        let owes = owes.filter(|_| changes && commit > table.held);
        let copy = owes.map(|why| {
            Need::Copy(OwedCopy {
                table: table.shape.id.clone(),
                why,
                renamed: None,
            })
        });
        if table.decoder.is_some() && shape.reads_as(&table.shape) {
            table.take(shape, relation, changes);
            return Ok(copy);
        }
        if self.binary && !shape.binary_is_exact(&self.types.catalog) {
            // The mode belongs to the whole stream and is chosen when it starts, from a catalog
            // that may be newer than what is read.
            tracing::info!(table = %shape.id, "a column needs the stream in text mode");
            return Ok(Some(Need::Text));
        }
        if let Some(mut before) = table.decoder.take() {
            tracing::info!(table = %shape.id, columns = shape.columns.len(), "the table's columns changed");
            take_batches(&mut before, &table.shape, table.oid, outbox)?;
        }
        let types = shape.column_types(&self.types.catalog);
        table.take(shape, relation, changes);
        table.decoder = Some(TableDecoder::new(schema, types, self.partition.clone()));
        Ok(copy)
    }

    /// Takes what a message of the [event triggers](ddl) says, in a transaction that commits at `commit`.
    pub(super) fn described(&mut self, commit: Lsn, content: &[u8]) {
        if self.schema_changes != SchemaChanges::Trigger {
            return;
        }
        let Some(told) = ddl::Told::parse(content) else {
            tracing::warn!(%commit, "a description of a table in the log cannot be read");
            return;
        };
        let Some(table) = self.tables.iter_mut().find(|table| table.oid == told.oid) else {
            return;
        };
        let own = [&table.shape.id, &table.renamed, &table.present];
        let is_own = |id: &&TableId| *id.name == told.name && id.namespace.as_deref() == Some(told.schema.as_str());
        if commit > table.held && !own.iter().any(is_own) {
            tracing::warn!(
                code = "PG0032", table = %table.shape.id, now = format!("{}.{}", told.schema, told.name),
                "the table was renamed: say so under `renamed` before it changes, and it is read on"
            );
        }
        table.versions.told(told);
    }

    /// Takes a look at a relation that was [needed](Need::Relation).
    pub(super) fn looked_at(&mut self, oid: u32, look: RelationLook) {
        if let Some(table) = self.tables.iter_mut().find(|table| table.oid == oid) {
            table.versions.looked_at(look);
        }
    }

    /// Takes a look for a table that was [needed](Need::Whereabouts). Where the table has one of its
    /// names, it is the table under any name that it had before, and what else had one of its names is
    /// none of ours under that name.
    pub(super) fn found(&mut self, doubt: Doubt, found: Whereabouts) {
        let Some(table) = self.tables.iter_mut().find(|table| table.shape.id == doubt.table) else {
            return;
        };
        if found != Whereabouts::Here {
            table.found = Some((doubt.relation, found));
        } else if doubt.relation == table.oid {
            table.present = doubt.name;
        } else {
            table.strangers.insert(doubt.relation, doubt.name);
        }
    }

    /// Takes what the server said about [`UnknownTypes`]: their names, in the same order, and
    /// those of them that are not built in.
    pub(super) fn learn(&mut self, unknown: &UnknownTypes, names: Vec<String>, catalog: Catalog) {
        self.types.names.extend(unknown.0.iter().copied().zip(names));
        self.types.catalog.extend(catalog);
    }

    /// Takes the news that the target is given all of a table as of `held`, which it held nothing
    /// of: what cannot be decoded up to there is of no interest. Returns whether the table had gone
    /// from its name by then or after.
    pub(super) fn copied_as_of(&mut self, id: &TableId, held: Lsn) -> Option<Lsn> {
        let table = self.tables.iter_mut().find(|table| table.shape.id == *id)?;
        table.held = table.held.min(held);
        let displaced = std::mem::take(&mut table.displaced);
        (displaced > held).then_some(displaced)
    }

    /// Takes the news that all of a table will be given to the target, as of a later place in the
    /// log than all that is read until the source is started anew.
    pub(super) fn leave(&mut self, id: &TableId) {
        let Some(index) = self.tables.iter().position(|table| table.shape.id == *id) else {
            return;
        };
        let table = &mut self.tables[index];
        (table.held, table.left) = (Lsn(u64::MAX), true);
        let relations = self.by_oid.values_mut().filter(|found| **found == Some(index));
        relations.for_each(|found| *found = None);
        self.last = (0, None);
    }

    /// The relations of the tables of which the target will not be given all anyway.
    pub(super) fn relations(&self) -> impl Iterator<Item = (&TableId, u32)> {
        let awaited = self.tables.iter().filter(|table| table.held < Lsn(u64::MAX));
        awaited.map(|table| (&table.shape.id, table.oid))
    }

    /// Takes the news that the stream sends text from now on.
    pub(super) fn read_text(&mut self) {
        self.binary = false;
    }

    /// Takes the news that the stream may send binary values from now on. Returns whether they can be
    /// read of all tables.
    pub(super) fn read_binary(&mut self) -> bool {
        let mut tables = self.tables.iter();
        self.binary = tables.all(|table| table.shape.binary_is_exact(&self.types.catalog));
        self.binary
    }

    /// Hands on all rows of all tables.
    pub(super) fn hand_on(&mut self, outbox: &mut Outbox) -> Result<()> {
        for table in &mut self.tables {
            if let Some(decoder) = &mut table.decoder {
                take_batches(decoder, &table.shape, table.oid, outbox)?;
            }
        }
        Ok(())
    }
}

/// Rows that a source sent, by table and phase (`copy` or `stream`).
pub(super) fn rows_counter(table: &TableId, phase: &'static str) -> metrics::Counter {
    metrics::counter!(
        "millstream_source_rows_total",
        "source" => table.source.to_string(),
        "table" => table.within_source(),
        "phase" => phase
    )
}

/// Moves the rows of a decoder to the outbox, of a relation that it read with this shape.
fn take_batches(decoder: &mut TableDecoder, shape: &Shape, oid: u32, outbox: &mut Outbox) -> Result<()> {
    for event in batches(decoder)? {
        match event {
            SourceEvent::Changes(batch) => {
                let gaps = decoder.take_gaps();
                if gaps.rows.is_empty() {
                    outbox.push(SourceEvent::Changes(batch));
                } else {
                    let (shape, types) = (shape.clone(), decoder.types().to_vec());
                    outbox.push_incomplete(Incomplete::new(batch, gaps, shape, types, oid));
                }
            }
            other => outbox.push(other),
        }
    }
    Ok(())
}

/// The rows that a decoder holds, decoded and rejected.
pub(super) fn batches(decoder: &mut TableDecoder) -> Result<Vec<SourceEvent>> {
    let rejected = |rows, decoder: &TableDecoder| SourceEvent::Rejected {
        origin: decoder.schema().id.clone(),
        rows,
    };
    let changes = decoder.finish()?.map(SourceEvent::Changes);
    let rejects = decoder.finish_rejects()?.map(|rows| rejected(rows, decoder));
    Ok(changes.into_iter().chain(rejects).collect())
}
