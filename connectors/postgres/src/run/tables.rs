//! The tables of a stream: what the server calls them, and their decoders.

use std::collections::HashMap;

use millstream_core::{Error, ErrorKind, PartitionId, Result, SourceEvent};

use super::outbox::Outbox;
use super::reread::Incomplete;
use crate::decode::pgoutput::Relation;
use crate::decode::{Catalog, Lsn, ProtocolError, TableDecoder};
use crate::plan;
use crate::shape::{Shape, TypeNames};

/// What is needed before a message can be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The names and kinds of these types, which nobody asked the server about.
    Types(UnknownTypes),
    /// The stream in text mode: a column's binary form cannot be read, or its type is gone.
    Text,
}

/// Types as `(OID, typmod)`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownTypes(pub(super) Vec<(u32, i32)>);

/// A table to be streamed.
pub(super) struct TableStart {
    pub(super) shape: Shape,
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
    oid: u32,
    held: Lsn,
    /// Made by the first Relation message.
    decoder: Option<TableDecoder>,
    rows: metrics::Counter,
}

impl Tables {
    /// `tables` are as the catalog describes them now, which may be later than what the stream
    /// begins with.
    pub(super) fn new(partition: PartitionId, tables: Vec<TableStart>, types: TypeNames, binary: bool) -> Self {
        let tables = tables.into_iter().map(|TableStart { shape, oid, held }| StreamedTable {
            rows: rows_counter(&shape.id, "stream"),
            shape,
            oid,
            held,
            decoder: None,
        });
        // OID 0 is no relation's.
        Self {
            partition,
            binary,
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
    /// Why a relation of the past cannot be decoded, if the target does not hold the change.
    pub(super) fn refuse_past(&mut self, oid: u32, commit: Lsn) -> Result<()> {
        let owed = self
            .past
            .get(&oid)
            .is_some_and(|(table, _)| commit > self.tables[*table].held);
        match owed.then(|| self.past.remove(&oid)).flatten() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
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

    /// The decoder of a relation that a change names; `None` if it is not ours.
    pub(super) fn decoder(&mut self, oid: u32) -> Result<Option<(&mut TableDecoder, &metrics::Counter)>> {
        let unknown = || ProtocolError::UnknownContent("a change before its relation");
        let index = if self.last.0 == oid {
            self.last.1
        } else {
            *self.by_oid.get(&oid).ok_or_else(unknown)?
        };
        let Some(index) = index else { return Ok(None) };
        let table = &mut self.tables[index];
        let decoder = table.decoder.as_mut().ok_or_else(unknown)?;
        Ok(Some((decoder, &table.rows)))
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
        let found = self.tables.iter().position(|table| {
            *table.shape.id.name == *relation.name && table.shape.id.namespace.as_deref() == Some(relation.namespace)
        });
        if let Some(Some(before)) = self.by_oid.get(&relation.oid)
            && found != Some(*before)
            && commit > self.tables[*before].held
        {
            return Err(Error::new(ErrorKind::SchemaChange, "a table was renamed")
                .code("PG0032")
                .with("table", &self.tables[*before].shape.id)
                .with("now", format_args!("{}.{}", relation.namespace, relation.name))
                .hint("name it back, or change the pipeline's `tables` to the new name, which copies it anew"));
        }
        let other = found.filter(|index| self.tables[*index].oid != relation.oid);
        if let Some(table) = other.map(|index| &self.tables[index])
            && commit > table.held
        {
            return Err(plan::replaced(&table.shape.id));
        }
        self.past.remove(&relation.oid);
        let Some(index) = found.filter(|_| other.is_none()) else {
            if let Some(index) = other {
                let error = plan::replaced(&self.tables[index].shape.id);
                self.past.insert(relation.oid, (index, error));
            }
            self.by_oid.insert(relation.oid, None);
            self.last = (0, None);
            return Ok(None);
        };
        let unknown = self.types.unknown(relation);
        if !unknown.is_empty() {
            return Ok(Some(Need::Types(UnknownTypes(unknown))));
        }
        self.by_oid.insert(relation.oid, Some(index));
        self.last = (0, None);
        let table = &mut self.tables[index];
        let described = Shape::from_relation(relation, &table.shape, &self.types)
            .and_then(|shape| Ok((shape.schema(&self.types.catalog)?, shape)));
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
            Err(error) => return Err(error),
        };
        if table.decoder.is_some() && shape == table.shape {
            return Ok(None);
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
        table.decoder = Some(TableDecoder::new(schema, types, self.partition.clone()));
        table.shape = shape;
        Ok(None)
    }

    /// Takes what the server said about [`UnknownTypes`]: their names, in the same order, and
    /// those of them that are not built in.
    pub(super) fn learn(&mut self, unknown: &UnknownTypes, names: Vec<String>, catalog: Catalog) {
        self.types.names.extend(unknown.0.iter().copied().zip(names));
        self.types.catalog.extend(catalog);
    }

    /// Takes the news that the target is given all of a table as of `held`, which it held nothing
    /// of: what cannot be decoded up to there is of no interest.
    pub(super) fn copied_as_of(&mut self, id: &millstream_core::TableId, held: Lsn) {
        for table in self.tables.iter_mut().filter(|table| table.shape.id == *id) {
            table.held = table.held.min(held);
        }
    }

    /// Takes the news that the stream sends text from now on.
    pub(super) fn read_text(&mut self) {
        self.binary = false;
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
pub(super) fn rows_counter(table: &millstream_core::TableId, phase: &'static str) -> metrics::Counter {
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
