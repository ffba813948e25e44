//! A column chunk of texts whose rows follow each other with the same value, encoded a run at a time.
//!
//! All rows of a transaction, or of a block of a first copy, have one place. Parquet stores that in a few bytes, as
//! runs of a dictionary's indexes, but `parquet`'s writer hashes and compares the text of each row to find them. Here
//! a text is looked up once for each run.
//!
//! The layout is Parquet's own: a dictionary page (`PLAIN`), then data pages of version 1 (`RLE_DICTIONARY`):
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_schema::DataType;
use bytes::Bytes;
use foldhash::fast::RandomState;
use millstream_core::text_runs;
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

/// Rows of a data page, about as many as in the columns that `parquet` writes.
const PAGE_ROWS: usize = 20_000;
/// A least or greatest value that is longer is left out of the statistics, as readers need not have it.
const MOST_STATISTICS_BYTES: usize = 64;
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
    column: ColumnDescPtr,
    compression: Compression,
    statistics: EnabledStatistics,
    indexes: HashMap<Arc<str>, u32, RandomState>,
    /// The values by their index.
    values: Vec<Arc<str>>,
    text_bytes: usize,
    /// The index of the last row, and how many rows with it were not written to a page yet.
    last: u32,
    pending: usize,
    page: OpenPage,
    pages: Vec<ClosedPage>,
    page_bytes: usize,
    rows: usize,
    runs: usize,
}

/// A data page in progress: its runs.
#[derive(Default)]
struct OpenPage {
    runs: Vec<(u32, usize)>,
    rows: usize,
}

/// A data page before it is compressed.
struct ClosedPage {
    bytes: Vec<u8>,
    rows: usize,
    /// The indexes of its least and greatest value.
    least: u32,
    greatest: u32,
    text_bytes: usize,
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
            compression: properties.compression(column.path()),
            statistics: properties.statistics_enabled(column.path()),
            column,
            indexes: HashMap::default(),
            values: Vec::new(),
            text_bytes: 0,
            last: 0,
            pending: 0,
            page: OpenPage::default(),
            pages: Vec::new(),
            page_bytes: 0,
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
            let name = self.column.name();
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
        short_runs || self.text_bytes >= MOST_TEXT_BYTES
    }

    /// The memory that it takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        let entries = self.values.capacity() * 2 * size_of::<(Arc<str>, u32)>();
        self.text_bytes + entries + self.page_bytes + self.page.runs.capacity() * size_of::<(u32, usize)>()
    }

    /// The size that it would have in the file, roughly, before compression.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.text_bytes + 4 * self.values.len() + self.page_bytes + 3 * self.page.runs.len()
    }

    /// Writes all pages. The offsets are those within the bytes.
    pub(crate) fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        self.end_run();
        self.end_page();
        let mut codec = Codec::new(self.compression)?;
        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        let dictionary = self.dictionary();
        let plain = dictionary.len();
        let page = Page::DictionaryPage {
            buf: codec.compress(dictionary)?,
            num_values: self.values.len() as u32,
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
            .set_num_values(self.rows as i64)
            .set_dictionary_page_offset(Some(0))
            .set_data_page_offset(first.unwrap_or(dictionary.bytes_written) as i64)
            .set_unencoded_byte_array_data_bytes(Some(self.pages.iter().map(|page| page.text_bytes as i64).sum()));
        if let Some(statistics) = self.of_chunk() {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: self.of_pages().map(ColumnIndexBuilder::build).transpose()?,
            offset_index: Some(offsets.build()),
        };
        Ok((bytes, close))
    }

    fn push_run(&mut self, value: &str, mut count: usize) {
        if self.values.get(self.last as usize).is_none_or(|last| **last != *value) {
            self.end_run();
            self.last = self.index_of(value);
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

    fn index_of(&mut self, value: &str) -> u32 {
        if let Some(index) = self.indexes.get(value) {
            return *index;
        }
        let index = self.values.len() as u32;
        let value: Arc<str> = value.into();
        self.text_bytes += value.len();
        self.indexes.insert(value.clone(), index);
        self.values.push(value);
        index
    }

    fn end_run(&mut self) {
        if self.pending > 0 {
            self.page.runs.push((self.last, self.pending));
            self.runs += 1;
            self.page.rows += self.pending;
            self.pending = 0;
        }
    }

    /// Levels, if the column may hold nulls, then the width of an index in bits and the runs.
    fn end_page(&mut self) {
        let OpenPage { runs, rows } = std::mem::take(&mut self.page);
        let Some(&(first, _)) = runs.first() else { return };
        let width = u32::BITS - (self.values.len() as u32 - 1).leading_zeros();
        let mut bytes = Vec::with_capacity(runs.len() * 4 + 16);
        if self.column.max_def_level() > 0 {
            let mut levels = Vec::new();
            write_run(
                &mut levels,
                u32::from(self.column.max_def_level().unsigned_abs()),
                1,
                rows,
            );
            bytes.extend_from_slice(&(levels.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&levels);
        }
        bytes.push(width as u8);
        let (mut least, mut greatest, mut text_bytes) = (first, first, 0);
        for (index, rows) in runs {
            write_run(&mut bytes, index, width.div_ceil(8) as usize, rows);
            let value = &self.values[index as usize];
            if *value < self.values[least as usize] {
                least = index;
            }
            if *value > self.values[greatest as usize] {
                greatest = index;
            }
            text_bytes += value.len() * rows;
        }
        self.page_bytes += bytes.len();
        self.pages.push(ClosedPage {
            bytes,
            rows,
            least,
            greatest,
            text_bytes,
        });
    }

    /// Each value behind its length, in 32 bits.
    fn dictionary(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text_bytes + 4 * self.values.len());
        for value in &self.values {
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes
    }

    /// The statistics of the chunk.
    fn of_chunk(&self) -> Option<Statistics> {
        if self.statistics == EnabledStatistics::None {
            return None;
        }
        // Both or none: a reader may take the one that is missing for an empty text.
        let ends = [self.values.iter().min(), self.values.iter().max()];
        let short = ends.iter().flatten().all(|text| is_short(text));
        let [least, greatest] = ends.map(|text| text.filter(|_| short).map(|text| ByteArray::from(&**text)));
        let statistics = ValueStatistics::new(least, greatest, None, Some(0), false);
        Some(Statistics::from(statistics))
    }

    /// The statistics of its pages.
    fn of_pages(&self) -> Option<ColumnIndexBuilder> {
        if self.statistics != EnabledStatistics::Page {
            return None;
        }
        let text = |index: u32| &self.values[index as usize];
        let mut index = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
        for page in &self.pages {
            let (least, greatest) = (text(page.least), text(page.greatest));
            if !is_short(least) || !is_short(greatest) {
                return None;
            }
            index.append(false, least.as_bytes().into(), greatest.as_bytes().into(), 0);
        }
        let ascends = |pair: &[ClosedPage]| {
            text(pair[0].least) <= text(pair[1].least) && text(pair[0].greatest) <= text(pair[1].greatest)
        };
        if self.pages.windows(2).all(ascends) {
            index.set_boundary_order(BoundaryOrder::ASCENDING);
        }
        Some(index)
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= MOST_STATISTICS_BYTES
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

/// A run of the hybrid of run lengths and bit packing: the count, shifted, then the value in whole bytes.
fn write_run(bytes: &mut Vec<u8>, value: u32, value_bytes: usize, count: usize) {
    let mut header = (count as u64) << 1;
    while header >= 0x80 {
        bytes.push(header as u8 | 0x80);
        header >>= 7;
    }
    bytes.push(header as u8);
    bytes.extend_from_slice(&value.to_le_bytes()[..value_bytes]);
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
            other => return Err(ParquetError::NYI(format!("runs in {other}"))),
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
mod tests;
