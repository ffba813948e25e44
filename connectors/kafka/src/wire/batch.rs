//! Record batches, as they lie in the log and are sent (Kafka's documentation, "Record Batch" and "Record").
//!
//! Of a batch the header is read when it comes; its records are decompressed and taken apart where they are
//! decoded. Nothing is copied: keys, values and headers are borrowed from the batch.

use bytes::{Buf, Bytes};

use super::compression::decompress;

/// Bytes of a header: up to, and without, the first record.
const HEADER: usize = 61;
/// In front of what the length counts: the base offset and the length itself.
const BEFORE: usize = 12;
/// Where the magic byte is, in this format and those before.
const MAGIC: usize = 16;
/// The format since Kafka 0.11.
const VERSION: u8 = 2;
/// Where what the checksum is of begins: at the attributes.
const SUMMED: usize = 21;

/// A batch up to this size does not keep the answer that it came in, which may be a thousand times larger.
const SMALL: usize = 64 << 10;

/// A message with more headers than this is none that somebody meant to write.
const MOST_HEADERS: usize = 64 << 10;

/// A batch that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub String);

impl Damaged {
    fn new(what: impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }
}

/// A whole batch.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    /// All of it.
    bytes: Bytes,
    /// The offset that those of the records are counted from.
    pub base: i64,
    /// The offset of its last record, which may be one that compaction removed.
    pub last: i64,
    /// How many records it has.
    pub records: usize,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// Who wrote it, if it belongs to a transaction or is idempotent.
    pub producer: i64,
    attributes: i16,
    first_timestamp: i64,
    /// Of its records, or when it was appended, in milliseconds since the Unix epoch; -1 if unknown.
    pub max_timestamp: i64,
}

impl RecordBatch {
    /// Takes the next batch from `log`; `None` if the rest is not all of one, as brokers cut what they send.
    ///
    /// # Errors
    /// If there is no batch of a known format, or its checksum is another than it says.
    pub fn take(log: &mut Bytes) -> Result<Option<Self>, Damaged> {
        if log.len() <= MAGIC {
            return Ok(None);
        }
        let length = i32::from_be_bytes([log[8], log[9], log[10], log[11]]);
        let magic = log[MAGIC];
        if magic != VERSION {
            return Err(Damaged::new(format!(
                "it has the format {magic}; Kafka writes {VERSION} since 0.11"
            )));
        }
        let length = usize::try_from(length).ok().filter(|length| *length >= HEADER - BEFORE);
        let length = length.ok_or_else(|| Damaged::new("its length is none"))?;
        if log.len() < BEFORE + length {
            return Ok(None);
        }
        let mut bytes = log.split_to(BEFORE + length);
        if bytes.len() <= SMALL {
            bytes = Bytes::copy_from_slice(&bytes);
        }
        let mut header = &bytes[..HEADER];
        let base = header.get_i64();
        header.advance(4);
        let leader_epoch = header.get_i32();
        // Behind the magic byte. What it is the sum of is not believed before.
        header.advance(1);
        if header.get_u32() != crc32c::crc32c(&bytes[SUMMED..]) {
            return Err(Damaged::new("its checksum is another than it says"));
        }
        let attributes = header.get_i16();
        let last_delta = header.get_i32();
        let (first_timestamp, max_timestamp) = (header.get_i64(), header.get_i64());
        let producer = header.get_i64();
        // The producer's epoch, and its sequence.
        header.advance(6);
        let records = header.get_i32();
        let last = base.checked_add(last_delta.into()).filter(|last| *last < i64::MAX);
        let (Ok(records), Some(last)) = (usize::try_from(records), last) else {
            return Err(Damaged::new("its header counts less than nothing"));
        };
        if last_delta < 0 || base < 0 {
            return Err(Damaged::new("its offsets are none"));
        }
        Ok(Some(Self {
            bytes,
            base,
            last,
            records,
            leader_epoch,
            producer,
            attributes,
            first_timestamp,
            max_timestamp,
        }))
    }

    /// Bytes of it, compressed as they are.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether it holds a marker, which is no message.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Whether it is a marker that aborts its producer's transaction.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn aborts(&self) -> Result<bool, Damaged> {
        let records = self.open()?;
        let marker = records.iter().next().transpose()?;
        let key = marker.as_ref().and_then(|marker| marker.key);
        // A version, and the type: 0 aborts, 1 commits.
        match key {
            Some([_, _, high, low, ..]) => Ok(i16::from_be_bytes([*high, *low]) == 0),
            // Compaction has emptied it.
            None if marker.is_none() => Ok(false),
            _ => Err(Damaged::new("a marker in it has no type")),
        }
    }

    /// Its records, without their compression.
    ///
    /// # Errors
    /// If they cannot be decompressed.
    pub fn open(&self) -> Result<Records<'_>, Damaged> {
        let bytes = decompress(self.attributes & 7, &self.bytes.slice(HEADER..)).map_err(Damaged::new)?;
        Ok(Records { batch: self, bytes })
    }

    fn timestamp(&self, delta: i64) -> Option<i64> {
        let appended = self.attributes & 8 != 0;
        let millis = if appended {
            self.max_timestamp
        } else {
            self.first_timestamp.checked_add(delta)?
        };
        (millis != -1).then_some(millis)
    }
}

/// The records of a batch.
pub struct Records<'b> {
    batch: &'b RecordBatch,
    bytes: Bytes,
}

/// One record.
pub struct Record<'r> {
    /// Its offset.
    pub offset: i64,
    /// In milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<&'r [u8]>,
    /// Its value.
    pub value: Option<&'r [u8]>,
    /// Its headers, in order: names, which should be UTF-8, and values. `None` if they cannot be told apart.
    pub headers: Option<Vec<Header<'r>>>,
}

/// A header's name and value.
pub type Header<'r> = (&'r [u8], Option<&'r [u8]>);

impl Records<'_> {
    /// The records, in their order. Ends behind the first that cannot be read.
    pub fn iter(&self) -> impl Iterator<Item = Result<Record<'_>, Damaged>> {
        let mut rest = &self.bytes[..];
        let mut left = self.batch.records;
        let mut least = self.batch.base;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let record = match self.record(&mut rest) {
                None => Err(Damaged::new("a record in it is cut off")),
                Some(record) if record.offset < least || record.offset > self.batch.last => {
                    Err(Damaged::new("its records have offsets that are not theirs"))
                }
                Some(_) if left == 0 && !rest.is_empty() => Err(Damaged::new("there is more in it than its records")),
                Some(record) => Ok(record),
            };
            match &record {
                Ok(record) => least = record.offset + 1,
                Err(_) => left = 0,
            }
            Some(record)
        })
    }

    fn record<'r>(&'r self, rest: &mut &'r [u8]) -> Option<Record<'r>> {
        let length = usize::try_from(varint(rest)?).ok()?;
        let (mut record, behind) = rest.split_at_checked(length)?;
        *rest = behind;
        // Attributes, of which there are none yet.
        record = record.get(1..)?;
        let timestamp = self.batch.timestamp(varint(&mut record)?);
        let offset = self.batch.base.checked_add(varint(&mut record)?)?;
        let (key, value) = (field(&mut record)?, field(&mut record)?);
        Some(Record {
            offset,
            timestamp,
            key,
            value,
            headers: headers(record),
        })
    }
}

fn headers(mut rest: &[u8]) -> Option<Vec<Header<'_>>> {
    let count = usize::try_from(varint(&mut rest)?).ok()?;
    // Each takes two bytes or more, so that no number makes room for more than there is.
    if count > rest.len() / 2 || count > MOST_HEADERS {
        return None;
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = field(&mut rest)??;
        headers.push((name, field(&mut rest)?));
    }
    Some(headers)
}

/// Bytes behind their length; a length below zero is none.
#[expect(clippy::option_option, reason = "the outer one is a record that is cut off")]
fn field<'r>(rest: &mut &'r [u8]) -> Option<Option<&'r [u8]>> {
    let length = varint(rest)?;
    let Ok(length) = usize::try_from(length) else {
        return Some(None);
    };
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(Some(bytes))
}

/// A number of up to ten bytes of seven bits each, the least first, its sign in the lowest bit.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (at, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests;
