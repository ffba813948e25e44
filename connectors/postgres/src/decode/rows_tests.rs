//! Tests of [`super::TableDecoder`].

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_schema::Schema;
use millstream_core::{TableId, envelope};

use super::super::reader::Reader;
use super::super::tuple::encode;
use super::super::{Catalog, numeric};
use super::TupleValue::{Binary, Null, Text, Unchanged};
use super::*;

const CONTEXT: ChangeContext<'_> = ChangeContext {
    position: "00000000000000FF",
    ordinal: 5,
    committed_at: Some(1_000_000),
};

/// `id int4, note text, amount numeric(5,2)` with the key `id`.
fn decoder(before_image: bool) -> TableDecoder {
    let catalog = Catalog::new();
    let columns = [("id", 23, -1), ("note", 25, -1), ("amount", 1700, (5 << 16 | 2) + 4)];
    let types: Vec<_> = columns
        .iter()
        .map(|&(_, oid, typmod)| ColumnType::resolve(oid, typmod, &catalog))
        .collect();
    let fields: Vec<_> = columns
        .iter()
        .zip(&types)
        .map(|((name, ..), r#type)| r#type.field(name))
        .collect();
    let schema = TableSchema {
        id: TableId::new("shop", Some("public"), "orders"),
        columns: Arc::new(Schema::new(fields)),
        key: vec!["id".to_owned()],
        not_null: Vec::new(),
        before_image,
    };
    TableDecoder::new(Arc::new(schema), types, PartitionId::new("shop", "wal"))
}

fn tuple(bytes: &[u8]) -> Tuple<'_> {
    Tuple::read(&mut Reader::new(bytes)).unwrap()
}

struct Found {
    ops: Vec<String>,
    ordinals: Vec<i64>,
    ids: Vec<Option<i32>>,
    notes: Vec<Option<String>>,
}

fn found(batch: &ChangeBatch) -> Found {
    let notes = batch.rows().column(1).as_string::<i32>();
    Found {
        ops: batch.ops().iter().flatten().map(str::to_owned).collect(),
        ordinals: batch.ordinals().values().to_vec(),
        ids: batch.rows().column(0).as_primitive::<Int32Type>().iter().collect(),
        notes: notes.iter().map(|note| note.map(str::to_owned)).collect(),
    }
}

/// Some rows of a first copy, each with its three fields.
fn take_copied(decoder: &mut TableDecoder, position: &str, ordinals: &[i64], rows: &[[Option<&[u8]>; 3]]) {
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in rows {
        stream.extend(3u16.to_be_bytes());
        for field in row {
            stream.extend(field.map_or(-1, |bytes| bytes.len() as i32).to_be_bytes());
            stream.extend(field.unwrap_or_default());
        }
    }
    let mut copy = super::super::CopyDecoder::new(3);
    copy.feed([&stream[..]], |rows| decoder.copy(position, ordinals, &rows))
        .unwrap();
}

#[test]
fn copied_rows_are_taken_together_and_refused_one_by_one() {
    let mut decoder = decoder(true);
    let amount = numeric::encode("1.50");
    let row = |id: &'static [u8], note: &'static [u8]| [Some(id), Some(note), Some(&amount[..])];
    take_copied(
        &mut decoder,
        "P1",
        &[3, 7],
        &[row(&[0, 0, 0, 1], b"a"), row(&[0, 0, 0, 2], b"b")],
    );
    let rows = [
        row(&[0, 0, 0, 3], b"c"),
        // Two of its values are refused: the first counts.
        row(&[4], b"\xff"),
        [Some(&[0, 0, 0, 5]), None, None],
        row(&[0, 0, 0, 6], b"\xfe"),
        row(&[0, 0, 0, 7], b"f"),
    ];
    take_copied(&mut decoder, "P2", &[1, 2, 5, 6, 9], &rows);

    let batch = decoder.finish().unwrap().unwrap();
    let found = found(&batch);
    assert_eq!(found.ops, ["r"; 5]);
    assert_eq!(found.ordinals, [3, 7, 1, 5, 9]);
    assert_eq!(found.ids, [1, 2, 3, 5, 7].map(Some));
    let notes = [Some("a"), Some("b"), Some("c"), None, Some("f")];
    assert_eq!(found.notes, notes.map(|note| note.map(str::to_owned)));
    let positions: Vec<_> = batch.positions().iter().flatten().collect();
    assert_eq!(positions, ["P1", "P1", "P2", "P2", "P2"]);
    let before = batch.rows().column_by_name(envelope::BEFORE).unwrap();
    assert_eq!(before.null_count(), 5);

    let rejects = decoder.finish_rejects().unwrap().unwrap();
    assert_eq!(rejects.ordinals().values(), &[2, 6]);
    assert_eq!(rejects.positions().iter().flatten().collect::<Vec<_>>(), ["P2", "P2"]);
    let column = |name| rejects.rows().column_by_name(name).unwrap();
    let reasons: Vec<_> = column("reason").as_string::<i32>().iter().flatten().collect();
    assert!(reasons[0].starts_with("column `id` (int4)"), "{reasons:?}");
    assert!(reasons[1].starts_with("column `note` (text)"), "{reasons:?}");
    let raw = column("raw").as_binary::<i32>();
    assert_eq!(
        raw.value(0),
        br#"{"__op":"r","id":{"hex":"04"},"note":{"hex":"ff"},"amount":"1.50"}"#
    );
    assert_eq!(
        raw.value(1),
        br#"{"__op":"r","id":"6","note":{"hex":"fe"},"amount":"1.50"}"#
    );
}

#[test]
fn each_change_becomes_its_rows() {
    let mut decoder = decoder(false);
    let row = encode(&[Binary(&[0, 0, 0, 7]), Text(b"a"), Text(b"1.50")]);
    let moved = encode(&[Text(b"8"), Text(b"b"), Null]);
    let key = encode(&[Text(b"7"), Null, Null]);
    assert_eq!(decoder.insert(&CONTEXT, &tuple(&row)).unwrap(), 1);
    assert_eq!(decoder.update(&CONTEXT, None, &tuple(&row)).unwrap(), 1);
    assert_eq!(
        decoder
            .update(&CONTEXT, Some(&OldTuple::Key(tuple(&key))), &tuple(&moved))
            .unwrap(),
        2
    );
    assert_eq!(decoder.delete(&CONTEXT, &OldTuple::Key(tuple(&key))).unwrap(), 1);
    assert_eq!(decoder.truncate(&CONTEXT).unwrap(), 1);

    let batch = decoder.finish().unwrap().unwrap();
    let rows = found(&batch);
    assert_eq!(rows.ops, ["c", "u", "d", "c", "d", "t"]);
    assert_eq!(rows.ordinals, [5, 5, 5, 6, 5, 5]);
    assert_eq!(rows.ids, [Some(7), Some(7), Some(7), Some(8), Some(7), None]);
    assert_eq!(
        rows.notes[..4],
        [Some("a".to_owned()), Some("a".to_owned()), None, Some("b".to_owned())]
    );
    assert_eq!(batch.positions().value(0), CONTEXT.position);
    assert!(decoder.finish().unwrap().is_none());
}

#[test]
fn a_value_that_was_not_sent_is_named_or_resolved() {
    let mut decoder = decoder(true);
    let new = encode(&[Text(b"7"), Unchanged, Text(b"2.00")]);
    let old = encode(&[Text(b"7"), Text(b"long"), Text(b"1.00")]);
    decoder.update(&CONTEXT, None, &tuple(&new)).unwrap();
    decoder
        .update(&CONTEXT, Some(&OldTuple::Full(tuple(&old))), &tuple(&new))
        .unwrap();
    let batch = decoder.finish().unwrap().unwrap();
    let rows = found(&batch);
    assert_eq!(rows.ops, ["u", "u"]);
    assert_eq!(rows.notes, [None, Some("long".to_owned())]);
    let unchanged = batch
        .rows()
        .column_by_name(envelope::UNCHANGED)
        .unwrap()
        .as_list::<i32>();
    assert_eq!(unchanged.value(0).as_string::<i32>().value(0), "note");
    assert!(unchanged.is_null(1));
    let before = batch.rows().column_by_name(envelope::BEFORE).unwrap().as_struct();
    assert!(before.is_null(0));
    assert_eq!(before.column(1).as_string::<i32>().value(1), "long");
}

#[test]
fn with_a_full_identity_a_moved_row_is_whole_on_both_sides() {
    let mut decoder = decoder(true);
    let old = encode(&[Text(b"7"), Text(b"long"), Text(b"1.00")]);
    let new = encode(&[Text(b"8"), Unchanged, Text(b"1.00")]);
    assert_eq!(
        decoder
            .update(&CONTEXT, Some(&OldTuple::Full(tuple(&old))), &tuple(&new))
            .unwrap(),
        2
    );
    decoder.delete(&CONTEXT, &OldTuple::Full(tuple(&old))).unwrap();
    let batch = decoder.finish().unwrap().unwrap();
    let rows = found(&batch);
    assert_eq!(rows.ops, ["d", "c", "d"]);
    assert!(rows.notes.iter().all(|note| note.as_deref() == Some("long")));
    let before = batch.rows().column_by_name(envelope::BEFORE).unwrap();
    assert_eq!(
        (0..3).map(|row| before.is_valid(row)).collect::<Vec<_>>(),
        [true, false, true]
    );
}

#[test]
fn a_refused_row_leaves_its_neighbours_and_goes_to_quarantine() {
    let mut decoder = decoder(true);
    let good = encode(&[Text(b"7"), Text(b"a"), Text(b"1.50")]);
    let bad = encode(&[Text(b"8"), Text(b"b"), Text(b"NaN")]);
    decoder.insert(&CONTEXT, &tuple(&good)).unwrap();
    assert_eq!(decoder.insert(&CONTEXT, &tuple(&bad)).unwrap(), 1);
    assert_eq!(
        decoder
            .update(&CONTEXT, Some(&OldTuple::Full(tuple(&good))), &tuple(&bad))
            .unwrap(),
        2
    );

    let batch = decoder.finish().unwrap().unwrap();
    assert_eq!(found(&batch).ops, ["c", "d"]);
    assert_eq!(found(&batch).ids, [Some(7), Some(7)]);
    let rejects = decoder.finish_rejects().unwrap().unwrap();
    assert_eq!(rejects.num_rows(), 2);
    let column = |name: &str| rejects.rows().column_by_name(name).unwrap().clone();
    assert_eq!(column("table").as_string::<i32>().value(0), "shop.public.orders");
    let reason = "column `amount` (numeric(5,2)): NaN and infinity have no place in a decimal column";
    assert_eq!(column("reason").as_string::<i32>().value(0), reason);
    let raw = column("raw");
    let raw = |row| {
        std::str::from_utf8(raw.as_binary::<i32>().value(row))
            .unwrap()
            .to_owned()
    };
    assert_eq!(raw(0), r#"{"__op":"c","id":"8","note":"b","amount":"NaN"}"#);
    assert_eq!(raw(1), r#"{"__op":"c","id":"8","note":"b","amount":"NaN"}"#);
    let ordinals = column(envelope::ORDINAL);
    assert_eq!(ordinals.as_primitive::<Int64Type>().values().to_vec(), [5, 6]);
    assert!(decoder.finish_rejects().unwrap().is_none());
}

#[test]
fn an_old_row_that_cannot_be_decoded_is_left_out_and_the_change_passes() {
    let mut decoder = decoder(true);
    let old = encode(&[Text(b"7"), Text(b"b"), Text(b"NaN")]);
    let repaired = encode(&[Text(b"7"), Unchanged, Text(b"1.50")]);
    let moved = encode(&[Text(b"8"), Text(b"b"), Text(b"1.50")]);
    let old = OldTuple::Full(tuple(&old));
    assert_eq!(decoder.update(&CONTEXT, Some(&old), &tuple(&repaired)).unwrap(), 1);
    assert_eq!(decoder.update(&CONTEXT, Some(&old), &tuple(&moved)).unwrap(), 2);
    assert_eq!(decoder.delete(&CONTEXT, &old).unwrap(), 1);
    let sound = encode(&[Text(b"7"), Text(b"b"), Text(b"1.50")]);
    decoder.delete(&CONTEXT, &OldTuple::Full(tuple(&sound))).unwrap();

    assert!(decoder.finish_rejects().unwrap().is_none());
    let batch = decoder.finish().unwrap().unwrap();
    let rows = found(&batch);
    assert_eq!(rows.ops, ["u", "d", "c", "d", "d"]);
    assert_eq!(rows.ids, [7, 7, 8, 7, 7].map(Some));
    assert_eq!(
        rows.notes[0].as_deref(),
        Some("b"),
        "what was not sent is in the old row"
    );
    let before = batch.rows().column_by_name(envelope::BEFORE).unwrap();
    assert_eq!(
        (0..5).map(|row| before.is_valid(row)).collect::<Vec<_>>(),
        [false, false, false, false, true]
    );
}

#[test]
fn a_delete_without_a_sound_key_is_refused() {
    let mut keyed = decoder(true);
    let key = encode(&[Text(b"x"), Null, Null]);
    keyed.delete(&CONTEXT, &OldTuple::Key(tuple(&key))).unwrap();
    assert_eq!(keyed.finish_rejects().unwrap().unwrap().num_rows(), 1);

    let schema = TableSchema {
        key: Vec::new(),
        ..(**keyed.schema()).clone()
    };
    let types = std::mem::take(&mut keyed.types);
    let mut without_key = TableDecoder::new(Arc::new(schema), types, PartitionId::new("shop", "wal"));
    let row = encode(&[Text(b"7"), Null, Text(b"NaN")]);
    without_key.delete(&CONTEXT, &OldTuple::Full(tuple(&row))).unwrap();
    assert_eq!(without_key.finish_rejects().unwrap().unwrap().num_rows(), 1);
}

#[test]
fn a_batch_of_refused_rows_alone_is_none() {
    let mut decoder = decoder(false);
    decoder
        .insert(&CONTEXT, &tuple(&encode(&[Text(b"x"), Null, Null])))
        .unwrap();
    assert!(decoder.finish().unwrap().is_none());
    assert!(decoder.finish_rejects().unwrap().is_some());
}

#[test]
fn a_row_of_another_width_is_an_error() {
    let mut decoder = decoder(false);
    let error = decoder.insert(&CONTEXT, &tuple(&encode(&[Null]))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.error_code(), Some("PG0040"));
}

#[test]
fn what_was_left_out_is_noted_for_whoever_asks() {
    let left_out = encode(&[Text(b"7"), Unchanged, Text(b"2.00")]);
    let refused = encode(&[Text(b"8"), Unchanged, Text(b"NaN")]);
    let old = encode(&[Text(b"7"), Null, Null]);
    let moved = encode(&[Text(b"9"), Unchanged, Text(b"2.00")]);
    let mut decoder = decoder(false);
    let rows = |decoder: &mut TableDecoder| {
        for new in [&refused, &left_out] {
            decoder.update(&CONTEXT, None, &tuple(new)).unwrap();
        }
        decoder
            .update(&CONTEXT, Some(&OldTuple::Key(tuple(&old))), &tuple(&moved))
            .unwrap();
        assert_eq!(decoder.finish().unwrap().unwrap().num_rows(), 3);
        decoder.take_gaps()
    };
    assert_eq!(rows(&mut decoder).rows, []);
    let transaction = |xid, commit| Transaction {
        xid,
        commit: crate::decode::Lsn(commit),
    };
    decoder.note_gaps(Some(transaction(3, 30)));
    let gaps = rows(&mut decoder);
    let key = |text: &[u8]| vec![KeyValue::Text(text.into())];
    // The refused row is not in the batch, and of the moved one the delete lacks nothing.
    assert_eq!(gaps.rows, [Gap::new(0, &[1], key(b"7")), Gap::new(2, &[1], key(b"9"))]);
    assert_eq!((gaps.last_commit.0, gaps.written_by.len()), (30, 1));
    assert_eq!(rows(&mut decoder).written_by.into_iter().collect::<Vec<_>>(), [3]);
    decoder.note_gaps(None);
    assert_eq!(rows(&mut decoder).rows, []);
}

#[test]
fn a_small_batch_behind_a_large_one_is_small() {
    let mut decoder = decoder(false);
    let note = "x".repeat(1000);
    let row = encode(&[Binary(&[0, 0, 0, 7]), Text(note.as_bytes()), Null]);
    let mut bytes_of = |rows: usize| {
        for _ in 0..rows {
            decoder.insert(&CONTEXT, &tuple(&row)).unwrap();
        }
        decoder.finish().unwrap().unwrap().bytes()
    };
    let alone = bytes_of(1);
    let large = bytes_of(10_000);
    assert!(large > 10_000_000, "{large}");
    let small = bytes_of(1);
    assert!(small <= alone, "{small} bytes, and {alone} of one row alone");
}
