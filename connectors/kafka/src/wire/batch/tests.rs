use proptest::prelude::*;

use super::*;
use crate::wire::testing::{log, marker, record, spoilt};

fn one(mut log: Bytes) -> RecordBatch {
    let batch = RecordBatch::take(&mut log).unwrap().unwrap();
    assert!(log.is_empty());
    batch
}

#[test]
fn what_another_library_wrote_is_read() {
    let mut first = record(7, "a");
    first.key = Some(Bytes::from_static(b"k"));
    let headers = [("trace", Some("x")), ("none", None), ("trace", Some("y"))];
    first.headers = headers
        .iter()
        .map(|(name, value)| {
            (
                (*name).into(),
                value.map(|value: &str| Bytes::from_static(value.as_bytes())),
            )
        })
        .collect();
    let mut second = record(9, "");
    second.value = None;
    let batch = one(log(&[first.clone(), second]));
    assert_eq!(
        (batch.base, batch.last, batch.records, batch.leader_epoch),
        (7, 9, 2, 4)
    );
    assert!(!batch.is_control() && !batch.is_transactional());
    let records = batch.open().unwrap();
    let records: Vec<_> = records.iter().map(Result::unwrap).collect();
    let seen: Vec<_> = records
        .iter()
        .map(|r| (r.offset, r.timestamp, r.key, r.value))
        .collect();
    assert_eq!(
        seen,
        [
            (7, Some(1_007), Some(&b"k"[..]), Some(&b"a"[..])),
            (9, Some(1_009), None, None)
        ]
    );
    let headers = first.headers.iter();
    let headers: Vec<_> = headers
        .map(|(name, value)| (name.as_bytes(), value.as_deref()))
        .collect();
    assert_eq!(records[0].headers, Some(headers));
}

#[test]
fn a_batch_that_is_cut_off_waits_for_the_rest() {
    let whole = log(&[record(1, "a"), record(2, "b")]);
    for length in 0..whole.len() {
        let mut cut = whole.slice(..length);
        assert!(RecordBatch::take(&mut cut).unwrap().is_none(), "{length}");
        assert_eq!(cut.len(), length);
    }
}

#[test]
fn a_marker_tells_what_it_is() {
    for commits in [true, false] {
        let batch = one(log(&[marker(3, 8, commits)]));
        assert!(batch.is_control() && batch.is_transactional());
        assert_eq!((batch.producer, batch.aborts().unwrap()), (8, !commits));
    }
}

#[test]
fn damage_is_seen() {
    let fault = |bytes: Bytes| {
        let mut bytes = bytes;
        match RecordBatch::take(&mut bytes) {
            Err(damaged) => damaged.0,
            Ok(batch) => {
                let batch = batch.expect("it is whole");
                let outcome = batch.open().map(|records| records.iter().find_map(Result::err));
                match outcome {
                    Err(damaged) | Ok(Some(damaged)) => damaged.0,
                    Ok(None) => panic!("nothing is wrong"),
                }
            }
        }
    };
    let records = [record(1, "a"), record(2, "b")];
    let mut flipped = log(&records).to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(fault(flipped.into()), "its checksum is another than it says");
    assert_eq!(
        fault(spoilt(&records, |bytes| bytes[16] = 1)),
        "it has the format 1; Kafka writes 2 since 0.11"
    );
    assert_eq!(fault(spoilt(&records, |bytes| bytes[22] = 6)), "codec 6 is not known");
    assert_eq!(
        fault(spoilt(&records, |bytes| bytes.truncate(bytes.len() - 1))),
        "a record in it is cut off"
    );
    assert_eq!(
        fault(spoilt(&records, |bytes| bytes.push(0))),
        "there is more in it than its records"
    );
    // The offset of the second, counted from the first.
    assert_eq!(
        fault(spoilt(&records, |bytes| {
            // Behind it: no key, a value of one byte, and no headers.
            let delta = bytes.len() - 5;
            assert_eq!(bytes[delta], 2);
            bytes[delta] = 0;
        })),
        "its records have offsets that are not theirs"
    );
    // More records than there are, and a length that no record has.
    assert_eq!(
        fault(spoilt(&records, |bytes| bytes[60] = 3)),
        "a record in it is cut off"
    );
    assert_eq!(
        fault(spoilt(&records, |bytes| bytes[57] = 0x80)),
        "its header counts less than nothing"
    );
}

#[test]
fn the_time_of_appending_is_that_of_every_record() {
    let batch = one(spoilt(&[record(1, "a"), record(2, "b")], |bytes| bytes[22] |= 8));
    let records = batch.open().unwrap();
    let times: Vec<_> = records.iter().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(times, [Some(1_002), Some(1_002)]);
}

proptest! {
    /// Whatever it is, it is read or refused.
    #[test]
    fn no_bytes_break_it(at in 0usize..120, with: u8, length in 0usize..140) {
        let bytes = spoilt(&[record(1, "abc"), record(2, "defgh")], |bytes| {
            let at = at % bytes.len();
            bytes[at] = with;
            bytes.truncate(length.max(61));
        });
        let mut rest = bytes.clone();
        if let Ok(Some(batch)) = RecordBatch::take(&mut rest)
            && let Ok(records) = batch.open()
        {
            let _ = batch.aborts();
            prop_assert!(records.iter().count() <= batch.records.max(1));
        }
    }

    #[test]
    fn numbers_are_read_as_they_were_written(value: i64) {
        let mut written = Vec::new();
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            written.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        written.push(rest as u8);
        let mut left = &written[..];
        prop_assert_eq!(varint(&mut left), Some(value));
        prop_assert!(left.is_empty());
        prop_assert_eq!(varint(&mut &written[..written.len() - 1]), None);
    }
}
