use bytes::Bytes;
use kafka_protocol::messages::ProducerId;
use kafka_protocol::messages::fetch_response::{EpochEndOffset, FetchableTopicResponse};
use kafka_protocol::protocol::Encodable;
use kafka_protocol::records::Record;

use super::*;
use crate::wire::testing::{log, marker, of_transaction, record};

fn cursor(number: i32, next: i64) -> Cursor {
    Cursor::new("t", number, next)
}

fn data(number: i32, log: Bytes) -> PartitionData {
    let mut data = PartitionData::default();
    data.partition_index = number;
    data.last_stable_offset = 100;
    data.high_watermark = 120;
    data.records = Some(log);
    data
}

fn answer(partitions: Vec<PartitionData>) -> FetchResponse {
    let mut topic = FetchableTopicResponse::default();
    topic.topic = topic_name("t");
    topic.partitions = partitions;
    let mut answer = FetchResponse::default();
    answer.responses = vec![topic];
    answer
}

fn values(part: &Part) -> Vec<String> {
    let values = part.batches.iter().flat_map(|batch| {
        let records = batch.open().unwrap();
        let values: Vec<_> = records
            .iter()
            .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
            .collect();
        values
    });
    values.collect()
}

/// One batch each.
fn batches(records: &[Record]) -> Bytes {
    records
        .iter()
        .flat_map(|record| log(std::slice::from_ref(record)))
        .collect()
}

#[test]
fn aborted_transactions_and_markers_are_passed_over() {
    let written = [
        of_transaction(1, 7, "aborted"),
        record(2, "plain"),
        of_transaction(3, 8, "committed"),
        of_transaction(4, 7, "aborted"),
        marker(5, 7, false),
        of_transaction(6, 7, "the next one"),
        marker(7, 8, true),
        marker(8, 7, true),
    ];
    let mut transaction = AbortedTransaction::default();
    (transaction.producer_id, transaction.first_offset) = (ProducerId(7), 1);
    let mut partition = data(0, batches(&written));
    partition.aborted_transactions = Some(vec![transaction]);
    let mut cursors = vec![cursor(0, 1)];
    let (parts, stopped) = take(&mut cursors, answer(vec![partition]));
    assert!(stopped.is_empty());
    assert_eq!(values(&parts[0]), ["plain", "committed", "the next one"]);
    // The markers are behind it, too.
    assert_eq!((parts[0].next, parts[0].end), (9, 100));
    assert_eq!((cursors[0].next, cursors[0].epoch), (9, 4));
}

/// A transaction that began before what was fetched.
#[test]
fn a_transaction_that_is_open_at_the_beginning_may_be_aborted() {
    let written = [of_transaction(11, 7, "aborted"), marker(12, 7, false), record(13, "a")];
    let mut transaction = AbortedTransaction::default();
    (transaction.producer_id, transaction.first_offset) = (ProducerId(7), 3);
    let mut partition = data(0, batches(&written));
    partition.aborted_transactions = Some(vec![transaction]);
    let (parts, _) = take(&mut vec![cursor(0, 11)], answer(vec![partition]));
    assert_eq!(values(&parts[0]), ["a"]);
}

#[test]
fn what_was_read_before_and_what_is_cut_off_is_left_out() {
    let mut sent = batches(&[record(3, "before"), record(4, "a"), record(5, "b")]).to_vec();
    sent.truncate(sent.len() - 1);
    let mut cursors = vec![cursor(0, 4)];
    let (parts, _) = take(&mut cursors, answer(vec![data(0, sent.into())]));
    assert_eq!((values(&parts[0]), cursors[0].next), (vec!["a".to_owned()], 5));
}

#[test]
fn who_was_served_comes_last_and_who_cannot_be_read_is_taken_out() {
    let mut cursors: Vec<_> = (0..5).map(|number| cursor(number, 1)).collect();
    let mut refused = data(1, Bytes::new());
    refused.error_code = ResponseError::NotLeaderOrFollower.code();
    let mut diverged = data(2, Bytes::new());
    let mut end = EpochEndOffset::default();
    (end.epoch, end.end_offset) = (3, 1);
    diverged.diverging_epoch = end;
    let damaged = data(3, Bytes::from(vec![0; 100]));
    let (parts, stopped) = take(
        &mut cursors,
        answer(vec![
            data(0, batches(&[record(1, "a")])),
            refused,
            diverged,
            damaged,
            data(4, Bytes::new()),
        ]),
    );
    assert_eq!(
        parts.iter().map(|part| (part.number, part.next)).collect::<Vec<_>>(),
        [(0, 2), (4, 1)]
    );
    let left: Vec<_> = cursors.iter().map(|cursor| cursor.number).collect();
    assert_eq!(left, [4, 0]);
    let why: Vec<_> = stopped.iter().map(|(cursor, stop)| (cursor.number, stop)).collect();
    assert!(
        matches!(
            why[..],
            [
                (1, Stop::Error(ResponseError::NotLeaderOrFollower)),
                (2, Stop::Diverged),
                (3, Stop::Damaged(_))
            ]
        ),
        "{why:?}"
    );
}

#[test]
fn a_request_keeps_the_order_of_what_is_wanted() {
    let other = Cursor::new("u", 3, 9);
    let asked = request(
        &[cursor(0, 5), cursor(2, 7), other, cursor(1, 6)],
        12,
        1 << 20,
        1 << 18,
        Duration::from_millis(500),
    );
    let named: Vec<_> = asked
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter().map(|p| (p.partition, p.fetch_offset));
            (topic.topic.to_string(), partitions.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        named,
        [
            ("t".to_owned(), vec![(0, 5), (2, 7)]),
            ("u".to_owned(), vec![(3, 9)]),
            ("t".to_owned(), vec![(1, 6)])
        ]
    );
    assert_eq!(
        (asked.isolation_level, asked.max_wait_ms, asked.max_bytes),
        (1, 500, 1 << 20)
    );
}

#[test]
fn a_request_can_be_made_in_every_version_that_is_spoken() {
    let mut read_before = cursor(0, 5);
    (read_before.epoch, read_before.leader_epoch) = (3, 4);
    for version in 4..=HIGHEST {
        let asked = request(&[read_before.clone()], version, 1, 1, Duration::ZERO);
        let epochs = &asked.topics[0].partitions[0];
        let said = (epochs.current_leader_epoch, epochs.last_fetched_epoch);
        let wanted = (if version < 9 { -1 } else { 4 }, if version < 12 { -1 } else { 3 });
        assert_eq!(said, wanted, "{version}");
        asked.encode(&mut bytes::BytesMut::new(), version).unwrap();
    }
}
