//! A column chunk of texts whose rows follow each other with the same value, encoded a run at a time.
//!
//! All rows of a transaction, or of a block of a first copy, have one place. Parquet stores that in a few bytes, as
//! runs of a dictionary's indexes, but `parquet`'s writer hashes and compares the text of each row to find them. Here
//! a text is looked up once for each run.

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_schema::DataType;
use bytes::Bytes;
use millstream_core::text_runs;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnDescPtr;

use crate::chunk::{Chunk, PageRows};
use crate::hybrid;
use crate::pages::{PAGE_ROWS, Rows};

/// With so many rows to a run, on average, runs are worth it.
const LEAST_RUN: usize = 8;
/// Fewer rows than this tell nothing of those that follow.
const LEAST_ROWS: usize = 64;
/// With about so many bytes of different texts a chunk is large enough: readers hold them all.
const MOST_TEXT_BYTES: usize = 1 << 20;
/// After so many rows it counts whether their runs were as long as was hoped.
const ENOUGH_ROWS: usize = PAGE_ROWS;

/// The rows of one column in a row group.
pub(crate) struct RunsColumn {
    chunk: Chunk,
    /// The index of the last row, and how many rows with it were not written to a page yet.
    last: u32,
    pending: usize,
    page: OpenPage,
    rows: usize,
    runs: usize,
}

/// A data page in progress: its runs.
#[derive(Default)]
struct OpenPage {
    runs: Vec<(u32, usize)>,
    rows: usize,
}

impl RunsColumn {
    /// Whether rows like these are worth runs, and can be written so.
    pub(crate) fn suits(rows: &ArrayRef) -> bool {
        if rows.len() < LEAST_ROWS || rows.logical_null_count() > 0 {
            return false;
        }
        let runs = match (keys_and_texts(rows), rows.data_type()) {
            (Some((keys, _)), _) => key_runs(keys).count(),
            (None, DataType::Utf8) => text_runs(rows.as_string()).count(),
            _ => return false,
        };
        runs * LEAST_RUN <= rows.len()
    }

    /// An empty column chunk. `column` is a text without repetition.
    pub(crate) fn new(column: ColumnDescPtr, properties: &WriterProperties) -> Self {
        Self {
            chunk: Chunk::new(column, properties),
            last: 0,
            pending: 0,
            page: OpenPage::default(),
            rows: 0,
            runs: 0,
        }
    }

    /// Appends rows of a type that suits.
    ///
    /// # Errors
    /// If one is null.
    pub(crate) fn push(&mut self, rows: &ArrayRef) -> Result<(), ParquetError> {
        if rows.logical_null_count() > 0 {
            let name = self.chunk.name();
            return Err(ParquetError::General(format!(
                "the reserved column `{name}` holds a null"
            )));
        }
        if let Some((keys, texts)) = keys_and_texts(rows) {
            for run in key_runs(keys) {
                self.push_run(texts.value(run[0] as usize), run.len());
            }
        } else {
            let texts = rows.as_string();
            for run in text_runs(texts) {
                self.push_run(texts.value(run.start), run.len());
            }
        }
        self.rows += rows.len();
        Ok(())
    }

    /// Whether what follows should be decided on anew: it has many different texts, or runs of half the length that was
    /// hoped for.
    pub(crate) fn suits_no_more(&self) -> bool {
        let short_runs = self.rows >= ENOUGH_ROWS && self.runs * LEAST_RUN > 2 * self.rows;
        short_runs || self.chunk.texts().1 >= MOST_TEXT_BYTES
    }

    /// The memory that it takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        self.chunk.memory_size() + self.page.runs.capacity() * size_of::<(u32, usize)>()
    }

    /// The size that it would have in the file, roughly, before compression.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.chunk.estimated_bytes() + 3 * self.page.runs.len()
    }

    /// Writes all pages. The offsets are those within the bytes.
    pub(crate) fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        self.end_run();
        self.end_page();
        self.chunk.close()
    }

    fn push_run(&mut self, value: &str, mut count: usize) {
        if self.chunk.text(self.last) != Some(value) {
            self.end_run();
            self.last = self.chunk.index_of(value);
        }
        while self.page.rows + self.pending + count >= PAGE_ROWS {
            let fits = PAGE_ROWS - self.page.rows - self.pending;
            self.pending += fits;
            count -= fits;
            self.end_run();
            self.end_page();
        }
        self.pending += count;
    }

    fn end_run(&mut self) {
        if self.pending > 0 {
            self.page.runs.push((self.last, self.pending));
            self.runs += 1;
            self.page.rows += self.pending;
            self.pending = 0;
        }
    }

    fn end_page(&mut self) {
        let OpenPage { runs, rows } = std::mem::take(&mut self.page);
        if rows == 0 {
            return;
        }
        let index_bytes = self.chunk.width().div_ceil(8) as usize;
        let mut indexes = Vec::with_capacity(runs.len() * 4);
        for (index, rows) in &runs {
            hybrid::write_run(&mut indexes, *index, index_bytes, *rows);
        }
        self.chunk.push(PageRows {
            rows: &Rows::full(rows),
            indexes,
            counts: runs,
        });
    }
}

/// The keys and the texts of a dictionary.
fn keys_and_texts(rows: &ArrayRef) -> Option<(&[i32], &StringArray)> {
    let rows = rows.as_dictionary_opt::<Int32Type>()?;
    Some((rows.keys().values(), rows.values().as_string_opt()?))
}

/// Keys that follow each other and are the same.
fn key_runs(keys: &[i32]) -> impl Iterator<Item = &[i32]> {
    keys.chunk_by(|one, next| one == next)
}

#[cfg(test)]
mod tests;
