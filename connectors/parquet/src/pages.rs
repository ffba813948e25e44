//! The data pages of a column chunk that is encoded by us, and what the file tells of them.
//!
//! The pages are of version 1, behind a dictionary page if there is one:
//! <https://parquet.apache.org/docs/file-format/data-pages/>.

use arrow_array::Array;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use crate::hybrid;

/// Rows of a data page, about as many as in the columns that `parquet` writes.
pub(crate) const PAGE_ROWS: usize = 20_000;

/// The pages of a chunk in progress.
pub(crate) struct Pages {
    column: ColumnDescPtr,
    compression: Compression,
    statistics: EnabledStatistics,
    closed: Vec<ClosedPage>,
    bytes: usize,
}

/// The rows of a page in progress.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    count: usize,
    /// Which of them have a value; empty if all have.
    valid: Vec<bool>,
}

/// A data page before it is compressed.
struct ClosedPage {
    bytes: Vec<u8>,
    rows: usize,
    nulls: usize,
    /// Of values of variable length, by themselves.
    text_bytes: Option<usize>,
}

/// What a chunk has besides its data pages.
pub(crate) struct Closing {
    /// The dictionary in `PLAIN`, and how many values it has.
    pub(crate) dictionary: Option<(Vec<u8>, usize)>,
    /// Of the values in the data pages.
    pub(crate) encoding: Encoding,
    pub(crate) statistics: Option<Statistics>,
    pub(crate) column_index: Option<ColumnIndexBuilder>,
}

impl Rows {
    /// So many, all with a value.
    pub(crate) fn full(count: usize) -> Self {
        let valid = Vec::new();
        Self { count, valid }
    }

    /// Appends those of an array.
    pub(crate) fn add(&mut self, rows: &dyn Array) {
        let (before, nulls) = (self.count, rows.nulls().filter(|nulls| nulls.null_count() > 0));
        self.count += rows.len();
        if nulls.is_some() || !self.valid.is_empty() {
            self.valid.resize(before, true);
            self.valid.extend(nulls.into_iter().flatten());
            self.valid.resize(self.count, true);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many more a page has at most.
    pub(crate) fn room(&self) -> usize {
        PAGE_ROWS - self.count
    }

    /// The memory that it takes.
    pub(crate) fn memory_size(&self) -> usize {
        self.valid.capacity()
    }

    /// Before the next page.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.valid.clear();
    }
}

impl Pages {
    /// Before the first page. `column` is one without repetition.
    pub(crate) fn new(column: ColumnDescPtr, properties: &WriterProperties) -> Self {
        Self {
            compression: properties.compression(column.path()),
            statistics: properties.statistics_enabled(column.path()),
            column,
            closed: Vec::new(),
            bytes: 0,
        }
    }

    /// The column's name.
    pub(crate) fn name(&self) -> &str {
        self.column.name()
    }

    /// Whether statistics of the chunk are wanted.
    pub(crate) fn has_statistics(&self) -> bool {
        self.statistics != EnabledStatistics::None
    }

    /// Whether statistics of each page are wanted.
    pub(crate) fn has_index(&self) -> bool {
        self.statistics == EnabledStatistics::Page
    }

    /// How many rows of each page are null.
    pub(crate) fn nulls(&self) -> impl Iterator<Item = usize> {
        self.closed.iter().map(|page| page.nulls)
    }

    /// The bytes of the pages before they are compressed.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The beginning of a page: levels, if the column may hold nulls. There is room for `values` bytes behind them.
    pub(crate) fn begin(&self, rows: &Rows, values: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values + rows.count / 8 + 16);
        if self.column.max_def_level() > 0 {
            let mut levels = Vec::new();
            if rows.valid.is_empty() {
                hybrid::write_run(&mut levels, 1, 1, rows.count);
            } else {
                let valid: Vec<u32> = rows.valid.iter().map(|valid| u32::from(*valid)).collect();
                hybrid::write(&mut levels, 1, &valid);
            }
            bytes.extend_from_slice(&(levels.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&levels);
        }
        bytes
    }

    /// Appends a page that was [begun](Self::begin) with the same rows, with its values behind that.
    pub(crate) fn push(&mut self, mut bytes: Vec<u8>, rows: &Rows, text_bytes: Option<usize>) {
        // It waits for the end of the row group, and may be much shorter than what there was room for.
        bytes.shrink_to_fit();
        self.bytes += bytes.len();
        self.closed.push(ClosedPage {
            bytes,
            rows: rows.count,
            nulls: rows.valid.iter().filter(|valid| !**valid).count(),
            text_bytes,
        });
    }

    /// Writes all pages. The offsets are those within the bytes.
    pub(crate) fn close(mut self, closing: Closing) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        let rows: usize = self.closed.iter().map(|page| page.rows).sum();
        let mut codec = Codec::new(self.compression)?;
        let mut sink = TrackedWrite::new(Vec::with_capacity(self.bytes / 2));
        let mut writer = SerializedPageWriter::new(&mut sink);
        let encoded = |page_type, encoding, count| PageEncodingStats {
            page_type,
            encoding,
            count,
        };
        let (mut encodings, mut stats, mut uncompressed) = (vec![Encoding::RLE, closing.encoding], Vec::new(), 0);
        let mut dictionary_offset = None;
        if let Some((dictionary, values)) = closing.dictionary {
            let plain = dictionary.len();
            let page = Page::DictionaryPage {
                buf: codec.compress(dictionary)?,
                num_values: values as u32,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            let written = writer.write_page(CompressedPage::new(page, plain))?;
            uncompressed += written.uncompressed_size;
            dictionary_offset = Some(written.offset as i64);
            encodings.push(Encoding::PLAIN);
            stats.push(encoded(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1));
        }
        let mut first = None;
        let mut offsets = OffsetIndexBuilder::new();
        for page in &mut self.closed {
            let bytes = std::mem::take(&mut page.bytes);
            let plain = bytes.len();
            let data = Page::DataPage {
                buf: codec.compress(bytes)?,
                num_values: page.rows as u32,
                encoding: closing.encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let written = writer.write_page(CompressedPage::new(data, plain))?;
            uncompressed += written.uncompressed_size;
            first.get_or_insert(written.offset);
            offsets.append_row_count(page.rows as i64);
            offsets.append_offset_and_size(written.offset as i64, written.bytes_written as i32);
            offsets.append_unencoded_byte_array_data_bytes(page.text_bytes.map(|bytes| bytes as i64));
        }
        let bytes = Bytes::from(sink.into_inner()?);
        stats.push(encoded(PageType::DATA_PAGE, closing.encoding, self.closed.len() as i32));
        let text_bytes: Option<usize> = self.closed.iter().map(|page| page.text_bytes).sum();
        let mut metadata = ColumnChunkMetaData::builder(self.column.clone())
            .set_compression(self.compression)
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_num_values(rows as i64)
            .set_dictionary_page_offset(dictionary_offset)
            .set_data_page_offset(first.unwrap_or_default() as i64)
            .set_unencoded_byte_array_data_bytes(text_bytes.map(|bytes| bytes as i64));
        if let Some(statistics) = closing.statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: closing.column_index.map(ColumnIndexBuilder::build).transpose()?,
            offset_index: Some(offsets.build()),
        };
        Ok((bytes, close))
    }
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
            other => return Err(ParquetError::NYI(format!("pages in {other}"))),
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
