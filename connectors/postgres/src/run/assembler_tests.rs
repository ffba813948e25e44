//! Tests of [`super::Assembler`], on messages made by hand.

use futures::FutureExt;
use millstream_core::{ByteBudget, EventReceiver, Position, TableId, event_channel};

use super::super::tables::TableStart;
use super::*;
use crate::catalog::{CatalogColumn, ReplicaIdentity};
use crate::decode::tuple::TupleValue::{self, Null, Text, Unchanged};
use crate::decode::tuple::encode;
use crate::decode::{Catalog, Forms};
use crate::shape::{Shape, TypeNames};

const OURS: u32 = 7;
const FOREIGN: u32 = 8;
const HELD: u64 = 100;

struct Rig {
    assembler: Assembler,
    receiver: EventReceiver,
}

/// Batches as their number of rows, boundaries as their position.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Rows(usize),
    Boundary(Position),
}

fn boundary(lsn: u64) -> Seen {
    Seen::Boundary(position_of(Lsn(lsn)))
}

impl Rig {
    fn new(limits: BatchLimits) -> Self {
        let partition = PartitionId::new("shop", "wal");
        let column = |name: &str, type_oid: u32| CatalogColumn {
            attnum: None,
            name: name.to_owned(),
            type_oid,
            typmod: -1,
            type_name: String::new(),
            not_null: false,
            key: name == "id",
        };
        let shape = Shape {
            id: TableId::new("shop", Some("public"), "orders"),
            identity: ReplicaIdentity::Full,
            columns: vec![column("id", 23), column("note", 25)],
            forms: Forms::default(),
        };
        let mut types = TypeNames {
            catalog: Catalog::new(),
            ..TypeNames::default()
        };
        types.learn(&shape.columns);
        let (sender, receiver) = event_channel(ByteBudget::new(1 << 30), 1024);
        let start = TableStart {
            present: shape.id.clone(),
            renamed: shape.id.clone(),
            shape,
            oid: OURS,
            held: Lsn(HELD),
        };
        let tables = Tables::new(partition.clone(), vec![start], types, false);
        let assembler = Assembler::new(partition, limits, tables, Outbox::new(sender), Lsn(HELD));
        Self { assembler, receiver }
    }

    fn take(&mut self, message: &[u8]) {
        assert_eq!(self.assembler.take(message).unwrap(), None);
    }

    /// A transaction whose commit record is at `lsn`.
    fn transaction(&mut self, lsn: u64, messages: &[Vec<u8>]) {
        self.take(&begin(lsn));
        messages.iter().for_each(|message| self.take(message));
        self.take(&commit(lsn));
    }

    async fn seen(&mut self) -> Vec<Seen> {
        self.assembler.outbox.drive().await.unwrap();
        let mut seen = Vec::new();
        while let Some(Some(event)) = self.receiver.recv().now_or_never() {
            seen.push(match event {
                SourceEvent::Changes(batch) => Seen::Rows(batch.num_rows()),
                SourceEvent::Boundary(boundary) => Seen::Boundary(boundary.position),
                other => panic!("{other:?}"),
            });
        }
        seen
    }
}

fn message(tag: u8, fields: &[&[u8]]) -> Vec<u8> {
    [&[tag][..], &fields.concat()].concat()
}

fn begin(lsn: u64) -> Vec<u8> {
    message(b'B', &[&lsn.to_be_bytes(), &[0; 8], &[0; 4]])
}

fn commit(lsn: u64) -> Vec<u8> {
    message(b'C', &[&[0], &lsn.to_be_bytes(), &[0; 8], &[0; 8]])
}

fn relation(oid: u32, table: &str, columns: &[(&str, u32)]) -> Vec<u8> {
    let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
    let columns = columns.iter().flat_map(|(name, r#type)| {
        let typmod = (-1i32).to_be_bytes();
        [&[1], name.as_bytes(), &[0], &r#type.to_be_bytes(), &typmod].concat()
    });
    let columns: Vec<u8> = columns.collect();
    message(
        b'R',
        &[
            &oid.to_be_bytes(),
            b"public\0",
            table.as_bytes(),
            b"\0f",
            &count,
            &columns,
        ],
    )
}

fn orders() -> Vec<u8> {
    relation(OURS, "orders", &[("id", 23), ("note", 25)])
}

fn insert(oid: u32, row: &[TupleValue<'_>]) -> Vec<u8> {
    message(b'I', &[&oid.to_be_bytes(), b"N", &encode(row)])
}

#[tokio::test]
async fn old_rows_count_as_often_as_they_are_stored() {
    let long = "x".repeat(1000);
    let old = encode(&[Text(b"1"), Text(long.as_bytes())]);
    let delete = message(b'D', &[&OURS.to_be_bytes(), b"O", &old]);
    let unsent = encode(&[Text(b"1"), Unchanged]);
    let update = message(b'U', &[&OURS.to_be_bytes(), b"O", &old, b"N", &unsent]);
    for change in [delete, update] {
        let mut rig = Rig::new(BatchLimits {
            bytes: millstream_core::config::Size(10_000),
            ..BatchLimits::default()
        });
        rig.take(&begin(200));
        rig.take(&orders());
        for _ in 0..12 {
            rig.take(&change);
        }
        // Each row stores the long text twice.
        assert_eq!(rig.seen().await, [Seen::Rows(5), Seen::Rows(5)]);
    }
}

#[tokio::test]
async fn traffic_of_others_moves_the_position_on_without_a_pause() {
    let mut rig = Rig::new(BatchLimits::default());
    let others = || {
        [
            relation(FOREIGN, "others", &[("id", 23)]),
            insert(FOREIGN, &[Text(b"1")]),
        ]
    };
    rig.transaction(200, &others());
    assert_eq!(rig.seen().await, []);
    let earlier = Instant::now().checked_sub(BatchLimits::default().idle.0).unwrap();
    rig.assembler.last_advance = earlier;
    rig.transaction(300, &others());
    rig.transaction(400, &others());
    assert_eq!(rig.seen().await, [boundary(300)]);

    // A transaction of ours has a boundary of its own, and none before it is complete.
    rig.assembler.last_advance = earlier;
    rig.transaction(500, &[orders(), insert(OURS, &[Text(b"1"), Null])]);
    assert_eq!(rig.seen().await, []);
}

#[tokio::test]
async fn changes_that_are_late_share_a_batch_for_longer() {
    let now = clock::unix_micros();
    let late = now - 2 * LAGGING;
    for (committed_at, waited, handed_on) in [(now, 50, true), (late, 50, false), (late, 200, true)] {
        let mut rig = Rig::new(BatchLimits::default());
        rig.transaction(200, &[orders(), insert(OURS, &[Text(b"1"), Null])]);
        rig.assembler.complete = Some((Lsn(200), committed_at));
        rig.assembler.oldest = Instant::now().checked_sub(Duration::from_millis(waited));
        rig.take(&begin(300));
        let expected = if handed_on {
            vec![Seen::Rows(1), boundary(200)]
        } else {
            Vec::new()
        };
        assert_eq!(rig.seen().await, expected, "{waited} ms");
    }
    let patience = |linger| {
        let linger = millstream_core::config::Period(Duration::from_millis(linger));
        let rig = Rig::new(BatchLimits {
            linger,
            ..BatchLimits::default()
        });
        [now, late].map(|at| rig.assembler.patience(at).as_millis())
    };
    assert_eq!(patience(10), [10, 100]);
    assert_eq!(patience(300), [300, 300]);
}

#[tokio::test]
async fn what_is_complete_is_handed_on_before_columns_change() {
    let mut rig = Rig::new(BatchLimits::default());
    rig.transaction(200, &[orders(), insert(OURS, &[Text(b"1"), Null])]);
    rig.transaction(300, &[insert(OURS, &[Text(b"2"), Null])]);
    assert_eq!(rig.seen().await, []);
    rig.take(&begin(400));
    rig.take(&relation(OURS, "orders", &[("id", 23)]));
    assert_eq!(rig.seen().await, [Seen::Rows(2), boundary(300)]);

    // Within a transaction that has rows already there is no place to cut.
    rig.take(&insert(OURS, &[Text(b"3")]));
    rig.take(&orders());
    assert_eq!(rig.seen().await, [Seen::Rows(1)]);
    rig.take(&commit(400));
    assert_eq!(rig.seen().await, []);
}

#[tokio::test]
async fn a_change_that_ends_the_pipeline_leaves_what_came_before() {
    let mut rig = Rig::new(BatchLimits::default());
    rig.transaction(200, &[orders(), insert(OURS, &[Text(b"1"), Null])]);
    rig.take(&begin(300));
    let reserved = relation(OURS, "orders", &[("id", 23), ("note", 25), ("__op", 25)]);
    let error = rig.assembler.take(&reserved).unwrap_err();
    assert_eq!(
        (error.kind(), error.error_code()),
        (millstream_core::ErrorKind::SchemaChange, Some("PG0030"))
    );
    assert_eq!(rig.seen().await, [Seen::Rows(1), boundary(200)]);
}

#[tokio::test]
async fn columns_of_what_is_held_need_not_be_sound() {
    let mut rig = Rig::new(BatchLimits::default());
    let reserved = relation(OURS, "orders", &[("id", 23), ("note", 25), ("__op", 25)]);
    let row = || insert(OURS, &[Text(b"1"), Null, Null]);
    rig.transaction(HELD, &[reserved, row(), row()]);
    rig.transaction(HELD + 100, &[orders(), insert(OURS, &[Text(b"2"), Null])]);
    rig.assembler.hand_on_with_boundary().unwrap();
    assert_eq!(rig.seen().await, [Seen::Rows(1), boundary(HELD + 100)]);
}

#[tokio::test]
async fn a_row_of_unsound_columns_that_the_target_lacks_ends_the_stream() {
    let mut rig = Rig::new(BatchLimits::default());
    let reserved = relation(OURS, "orders", &[("id", 23), ("note", 25), ("__op", 25)]);
    let row = || insert(OURS, &[Text(b"1"), Null, Null]);
    rig.transaction(HELD, &[reserved, row()]);
    // The server describes a relation once.
    rig.take(&begin(HELD + 100));
    let error = rig.assembler.take(&row()).unwrap_err();
    assert_eq!(error.error_code(), Some("PG0030"));
}
