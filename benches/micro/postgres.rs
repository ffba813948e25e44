//! What the server sends, into Arrow.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use millstream_core::ChangeBatch;
use millstream_postgres::benching::Table;

use crate::ROWS;

/// `orders (id bigint, account int, amount numeric(12,2), kind text, placed_at timestamptz)`.
const COLUMNS: &[(&str, u32, i32)] = &[
    ("id", 20, -1),
    ("account", 23, -1),
    ("amount", 1700, (12 << 16 | 2) + 4),
    ("kind", 25, -1),
    ("placed_at", 1184, -1),
];

/// `COPY (FORMAT binary)` into a batch.
pub fn copy(criterion: &mut Criterion) {
    let messages = copy_messages();
    let mut table = Table::new(COLUMNS);
    let mut group = criterion.benchmark_group("postgres");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("copy_into_arrow", |bencher| {
        bencher.iter_with_large_drop(|| {
            let messages = messages.iter().map(Vec::as_slice);
            table.copy(black_box(messages)).unwrap().expect("rows")
        });
    });
}

/// pgoutput in binary into a batch.
pub fn stream(criterion: &mut Criterion) {
    let messages: Vec<Vec<u8>> = (0..ROWS).map(insert).collect();
    let mut table = Table::new(COLUMNS);
    let mut group = criterion.benchmark_group("postgres");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("pgoutput_into_arrow", |bencher| {
        bencher.iter_with_large_drop(|| {
            let messages = messages.iter().map(Vec::as_slice);
            table.stream(black_box(messages)).unwrap().expect("rows")
        });
    });
}

/// The rows as a batch.
pub fn batch() -> ChangeBatch {
    let messages = copy_messages();
    let messages = messages.iter().map(Vec::as_slice);
    Table::new(COLUMNS).copy(messages).unwrap().expect("rows")
}

/// PostgreSQL manual, `COPY`, "Binary Format": a row each, the header with the first.
fn copy_messages() -> Vec<Vec<u8>> {
    let mut header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    let rows = (0..ROWS).map(|row| {
        let mut message = std::mem::take(&mut header);
        message.extend((COLUMNS.len() as i16).to_be_bytes());
        for value in values(row) {
            message.extend((value.len() as i32).to_be_bytes());
            message.extend(value);
        }
        message
    });
    let mut messages: Vec<_> = rows.collect();
    messages.push((-1_i16).to_be_bytes().to_vec());
    messages
}

/// PostgreSQL manual, 55.9, `Insert` and `TupleData`.
fn insert(row: usize) -> Vec<u8> {
    let mut message = vec![b'I', 0, 0, 0x40, 0, b'N'];
    message.extend((COLUMNS.len() as i16).to_be_bytes());
    for value in values(row) {
        message.push(b'b');
        message.extend((value.len() as i32).to_be_bytes());
        message.extend(value);
    }
    message
}

fn values(row: usize) -> [Vec<u8>; 5] {
    [
        (row as i64).to_be_bytes().into(),
        ((row * 7919 % 1_000_003) as i32).to_be_bytes().into(),
        numeric(row * 31 % 10_000_019),
        format!("kind {}", row % 50).into(),
        (820_000_000_000_000 + row as i64 * 1_000_000).to_be_bytes().into(),
    ]
}

/// So many cents, in the server's digits of base 10,000.
fn numeric(cents: usize) -> Vec<u8> {
    let whole = cents / 100;
    let digits = [whole / 10_000, whole % 10_000, cents % 100 * 100];
    let (weight, positive, scale) = (1_i16, 0_i16, 2_i16);
    let head = [digits.len() as i16, weight, positive, scale];
    let words = head.into_iter().chain(digits.map(|digit| digit as i16));
    words.flat_map(i16::to_be_bytes).collect()
}
