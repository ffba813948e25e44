//! A bounds-checked reader of network-order integers.

use super::ProtocolError;

/// Reads fields off the front of a message. No call panics or reads past the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

type Result<T> = std::result::Result<T, ProtocolError>;

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What was not read yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(ProtocolError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(ProtocolError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// Bytes up to a zero byte, which is read too.
    pub(crate) fn terminated(&mut self) -> Result<&'a [u8]> {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(ProtocolError::Truncated)?;
        let (content, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Ok(content)
    }

    /// A name that ends with a zero byte.
    pub(crate) fn name(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.terminated()?).map_err(|_| ProtocolError::NotUtf8)
    }

    /// That nothing is left.
    pub(crate) fn end(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ProtocolError::Trailing)
        }
    }
}
