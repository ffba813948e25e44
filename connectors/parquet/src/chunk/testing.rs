//! Files with chunks of ours, written and read again.

use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::basic::Compression;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::properties::WriterProperties;

use crate::encoder::Encoder;
use crate::encoding::Choice;

/// A file of these batches, with `few` as columns of few different values.
pub(crate) fn file_of(batches: &[RecordBatch], compression: Compression, few: &[&str]) -> Bytes {
    let choice = Choice {
        properties: WriterProperties::builder().set_compression(compression).build(),
        few: few.iter().map(|name| (*name).to_owned()).collect(),
    };
    written(batches, choice)
}

/// A file of these batches.
pub(crate) fn written(batches: &[RecordBatch], choice: Choice) -> Bytes {
    let mut encoder = Encoder::new(Vec::new(), batches[0].schema(), choice).unwrap();
    for batch in batches {
        encoder.write(batch).unwrap();
    }
    Bytes::from(encoder.into_inner().unwrap())
}

/// What a reader makes of it from the row `skip` on, by the indexes of its pages, and the metadata.
pub(crate) fn read(file: &Bytes, skip: usize) -> (Vec<RecordBatch>, Arc<ParquetMetaData>) {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap();
    let metadata = builder.metadata().clone();
    let rows = metadata.file_metadata().num_rows() as usize;
    let selection = RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(rows - skip)]);
    let read = builder.with_row_selection(selection).build().unwrap();
    (read.map(Result::unwrap).collect(), metadata)
}
