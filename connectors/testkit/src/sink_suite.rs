//! The conformance suite of sinks: what [`Sink`] and [`TableWriter`] promise, on any sink
//! that delivers exactly once.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use async_trait::async_trait;
use millstream_core::quarantine::{QuarantineBuilder, Raw, RowPlace};
use millstream_core::{
    ChangeBatch, Checkpoint, CheckpointDelta, Delivery, EnvelopeBuilder, ErrorKind, Op, PartitionId, Position,
    Severity, Sink, SinkTable, TableId, TableSchema, TableWriter,
};

use crate::change_log::{ChangeRow, change_rows};

/// What the suite runs on: an empty target.
#[async_trait]
pub trait SinkSubject: Send + Sync {
    /// A new sink over the same target, as another process would open it.
    async fn sink(&self) -> Box<dyn Sink>;

    /// What a reader of the target sees of a table: the user's columns, with the reserved ones
    /// `__op`, `__partition`, `__position` and `__ordinal` (`__unchanged` where stored). Empty
    /// for a table without a commit.
    async fn committed(&self, table: &str) -> Vec<RecordBatch>;

    /// What a reader sees of the rows that were rejected from a table, in the same form.
    async fn quarantined(&self, table: &str) -> Vec<RecordBatch>;
}

/// Runs every check, each on tables of its own whose names begin with `suite_`.
///
/// # Panics
/// At the first promise that the sink breaks.
pub async fn run(subject: &dyn SinkSubject) {
    promises_exactly_once(subject).await;
    shows_nothing_before_the_commit(subject).await;
    keeps_its_checkpoint(subject).await;
    survives_a_crash_between_prepare_and_commit(subject).await;
    fences_the_older_writer(subject).await;
    commits_positions_alone(subject).await;
    aborts_without_a_trace(subject).await;
    keeps_rejected_rows_beside_the_table(subject).await;
    takes_added_columns(subject).await;
    keeps_tables_apart(subject).await;
    keeps_values_and_nulls(subject).await;
}

async fn promises_exactly_once(subject: &dyn SinkSubject) {
    let sink = subject.sink().await;
    assert_eq!(sink.delivery(), Delivery::ExactlyOnce);
    let name = "suite_preflight";
    let tables = [SinkTable {
        name: name.to_owned(),
        schema: schema(name, false),
    }];
    let findings = sink
        .preflight(&tables)
        .await
        .expect("preflight works on a sound target");
    assert!(
        findings.iter().all(|finding| finding.severity < Severity::Error),
        "{findings:?}"
    );
    // Twice, because a probe must clean up after itself.
    sink.preflight(&tables).await.expect("preflight can be repeated");
}

async fn shows_nothing_before_the_commit(subject: &dyn SinkSubject) {
    let table = "suite_visibility";
    let mut writer = open(subject, table).await;
    assert!(writer.checkpoint().is_empty(), "a new table holds nothing");
    write(&mut writer, table, 1..=5).await;
    assert_eq!(
        places(subject, table).await,
        Vec::<u64>::new(),
        "written rows must be invisible"
    );
    let prepared = writer.prepare(advance(0, 5)).await.unwrap();
    assert_eq!(prepared.rows, 5);
    assert_eq!(
        places(subject, table).await,
        Vec::<u64>::new(),
        "prepared rows must be invisible"
    );
    let receipt = writer.commit(prepared).await.unwrap();
    assert_eq!(receipt.rows, 5);
    assert_eq!(places(subject, table).await, [1, 2, 3, 4, 5]);
    assert_eq!(writer.checkpoint(), &checkpoint(5));
    // The next epoch of the same writer.
    write(&mut writer, table, 6..=7).await;
    let second = commit(&mut writer, 5, 7).await;
    assert!(second > receipt.version, "versions ascend");
    assert_eq!(places(subject, table).await, [1, 2, 3, 4, 5, 6, 7]);
}

async fn keeps_its_checkpoint(subject: &dyn SinkSubject) {
    let table = "suite_reopen";
    let mut writer = open(subject, table).await;
    write(&mut writer, table, 1..=3).await;
    let first = commit(&mut writer, 0, 3).await;
    drop(writer);
    let mut writer = open(subject, table).await;
    assert_eq!(writer.checkpoint(), &checkpoint(3), "open must recover the checkpoint");
    write(&mut writer, table, 4..=4).await;
    assert!(commit(&mut writer, 3, 4).await > first, "versions go on over a reopen");
    assert_eq!(places(subject, table).await, [1, 2, 3, 4]);
    assert_eq!(open(subject, table).await.checkpoint(), &checkpoint(4));
}

/// A process dies with rows written, and with rows prepared; the next one reads them again.
async fn survives_a_crash_between_prepare_and_commit(subject: &dyn SinkSubject) {
    let table = "suite_crash";
    let mut writer = open(subject, table).await;
    write(&mut writer, table, 1..=2).await;
    commit(&mut writer, 0, 2).await;
    write(&mut writer, table, 3..=4).await;
    drop(writer);
    let mut writer = open(subject, table).await;
    assert_eq!(writer.checkpoint(), &checkpoint(2));
    write(&mut writer, table, 3..=4).await;
    let lost = writer.prepare(advance(2, 4)).await.unwrap();
    drop((writer, lost));
    let mut writer = open(subject, table).await;
    assert_eq!(
        writer.checkpoint(),
        &checkpoint(2),
        "a prepared epoch is not a committed one"
    );
    assert_eq!(places(subject, table).await, [1, 2]);
    write(&mut writer, table, 3..=4).await;
    commit(&mut writer, 2, 4).await;
    assert_eq!(places(subject, table).await, [1, 2, 3, 4], "each row exactly once");
}

async fn fences_the_older_writer(subject: &dyn SinkSubject) {
    let table = "suite_fence";
    let mut older = open(subject, table).await;
    write(&mut older, table, 1..=2).await;
    let stale = older.prepare(advance(0, 2)).await.unwrap();
    // Another process takes over while the older one is about to commit.
    let mut newer = open(subject, table).await;
    write(&mut newer, table, 1..=3).await;
    commit(&mut newer, 0, 3).await;
    let error = older.commit(stale).await.expect_err("the older writer must be fenced");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{}", error.summary());
    drop(older);
    assert_eq!(places(subject, table).await, [1, 2, 3]);
    write(&mut newer, table, 4..=4).await;
    commit(&mut newer, 3, 4).await;
    assert_eq!(places(subject, table).await, [1, 2, 3, 4], "the newer writer goes on");

    // Fenced by the mere opening, before the newer one commits anything.
    let table = "suite_fence_early";
    let mut older = open(subject, table).await;
    write(&mut older, table, 1..=1).await;
    let stale = older.prepare(advance(0, 1)).await.unwrap();
    let mut newer = open(subject, table).await;
    let outcome = older.commit(stale).await;
    write(&mut newer, table, 1..=1).await;
    let prepared = newer.prepare(advance(0, 1)).await.unwrap();
    let taken_over = newer.commit(prepared).await;
    // A target without leases lets the first to publish win; then the other must be fenced.
    match (outcome, taken_over) {
        (Err(fenced), Ok(_)) | (Ok(_), Err(fenced)) => {
            assert_eq!(fenced.kind(), ErrorKind::Fenced, "{}", fenced.summary());
        }
        (older, newer) => panic!("exactly one of two writers may commit: {older:?}, {newer:?}"),
    }
    assert_eq!(places(subject, table).await, [1], "each row exactly once");
}

async fn commits_positions_alone(subject: &dyn SinkSubject) {
    let table = "suite_positions";
    let mut writer = open(subject, table).await;
    let prepared = writer.prepare(advance(0, 9)).await.unwrap();
    assert_eq!(prepared.rows, 0);
    let receipt = writer.commit(prepared).await.unwrap();
    assert_eq!((receipt.rows, receipt.files), (0, 0));
    drop(writer);
    let mut writer = open(subject, table).await;
    assert_eq!(writer.checkpoint(), &checkpoint(9));
    // Every form of a position survives.
    let forms: Checkpoint = [
        (partition(), Position::End),
        (
            PartitionId::new("suite", "pages"),
            Position::Token {
                number: 3,
                token: "a/b:c=".into(),
            },
        ),
        (PartitionId::new("other", "log"), Position::at("00FF")),
    ]
    .into_iter()
    .collect();
    let prepared = writer.prepare(checkpoint(9).delta_to(&forms)).await.unwrap();
    writer.commit(prepared).await.unwrap();
    assert_eq!(writer.checkpoint(), &forms);
    assert_eq!(open(subject, table).await.checkpoint(), &forms);
    assert_eq!(places(subject, table).await, Vec::<u64>::new());
}

async fn aborts_without_a_trace(subject: &dyn SinkSubject) {
    let table = "suite_abort";
    let mut writer = open(subject, table).await;
    write(&mut writer, table, 1..=2).await;
    writer.abort().await.unwrap();
    write(&mut writer, table, 1..=3).await;
    let _prepared = writer.prepare(advance(0, 3)).await.unwrap();
    writer.abort().await.unwrap();
    assert_eq!(writer.checkpoint(), &Checkpoint::default());
    assert_eq!(places(subject, table).await, Vec::<u64>::new());
    write(&mut writer, table, 1..=1).await;
    commit(&mut writer, 0, 1).await;
    assert_eq!(
        places(subject, table).await,
        [1],
        "aborted rows must not come with a later commit"
    );
}

/// Rejected rows share the fate of the rows that they came with: invisible until the commit,
/// gone with an abort or a crash, and there once.
async fn keeps_rejected_rows_beside_the_table(subject: &dyn SinkSubject) {
    let table = "suite_quarantine";
    let mut writer = open(subject, table).await;
    write(&mut writer, table, 1..=2).await;
    writer.quarantine(rejected(3..=4)).await.unwrap();
    let prepared = writer.prepare(advance(0, 4)).await.unwrap();
    assert_eq!((prepared.rows, prepared.quarantined), (2, 2));
    assert!(
        subject.quarantined(table).await.is_empty(),
        "prepared rows must be invisible"
    );
    let receipt = writer.commit(prepared).await.unwrap();
    assert_eq!((receipt.rows, receipt.quarantined), (2, 2));
    assert_eq!(rejected_places(subject, table).await, [3, 4]);

    writer.quarantine(rejected(5..=5)).await.unwrap();
    writer.abort().await.unwrap();
    writer.quarantine(rejected(5..=5)).await.unwrap();
    let lost = writer.prepare(advance(4, 5)).await.unwrap();
    drop((writer, lost));

    // Rejected rows alone are a commit, too.
    let mut writer = open(subject, table).await;
    writer.quarantine(rejected(5..=6)).await.unwrap();
    commit(&mut writer, 4, 6).await;
    assert_eq!(
        rejected_places(subject, table).await,
        [3, 4, 5, 6],
        "each row exactly once"
    );
    assert_eq!(places(subject, table).await, [1, 2]);
}

async fn takes_added_columns(subject: &dyn SinkSubject) {
    let table = "suite_evolution";
    let mut writer = open(subject, table).await;
    write(&mut writer, table, 1..=1).await;
    // Within one epoch, and across a commit.
    writer.write(batch(table, 2..=2, true)).await.unwrap();
    commit(&mut writer, 0, 2).await;
    writer.write(batch(table, 3..=3, true)).await.unwrap();
    commit(&mut writer, 2, 3).await;
    drop(writer);
    // A writer that starts with the wider schema, and one that still has the narrow one.
    let sink = subject.sink().await;
    let mut writer = sink
        .open(SinkTable {
            name: table.to_owned(),
            schema: schema(table, true),
        })
        .await
        .unwrap();
    writer.write(batch(table, 4..=4, true)).await.unwrap();
    commit(&mut writer, 3, 4).await;
    let rows = rows(subject, table).await;
    let added: Vec<_> = rows
        .iter()
        .map(|row| row.cells.get("added").map(String::as_str))
        .collect();
    assert_eq!(added, [None, Some("new 2"), Some("new 3"), Some("new 4")]);
}

async fn keeps_tables_apart(subject: &dyn SinkSubject) {
    let sink = subject.sink().await;
    let names: Vec<_> = (0..8).map(|n| format!("suite_many_{n}")).collect();
    let mut writers = Vec::new();
    for name in &names {
        writers.push(
            sink.open(SinkTable {
                name: name.clone(),
                schema: schema(name, false),
            })
            .await
            .unwrap(),
        );
    }
    for (count, (name, writer)) in (1..).zip(names.iter().zip(&mut writers)) {
        write(writer, name, 1..=count).await;
    }
    for (count, writer) in (1..).zip(&mut writers) {
        commit(writer, 0, count).await;
    }
    for (count, name) in (1..).zip(&names) {
        assert_eq!(places(subject, name).await.len() as u64, count);
        assert_eq!(open(subject, name).await.checkpoint(), &checkpoint(count));
    }
}

async fn keeps_values_and_nulls(subject: &dyn SinkSubject) {
    let table = "suite_values";
    let mut writer = open(subject, table).await;
    let batch = batch(table, 1..=40, false);
    let expected = change_rows(std::slice::from_ref(batch.rows()));
    writer.write(batch).await.unwrap();
    commit(&mut writer, 0, 40).await;
    let strip = |rows: Vec<ChangeRow>| {
        rows.into_iter()
            .map(|row| (row.position, row.op, row.cells))
            .collect::<Vec<_>>()
    };
    assert_eq!(strip(rows(subject, table).await), strip(expected));
}

async fn open(subject: &dyn SinkSubject, table: &str) -> Box<dyn TableWriter> {
    let sink = subject.sink().await;
    sink.open(SinkTable {
        name: table.to_owned(),
        schema: schema(table, false),
    })
    .await
    .expect("the table opens")
}

async fn write(writer: &mut Box<dyn TableWriter>, table: &str, positions: std::ops::RangeInclusive<u64>) {
    writer
        .write(batch(table, positions, false))
        .await
        .expect("rows are taken");
}

async fn commit(writer: &mut Box<dyn TableWriter>, from: u64, to: u64) -> u64 {
    let prepared = writer.prepare(advance(from, to)).await.expect("the epoch is prepared");
    let receipt = writer.commit(prepared).await.expect("the epoch is committed");
    receipt.version
}

/// The committed rows in the order of the log.
async fn rows(subject: &dyn SinkSubject, table: &str) -> Vec<ChangeRow> {
    let mut rows = change_rows(&subject.committed(table).await);
    rows.sort();
    rows
}

/// The positions of the committed rows, ascending.
async fn places(subject: &dyn SinkSubject, table: &str) -> Vec<u64> {
    numbers(&rows(subject, table).await)
}

/// The same of the rejected rows.
async fn rejected_places(subject: &dyn SinkSubject, table: &str) -> Vec<u64> {
    let mut rows = change_rows(&subject.quarantined(table).await);
    rows.sort();
    assert!(rows.iter().all(|row| row.cells["reason"] == "the suite says so"));
    numbers(&rows)
}

fn numbers(rows: &[ChangeRow]) -> Vec<u64> {
    let numbers = rows.iter().map(|row| row.position.parse());
    numbers
        .collect::<Result<_, _>>()
        .expect("the suite's positions are numbers")
}

/// One rejected row at each position.
fn rejected(positions: std::ops::RangeInclusive<u64>) -> ChangeBatch {
    let mut rejected = QuarantineBuilder::default();
    for number in positions {
        let place = RowPlace {
            partition: &partition(),
            position: &format!("{number:020}"),
            ordinal: 0,
            committed_at: None,
        };
        rejected.append("t", "decode", "the suite says so", Raw::Bytes(b"\xff"), place, 7);
    }
    rejected.finish().expect("columns follow the schema")
}

fn partition() -> PartitionId {
    PartitionId::new("suite", "log")
}

fn position(number: u64) -> Position {
    if number == 0 {
        Position::Beginning
    } else {
        Position::at(format!("{number:020}"))
    }
}

fn checkpoint(number: u64) -> Checkpoint {
    [(partition(), position(number))].into_iter().collect()
}

fn advance(from: u64, to: u64) -> CheckpointDelta {
    let start = if from == 0 {
        Checkpoint::default()
    } else {
        checkpoint(from)
    };
    start.delta_to(&checkpoint(to))
}

fn schema(table: &str, evolved: bool) -> Arc<TableSchema> {
    let mut columns = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ];
    if evolved {
        columns.push(Field::new("added", DataType::Utf8, true));
    }
    Arc::new(TableSchema {
        id: TableId::new("suite", None, table),
        columns: Arc::new(Schema::new(columns)),
        key: vec!["id".to_owned()],
        not_null: vec!["id".to_owned()],
        before_image: false,
    })
}

/// One row at each position; every third has no amount, and operations take turns.
fn batch(table: &str, positions: std::ops::RangeInclusive<u64>, evolved: bool) -> ChangeBatch {
    let schema = schema(table, evolved);
    let numbers: Vec<_> = positions
        .map(|number| i64::try_from(number).expect("the suite's numbers are small"))
        .collect();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(numbers.clone())),
        Arc::new(
            numbers
                .iter()
                .map(|n| Some(format!("näme {n}")))
                .collect::<StringArray>(),
        ),
        Arc::new(
            numbers
                .iter()
                .map(|n| (n % 3 != 0).then_some(n * 100))
                .collect::<Int64Array>(),
        ),
    ];
    if evolved {
        columns.push(Arc::new(
            numbers
                .iter()
                .map(|n| Some(format!("new {n}")))
                .collect::<StringArray>(),
        ));
    }
    let mut envelope = EnvelopeBuilder::default();
    for number in &numbers {
        let op = [Op::Create, Op::Update, Op::Delete][usize::try_from(number % 3).expect("a remainder is small")];
        envelope.append(
            op,
            &partition(),
            &format!("{number:020}"),
            0,
            Some(1_767_225_600_000_000 + number),
        );
    }
    columns.extend(envelope.finish());
    let rows = RecordBatch::try_new(schema.batch_schema(), columns).expect("columns follow the schema");
    ChangeBatch::try_new(schema, rows).expect("columns follow the schema")
}
