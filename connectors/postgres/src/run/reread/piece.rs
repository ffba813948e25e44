//! Rows whose values are filled in, cut to batches of bounded size.

use std::ops::Range;

use millstream_core::{ChangeBatch, Error, ErrorKind, Result, SourceEvent};

use super::{Answer, Incomplete, missing_counter, table_counter};
use crate::decode::gaps::{Filler, Gap};

/// The rows since the last cut.
pub(super) struct Piece<'a> {
    incomplete: &'a Incomplete,
    filler: Filler<'a>,
    pub(super) first: usize,
    pub(super) bytes: usize,
    rows_read: metrics::Counter,
    missing: metrics::Counter,
}

impl<'a> Piece<'a> {
    pub(super) fn new(incomplete: &'a Incomplete) -> Self {
        let id = &incomplete.shape.id;
        Self {
            filler: Filler::new(incomplete.batch.rows(), &incomplete.types),
            first: 0,
            bytes: 0,
            rows_read: table_counter("millstream_postgres_reread_rows_total", id),
            missing: missing_counter(id),
            incomplete,
        }
    }

    /// Fills in what the answer, whose values are those of `columns`, has for a row.
    pub(super) fn fill(&mut self, gap: &Gap, columns: &[usize], answer: Option<&Answer>) {
        let mut missing = gap.columns.len();
        if let Some(Answer::Row(values)) = answer {
            for (column, value) in columns.iter().zip(values) {
                let wanted = value.as_ref().filter(|_| gap.columns.contains(column));
                if let Some(value) = wanted
                    && self.filler.fill(gap.row, *column, value)
                {
                    self.bytes += value.len();
                    missing -= 1;
                }
            }
        }
        if missing < gap.columns.len() {
            self.rows_read.increment(1);
        }
        self.missing.increment(missing as u64);
    }

    /// The rows before `end`; begins a new piece there.
    pub(super) fn cut(&mut self, end: usize) -> Result<SourceEvent> {
        let range: Range<usize> = self.first..end;
        (self.first, self.bytes) = (end, 0);
        let rows = self.filler.finish(range).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot fill re-read values into a batch")
                .with("table", &self.incomplete.shape.id)
                .caused_by(error)
        })?;
        let schema = self.incomplete.batch.schema().clone();
        ChangeBatch::try_new(schema, rows).map(SourceEvent::Changes)
    }
}
