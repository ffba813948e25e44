//! Batches for tests, written by `kafka-protocol` and not by us.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// A record of no transaction, with a value.
pub fn record(offset: i64, value: &str) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 4,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: 1_000 + offset,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    }
}

/// A record of a producer's transaction.
pub fn of_transaction(offset: i64, producer: i64, value: &str) -> Record {
    Record {
        transactional: true,
        producer_id: producer,
        producer_epoch: 0,
        ..record(offset, value)
    }
}

/// The marker that ends a producer's transaction.
pub fn marker(offset: i64, producer: i64, commits: bool) -> Record {
    Record {
        control: true,
        key: Some(Bytes::copy_from_slice(&[0, 0, 0, u8::from(commits)])),
        ..of_transaction(offset, producer, "")
    }
}

/// The log that these records are, without compression.
pub fn log(records: &[Record]) -> Bytes {
    let mut log = BytesMut::new();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    RecordBatchEncoder::encode(&mut log, records, &options).unwrap();
    log.freeze()
}

/// As [`log`], of one batch that a test spoils: its checksum is that of what the test left.
pub fn spoilt(records: &[Record], spoil: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = log(records).to_vec();
    spoil(&mut bytes);
    let length = (bytes.len() - 12) as u32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&sum.to_be_bytes());
    bytes.into()
}
