//! The bytes of a column chunk of texts in a dictionary, whose indexes are given by the page: a dictionary page
//! (`PLAIN`), then data pages (`RLE_DICTIONARY`):
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use parquet::basic::{BoundaryOrder, Encoding, Type};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnIndexBuilder;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use crate::hybrid;
use crate::pages::{Closing, Pages, Rows};

/// A least or greatest value that is longer is left out of the statistics, as readers need not have it.
pub(crate) const MOST_STATISTICS_BYTES: usize = 64;

/// A chunk in progress: its different texts, and its pages.
pub(crate) struct Chunk {
    indexes: HashMap<Arc<str>, u32, RandomState>,
    /// The texts by their index.
    texts: Vec<Arc<str>>,
    text_bytes: usize,
    pages: Pages,
    /// The indexes of the least and greatest text of each page, if it has any.
    ends: Vec<Option<(u32, u32)>>,
}

/// What a data page holds.
#[derive(Debug)]
pub(crate) struct PageRows<'a> {
    pub(crate) rows: &'a Rows,
    /// The indexes, as the hybrid of run lengths and bit packing, in the width that the chunk has now.
    pub(crate) indexes: Vec<u8>,
    /// How many rows have each text that is in the page.
    pub(crate) counts: Vec<(u32, usize)>,
}

impl Chunk {
    /// An empty one. `column` is a text without repetition.
    pub(crate) fn new(column: ColumnDescPtr, properties: &WriterProperties) -> Self {
        Self {
            indexes: HashMap::default(),
            texts: Vec::new(),
            text_bytes: 0,
            pages: Pages::new(column, properties),
            ends: Vec::new(),
        }
    }

    /// The column's name.
    pub(crate) fn name(&self) -> &str {
        self.pages.name()
    }

    /// The text of an index, if it has one.
    pub(crate) fn text(&self, index: u32) -> Option<&str> {
        self.texts.get(index as usize).map(|text| &**text)
    }

    /// How many different texts there are, and their bytes.
    pub(crate) fn texts(&self) -> (usize, usize) {
        (self.texts.len(), self.text_bytes)
    }

    /// The index of a text, which gets one if it has none.
    pub(crate) fn index_of(&mut self, text: &str) -> u32 {
        if let Some(index) = self.indexes.get(text) {
            return *index;
        }
        let index = self.texts.len() as u32;
        let text: Arc<str> = text.into();
        self.text_bytes += text.len();
        self.indexes.insert(text.clone(), index);
        self.texts.push(text);
        index
    }

    /// The bits of an index.
    pub(crate) fn width(&self) -> u32 {
        hybrid::width(self.texts.len())
    }

    /// The memory that it takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        self.text_bytes + self.texts.capacity() * 2 * size_of::<(Arc<str>, u32)>() + self.pages.bytes()
    }

    /// The size that it would have in the file, roughly, before compression.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.text_bytes + 4 * self.texts.len() + self.pages.bytes()
    }

    /// Appends a page: the width of an index in bits and the indexes.
    pub(crate) fn push(&mut self, page: PageRows<'_>) {
        let mut bytes = self.pages.begin(page.rows, page.indexes.len() + 1);
        bytes.push(self.width() as u8);
        bytes.extend_from_slice(&page.indexes);
        let text = |index: u32| &self.texts[index as usize];
        let present = || page.counts.iter().map(|(index, _)| *index);
        let least = present().min_by(|one, other| text(*one).cmp(text(*other)));
        let greatest = present().max_by(|one, other| text(*one).cmp(text(*other)));
        let text_bytes = page.counts.iter().map(|(index, rows)| text(*index).len() * rows).sum();
        self.ends.push(least.zip(greatest));
        self.pages.push(bytes, page.rows, Some(text_bytes));
    }

    /// Writes all pages. The offsets are those within the bytes.
    pub(crate) fn close(self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        let closing = Closing {
            dictionary: Some((self.dictionary(), self.texts.len())),
            encoding: Encoding::RLE_DICTIONARY,
            statistics: self.of_chunk(),
            column_index: self.of_pages(),
        };
        self.pages.close(closing)
    }

    /// Each text behind its length, in 32 bits.
    fn dictionary(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text_bytes + 4 * self.texts.len());
        for text in &self.texts {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    /// The statistics of the chunk.
    fn of_chunk(&self) -> Option<Statistics> {
        if !self.pages.has_statistics() {
            return None;
        }
        // Both or none: a reader may take the one that is missing for an empty text.
        let ends = [self.texts.iter().min(), self.texts.iter().max()];
        let short = ends.iter().flatten().all(|text| is_short(text));
        let [least, greatest] = ends.map(|text| text.filter(|_| short).map(|text| ByteArray::from(&**text)));
        let nulls = self.pages.nulls().sum::<usize>() as u64;
        let statistics = ValueStatistics::new(least, greatest, None, Some(nulls), false);
        Some(Statistics::from(statistics))
    }

    /// The statistics of its pages.
    fn of_pages(&self) -> Option<ColumnIndexBuilder> {
        if !self.pages.has_index() {
            return None;
        }
        let text = |index: u32| &self.texts[index as usize];
        let ends = |page: &Option<(u32, u32)>| page.map(|(least, greatest)| (text(least), text(greatest)));
        let mut index = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
        for (page, nulls) in self.ends.iter().zip(self.pages.nulls()) {
            let nulls = nulls as i64;
            match ends(page) {
                None => index.append(true, Vec::new(), Vec::new(), nulls),
                Some((least, greatest)) if is_short(least) && is_short(greatest) => {
                    index.append(false, least.as_bytes().into(), greatest.as_bytes().into(), nulls);
                }
                Some(_) => return None,
            }
        }
        // Pages without texts have no place in the order.
        let ends: Vec<_> = self.ends.iter().filter_map(ends).collect();
        if ends.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1) {
            index.set_boundary_order(BoundaryOrder::ASCENDING);
        }
        Some(index)
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= MOST_STATISTICS_BYTES
}

#[cfg(test)]
pub(crate) mod testing;
