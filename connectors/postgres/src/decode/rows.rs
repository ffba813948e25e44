//! Changes of one table: wire rows into the columns of a change batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::filter_record_batch;
use millstream_core::quarantine::{QuarantineBuilder, Raw, RowPlace};
use millstream_core::{ChangeBatch, EnvelopeBuilder, Error, ErrorKind, Op, PartitionId, Result, TableSchema};

use super::before_image::BeforeImage;
use super::column::ColumnBuilder;
use super::gaps::{Gap, Gaps, KeyValue, Transaction};
use super::pgoutput::OldTuple;
use super::raw_row::row_as_json;
use super::tuple::TupleValues;
use super::value_error::ValueError;
use super::{ColumnType, CopyRows, ProtocolError, Tuple, TupleValue, copied};
use crate::clock;

/// The `check` under which quarantine files rows that could not be decoded.
const CHECK: &str = "decode";

/// The most room for a column's values, and for bytes of those of any length: a table that had a large
/// batch once may have a row of its own in each of the next.
const MOST_ROWS: usize = 8 * 1024;
const MOST_BYTES: usize = 256 << 10;

/// Batches that have about as much differ a little; one value too many, and the room for all is doubled.
const fn a_little_more_than(amount: usize) -> usize {
    amount + amount / 8
}

/// Where a change stands in its partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChangeContext<'a> {
    /// The text of `__position`: [`Lsn::padded`](super::Lsn::padded) of the commit.
    pub(crate) position: &'a str,
    /// The ordinal of the change's first row.
    pub(crate) ordinal: i64,
    /// Commit time in microseconds since the Unix epoch.
    pub(crate) committed_at: Option<i64>,
}

/// Collects changes of one table with one set of columns.
///
/// Each call that takes a change of the stream returns how many ordinals it used: 2 for an update that
/// moved a row to another key, which is a delete and a create, else 1. A row that cannot be decoded
/// uses its ordinal too and goes to the rejected rows with the column, its type and the
/// reason. Their `Err` means that the stream itself makes no sense.
///
/// What a row was before must not keep what it is now from being told: a before-image that
/// cannot be decoded is left out as a whole, since a part of it would say that the others were
/// NULL, and of a delete no more than the key must be sound.
pub(crate) struct TableDecoder {
    schema: Arc<TableSchema>,
    batch_schema: SchemaRef,
    types: Vec<ColumnType>,
    partition: PartitionId,
    /// Whether each column belongs to the key.
    key: Vec<bool>,
    /// Whether there is a key.
    keyed: bool,
    columns: Vec<ColumnBuilder>,
    before: Option<BeforeImage>,
    envelope: EnvelopeBuilder,
    /// Indexes of rows that were completed with nulls because one of their values was refused.
    /// They are taken out when the batch is built.
    refused: Vec<usize>,
    rejects: QuarantineBuilder,
    /// Values that were left out and that no old row told; `None` if nobody wants to know.
    gaps: Option<Gaps>,
    /// What the last batch took. The next takes about as much, so that it need not be found out by growing.
    room: Option<Room>,
    /// The rows that the columns have been given room for.
    made_room_for: usize,
}

/// How much a batch of a table takes.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    rows: usize,
    /// Bytes of each column whose values have any length.
    bytes: Vec<usize>,
}

/// A row to append: its values, what fills the values that were not sent, and what it was before.
struct Row<'a> {
    op: Op,
    values: TupleValues<'a>,
    old: Option<&'a OldTuple<'a>>,
    before: Option<&'a Tuple<'a>>,
}

/// Which value was refused.
struct Refusal {
    column: usize,
    error: ValueError,
}

impl TableDecoder {
    /// An empty decoder. `types` are those of `schema.columns`, in the same order, which is also
    /// the order of the columns in every row.
    pub(crate) fn new(schema: Arc<TableSchema>, types: Vec<ColumnType>, partition: PartitionId) -> Self {
        debug_assert!(
            schema
                .columns
                .fields()
                .iter()
                .zip(&types)
                .all(|(f, t)| *f.data_type() == t.arrow())
        );
        let before = schema.before_image.then(|| BeforeImage::new(&types));
        Self {
            batch_schema: schema.batch_schema(),
            key: schema
                .columns
                .fields()
                .iter()
                .map(|field| schema.key.contains(field.name()))
                .collect(),
            keyed: !schema.key.is_empty(),
            columns: types.iter().map(ColumnBuilder::new).collect(),
            before,
            schema,
            types,
            partition,
            envelope: EnvelopeBuilder::default(),
            refused: Vec::new(),
            rejects: QuarantineBuilder::default(),
            gaps: None,
            room: None,
            made_room_for: 0,
        }
    }

    /// Has the values noted that are left out of the next changes, which are those of
    /// `transaction`; or has them not noted, without one.
    pub(crate) fn note_gaps(&mut self, transaction: Option<Transaction>) {
        if transaction.is_some() || self.gaps.is_some() {
            self.gaps.get_or_insert_default().of = transaction;
        }
    }

    /// How the columns' values are read.
    pub(crate) fn types(&self) -> &[ColumnType] {
        &self.types
    }

    /// The values that were left out of the rows that [`finish`](Self::finish) gave last.
    pub(crate) fn take_gaps(&mut self) -> Gaps {
        self.gaps.as_mut().map(Gaps::take).unwrap_or_default()
    }

    /// What the last batch took, if the next was not begun.
    pub(crate) fn room(&self) -> Option<&Room> {
        self.room.as_ref()
    }

    /// Has the next batch begin with the room that one of another decoder of the table took, if that is known.
    pub(crate) fn begin_with(&mut self, room: Option<Room>) {
        self.room = room;
    }

    /// The table as this decoder's batches have it.
    pub(crate) fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Takes rows of a first copy that have one position, and each an ordinal of its own, of which
    /// there are as many. Columns that need text must have been copied as text.
    ///
    /// A column at a time, so that its type is chosen once.
    ///
    /// # Errors
    /// `Corrupt` if the rows have another number of columns than the table; so for all changes.
    pub(crate) fn copy(&mut self, position: &str, ordinals: &[i64], rows: &CopyRows<'_>) -> Result<()> {
        debug_assert_eq!(ordinals.len(), rows.len());
        self.expect_columns(rows.columns())?;
        let at = self.begin_rows();
        if let Some(before) = &mut self.before {
            (at..at + rows.len()).for_each(|row| before.append(None, row));
        }
        // Of each row the first that is refused.
        let mut refusals = BTreeMap::new();
        for (index, (column, r#type)) in self.columns.iter_mut().zip(&self.types).enumerate() {
            let refuse = |row, error| {
                refusals.entry(row).or_insert(Refusal { column: index, error });
            };
            copied::append_copied(column, r#type, rows.column(index), refuse);
        }
        self.envelope
            .append_run(Op::Read, &self.partition, position, ordinals, None);
        for (row, refusal) in refusals {
            self.refused.push(at + row);
            let fields = rows.row(row).iter().zip(&self.types);
            let values = fields.map(|(field, r#type)| copied::value(*field, r#type));
            let context = ChangeContext {
                position,
                ordinal: ordinals[row],
                committed_at: None,
            };
            let raw = self.as_json(Op::Read, values, None);
            self.reject(&context, &refusal, &raw);
        }
        Ok(())
    }

    /// Takes an insert.
    pub(crate) fn insert(&mut self, context: &ChangeContext<'_>, new: &Tuple<'_>) -> Result<i64> {
        self.expect_columns(new.len())?;
        self.append_tuple(context, Op::Create, new, None, None);
        Ok(1)
    }

    /// Takes an update. Values that were not sent because they did not change are taken from the
    /// old row where it has them, and named in `__unchanged` where it has not.
    pub(crate) fn update(
        &mut self,
        context: &ChangeContext<'_>,
        old: Option<&OldTuple<'_>>,
        new: &Tuple<'_>,
    ) -> Result<i64> {
        self.expect_columns(new.len())?;
        if let Some(OldTuple::Key(tuple) | OldTuple::Full(tuple)) = old {
            self.expect_columns(tuple.len())?;
            if self.moves_key(tuple, new) {
                self.append_tuple(context, Op::Delete, tuple, None, whole(old));
                let second = ChangeContext {
                    ordinal: context.ordinal + 1,
                    ..*context
                };
                self.append_tuple(&second, Op::Create, new, old, None);
                return Ok(2);
            }
        }
        self.append_tuple(context, Op::Update, new, old, whole(old));
        Ok(1)
    }

    /// Takes a delete: the key, or with REPLICA IDENTITY FULL the whole row.
    pub(crate) fn delete(&mut self, context: &ChangeContext<'_>, old: &OldTuple<'_>) -> Result<i64> {
        let (OldTuple::Key(tuple) | OldTuple::Full(tuple)) = old;
        self.expect_columns(tuple.len())?;
        self.append_tuple(context, Op::Delete, tuple, None, whole(Some(old)));
        Ok(1)
    }

    /// Takes a truncate.
    pub(crate) fn truncate(&mut self, context: &ChangeContext<'_>) -> Result<i64> {
        for column in &mut self.columns {
            column.append_null();
        }
        if let Some(before) = &mut self.before {
            before.append(None, self.envelope.len());
        }
        self.close_row(context, Op::Truncate, &[]);
        Ok(1)
    }

    /// The rows since the last call; `None` if there are none.
    ///
    /// # Errors
    /// `Internal` if the columns do not fit the schema, which is a fault of this crate.
    pub(crate) fn finish(&mut self) -> Result<Option<ChangeBatch>> {
        let refused = std::mem::take(&mut self.refused);
        if let Some(gaps) = &mut self.gaps {
            gaps.leave_out(&refused);
        }
        let total = self.envelope.len();
        if total == 0 {
            return Ok(None);
        }
        let fault = |error| {
            Error::new(ErrorKind::Internal, "cannot build a change batch")
                .with("table", &self.schema.id)
                .caused_by(error)
        };
        let mut arrays: Vec<ArrayRef> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        if total < self.made_room_for / 2 {
            // What is held counts against the bounds of memory, used or not.
            arrays.iter_mut().for_each(Array::shrink_to_fit);
        }
        self.made_room_for = 0;
        self.room = Some(Room {
            rows: a_little_more_than(total).min(MOST_ROWS),
            bytes: arrays
                .iter()
                .map(|column| a_little_more_than(bytes_of_any_length(column)).min(MOST_BYTES))
                .collect(),
        });
        arrays.extend(self.envelope.finish());
        if let Some(before) = &mut self.before {
            let image = before.finish(self.schema.columns.fields(), total).map_err(fault)?;
            arrays.push(Arc::new(image));
        }
        let mut rows = RecordBatch::try_new(self.batch_schema.clone(), arrays).map_err(fault)?;
        if !refused.is_empty() {
            let mut keep = vec![true; total];
            for row in refused {
                keep[row] = false;
            }
            rows = filter_record_batch(&rows, &BooleanArray::from(keep)).map_err(fault)?;
        }
        if rows.num_rows() == 0 {
            Ok(None)
        } else {
            ChangeBatch::try_new(self.schema.clone(), rows).map(Some)
        }
    }

    /// The rejected rows since the last call, as a quarantine batch; `None` if there are none.
    ///
    /// # Errors
    /// As [`QuarantineBuilder::finish`].
    pub(crate) fn finish_rejects(&mut self) -> Result<Option<ChangeBatch>> {
        if self.rejects.is_empty() {
            Ok(None)
        } else {
            self.rejects.finish().map(Some)
        }
    }

    fn expect_columns(&self, found: usize) -> Result<()> {
        let expected = self.columns.len();
        if found == expected {
            Ok(())
        } else {
            Err(ProtocolError::ColumnCount { expected, found }.into())
        }
    }

    /// Whether an update gives another key to the row. A key that was not sent did not change.
    fn moves_key(&self, old: &Tuple<'_>, new: &Tuple<'_>) -> bool {
        let mut pairs = self.key.iter().zip(old.iter().zip(new.iter()));
        pairs.any(|(key, (old, new))| *key && new != TupleValue::Unchanged && old != new)
    }

    fn append_tuple(
        &mut self,
        context: &ChangeContext<'_>,
        op: Op,
        tuple: &Tuple<'_>,
        old: Option<&OldTuple<'_>>,
        before: Option<&Tuple<'_>>,
    ) {
        let values = tuple.iter();
        let row = Row {
            op,
            values,
            old,
            before,
        };
        self.append(context, &row);
    }

    /// How many rows there are. In front of the first the columns are given the room that the batch
    /// before has told.
    fn begin_rows(&mut self) -> usize {
        if self.envelope.is_empty() {
            self.make_room();
        }
        self.envelope.len()
    }

    fn make_room(&mut self) {
        let Some(Room { rows, bytes }) = self.room.take() else {
            return;
        };
        for (column, bytes) in self.columns.iter_mut().zip(bytes) {
            column.reserve(rows, bytes);
        }
        self.made_room_for = rows;
    }

    /// Appends a row, or rejects it; either way every builder grows by one.
    fn append(&mut self, context: &ChangeContext<'_>, row: &Row<'_>) {
        let mut unchanged = Vec::new();
        let at = self.begin_rows();
        if let Some(before) = &mut self.before {
            before.append(row.before, at);
        }
        let Err(refusal) = self.append_values(row, &mut unchanged) else {
            let transaction = self.gaps.as_ref().and_then(|gaps| gaps.of);
            if let Some(transaction) = transaction.filter(|_| !unchanged.is_empty() && row.op != Op::Delete) {
                let gap = Gap::new(at, &unchanged, self.key_of(row));
                self.gaps.get_or_insert_default().add(gap, transaction);
            }
            return self.close_row(context, row.op, &unchanged);
        };
        for column in &mut self.columns {
            if column.len() == at {
                column.append_null();
            }
        }
        self.refused.push(at);
        self.close_row(context, row.op, &[]);

        let raw = self.as_json(row.op, row.values.clone(), row.before);
        self.reject(context, &refusal, &raw);
    }

    fn as_json<'a>(&self, op: Op, values: impl Iterator<Item = TupleValue<'a>>, before: Option<&Tuple<'a>>) -> String {
        let names = self.schema.columns.fields().iter().map(|field| field.name().as_str());
        row_as_json(op, names.zip(&self.types), values, before.map(Tuple::iter))
    }

    /// Files a row with the rejected ones, as JSON.
    fn reject(&mut self, context: &ChangeContext<'_>, refusal: &Refusal, raw: &str) {
        let reason = format!(
            "column `{}` ({}): {}",
            self.schema.columns.field(refusal.column).name(),
            self.types[refusal.column].name(),
            refusal.error
        );
        let place = RowPlace {
            partition: &self.partition,
            position: context.position,
            ordinal: context.ordinal,
            committed_at: context.committed_at,
        };
        let table = self.schema.id.to_string();
        self.rejects
            .append(&table, CHECK, &reason, Raw::Json(raw), place, clock::unix_micros());
    }

    /// Appends the values and gathers the columns that stay unknown.
    fn append_values(&mut self, row: &Row<'_>, unchanged: &mut Vec<usize>) -> Result<(), Refusal> {
        for (index, (column, value)) in self.columns.iter_mut().zip(row.values.clone()).enumerate() {
            let value = told(row.old, self.key[index], index, value);
            if value == TupleValue::Unchanged {
                unchanged.push(index);
            }
            match column.append(value) {
                Ok(()) => {}
                Err(_) if row.op == Op::Delete && self.keyed && !self.key[index] => column.append_null(),
                Err(error) => return Err(Refusal { column: index, error }),
            }
        }
        Ok(())
    }

    /// The key of a row as it was sent; nothing if there is none, or not all of it was sent.
    fn key_of(&self, row: &Row<'_>) -> Vec<KeyValue> {
        let keys = row.values.clone().enumerate().filter(|(index, _)| self.key[*index]);
        let values = keys.map(|(index, value)| KeyValue::of(told(row.old, true, index, value)));
        values.collect::<Option<_>>().unwrap_or_default()
    }

    fn close_row(&mut self, context: &ChangeContext<'_>, op: Op, unchanged: &[usize]) {
        let ChangeContext {
            position,
            ordinal,
            committed_at,
        } = *context;
        if unchanged.is_empty() {
            return self
                .envelope
                .append(op, &self.partition, position, ordinal, committed_at);
        }
        let fields = self.schema.columns.fields();
        let names: Vec<&str> = unchanged.iter().map(|index| fields[*index].name().as_str()).collect();
        self.envelope
            .append_partial(op, &self.partition, position, ordinal, committed_at, &names);
    }
}

/// The value of column `index`, or what the old row tells of it if it was not sent.
fn told<'a>(old: Option<&'a OldTuple<'a>>, in_key: bool, index: usize, value: TupleValue<'a>) -> TupleValue<'a> {
    match (value, old) {
        (TupleValue::Unchanged, Some(OldTuple::Full(old))) => old.iter().nth(index).unwrap_or(value),
        (TupleValue::Unchanged, Some(OldTuple::Key(old))) if in_key => old.iter().nth(index).unwrap_or(value),
        _ => value,
    }
}

/// The bytes of a column whose values have any length; 0 of any other.
fn bytes_of_any_length(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value_data().len(),
        DataType::Binary => column.as_binary::<i32>().value_data().len(),
        _ => 0,
    }
}

/// The old row, where all of it was sent.
fn whole<'a>(old: Option<&'a OldTuple<'a>>) -> Option<&'a Tuple<'a>> {
    match old {
        Some(OldTuple::Full(tuple)) => Some(tuple),
        _ => None,
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
