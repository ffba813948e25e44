//! The bytes of a column chunk of texts in a dictionary, whose indexes are given by the page.
//!
//! The layout is Parquet's own: a dictionary page (`PLAIN`), then data pages of version 1 (`RLE_DICTIONARY`):
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, Type};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use crate::hybrid;

/// Rows of a data page, about as many as in the columns that `parquet` writes.
pub(crate) const PAGE_ROWS: usize = 20_000;
/// A least or greatest value that is longer is left out of the statistics, as readers need not have it.
pub(crate) const MOST_STATISTICS_BYTES: usize = 64;

/// A chunk in progress: its different texts, and its pages.
pub(crate) struct Chunk {
    column: ColumnDescPtr,
    compression: Compression,
    statistics: EnabledStatistics,
    indexes: HashMap<Arc<str>, u32, RandomState>,
    /// The texts by their index.
    texts: Vec<Arc<str>>,
    text_bytes: usize,
    pages: Vec<ClosedPage>,
    page_bytes: usize,
}

/// A data page before it is compressed.
struct ClosedPage {
    bytes: Vec<u8>,
    rows: usize,
    nulls: usize,
    /// The indexes of its least and greatest text, if it has any.
    ends: Option<(u32, u32)>,
    text_bytes: usize,
}

/// What a data page holds.
#[derive(Debug, Default)]
pub(crate) struct PageRows<'a> {
    pub(crate) rows: usize,
    /// Which of the rows have a text; empty if all have.
    pub(crate) valid: &'a [bool],
    /// The indexes, as the hybrid of run lengths and bit packing, in the width that the chunk has now.
    pub(crate) indexes: Vec<u8>,
    /// How many rows have each text that is in the page.
    pub(crate) counts: Vec<(u32, usize)>,
}

impl Chunk {
    /// An empty one. `column` is a text without repetition.
    pub(crate) fn new(column: ColumnDescPtr, properties: &WriterProperties) -> Self {
        Self {
            compression: properties.compression(column.path()),
            statistics: properties.statistics_enabled(column.path()),
            column,
            indexes: HashMap::default(),
            texts: Vec::new(),
            text_bytes: 0,
            pages: Vec::new(),
            page_bytes: 0,
        }
    }

    /// The column's name.
    pub(crate) fn name(&self) -> &str {
        self.column.name()
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
        u32::BITS - (self.texts.len() as u32).saturating_sub(1).leading_zeros()
    }

    /// The memory that it takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        self.text_bytes + self.texts.capacity() * 2 * size_of::<(Arc<str>, u32)>() + self.page_bytes
    }

    /// The size that it would have in the file, roughly, before compression.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.text_bytes + 4 * self.texts.len() + self.page_bytes
    }

    /// Appends a page: levels, if the column may hold nulls, then the width of an index in bits and the indexes.
    pub(crate) fn push(&mut self, page: PageRows<'_>) {
        let PageRows { rows, valid, .. } = page;
        let mut bytes = Vec::with_capacity(page.indexes.len() + rows / 8 + 16);
        if self.column.max_def_level() > 0 {
            let mut levels = Vec::new();
            if valid.is_empty() {
                hybrid::write_run(&mut levels, 1, 1, rows);
            } else {
                hybrid::write(
                    &mut levels,
                    1,
                    &valid.iter().map(|valid| u32::from(*valid)).collect::<Vec<_>>(),
                );
            }
            bytes.extend_from_slice(&(levels.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&levels);
        }
        bytes.push(self.width() as u8);
        bytes.extend_from_slice(&page.indexes);
        let text = |index: u32| &self.texts[index as usize];
        let present = || page.counts.iter().map(|(index, _)| *index);
        let least = present().min_by(|one, other| text(*one).cmp(text(*other)));
        let greatest = present().max_by(|one, other| text(*one).cmp(text(*other)));
        self.page_bytes += bytes.len();
        self.pages.push(ClosedPage {
            bytes,
            rows,
            nulls: valid.iter().filter(|valid| !**valid).count(),
            ends: least.zip(greatest),
            text_bytes: page.counts.iter().map(|(index, rows)| text(*index).len() * rows).sum(),
        });
    }

    /// Writes all pages. The offsets are those within the bytes.
    pub(crate) fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        let rows: usize = self.pages.iter().map(|page| page.rows).sum();
        let mut codec = Codec::new(self.compression)?;
        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        let dictionary = self.dictionary();
        let plain = dictionary.len();
        let page = Page::DictionaryPage {
            buf: codec.compress(dictionary)?,
            num_values: self.texts.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let dictionary = writer.write_page(CompressedPage::new(page, plain))?;
        let mut uncompressed = dictionary.uncompressed_size;
        let mut first = None;
        let mut offsets = OffsetIndexBuilder::new();
        for page in &mut self.pages {
            let bytes = std::mem::take(&mut page.bytes);
            let plain = bytes.len();
            let data = Page::DataPage {
                buf: codec.compress(bytes)?,
                num_values: page.rows as u32,
                encoding: Encoding::RLE_DICTIONARY,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let written = writer.write_page(CompressedPage::new(data, plain))?;
            uncompressed += written.uncompressed_size;
            first.get_or_insert(written.offset);
            offsets.append_row_count(page.rows as i64);
            offsets.append_offset_and_size(written.offset as i64, written.bytes_written as i32);
            offsets.append_unencoded_byte_array_data_bytes(Some(page.text_bytes as i64));
        }
        let bytes = Bytes::from(sink.into_inner()?);
        let encoded = |page_type, encoding, count| PageEncodingStats {
            page_type,
            encoding,
            count,
        };
        let mut metadata = ColumnChunkMetaData::builder(self.column.clone())
            .set_compression(self.compression)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
            .set_page_encoding_stats(vec![
                encoded(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1),
                encoded(PageType::DATA_PAGE, Encoding::RLE_DICTIONARY, self.pages.len() as i32),
            ])
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_num_values(rows as i64)
            .set_dictionary_page_offset(Some(0))
            .set_data_page_offset(first.unwrap_or(dictionary.bytes_written) as i64)
            .set_unencoded_byte_array_data_bytes(Some(self.pages.iter().map(|page| page.text_bytes as i64).sum()));
        if let Some(statistics) = self.of_chunk() {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: self.of_pages().map(ColumnIndexBuilder::build).transpose()?,
            offset_index: Some(offsets.build()),
        };
        Ok((bytes, close))
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
        if self.statistics == EnabledStatistics::None {
            return None;
        }
        // Both or none: a reader may take the one that is missing for an empty text.
        let ends = [self.texts.iter().min(), self.texts.iter().max()];
        let short = ends.iter().flatten().all(|text| is_short(text));
        let [least, greatest] = ends.map(|text| text.filter(|_| short).map(|text| ByteArray::from(&**text)));
        let nulls = self.pages.iter().map(|page| page.nulls as u64).sum();
        let statistics = ValueStatistics::new(least, greatest, None, Some(nulls), false);
        Some(Statistics::from(statistics))
    }

    /// The statistics of its pages.
    fn of_pages(&self) -> Option<ColumnIndexBuilder> {
        if self.statistics != EnabledStatistics::Page {
            return None;
        }
        let text = |index: u32| &self.texts[index as usize];
        let ends = |page: &ClosedPage| page.ends.map(|(least, greatest)| (text(least), text(greatest)));
        let mut index = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
        for page in &self.pages {
            let nulls = page.nulls as i64;
            match ends(page) {
                None => index.append(true, Vec::new(), Vec::new(), nulls),
                Some((least, greatest)) if is_short(least) && is_short(greatest) => {
                    index.append(false, least.as_bytes().into(), greatest.as_bytes().into(), nulls);
                }
                Some(_) => return None,
            }
        }
        // Pages without texts have no place in the order.
        let ends: Vec<_> = self.pages.iter().filter_map(ends).collect();
        if ends.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1) {
            index.set_boundary_order(BoundaryOrder::ASCENDING);
        }
        Some(index)
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= MOST_STATISTICS_BYTES
}

/// What pages are compressed with. `parquet` keeps its own to itself.
enum Codec {
    Zstd(zstd::bulk::Compressor<'static>),
    Snappy(Box<snap::raw::Encoder>),
    None,
}

impl Codec {
    fn new(compression: Compression) -> Result<Self, ParquetError> {
        Ok(match compression {
            Compression::ZSTD(level) => Self::Zstd(zstd::bulk::Compressor::new(level.compression_level())?),
            Compression::SNAPPY => Self::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::UNCOMPRESSED => Self::None,
            other => return Err(ParquetError::NYI(format!("texts in {other}"))),
        })
    }

    fn compress(&mut self, bytes: Vec<u8>) -> Result<Bytes, ParquetError> {
        Ok(Bytes::from(match self {
            Self::Zstd(compressor) => compressor.compress(&bytes)?,
            Self::Snappy(encoder) => encoder
                .compress_vec(&bytes)
                .map_err(|error| ParquetError::External(Box::new(error)))?,
            Self::None => bytes,
        }))
    }
}

#[cfg(test)]
pub(crate) mod testing;
