//! One data file while it is written: encoding on blocking threads, upload on the runtime.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use millstream_core::envelope;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};

use crate::config::Compression;
use crate::decision::memory::Footprint;
use crate::encoder::Encoder;
use crate::encoding::Choice;
use crate::partition::PartitionFault;
use crate::record::DataFile;
use crate::upload::Upload;

/// A data file could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteFault {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error(transparent)]
    Encode(#[from] ParquetError),
    #[error(transparent)]
    Partition(#[from] PartitionFault),
    #[error("an earlier write was interrupted")]
    Interrupted,
}

impl From<ArrowError> for WriteFault {
    fn from(error: ArrowError) -> Self {
        Self::Partition(error.into())
    }
}

impl From<tokio::task::JoinError> for WriteFault {
    /// The message of a panic is not passed on: it may quote a cell.
    fn from(_: tokio::task::JoinError) -> Self {
        Self::Interrupted
    }
}

/// The settings of a table's files.
pub(crate) fn properties(compression: Compression, table: &str, commit_id: &str) -> WriterProperties {
    let codec = match compression {
        Compression::Zstd(level) => Codec::ZSTD(ZstdLevel::try_new(level).unwrap_or_default()),
        Compression::Snappy => Codec::SNAPPY,
        Compression::None => Codec::UNCOMPRESSED,
    };
    let metadata = [("millstream.table", table), ("millstream.commit", commit_id)];
    WriterProperties::builder()
        // A few texts that take turns: the least and the greatest rarely let a reader skip anything, and cost
        // two comparisons for each row.
        .set_column_statistics_enabled(ColumnPath::from(envelope::PARTITION), EnabledStatistics::None)
        .set_compression(codec)
        .set_created_by(concat!("millstream version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(
            metadata
                .map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned()))
                .to_vec(),
        ))
        .build()
}

/// Collects encoded bytes until they are taken, and hashes them on the way.
#[derive(Default)]
struct Hashed {
    bytes: Vec<u8>,
    /// How many were taken last.
    taken: usize,
    hash: Sha256,
    total: u64,
}

impl Hashed {
    fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_empty() {
            self.taken = bytes.len();
        }
        if bytes.len() < bytes.capacity() / 2 {
            // What waits for its upload is counted by its length.
            bytes.shrink_to_fit();
        }
        bytes
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        if self.bytes.capacity() == 0 {
            // Row groups are about as large as each other: to grow towards that would be to copy most of it again.
            self.bytes.reserve(self.taken + self.taken / 8);
        }
        self.bytes.extend_from_slice(bytes);
        self.total += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A data file that takes rows. Where a call fails or is dropped half-way, the file is spoilt
/// and every later call fails.
pub(crate) struct DataFileWriter {
    encoder: Option<Encoder<Hashed>>,
    upload: Upload,
    rows: u64,
    encoding: usize,
    unflushed: usize,
    flushed: u64,
    schema_id: u32,
    partition: BTreeMap<String, Option<String>>,
    relative: String,
}

impl DataFileWriter {
    /// Begins the file at `relative` in the folder `table`.
    pub(crate) fn begin(
        store: Arc<dyn ObjectStore>,
        table: &Path,
        relative: String,
        (schema_id, schema): (u32, SchemaRef),
        partition: BTreeMap<String, Option<String>>,
        choice: Choice,
    ) -> Result<Self, WriteFault> {
        let encoder = Encoder::new(Hashed::default(), schema, choice)?;
        // Escaped already; joining would escape it once more.
        let path = Path::parse(format!("{table}/{relative}")).map_err(object_store::Error::from)?;
        let upload = Upload::new(store, path);
        Ok(Self {
            encoder: Some(encoder),
            upload,
            rows: 0,
            encoding: 0,
            unflushed: 0,
            flushed: 0,
            schema_id,
            partition,
            relative,
        })
    }

    /// Where the file will be.
    pub(crate) fn path(&self) -> &Path {
        self.upload.path()
    }

    /// Rows taken so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// The size that the file would have if it were closed now, roughly.
    pub(crate) fn estimated_bytes(&self) -> u64 {
        self.flushed + self.unflushed as u64
    }

    /// The memory that the file takes.
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint {
            encoding: self.encoding,
            pending: self.upload.pending_bytes(),
            in_flight: self.upload.bytes_in_flight(),
        }
    }

    /// Encodes `rows`, which must have the file's schema.
    pub(crate) async fn write(&mut self, rows: RecordBatch) -> Result<(), WriteFault> {
        let count = rows.num_rows() as u64;
        self.encode(move |encoder| encoder.write(&rows)).await?;
        self.rows += count;
        Ok(())
    }

    /// Ends the row group in progress.
    pub(crate) async fn end_row_group(&mut self) -> Result<(), WriteFault> {
        self.encode(Encoder::end_row_group).await
    }

    /// Waits for the parts that are on their way.
    pub(crate) async fn settle(&mut self) -> Result<(), WriteFault> {
        Ok(self.upload.settle().await?)
    }

    /// Completes the file: durable, and part of no commit yet.
    pub(crate) async fn finish(mut self) -> Result<DataFile, WriteFault> {
        let encoder = self.encoder.take().ok_or(WriteFault::Interrupted)?;
        let Hashed { bytes, hash, total, .. } = tokio::task::spawn_blocking(|| encoder.into_inner()).await??;
        self.upload.push(Bytes::from(bytes)).await?;
        self.upload.finish().await?;
        Ok(DataFile {
            path: self.relative,
            rows: self.rows,
            bytes: total,
            sha256: hex::encode(hash.finalize()),
            schema_id: self.schema_id,
            partition: self.partition,
        })
    }

    /// Gives the file up; it never appears.
    pub(crate) async fn abort(self) {
        self.upload.abort().await;
    }

    async fn encode(
        &mut self,
        work: impl FnOnce(&mut Encoder<Hashed>) -> Result<(), ParquetError> + Send + 'static,
    ) -> Result<(), WriteFault> {
        let mut encoder = self.encoder.take().ok_or(WriteFault::Interrupted)?;
        let (encoder, bytes) = tokio::task::spawn_blocking(move || {
            work(&mut encoder)?;
            let bytes = encoder.inner_mut().take();
            Ok::<_, ParquetError>((encoder, bytes))
        })
        .await??;
        self.encoding = encoder.memory_size();
        self.unflushed = encoder.in_progress_size();
        self.flushed = encoder.inner().total;
        self.encoder = Some(encoder);
        self.upload.push(Bytes::from(bytes)).await?;
        Ok(())
    }
}
