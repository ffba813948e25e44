//! A column chunk of texts of which there are few different ones, such as states, kinds and countries.
//!
//! `parquet`'s writer compares each text with the least and the greatest so far, then hashes it and compares it
//! with the one in its dictionary. Here a short text is looked up by its length and its ends, and what is
//! least and greatest is known from the dictionary.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_schema::DataType;
use bytes::Bytes;
use foldhash::fast::RandomState;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnDescPtr;

use crate::chunk::{Chunk, MOST_STATISTICS_BYTES, PageRows};
use crate::hybrid;
use crate::pages::Rows;

/// With so many different texts they are few no more.
const MOST_TEXTS: usize = 4096;
/// With so many bytes of them, too.
const MOST_TEXT_BYTES: usize = 256 << 10;

/// The rows of one column in a row group.
pub(crate) struct WordsColumn {
    chunk: Chunk,
    recent: Recent,
    /// The page in progress: its rows, and the indexes of their texts.
    rows: Rows,
    indexes: Vec<u32>,
}

impl WordsColumn {
    /// Whether a column chunk can begin with rows like these, which earlier ones have promised: the column may
    /// have become another one since.
    pub(crate) fn suits(rows: &ArrayRef) -> bool {
        *rows.data_type() == DataType::Utf8
            && rows.null_count() < rows.len()
            && are_short(rows.as_string())
            && come_again(rows.as_string())
    }

    /// An empty column chunk. `column` is a text without repetition.
    pub(crate) fn new(column: ColumnDescPtr, properties: &WriterProperties) -> Self {
        Self {
            chunk: Chunk::new(column, properties),
            recent: Recent::default(),
            rows: Rows::default(),
            indexes: Vec::new(),
        }
    }

    /// Appends texts.
    pub(crate) fn push(&mut self, rows: &ArrayRef) {
        let mut texts = rows.as_string::<i32>().clone();
        while !texts.is_empty() {
            let count = self.rows.room().min(texts.len());
            self.push_to_page(&texts.slice(0, count));
            texts = texts.slice(count, texts.len() - count);
            if self.rows.room() == 0 {
                self.end_page();
            }
        }
    }

    fn push_to_page(&mut self, texts: &StringArray) {
        self.rows.add(texts);
        let (chunk, recent) = (&mut self.chunk, &mut self.recent);
        let index = |text: &str| recent.index_of(text, |text| chunk.index_of(text));
        match texts.null_count() {
            0 => self
                .indexes
                .extend((0..texts.len()).map(|row| texts.value(row)).map(index)),
            _ => self.indexes.extend(texts.iter().flatten().map(index)),
        }
    }

    /// Whether what follows is better written otherwise.
    pub(crate) fn suits_no_more(&self) -> bool {
        let (texts, bytes) = self.chunk.texts();
        texts >= MOST_TEXTS || bytes >= MOST_TEXT_BYTES
    }

    /// The memory that it takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        self.chunk.memory_size()
            + size_of::<Recent>()
            + self.indexes.capacity() * size_of::<u32>()
            + self.rows.memory_size()
    }

    /// The size that it would have in the file, roughly, before compression.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.chunk.estimated_bytes() + self.indexes.len() * self.chunk.width() as usize / 8
    }

    /// Writes all pages. The offsets are those within the bytes.
    pub(crate) fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        self.end_page();
        self.chunk.close()
    }

    fn end_page(&mut self) {
        if self.rows.count() == 0 {
            return;
        }
        let mut counts = vec![0; self.chunk.texts().0];
        for index in &self.indexes {
            counts[*index as usize] += 1;
        }
        let counts = counts.into_iter().enumerate().filter(|(_, rows)| *rows > 0);
        let mut indexes = Vec::with_capacity(self.indexes.len() * 2);
        hybrid::write(&mut indexes, self.chunk.width(), &self.indexes);
        self.chunk.push(PageRows {
            rows: &self.rows,
            indexes,
            counts: counts.map(|(index, rows)| (index as u32, rows)).collect(),
        });
        self.indexes.clear();
        self.rows.clear();
    }
}

/// Whether each of them can be in the statistics.
fn are_short(texts: &StringArray) -> bool {
    let lengths = texts.value_offsets().windows(2).map(|ends| ends[1] - ends[0]);
    lengths
        .max()
        .is_none_or(|longest| longest as usize <= MOST_STATISTICS_BYTES)
}

/// Whether some of the first texts are there more than once, if there are enough to tell.
fn come_again(texts: &StringArray) -> bool {
    let first: Vec<&str> = texts.iter().flatten().take(FIRST).collect();
    let distinct: HashSet<&str, RandomState> = first.iter().copied().collect();
    first.len() < FIRST || distinct.len() <= FIRST / 2
}

/// How many texts tell.
const FIRST: usize = 256;

/// Texts that were looked up, each where its length and ends have it.
struct Recent {
    slots: Box<[Option<(Ends, u32)>; SLOTS]>,
}

const SLOTS: usize = 256;

/// All of a text of at most 16 bytes: how long it is, and its first and last eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    length: u32,
    first: u64,
    last: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            slots: Box::new([None; SLOTS]),
        }
    }
}

impl Recent {
    /// The index of a text, which `look_up` tells unless it is known.
    fn index_of(&mut self, text: &str, look_up: impl FnOnce(&str) -> u32) -> u32 {
        let Some(ends) = Ends::of(text.as_bytes()) else {
            return look_up(text);
        };
        let slot = &mut self.slots[ends.slot()];
        match slot {
            Some((known, index)) if *known == ends => *index,
            _ => {
                let index = look_up(text);
                *slot = Some((ends, index));
                index
            }
        }
    }
}

impl Ends {
    /// `None` for a longer text.
    fn of(text: &[u8]) -> Option<Self> {
        let length = text.len();
        let (first, last) = match length {
            0 => (0, 0),
            // One, two or three bytes: the first, the one in the middle and the last.
            1..4 => (
                u64::from_le_bytes([text[0], text[length / 2], text[length - 1], 0, 0, 0, 0, 0]),
                0,
            ),
            4..8 => (
                u32::from_le_bytes(*text.first_chunk()?).into(),
                u32::from_le_bytes(*text.last_chunk()?).into(),
            ),
            8..=16 => (
                u64::from_le_bytes(*text.first_chunk()?),
                u64::from_le_bytes(*text.last_chunk()?),
            ),
            _ => return None,
        };
        Some(Self {
            length: length as u32,
            first,
            last,
        })
    }

    fn slot(self) -> usize {
        // An odd number with bits all over spreads what is multiplied over the upper bits.
        let mixed =
            (self.first ^ self.last.rotate_left(32) ^ u64::from(self.length)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 56) as usize
    }
}

#[cfg(test)]
mod tests;
