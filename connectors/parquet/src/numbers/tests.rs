use std::sync::Arc;

use arrow_array::types::ArrowPrimitiveType;
use arrow_array::{
    Date32Array, Decimal128Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use arrow_schema::{Field, Schema};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use proptest::prelude::*;

use super::*;
use crate::chunk::testing;
use crate::encoding::Choice;
use crate::pages::PAGE_ROWS;

/// A column of a type, with the values cut to what it holds.
fn column(data_type: &DataType, values: &[Option<i64>]) -> ArrayRef {
    let within = |most: i64| values.iter().map(move |value| value.map(|value| value % most));
    match data_type {
        DataType::Int16 => Arc::new(values.iter().map(|v| v.map(|v| v as i16)).collect::<Int16Array>()),
        DataType::Int32 => Arc::new(values.iter().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        DataType::Date32 => Arc::new(values.iter().map(|v| v.map(|v| v as i32)).collect::<Date32Array>()),
        DataType::Int64 => Arc::new(values.iter().copied().collect::<Int64Array>()),
        DataType::Time64(_) => Arc::new(values.iter().copied().collect::<Time64MicrosecondArray>()),
        DataType::Timestamp(..) => {
            let times: TimestampMicrosecondArray = values.iter().copied().collect();
            Arc::new(times.with_timezone("UTC"))
        }
        DataType::Decimal128(precision, scale) => {
            let amounts: Decimal128Array = within(10_i64.pow(u32::from(*precision)))
                .map(|value| value.map(i128::from))
                .collect();
            Arc::new(amounts.with_precision_and_scale(*precision, *scale).unwrap())
        }
        other => panic!("{other}"),
    }
}

/// The numbers that are stored of a column.
fn stored(column: &ArrayRef) -> Vec<Option<i64>> {
    fn widened<A: ArrowPrimitiveType>(column: &ArrayRef, number: impl Fn(A::Native) -> i64) -> Vec<Option<i64>> {
        column
            .as_primitive::<A>()
            .iter()
            .map(|value| value.map(&number))
            .collect()
    }
    match column.data_type() {
        DataType::Int16 => widened::<Int16Type>(column, i64::from),
        DataType::Int32 => widened::<Int32Type>(column, i64::from),
        DataType::Date32 => widened::<Date32Type>(column, i64::from),
        DataType::Int64 => widened::<Int64Type>(column, |value| value),
        DataType::Time64(_) => widened::<Time64MicrosecondType>(column, |value| value),
        DataType::Timestamp(..) => widened::<TimestampMicrosecondType>(column, |value| value),
        _ => widened::<Decimal128Type>(column, |value| value as i64),
    }
}

fn batch(column: ArrayRef, nullable: bool) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("number", column.data_type().clone(), nullable),
    ]);
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"; column.len()]));
    RecordBatch::try_new(Arc::new(schema), vec![texts, column]).unwrap()
}

fn properties(compression: Compression) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(compression)
        .set_column_dictionary_enabled("number".into(), false)
        .set_column_encoding("number".into(), Encoding::DELTA_BINARY_PACKED)
        .build()
}

fn file_of(batches: &[RecordBatch], properties: WriterProperties) -> Bytes {
    let few = Vec::new();
    testing::written(batches, Choice { properties, few })
}

/// A file whose numbers are taken to be few.
fn file_of_few(batches: &[RecordBatch], compression: Compression) -> Bytes {
    testing::file_of(batches, compression, &["number"])
}

/// The metadata of what `parquet` makes of it.
fn of_the_library(batches: &[RecordBatch], properties: WriterProperties) -> Arc<ParquetMetaData> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    testing::read(&Bytes::from(writer.into_inner().unwrap()), 0).1
}

fn types() -> impl Strategy<Value = DataType> {
    prop::sample::select(vec![
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Date32,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal128(7, 2),
        DataType::Decimal128(18, 3),
    ])
}

/// Progressions, some of whose numbers are elsewhere, and nulls.
fn numbers() -> impl Strategy<Value = Vec<Option<i64>>> {
    let run = (
        any::<i64>(),
        -3i64..4,
        0u32..64,
        0u32..3,
        prop_oneof![4 => 1usize..200, 1 => 5000usize..30_000],
    );
    proptest::collection::vec(run, 1..12).prop_map(|runs| {
        let mut state = 1u64;
        let mut numbers = Vec::new();
        for (first, step, bits, nulls, count) in runs {
            for at in 0..count {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let away = (state >> 1 & ((1 << bits) - 1)) as i64;
                let value = first.wrapping_add(step * at as i64).wrapping_add(away);
                numbers.push((state >> 60 >= u64::from(nulls)).then_some(value));
            }
        }
        numbers
    })
}

/// What a column chunk that begins with these rows is here.
fn chosen(rows: &RecordBatch, properties: &WriterProperties, are_few: bool) -> Option<NumbersColumn> {
    let types = ArrowSchemaConverter::new().convert(rows.schema_ref()).unwrap();
    NumbersColumn::for_rows(rows.column(1), &types.column(1), properties, are_few).unwrap()
}

/// What is read is what was written, and so are statistics, and the indexes of the first row group, which is ours.
fn check(file: &Bytes, batches: &[RecordBatch], skipped: f64) -> Result<(), TestCaseError> {
    let written: Vec<_> = batches.iter().flat_map(|rows| stored(rows.column(1))).collect();
    let read = |skip| {
        let (batches, metadata) = testing::read(file, skip);
        let numbers: Vec<_> = batches.iter().flat_map(|rows| stored(rows.column(1))).collect();
        (numbers, metadata)
    };
    let (all, metadata) = read(0);
    prop_assert!(all == written);
    let skip = (written.len() as f64 * skipped) as usize;
    prop_assert!(read(skip).0 == written[skip..]);

    let mut rest = &written[..];
    for group in metadata.row_groups() {
        let (of_group, behind) = rest.split_at(group.num_rows() as usize);
        rest = behind;
        let (least, greatest) = match group.column(1).statistics().unwrap() {
            Statistics::Int32(ends) => (
                ends.min_opt().copied().map(i64::from),
                ends.max_opt().copied().map(i64::from),
            ),
            Statistics::Int64(ends) => (ends.min_opt().copied(), ends.max_opt().copied()),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(least, of_group.iter().flatten().min().copied());
        prop_assert_eq!(greatest, of_group.iter().flatten().max().copied());
        let nulls = of_group.iter().filter(|value| value.is_none()).count();
        let statistics = group.column(1).statistics().unwrap();
        prop_assert_eq!(statistics.null_count_opt(), Some(nulls as u64));
    }
    let group = metadata.row_group(0);
    if metadata.num_row_groups() == 1 {
        let library = of_the_library(batches, WriterProperties::default());
        prop_assert_eq!(
            group.column(1).statistics(),
            library.row_group(0).column(1).statistics()
        );
    }
    let of_group = &written[..group.num_rows() as usize];
    let pages: Vec<_> = of_group.chunks(PAGE_ROWS).collect();
    let least = || pages.iter().map(|page| page.iter().flatten().min().copied());
    let greatest = || pages.iter().map(|page| page.iter().flatten().max().copied());
    let nulls = pages
        .iter()
        .map(|page| Some(page.iter().filter(|value| value.is_none()).count() as i64));
    let index = &metadata.column_index().unwrap()[0][1];
    match index {
        ColumnIndexMetaData::INT32(index) => {
            let widened = |value: Option<&i32>| value.copied().map(i64::from);
            prop_assert!(index.min_values_iter().map(widened).eq(least()));
            prop_assert!(index.max_values_iter().map(widened).eq(greatest()));
        }
        ColumnIndexMetaData::INT64(index) => {
            prop_assert!(index.min_values_iter().map(Option::<&i64>::copied).eq(least()));
            prop_assert!(index.max_values_iter().map(Option::<&i64>::copied).eq(greatest()));
        }
        other => prop_assert!(false, "{other:?}"),
    }
    prop_assert!(nulls.eq((0..pages.len()).map(|page| index.null_count(page))));
    Ok(())
}

fn batches(whole: &ArrayRef, nullable: bool, cuts: &[usize]) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    let mut first = 0;
    for cut in cuts.iter().cycle() {
        let count = (*cut).min(whole.len() - first);
        batches.push(batch(whole.slice(first, count), nullable));
        first += count;
        if first == whole.len() {
            break;
        }
    }
    batches
}

fn encodings(file: &Bytes) -> Vec<Encoding> {
    let (_, metadata) = testing::read(file, 0);
    metadata.row_group(0).column(1).encodings().collect()
}

fn compressions() -> impl Strategy<Value = Compression> {
    prop::sample::select(vec![
        Compression::ZSTD(ZstdLevel::default()),
        Compression::SNAPPY,
        Compression::UNCOMPRESSED,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn differences_are_read_as_they_were_written(
        data_type in types(),
        values in numbers(),
        nullable in any::<bool>(),
        cuts in proptest::collection::vec(1usize..9000, 1..5),
        compression in compressions(),
        skipped in 0.0..1.0,
    ) {
        let whole = column(&data_type, &values);
        let batches = batches(&whole, nullable || whole.null_count() > 0, &cuts);
        prop_assert!(chosen(&batches[0], &properties(compression), false).is_some_and(|numbers| !numbers.are_few()));
        let file = file_of(&batches, properties(compression));
        prop_assert!(encodings(&file).contains(&Encoding::DELTA_BINARY_PACKED));
        check(&file, &batches, skipped)?;
    }

    #[test]
    fn few_numbers_are_read_as_they_were_written(
        data_type in types(),
        values in numbers(),
        different in prop_oneof![3 => 1i64..100, 1 => 1000i64..20_000],
        nullable in any::<bool>(),
        cuts in proptest::collection::vec(1usize..9000, 1..5),
        compression in compressions(),
        skipped in 0.0..1.0,
    ) {
        // The first ones come again, so that they are taken to be few.
        let few = |(row, value): (usize, &Option<i64>)| match row {
            0 => Some(7),
            1..256 => value.map(|value| value.rem_euclid(30) * 77),
            _ => value.map(|value| value % different * 77),
        };
        let values: Vec<_> = values.iter().enumerate().map(few).collect();
        let whole = column(&data_type, &values);
        let batches = batches(&whole, nullable || whole.null_count() > 0, &cuts);
        prop_assert!(chosen(&batches[0], &WriterProperties::default(), true).is_some_and(|numbers| numbers.are_few()));
        let file = file_of_few(&batches, compression);
        check(&file, &batches, skipped)?;
    }
}

#[test]
fn few_numbers_take_some_bits_each() {
    let values: Vec<_> = (0..PAGE_ROWS as i64)
        .map(|row| Some(row * row % 11 * 1_000_003))
        .collect();
    let rows = batch(column(&DataType::Int64, &values), false);
    let file = file_of_few(&[rows], Compression::UNCOMPRESSED);
    let (_, metadata) = testing::read(&file, 0);
    let chunk = metadata.row_group(0).column(1);
    let different = values.iter().collect::<std::collections::HashSet<_>>().len() as i64;
    let (bits, pages) = (3, 100);
    assert_eq!(different, 6);
    assert!((bits * PAGE_ROWS as i64 / 8..).contains(&chunk.compressed_size()));
    assert!(chunk.compressed_size() < bits * PAGE_ROWS as i64 / 8 + 8 * different + pages);
}

#[test]
fn a_row_group_ends_where_numbers_are_many_and_the_next_has_none() {
    // What follows would pass for few again, if it were asked.
    let few_again = |row: i64| row < 1000 || (8192..8192 + 500).contains(&row);
    let number = |row: i64| if few_again(row) { row % 10 } else { row * 31 };
    let values: Vec<_> = (0..60_000).map(|row| Some(number(row))).collect();
    let rows = batch(column(&DataType::Int64, &values), false);
    let file = file_of_few(std::slice::from_ref(&rows), Compression::UNCOMPRESSED);
    let (read, metadata) = testing::read(&file, 0);
    let read: Vec<_> = read.iter().flat_map(|rows| stored(rows.column(1))).collect();
    assert_eq!(read, values);
    let rows: Vec<_> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [8192, 60_000 - 8192]);
}

#[test]
fn a_column_that_has_become_another_one_has_no_dictionary_of_ours() {
    let of = |values: Vec<Option<i64>>| {
        let rows = batch(column(&DataType::Int64, &values), true);
        chosen(&rows, &WriterProperties::default(), true).is_some()
    };
    assert!(of((0..300).map(|row| Some(row % 20)).collect()));
    assert!(!of((0..300).map(Some).collect()));
    let with_nulls = |row| (row % 3 > 0).then_some(row);
    assert!(!of((0..300).map(with_nulls).collect()));
    assert!(of((0..60).map(Some).collect()), "too few to tell");
    assert!(!of(vec![None; 300]), "nothing to look up");
}

#[test]
fn what_it_takes_is_told() {
    for are_few in [false, true] {
        let values: Vec<_> = (0..3 * PAGE_ROWS as i64 + 100).map(|row| Some(row % 16)).collect();
        let rows = batch(column(&DataType::Int64, &values), false);
        let mut numbers = chosen(&rows, &properties(Compression::UNCOMPRESSED), are_few).unwrap();
        let NumbersColumn::Long(column) = &numbers else {
            panic!("64 bits")
        };
        let empty = column.memory_size();
        numbers.push(rows.column(1)).unwrap();
        let (memory, bytes) = (numbers.memory_size(), numbers.estimated_bytes());
        // The pages, of five bits or four, and the room of one in progress.
        let of_pages = 3 * PAGE_ROWS * 5 / 8;
        let of_one = PAGE_ROWS * (size_of::<i64>() + size_of::<u32>());
        assert!(
            (of_pages..of_pages + 2 * of_one).contains(&memory),
            "{memory}, {empty} before"
        );
        let (file, _) = numbers.close().unwrap();
        assert!(
            (file.len() / 2..file.len() * 2).contains(&bytes),
            "{bytes} for {}",
            file.len()
        );
    }
}

#[test]
fn rows_of_another_type_are_an_error() {
    let rows = |data_type| batch(column(&data_type, &[Some(1)]), false);
    let mut numbers = chosen(&rows(DataType::Int64), &properties(Compression::UNCOMPRESSED), false).unwrap();
    let error = numbers.push(rows(DataType::Int32).column(1)).unwrap_err();
    assert!(error.to_string().contains("Int32"), "{error}");
}

#[test]
fn pages_in_order_are_said_to_be_so() {
    let order = |numbers: &mut dyn Iterator<Item = i64>| {
        let values: Vec<_> = numbers.map(Some).collect();
        let rows = batch(column(&DataType::Int64, &values), false);
        let file = file_of(&[rows], properties(Compression::UNCOMPRESSED));
        let (_, metadata) = testing::read(&file, 0);
        metadata.column_index().unwrap()[0][1].get_boundary_order()
    };
    let rows = 3 * PAGE_ROWS as i64;
    assert_eq!(order(&mut (0..rows)), Some(BoundaryOrder::ASCENDING));
    assert_eq!(order(&mut (0..rows).rev()), Some(BoundaryOrder::DESCENDING));
    let turning = (0..rows).map(|row| (row - rows / 2).abs());
    assert_eq!(order(&mut turning.into_iter()), Some(BoundaryOrder::UNORDERED));
}

#[test]
fn nulls_alone_are_a_page_as_well() {
    let mut values = vec![None; 2 * PAGE_ROWS];
    values.extend([Some(7), None, Some(9)]);
    let rows = batch(column(&DataType::Int64, &values), true);
    let file = file_of(&[rows], properties(Compression::UNCOMPRESSED));
    let (read, metadata) = testing::read(&file, PAGE_ROWS + 5);
    let read: Vec<_> = read.iter().flat_map(|rows| stored(rows.column(1))).collect();
    assert_eq!(read, values[PAGE_ROWS + 5..]);
    let index = &metadata.column_index().unwrap()[0][1];
    assert_eq!(
        [0, 1, 2].map(|page| (index.is_null_page(page), index.null_count(page))),
        [(true, Some(20_000)), (true, Some(20_000)), (false, Some(1))]
    );
    let rows = batch(column(&DataType::Int64, &[None, None]), true);
    let file = file_of(&[rows], properties(Compression::UNCOMPRESSED));
    let (read, metadata) = testing::read(&file, 0);
    assert_eq!(stored(read[0].column(1)), [None, None]);
    let statistics = metadata.row_group(0).column(1).statistics().unwrap();
    assert_eq!(
        (statistics.min_bytes_opt(), statistics.null_count_opt()),
        (None, Some(2))
    );
}

#[test]
fn what_is_not_known_is_left_to_the_library() {
    let path = "number";
    let is_ours =
        |column: ArrayRef, properties: &WriterProperties| chosen(&batch(column, false), properties, false).is_some();
    let numbers = || column(&DataType::Int64, &[Some(1)]);
    let differences = properties(Compression::UNCOMPRESSED);
    assert!(is_ours(numbers(), &differences));
    assert!(!is_ours(numbers(), &WriterProperties::default()), "a dictionary");
    let plain = WriterProperties::builder().set_column_dictionary_enabled(path.into(), false);
    let plain = plain.set_column_encoding(path.into(), Encoding::PLAIN).build();
    assert!(!is_ours(numbers(), &plain), "plain numbers");
    let nanoseconds: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1]));
    assert!(!is_ours(nanoseconds, &differences), "a type of others");
    let long = Decimal128Array::from(vec![1]).with_precision_and_scale(19, 0).unwrap();
    assert!(!is_ours(Arc::new(long), &differences), "more than 64 bits");
}
