use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{Field, Schema};
use millstream_core::envelope;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{BoundaryOrder, Compression, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use proptest::prelude::*;

use super::*;
use crate::chunk::testing;
use crate::encoder::Encoder;
use crate::encoding::Choice;

fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn batch(texts: &[String], nullable: bool) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new(envelope::POSITION, DataType::Utf8, nullable),
        Field::new(envelope::PARTITION, dictionary(), nullable),
        Field::new(envelope::OP, DataType::Utf8, false),
    ]);
    let ids = Int64Array::from_iter_values(0..texts.len() as i64);
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let same = Arc::new(StringArray::from(vec!["c"; ids.len()]));
    let keys = cast(&texts, &dictionary()).unwrap();
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), texts, keys, same]).unwrap()
}

fn suits(texts: StringArray) -> bool {
    let texts: ArrayRef = Arc::new(texts);
    let keys = cast(&texts, &dictionary()).unwrap();
    assert_eq!(RunsColumn::suits(&texts), RunsColumn::suits(&keys));
    RunsColumn::suits(&texts)
}

fn file_of(batches: &[RecordBatch], compression: Compression) -> Bytes {
    testing::file_of(batches, compression, &[])
}

fn texts(rows: &RecordBatch) -> Vec<String> {
    let column = rows.column(1).as_string::<i32>();
    assert_eq!(&cast(rows.column(2), &DataType::Utf8).unwrap(), rows.column(1));
    column.iter().map(|text| text.unwrap().to_owned()).collect()
}

/// The texts from the row `skip` on, as a reader finds them, and the metadata.
fn read(file: &Bytes, skip: usize) -> (Vec<String>, Arc<ParquetMetaData>) {
    let (batches, metadata) = testing::read(file, skip);
    (batches.iter().flat_map(texts).collect(), metadata)
}

fn codec() -> impl Strategy<Value = Compression> {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    prop::sample::select(vec![zstd, Compression::SNAPPY, Compression::UNCOMPRESSED])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_are_read_as_they_were_written(
        first in prop::collection::vec((0_u32..400, 64_usize..900), 1..120),
        later in prop::collection::vec((0_u32..400, 1_usize..30), 0..200),
        long in prop::collection::vec(20_000_usize..90_000, 0..2),
        (nullable, compression, skipped) in (any::<bool>(), codec(), 0.0..1.0),
    ) {
        let rows = |runs: &[(u32, usize)]| -> Vec<String> {
            runs.iter().flat_map(|(value, rows)| vec![format!("position {value:06}"); *rows]).collect()
        };
        let long: Vec<_> = long.into_iter().map(|rows| (7, rows)).collect();
        let parts: Vec<_> = [rows(&first), rows(&later), rows(&long)].into_iter().filter(|part| !part.is_empty()).collect();
        let written = parts.concat();
        let batches: Vec<_> = parts.iter().map(|part| batch(part, nullable)).collect();
        let file = file_of(&batches, compression);
        let (all, metadata) = read(&file, 0);
        prop_assert!(all == written);
        let skip = (written.len() as f64 * skipped) as usize;
        prop_assert!(read(&file, skip).0 == written[skip..]);
        let group = metadata.row_group(0);
        let chunk = group.column(1);
        let statistics = chunk.statistics().unwrap();
        let of_group = &written[..group.num_rows() as usize];
        prop_assert_eq!(statistics.min_bytes_opt(), of_group.iter().min().map(|text| text.as_bytes()));
        prop_assert_eq!(statistics.max_bytes_opt(), of_group.iter().max().map(|text| text.as_bytes()));
        prop_assert_eq!(statistics.null_count_opt(), Some(0));
        let text: usize = of_group.iter().map(String::len).sum();
        prop_assert_eq!(chunk.unencoded_byte_array_data_bytes(), Some(text as i64));
        let pages: Vec<_> = of_group.chunks(PAGE_ROWS).collect();
        let offsets = &metadata.offset_index().unwrap()[0][1];
        let bytes: Vec<_> = pages.iter().map(|page| page.iter().map(|text| text.len() as i64).sum()).collect();
        prop_assert_eq!(offsets.page_locations().len(), pages.len());
        prop_assert_eq!(offsets.unencoded_byte_array_data_bytes(), Some(&bytes));
        let ColumnIndexMetaData::BYTE_ARRAY(index) = &metadata.column_index().unwrap()[0][1] else { panic!() };
        let least: Vec<_> = pages.iter().map(|page| page.iter().min().unwrap().as_bytes()).collect();
        let greatest: Vec<_> = pages.iter().map(|page| page.iter().max().unwrap().as_bytes()).collect();
        prop_assert!(index.min_values_iter().map(Option::unwrap).eq(least.iter().copied()));
        prop_assert!(index.max_values_iter().map(Option::unwrap).eq(greatest.iter().copied()));
        let order = if least.is_sorted() && greatest.is_sorted() {
            BoundaryOrder::ASCENDING
        } else {
            BoundaryOrder::UNORDERED
        };
        prop_assert_eq!(metadata.column_index().unwrap()[0][1].get_boundary_order(), Some(order));
    }
}

#[test]
fn a_row_group_ends_where_it_is_full() {
    let rows = vec!["a".to_owned(); 600_000];
    let file = file_of(&[batch(&rows, true)], Compression::UNCOMPRESSED);
    let (all, metadata) = read(&file, 0);
    assert_eq!((all.len(), metadata.num_row_groups()), (600_000, 3));
    // Some bytes for each page, and nothing for a row.
    let chunk = metadata.row_group(0).column(1);
    assert!(chunk.compressed_size() < 14 * 60, "{} bytes", chunk.compressed_size());
}

#[test]
fn rows_are_worth_runs_where_these_are_long_enough() {
    let texts = |rows: usize, of_run: usize| {
        StringArray::from_iter_values((0..rows).map(|row| format!("position {}", row / of_run)))
    };
    assert!(suits(texts(1000, 8)) && suits(texts(64, 64)));
    assert!(!suits(texts(1000, 7)) && !suits(texts(63, 63)));
    assert!(!suits(StringArray::new_null(100)));
}

#[test]
fn a_row_group_ends_where_it_has_many_texts() {
    let rows: Vec<_> = (0..240_000).map(|row| format!("{:040}", row / 8)).collect();
    let parts: Vec<_> = rows.chunks(1000).map(|rows| batch(rows, true)).collect();
    let (all, metadata) = read(&file_of(&parts, Compression::SNAPPY), 0);
    assert!(all == rows);
    let groups: Vec<_> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    // 26,215 texts of 40 bytes are a mebibyte.
    assert_eq!(groups, [210_000, 30_000]);
}

#[test]
fn a_row_group_ends_where_runs_become_short() {
    let rows: Vec<_> = (0..100_000_usize)
        .map(|row| format!("{}", row.saturating_sub(2000)))
        .collect();
    let parts: Vec<_> = rows.chunks(1000).map(|rows| batch(rows, true)).collect();
    let (all, metadata) = read(&file_of(&parts, Compression::SNAPPY), 0);
    assert!(all == rows);
    let groups: Vec<_> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [20_000, 80_000]);
}

#[test]
fn what_it_takes_is_told() {
    let rows: ArrayRef = batch(
        &(0..8000).map(|row| format!("{:040}", row / 8)).collect::<Vec<_>>(),
        true,
    )
    .column(1)
    .clone();
    let schema = Schema::new(vec![Field::new("t", DataType::Utf8, true)]);
    let types = parquet::arrow::ArrowSchemaConverter::new().convert(&schema).unwrap();
    let mut runs = RunsColumn::new(types.column(0), &WriterProperties::default());
    runs.push(&rows).unwrap();
    let (memory, bytes) = (runs.memory_size(), runs.estimated_bytes());
    assert!((40_000..160_000).contains(&memory), "{memory} bytes of memory");
    let uncompressed = runs.close().unwrap().1.metadata.uncompressed_size() as usize;
    assert!(
        (uncompressed / 2..uncompressed * 2).contains(&bytes),
        "{bytes} of {uncompressed} bytes"
    );
}

#[test]
fn long_texts_are_not_in_the_statistics() {
    let mut rows = vec!["x".repeat(65); 100];
    rows[..50].fill("a".to_owned());
    let file = file_of(&[batch(&rows, false)], Compression::SNAPPY);
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let chunk = reader.metadata().row_group(0).column(1);
    let statistics = chunk.statistics().unwrap();
    assert_eq!((statistics.min_bytes_opt(), statistics.max_bytes_opt()), (None, None));
    assert_eq!(statistics.null_count_opt(), Some(0));
    assert_eq!(chunk.column_index_offset(), None);
    let all: Vec<_> = reader.build().unwrap().flat_map(|rows| texts(&rows.unwrap())).collect();
    assert_eq!(all, rows);
}

#[test]
fn a_null_behind_runs_is_an_error() {
    let rows = batch(&vec!["a".to_owned(); 100], true);
    let choice = Choice {
        properties: WriterProperties::default(),
        few: Vec::new(),
    };
    let mut encoder = Encoder::new(Vec::new(), rows.schema(), choice).unwrap();
    encoder.write(&rows).unwrap();
    let nulls = Arc::new(StringArray::new_null(100));
    let columns = vec![
        rows.column(0).clone(),
        nulls,
        rows.column(2).clone(),
        rows.column(3).clone(),
    ];
    let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    assert!(encoder.write(&rows).unwrap_err().to_string().contains("__position"));
}
