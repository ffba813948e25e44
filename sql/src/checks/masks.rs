//! Row tests over a batch, as masks with one bit for each row.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use arrow_schema::DataType;
use millstream_core::{ChangeBatch, Op};

use super::plan::{ColumnTest, Compiled, RowTest};
use super::program::Program;
use crate::unsent::Unsent;

/// A batch, and which of its rows and cells may be checked at all.
pub(super) struct View<'a> {
    pub(super) rows: &'a RecordBatch,
    /// Each row's operation.
    pub(super) ops: Vec<Op>,
    /// Rows with an after-image: not deletes, not truncates.
    pub(super) living: BooleanBuffer,
    pub(super) unsent: Unsent,
}

/// What a check says of a batch.
pub(super) struct Masks {
    /// Rows that were checked, whole or in part.
    pub(super) subject: BooleanBuffer,
    /// Rows that fail, by reason.
    pub(super) failing: Vec<(Arc<str>, BooleanBuffer)>,
}

impl Masks {
    /// Rows that fail for any reason.
    pub(super) fn any(&self) -> BooleanBuffer {
        let none = BooleanBuffer::new_unset(self.subject.len());
        self.failing.iter().fold(none, |any, (_, mask)| &any | mask)
    }
}

impl<'a> View<'a> {
    pub(super) fn new(batch: &'a ChangeBatch) -> Self {
        // An unknown letter is treated as a delete, which passes through untouched.
        let ops: Vec<Op> = batch
            .ops()
            .iter()
            .map(|op| op.and_then(Op::from_letter).unwrap_or(Op::Delete))
            .collect();
        let living = ops
            .iter()
            .map(|op| matches!(op, Op::Read | Op::Create | Op::Update))
            .collect();
        Self {
            rows: batch.rows(),
            living,
            unsent: Unsent::of(batch.rows()),
            ops,
        }
    }

    /// The rows of `subject` in which the source sent all of `columns`.
    pub(super) fn sent<'n>(
        &self,
        subject: &BooleanBuffer,
        columns: impl IntoIterator<Item = &'n str>,
    ) -> BooleanBuffer {
        let mut sent = subject.clone();
        for missing in columns.into_iter().filter_map(|column| self.unsent.rows(column)) {
            sent = &sent & &!missing;
        }
        sent
    }

    /// The rows of `subject` in which all of `columns` are known: sent, or left out and read again.
    fn known<'n>(&self, subject: &BooleanBuffer, columns: impl IntoIterator<Item = &'n str>) -> BooleanBuffer {
        let mut known = subject.clone();
        for column in columns {
            let Some(unsent) = self.unsent.rows(column) else {
                continue;
            };
            let cells = self.rows.column_by_name(column);
            // A column that was left out is not NULL.
            known = match cells.map(Array::logical_nulls) {
                Some(None) => known,
                Some(Some(nulls)) => &known & &!&(unsent & &!nulls.inner()),
                None => &known & &!unsent,
            };
        }
        known
    }

    /// The living rows that a check's `where` picks, and those on which it cannot be evaluated.
    pub(super) fn subject(&self, condition: Option<&Program>) -> (BooleanBuffer, Option<BooleanBuffer>) {
        match condition {
            None => (self.living.clone(), None),
            Some(program) => {
                let asked = self.known(&self.living, program.names());
                let verdicts = program.evaluate_among_all(self.rows, &asked);
                (verdicts.yes, Some(verdicts.broken))
            }
        }
    }
}

/// Evaluates a row test. A column that the source did not send, and nobody read again, is not checked in
/// that row.
pub(super) fn of(check: &Compiled, test: &RowTest, view: &View<'_>) -> Masks {
    let (picked, broken) = view.subject(check.condition.as_ref());
    let mut failing = Vec::new();
    let subject = match test {
        RowTest::NotNull(columns) => {
            for column in columns {
                let sent = view.known(&picked, [column.name.as_str()]);
                if let Some(nulls) = view.rows.column(column.index).logical_nulls() {
                    failing.push((column.reason.clone(), &sent & &!nulls.inner()));
                }
            }
            picked
        }
        RowTest::Regex(column, regex) => {
            let sent = view.known(&picked, [column.name.as_str()]);
            let mask = text_fails(view.rows.column(column.index), &sent, |text| !regex.is_match(text));
            note(column, mask, &sent, &mut failing);
            sent
        }
        RowTest::Length { column, min, max } => {
            let sent = view.known(&picked, [column.name.as_str()]);
            let array = view.rows.column(column.index);
            let outside = |length: usize| !(*min..=*max).contains(&(length as u64));
            let mask = text_fails(array, &sent, |text| outside(text.chars().count()))
                .or_else(|| binary_fails(array, &sent, |bytes| outside(bytes.len())));
            note(column, mask, &sent, &mut failing);
            sent
        }
        RowTest::Condition { program, reason } => {
            let sent = view.known(&picked, program.names());
            let verdicts = match check.condition {
                // It may keep rows from a test that they are no good for.
                Some(_) => program.evaluate(view.rows, &sent),
                None => program.evaluate_among_all(view.rows, &sent),
            };
            failing.push((reason.clone(), verdicts.no));
            let why = format!("{}: the condition cannot be evaluated on the row", check.kind);
            failing.push((why.into(), verdicts.broken));
            sent
        }
    };
    let subject = match broken {
        None => subject,
        Some(broken) => {
            let subject = &subject | &broken;
            failing.push((
                format!("{}: its `where` cannot be evaluated on the row", check.kind).into(),
                broken,
            ));
            subject
        }
    };
    failing.retain(|(_, mask)| mask.count_set_bits() > 0);
    Masks { subject, failing }
}

/// A column whose type is not the one that was planned fails whole rather than passing unseen.
fn note(
    column: &ColumnTest,
    mask: Option<BooleanBuffer>,
    sent: &BooleanBuffer,
    failing: &mut Vec<(Arc<str>, BooleanBuffer)>,
) {
    failing.push((column.reason.clone(), mask.unwrap_or_else(|| sent.clone())));
}

/// Rows of `subject` whose text is there and `fails`; `None` if the column is not text.
fn text_fails(array: &ArrayRef, subject: &BooleanBuffer, fails: impl Fn(&str) -> bool) -> Option<BooleanBuffer> {
    match array.data_type() {
        DataType::Utf8 => {
            let texts = array.as_string::<i32>();
            Some(mask(array, subject, |row| fails(texts.value(row))))
        }
        DataType::LargeUtf8 => {
            let texts = array.as_string::<i64>();
            Some(mask(array, subject, |row| fails(texts.value(row))))
        }
        DataType::Utf8View => {
            let texts = array.as_string_view();
            Some(mask(array, subject, |row| fails(texts.value(row))))
        }
        DataType::Dictionary(_, values) => text_fails(&arrow_cast::cast(array, values).ok()?, subject, fails),
        _ => None,
    }
}

/// Rows of `subject` whose bytes are there and `fail`; `None` if the column is not binary.
fn binary_fails(array: &ArrayRef, subject: &BooleanBuffer, fails: impl Fn(&[u8]) -> bool) -> Option<BooleanBuffer> {
    match array.data_type() {
        DataType::Binary => {
            let bytes = array.as_binary::<i32>();
            Some(mask(array, subject, |row| fails(bytes.value(row))))
        }
        DataType::LargeBinary => {
            let bytes = array.as_binary::<i64>();
            Some(mask(array, subject, |row| fails(bytes.value(row))))
        }
        DataType::BinaryView => {
            let bytes = array.as_binary_view();
            Some(mask(array, subject, |row| fails(bytes.value(row))))
        }
        DataType::Dictionary(_, values) => binary_fails(&arrow_cast::cast(array, values).ok()?, subject, fails),
        _ => None,
    }
}

fn mask(array: &ArrayRef, subject: &BooleanBuffer, fails: impl Fn(usize) -> bool) -> BooleanBuffer {
    let mut mask = BooleanBufferBuilder::new(subject.len());
    mask.append_n(subject.len(), false);
    for row in subject.set_indices() {
        if array.is_valid(row) && fails(row) {
            mask.set_bit(row, true);
        }
    }
    mask.finish()
}
