//! Messages of Kafka, into Arrow.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use millstream_kafka::{ColumnType, RowDecoder};

use crate::ROWS;

/// JSON objects of some 200 bytes into columns.
pub fn messages(criterion: &mut Criterion) {
    let columns = [
        ("id", "int64"),
        ("session", "utf8"),
        ("sent_at", "timestamp_ms"),
        ("url", "utf8"),
        ("agent", "utf8"),
        ("amount", "float64"),
        ("ok", "bool"),
        ("took_ms", "int64"),
    ];
    let columns: Vec<(String, ColumnType)> = columns
        .iter()
        .map(|(name, r#type)| ((*name).to_owned(), r#type.parse().expect("a type")))
        .collect();
    let messages: Vec<String> = (0..ROWS).map(message).collect();
    let mut group = criterion.benchmark_group("kafka");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("json_into_arrow", |bencher| {
        bencher.iter(|| {
            let mut decoder = RowDecoder::new(&columns, &[], ROWS);
            for message in black_box(&messages) {
                decoder.append(message.as_bytes()).expect("a sound message");
            }
            decoder.finish()
        });
    });
}

fn message(row: usize) -> String {
    format!(
        r#"{{"id":{row},"session":"{:016x}","sent_at":{},"url":"https://shop.example/products/{}?page={}","agent":"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101","amount":{}.25,"ok":{},"took_ms":{}}}"#,
        row * 2_654_435_761,
        1_767_225_600_000_u64 + row as u64,
        row % 1000,
        row % 7,
        row % 500,
        row.is_multiple_of(3),
        row % 250,
    )
}
