use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{Field, Schema};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use proptest::prelude::*;

use super::*;
use crate::chunk::testing;
use crate::pages::PAGE_ROWS;

type Texts = Vec<Option<String>>;

fn batch(texts: &[Option<String>]) -> RecordBatch {
    let nullable = texts.iter().any(Option::is_none);
    batch_of(texts, nullable)
}

fn batch_of(texts: &[Option<String>], nullable: bool) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("word", DataType::Utf8, nullable),
    ]);
    let ids = Int64Array::from_iter_values(0..texts.len() as i64);
    let texts: ArrayRef = Arc::new(texts.iter().map(Option::as_deref).collect::<StringArray>());
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), texts]).unwrap()
}

fn file_of(batches: &[RecordBatch], compression: Compression) -> Bytes {
    testing::file_of(batches, compression, &["word"])
}

/// The texts from the row `skip` on, as a reader finds them, and the metadata.
fn read(file: &Bytes, skip: usize) -> (Texts, Arc<ParquetMetaData>) {
    let (batches, metadata) = testing::read(file, skip);
    let texts = batches.iter().flat_map(|rows| rows.column(1).as_string::<i32>().iter());
    (texts.map(|text| text.map(str::to_owned)).collect(), metadata)
}

/// Texts of all lengths that are looked up differently, some of which differ in one byte.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{0,4}",
        "[ab]{7,9}",
        "[ab]{15,18}",
        "[aé]{0,6}",
        (0..300u32).prop_map(|number| format!("kind {number}")),
        Just("x".repeat(65)),
    ]
}

/// Some words, that come alone, in runs and as nulls.
fn texts() -> impl Strategy<Value = Texts> {
    let words = proptest::collection::vec(word(), 1..40);
    let runs = proptest::collection::vec(
        (
            any::<prop::sample::Index>(),
            0u32..10,
            prop_oneof![4 => 1usize..3, 2 => 5usize..40, 1 => 3000usize..30_000],
        ),
        1..60,
    );
    (words, runs, 0u32..3).prop_map(|(words, runs, nulls)| {
        let run = |(word, chance, count): (prop::sample::Index, u32, usize)| {
            let text = (chance >= nulls).then(|| word.get(&words).clone());
            std::iter::repeat_n(text, count)
        };
        runs.into_iter().flat_map(run).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_are_read_as_they_were_written(
        (written, nullable) in (texts(), any::<bool>()),
        cuts in proptest::collection::vec(1usize..9000, 1..5),
        compression in prop::sample::select(
            vec![Compression::ZSTD(ZstdLevel::default()), Compression::SNAPPY, Compression::UNCOMPRESSED]
        ),
        skipped in 0.0..1.0,
    ) {
        let nullable = nullable || written.iter().any(Option::is_none);
        let mut rest = &written[..];
        let mut batches = Vec::new();
        for cut in cuts.iter().cycle() {
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            batches.push(batch_of(head, nullable));
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        let file = file_of(&batches, compression);
        let (all, metadata) = read(&file, 0);
        prop_assert!(all == written);
        let skip = (written.len() as f64 * skipped) as usize;
        prop_assert!(read(&file, skip).0 == written[skip..]);
        let group = metadata.row_group(0);
        let of_group = &written[..group.num_rows() as usize];
        let statistics = group.column(1).statistics().unwrap();
        let nulls = |rows: &[Option<String>]| rows.iter().filter(|text| text.is_none()).count();
        prop_assert_eq!(statistics.null_count_opt(), Some(nulls(of_group) as u64));
        let present = || of_group.iter().flatten();
        let is_short = [present().min(), present().max()].iter().flatten().all(|text| text.len() <= 64);
        if is_short {
            prop_assert_eq!(statistics.min_bytes_opt(), present().min().map(|text| text.as_bytes()));
            prop_assert_eq!(statistics.max_bytes_opt(), present().max().map(|text| text.as_bytes()));
        }
        let is_ours = batches[0].column(1).null_count() < batches[0].num_rows()
            && WordsColumn::suits(batches[0].column(1));
        if let (true, ColumnIndexMetaData::BYTE_ARRAY(index)) = (is_ours, &metadata.column_index().unwrap()[0][1]) {
            let pages: Vec<_> = of_group.chunks(PAGE_ROWS).collect();
            let least = pages.iter().map(|page| page.iter().flatten().min().map(|text| text.as_bytes()));
            let greatest = pages.iter().map(|page| page.iter().flatten().max().map(|text| text.as_bytes()));
            prop_assert!(index.min_values_iter().eq(least));
            prop_assert!(index.max_values_iter().eq(greatest));
            for (number, page) in pages.iter().enumerate() {
                prop_assert_eq!(index.null_count(number), Some(nulls(page) as i64));
            }
        }
    }
}

fn number(row: usize, of: usize) -> Option<String> {
    Some(format!("kind {}", row * 7919 % of))
}

#[test]
fn words_take_some_bits_each() {
    let rows: Vec<_> = (0..100_000).map(|row| number(row, 50)).collect();
    let (all, metadata) = read(&file_of(&[batch(&rows)], Compression::UNCOMPRESSED), 0);
    assert!(all == rows);
    let chunk = metadata.row_group(0).column(1);
    // Six bits each, and the words.
    assert!(
        (75_000..77_000).contains(&chunk.compressed_size()),
        "{} bytes",
        chunk.compressed_size()
    );
    assert!(chunk.encodings().any(|encoding| encoding == Encoding::RLE_DICTIONARY));
    let text: usize = rows.iter().flatten().map(String::len).sum();
    assert_eq!(chunk.unencoded_byte_array_data_bytes(), Some(text as i64));
}

#[test]
fn a_row_group_ends_where_words_are_many_and_the_next_has_none() {
    let rows: Vec<_> = (0..60_000)
        .map(|row| number(row, if row < 10_000 { 50 } else { 20_000 }))
        .collect();
    let parts: Vec<_> = rows.chunks(1000).map(batch).collect();
    let (all, metadata) = read(&file_of(&parts, Compression::SNAPPY), 0);
    assert!(all == rows);
    let groups: Vec<_> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups.len(), 2, "{groups:?}");
    assert!((14_000..=16_000).contains(&groups[0]), "{groups:?}");
    let are_words = |group: usize| metadata.row_group(group).column(1).unencoded_byte_array_data_bytes();
    let all_bytes = |rows: &[Option<String>]| rows.iter().flatten().map(|text| text.len() as i64).sum::<i64>();
    assert_eq!(are_words(0), Some(all_bytes(&rows[..groups[0] as usize])));
}

#[test]
fn very_many_texts_in_one_batch_end_the_row_group_soon() {
    let same = vec![Some(String::new()); 65_536];
    let other: Vec<_> = (0..65_536).map(|row| Some(format!("{row:040}"))).collect();
    let (all, metadata) = read(&file_of(&[batch(&same), batch(&other)], Compression::SNAPPY), 0);
    assert!(all == [same, other].concat());
    let groups: Vec<_> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [65_536 + 8192, 65_536 - 8192]);
}

#[test]
fn a_column_that_has_become_another_one_is_left_alone() {
    let keys: Vec<_> = (0..1000).map(|row| Some(format!("key {row}"))).collect();
    assert!(!WordsColumn::suits(batch(&keys).column(1)));
    assert!(WordsColumn::suits(batch(&keys[..200]).column(1)), "too few to tell");
}

#[test]
fn a_page_without_texts_is_a_page_of_nulls() {
    let mut rows: Vec<_> = (0..70_000).map(|row| number(row, 3)).collect();
    rows[PAGE_ROWS..2 * PAGE_ROWS].fill(None);
    let (all, metadata) = read(&file_of(&[batch(&rows)], Compression::SNAPPY), 0);
    assert!(all == rows);
    let ColumnIndexMetaData::BYTE_ARRAY(index) = &metadata.column_index().unwrap()[0][1] else {
        panic!("no index");
    };
    let least: Vec<_> = index.min_values_iter().collect();
    assert_eq!(least, [Some(&b"kind 0"[..]), None, Some(b"kind 0"), Some(b"kind 0")]);
    let nulls: Vec<_> = (0..4).map(|page| index.null_count(page)).collect();
    assert_eq!(nulls, [Some(0), Some(PAGE_ROWS as i64), Some(0), Some(0)]);
}

#[test]
fn short_texts_are_words_and_others_are_not() {
    let suits = |texts: StringArray| WordsColumn::suits(&(Arc::new(texts) as ArrayRef));
    assert!(suits(StringArray::from(vec!["x".repeat(64)])));
    assert!(!suits(StringArray::from(vec!["x".repeat(65)])));
    assert!(suits(StringArray::from(vec![Some("a"), None])));
    assert!(!suits(StringArray::new_null(5)));
    assert!(!WordsColumn::suits(&(Arc::new(Int64Array::from(vec![1])) as ArrayRef)));
}
