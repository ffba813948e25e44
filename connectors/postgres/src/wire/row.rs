//! A row of a query's answer.

use bytes::Buf;

use super::WireError;

/// A row of text values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(Vec<Option<String>>);

impl Row {
    /// Reads a `DataRow` message (PostgreSQL manual, 55.7), in text format.
    pub(super) fn read(body: &[u8]) -> Result<Self, WireError> {
        let malformed = || WireError::Protocol("a malformed row".to_owned());
        let mut rest = body;
        let count = rest.try_get_u16().map_err(|_| malformed())?;
        let values = (0..count).map(|_| {
            let length = rest.try_get_i32().map_err(|_| malformed())?;
            let Ok(length) = usize::try_from(length) else {
                return Ok(None);
            };
            let (value, tail) = rest.split_at_checked(length).ok_or_else(malformed)?;
            rest = tail;
            Ok(Some(String::from_utf8(value.to_vec()).map_err(|_| malformed())?))
        });
        values.collect::<Result<_, _>>().map(Self)
    }

    /// The value of column `index`; `None` for NULL or where there is no such column.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).and_then(Option::as_deref)
    }

    /// The value of column `index`, parsed.
    ///
    /// # Errors
    /// `Protocol` if it is NULL or not a `T`.
    pub fn parse<T: std::str::FromStr>(&self, index: usize) -> Result<T, WireError> {
        let value = self.get(index).and_then(|text| text.parse().ok());
        value.ok_or_else(|| WireError::Protocol(format!("column {index} of a catalog query has an unexpected form")))
    }

    /// Whether column `index` is a true boolean.
    pub fn is_true(&self, index: usize) -> bool {
        self.get(index) == Some("t")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read() {
        let row = Row::read(b"\0\x03\0\0\0\x01t\xff\xff\xff\xff\0\0\0\x0242").unwrap();
        assert!(row.is_true(0));
        assert_eq!(row.get(1), None);
        assert_eq!(row.parse::<u32>(2).unwrap(), 42);
        assert!(Row::read(b"\0\x01\0\0\0\x09t").is_err());
    }
}
