//! Columns, partitions, compression and sizes of the files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, TimeUnit};
use millstream_core::config::Size;
use millstream_core::{ErrorKind, TableSchema};
use millstream_parquet::Compression;
use millstream_testkit::change_log::change_rows;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression as Codec;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::lake::{Lake, commit, commit_orders, creations, incompressible_orders, orders, some_orders, table};

/// [`orders`] as it is after a change of its source.
fn orders_with(column: Field) -> Arc<TableSchema> {
    let mut columns: Vec<Field> = orders().columns.fields().iter().map(|f| f.as_ref().clone()).collect();
    columns.retain(|known| known.name() != column.name());
    columns.push(column);
    table("orders", columns)
}

#[tokio::test]
async fn a_column_is_added_as_nullable() {
    let lake = Lake::in_folder().await;
    let mut writer = lake.open(&orders()).await.unwrap();
    commit_orders(&mut writer, 0, 1).await.unwrap();
    let wider = orders_with(Field::new("note", DataType::Utf8, true));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![2])),
        Arc::new(StringArray::from(vec!["order 2"])),
        Arc::new(StringArray::from(vec!["fragile"])),
    ];
    writer.write(creations(&wider, 1, columns)).await.unwrap();
    // A late batch of the old shape, in the same epoch.
    writer.write(some_orders(2, 1)).await.unwrap();
    commit(&mut writer, 1, 3).await.unwrap();

    let mut rows = change_rows(&lake.rows("orders").await);
    rows.sort();
    let notes: Vec<_> = rows
        .iter()
        .map(|row| row.cells.get("note").map(String::as_str))
        .collect();
    assert_eq!(notes, [None, Some("fragile"), None]);
    let records = lake.records("orders").await;
    let note = |version: usize| {
        let columns = &records[version - 1].schema.columns;
        columns
            .iter()
            .find(|column| column.name == "note")
            .map(|column| column.nullable)
    };
    assert_eq!((note(2), note(3)), (None, Some(true)));
    assert_eq!(records[2].schema.id, records[1].schema.id + 1);
}

/// Every file says by which schema it can be read, also where the table passed through it
/// between two commits only.
#[tokio::test]
async fn each_file_has_a_schema_that_a_record_holds() {
    let lake = Lake::in_memory().await;
    let mut writer = lake.open(&orders()).await.unwrap();
    commit_orders(&mut writer, 0, 1).await.unwrap();
    for (number, name) in (1..).zip(["one", "two", "three"]) {
        let wider = orders_with(Field::new(name, DataType::Utf8, true));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![number])), text.clone(), text];
        writer.write(creations(&wider, number as u64, columns)).await.unwrap();
    }
    commit(&mut writer, 1, 4).await.unwrap();
    commit_orders(&mut writer, 4, 1).await.unwrap();
    let records = lake.records("orders").await;
    let schemas: BTreeMap<u32, usize> = records
        .iter()
        .flat_map(|record| record.interim_schemas.iter().chain([&record.schema]))
        .map(|schema| (schema.id, schema.columns.len()))
        .collect();
    for file in records.iter().flat_map(|record| &record.files) {
        let reader = SerializedFileReader::new(lake.content("orders", &file.path).await).unwrap();
        let columns = reader.metadata().file_metadata().schema().get_fields().len();
        assert_eq!(schemas.get(&file.schema_id), Some(&columns), "{}", file.path);
    }
    assert_eq!(records[2].interim_schemas.len(), 2);
    assert!(records[3].interim_schemas.is_empty());
}

#[tokio::test]
async fn an_incompatible_type_is_refused_with_the_column() {
    let lake = Lake::in_folder().await;
    let mut writer = lake.open(&orders()).await.unwrap();
    commit_orders(&mut writer, 0, 1).await.unwrap();
    let changed = orders_with(Field::new("name", DataType::Int32, true));
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![2])), Arc::new(Int32Array::from(vec![2]))];
    let error = writer.write(creations(&changed, 1, columns)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::SchemaChange, Some("PQ0009"))
    );
    assert!(error.summary().contains("`name`"), "{}", error.summary());
    assert!(error.hint_text().is_some());
    let error = lake.open(&changed).await.map(drop).unwrap_err();
    assert_eq!(error.error_code(), Some("PQ0009"), "an open is refused, too");
    assert_eq!(change_rows(&lake.rows("orders").await).len(), 1);
}

/// 2026-01-31T23:59:59.5Z, in microseconds since the Unix epoch.
const LATE: i64 = 1_769_903_999_500_000;

fn visits() -> Arc<TableSchema> {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    table(
        "visits",
        vec![
            Field::new("id", DataType::Int64, true),
            Field::new("at", time, true),
            Field::new("region", DataType::Utf8, true),
        ],
    )
}

/// Ids 34, 35, 36: before midnight, after it, at no known time; regions that need escaping.
fn some_visits() -> Vec<ArrayRef> {
    let times = TimestampMicrosecondArray::from(vec![Some(LATE), Some(LATE + 1_000_000), None]);
    vec![
        Arc::new(Int64Array::from(vec![34, 35, 36])),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(StringArray::from(vec![Some("a/b"), Some(".."), None])),
    ]
}

/// The partition values of the rows with id 34, 35 and 36, and the folders that they lie in.
async fn partitioned(by: &[&str]) -> [(BTreeMap<String, Option<String>>, String); 3] {
    let mut lake = Lake::in_folder().await;
    lake.config.partition_by = by.iter().map(|expr| expr.parse().unwrap()).collect();
    let mut writer = lake.open(&visits()).await.unwrap();
    writer.write(creations(&visits(), 0, some_visits())).await.unwrap();
    commit(&mut writer, 0, 3).await.unwrap();
    assert_eq!(lake.objects("visits", "data").await, lake.committed("visits").await);
    let mut found = BTreeMap::new();
    let files = lake.records("visits").await.remove(1).files;
    for file in &files {
        let content = lake.content("visits", &file.path).await;
        let reader = ParquetRecordBatchReaderBuilder::try_new(content);
        let batches: Vec<_> = reader.unwrap().build().unwrap().map(|batch| batch.unwrap()).collect();
        let folder = file.path.strip_prefix("data/").unwrap().rsplit_once('/').unwrap().0;
        for batch in batches {
            for id in batch["id"].as_primitive::<Int64Type>().values() {
                found.insert(*id, (file.partition.clone(), folder.to_owned()));
            }
        }
    }
    [34, 35, 36].map(|id| found.remove(&id).unwrap())
}

const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

#[tokio::test]
async fn rows_lie_in_the_folders_of_their_day_and_hour() {
    let found = partitioned(&["day(at)", "hour(at)"]).await;
    let folders = found.each_ref().map(|(_, folder)| folder.as_str());
    assert_eq!(
        folders,
        [
            "day_at=2026-01-31/hour_at=2026-01-31-23",
            "day_at=2026-02-01/hour_at=2026-02-01-00",
            &format!("day_at={NULL}/hour_at={NULL}"),
        ]
    );
    assert_eq!(found[0].0["day_at"].as_deref(), Some("2026-01-31"));
    assert_eq!(found[2].0["day_at"], None);
}

#[tokio::test]
async fn values_are_escaped_in_folders_and_plain_in_records() {
    let found = partitioned(&["region"]).await;
    let values = found
        .each_ref()
        .map(|(values, _)| values["region"].as_deref().unwrap_or("none"));
    assert_eq!(values, ["a/b", "..", "none"]);
    let distinct: BTreeSet<_> = found.iter().map(|(_, folder)| folder).collect();
    assert_eq!(distinct.len(), 3);
    assert!(
        distinct
            .iter()
            .all(|folder| folder.starts_with("region=") && !folder.contains('/')),
        "{distinct:?}"
    );
}

/// The hash of 34 is given in the Iceberg specification: 2017239379.
#[tokio::test]
async fn buckets_are_those_of_iceberg() {
    let found = partitioned(&["bucket(16, id)"]).await;
    assert_eq!(found[0].1, format!("bucket_id={}", 2_017_239_379 % 16));
}

#[tokio::test]
async fn a_partition_by_what_the_table_lacks_is_refused() {
    for expr in ["day(placed_at)", "hour(name)", "day(id)"] {
        let mut lake = Lake::in_memory().await;
        lake.config.partition_by = vec![expr.parse().unwrap()];
        let error = lake.open(&orders()).await.map(drop).unwrap_err();
        assert_eq!(
            (error.kind(), error.error_code()),
            (ErrorKind::Config, Some("PQ0010")),
            "{expr}"
        );
        assert!(lake.records("orders").await.is_empty(), "the table is not even created");
    }
}

#[tokio::test]
async fn a_text_that_is_too_long_for_a_folder_stops_nothing() {
    let mut lake = Lake::in_folder().await;
    lake.config.partition_by = vec!["region".parse().unwrap()];
    let mut writer = lake.open(&visits()).await.unwrap();
    let long = "north-east/".repeat(200);
    let mut columns = some_visits();
    columns[2] = Arc::new(StringArray::from(vec![long.as_str(), "x", "x"]));
    writer.write(creations(&visits(), 0, columns)).await.unwrap();
    commit(&mut writer, 0, 3).await.unwrap();
    let files = lake.records("visits").await.remove(1).files;
    let values: BTreeSet<_> = files.iter().map(|file| file.partition["region"].as_deref()).collect();
    assert_eq!(values, BTreeSet::from([Some(long.as_str()), Some("x")]));
    assert_eq!(
        lake.rows("visits")
            .await
            .iter()
            .map(|rows| rows.num_rows())
            .sum::<usize>(),
        3
    );
}

/// A text view is stored as text, and text can be partitioned.
#[tokio::test]
async fn a_column_is_partitioned_by_as_it_is_stored() {
    let mut lake = Lake::in_memory().await;
    lake.config.partition_by = vec!["place".parse().unwrap()];
    let id = Field::new("id", DataType::Int64, true);
    let places = table("places", vec![id, Field::new("place", DataType::Utf8View, true)]);
    let mut writer = lake.open(&places).await.unwrap();
    let names: ArrayRef = Arc::new(arrow_array::StringViewArray::from(vec!["here", "there"]));
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 2])), names];
    writer.write(creations(&places, 0, columns)).await.unwrap();
    assert_eq!(commit(&mut writer, 0, 2).await.unwrap().files, 2);
}

#[tokio::test]
async fn columns_are_compressed_as_configured() {
    for (compression, expected) in [
        (Compression::default(), "ZSTD"),
        (Compression::Zstd(3), "ZSTD"),
        (Compression::Snappy, "SNAPPY"),
        (Compression::None, "UNCOMPRESSED"),
    ] {
        let mut lake = Lake::in_memory().await;
        lake.config.compression = compression;
        let mut writer = lake.open(&orders()).await.unwrap();
        commit_orders(&mut writer, 0, 100).await.unwrap();
        let file = lake.committed("orders").await.pop_first().unwrap();
        let reader = SerializedFileReader::new(lake.content("orders", &file).await).unwrap();
        for column in reader.metadata().row_group(0).columns() {
            let codec: Codec = column.compression();
            assert!(codec.to_string().starts_with(expected), "{codec} {expected}");
        }
        assert_eq!(change_rows(&lake.rows("orders").await).len(), 100);
    }
}

#[tokio::test]
async fn a_file_is_closed_at_its_target_and_at_each_commit() {
    // (rows, bytes) of the target, and the rows of the files that two commits of 30 and 5 make.
    for (rows, bytes, expected) in [
        (Some(10), None, vec![10, 10, 10, 5]),
        (None, Some(1), vec![5, 5, 5, 5, 5, 5, 5]),
        (None, None, vec![30, 5]),
    ] {
        let mut lake = Lake::in_memory().await;
        lake.config.file.rows = rows;
        if let Some(bytes) = bytes {
            lake.config.file.bytes = Size(bytes);
        }
        let mut writer = lake.open(&orders()).await.unwrap();
        for from in (0..30).step_by(5) {
            writer.write(some_orders(from, 5)).await.unwrap();
        }
        commit(&mut writer, 0, 30).await.unwrap();
        commit_orders(&mut writer, 30, 5).await.unwrap();
        let files = lake
            .records("orders")
            .await
            .into_iter()
            .flat_map(|record| record.files)
            .map(|file| file.rows)
            .collect::<Vec<_>>();
        assert_eq!(files, expected);
        assert_eq!(change_rows(&lake.rows("orders").await).len(), 35);
    }
}

/// A file that does not fit one part of an upload, within a buffer that is smaller still.
#[tokio::test]
async fn a_large_file_goes_up_in_parts() {
    let mut lake = Lake::in_memory().await;
    lake.config.compression = Compression::None;
    lake.config.buffer = Size(8 << 20);
    let mut writer = lake.open(&orders()).await.unwrap();
    let (mut total, step) = (0, 20_000);
    for from in (0..200_000).step_by(step as usize) {
        writer.write(incompressible_orders(from, step)).await.unwrap();
        total += step;
    }
    let receipt = commit(&mut writer, 0, total).await.unwrap();
    assert_eq!(receipt.rows, total);
    let files = lake.records("orders").await.remove(1).files;
    assert!(files.iter().any(|file| file.bytes > 6 << 20), "{files:?}");
    let rows: usize = lake.rows("orders").await.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows as u64, total);
}
