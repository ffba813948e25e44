//! A block: messages that are made durable together.
//!
//! | bytes | |
//! |---|---|
//! | 4 | `MSB1` |
//! | 4 | length of the messages, little-endian as all that follows |
//! | 8 | the last commit up to which everything is in the backlog once the block is |
//! | 8 | XXH64 of the 16 bytes before and of the messages |
//! | … | the messages, each behind its length in 4 bytes |
//!
//! A message is what the server sent in one CopyData message (PostgreSQL manual, 55.4), or empty,
//! which says that what follows was sent on another connection: it begins with the first transaction
//! that was not whole.

use std::hash::Hasher;

use twox_hash::XxHash64;

use crate::decode::Lsn;

/// Bytes before the messages.
pub(super) const HEADER: usize = 24;
/// Bytes of the header that are summed.
const SUMMED: usize = 16;
const MAGIC: [u8; 4] = *b"MSB1";

/// What a block's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of messages.
    pub(super) len: usize,
    pub(super) end: Lsn,
    sum: u64,
    summed: [u8; SUMMED],
}

impl Header {
    /// `None` if this is no header.
    pub(super) fn parse(bytes: [u8; HEADER]) -> Option<Self> {
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let len = bytes[4..8].try_into().map(u32::from_le_bytes).ok()?;
        let header = Self {
            len: len as usize,
            end: Lsn(number(8)?),
            sum: number(SUMMED)?,
            summed: bytes[..SUMMED].try_into().ok()?,
        };
        (bytes[..4] == MAGIC).then_some(header)
    }

    /// Whether these are the block's messages, whole and unchanged.
    pub(super) fn is_of(&self, messages: &[u8]) -> bool {
        self.len == messages.len() && self.sum == sum(&self.summed, messages)
    }
}

fn sum(header: &[u8], messages: &[u8]) -> u64 {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(header);
    hasher.write(messages);
    hasher.finish()
}

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct Block(Vec<u8>);

impl Block {
    pub(super) fn new() -> Self {
        Self(vec![0; HEADER])
    }

    /// Adds a message.
    pub(super) fn push(&mut self, message: &[u8]) {
        // A message of the server has at most 1 GiB.
        let len = u32::try_from(message.len()).expect("a message has a length of 32 bits");
        self.0.extend(len.to_le_bytes());
        self.0.extend(message);
    }

    /// Bytes of messages.
    pub(super) fn len(&self) -> usize {
        self.0.len() - HEADER
    }

    /// The block's bytes, with everything up to `end` in the backlog.
    pub(super) fn seal(mut self, end: Lsn) -> Vec<u8> {
        let len = u32::try_from(self.len()).expect("a block is written long before it has 4 GiB");
        self.0[..4].copy_from_slice(&MAGIC);
        self.0[4..8].copy_from_slice(&len.to_le_bytes());
        self.0[8..SUMMED].copy_from_slice(&end.0.to_le_bytes());
        let sum = sum(&self.0[..SUMMED], &self.0[HEADER..]);
        self.0[SUMMED..HEADER].copy_from_slice(&sum.to_le_bytes());
        self.0
    }
}

/// The message at the beginning of `messages`, and how many bytes it takes with its length.
pub(super) fn first(messages: &[u8]) -> Option<(&[u8], usize)> {
    let (len, rest) = messages.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    Some((rest.get(..len)?, len + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<(Header, Vec<Vec<u8>>)> {
        let header = Header::parse(*bytes.first_chunk()?)?;
        let mut messages = &bytes[HEADER..];
        if !header.is_of(messages) {
            return None;
        }
        let mut found = Vec::new();
        while let Some((message, taken)) = first(messages) {
            found.push(message.to_vec());
            messages = &messages[taken..];
        }
        Some((header, found))
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let mut block = Block::new();
        let messages = [b"".to_vec(), b"w1".to_vec(), vec![7; 100_000]];
        messages.iter().for_each(|message| block.push(message));
        let (header, found) = read(&block.seal(Lsn(42))).unwrap();
        assert_eq!((header.end, found.as_slice()), (Lsn(42), messages.as_slice()));
    }

    #[test]
    fn a_block_that_is_cut_or_changed_anywhere_is_none() {
        let mut block = Block::new();
        block.push(b"some message");
        let bytes = block.seal(Lsn(42));
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), None, "cut at {len}");
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(read(&changed), None, "changed at {place}");
        }
        assert_eq!(read(&[0; 100]), None);
    }
}
