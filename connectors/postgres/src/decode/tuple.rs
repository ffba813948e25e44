//! `TupleData`: the columns of one row in a replication message.
//!
//! PostgreSQL manual, 55.9 "Logical Replication Message Formats".

use super::ProtocolError;
use super::reader::Reader;

/// One column of a row, as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TupleValue<'a> {
    /// SQL NULL; also every column outside the key in an old key.
    Null,
    /// A value stored out of line (TOAST) that did not change and was not sent. Not a NULL.
    Unchanged,
    /// The type's text output.
    Text(&'a [u8]),
    /// The type's binary output.
    Binary(&'a [u8]),
}

/// The columns of one row. Its bytes were checked when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Reads a row off the front of `reader`, checking each of its columns.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, ProtocolError> {
        let columns = reader.u16()?;
        let start = reader.rest();
        for _ in 0..columns {
            read_value(reader)?;
        }
        let bytes = &start[..start.len() - reader.rest().len()];
        Ok(Self { columns, bytes })
    }

    /// How many columns there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Bytes of the row on the wire.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The columns in the order of the `Relation` message.
    pub(crate) fn iter(&self) -> TupleValues<'a> {
        TupleValues(Reader::new(self.bytes))
    }
}

/// Iterator over the columns of a [`Tuple`].
#[derive(Debug, Clone)]
pub(crate) struct TupleValues<'a>(Reader<'a>);

impl<'a> Iterator for TupleValues<'a> {
    type Item = TupleValue<'a>;

    fn next(&mut self) -> Option<TupleValue<'a>> {
        // `Tuple::read` walked over the same bytes, so the only end is the last column's.
        read_value(&mut self.0).ok()
    }
}

fn read_value<'a>(reader: &mut Reader<'a>) -> Result<TupleValue<'a>, ProtocolError> {
    let format = reader.u8()?;
    match format {
        b'n' => Ok(TupleValue::Null),
        b'u' => Ok(TupleValue::Unchanged),
        b't' | b'b' => {
            let len = usize::try_from(reader.i32()?).map_err(|_| ProtocolError::UnknownContent("a column's length"))?;
            let bytes = reader.bytes(len)?;
            Ok(if format == b't' {
                TupleValue::Text(bytes)
            } else {
                TupleValue::Binary(bytes)
            })
        }
        _ => Err(ProtocolError::UnknownContent("a column's format")),
    }
}

/// Builds the wire form of a row for tests.
#[cfg(test)]
pub(crate) fn encode(values: &[TupleValue<'_>]) -> Vec<u8> {
    let mut out = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            TupleValue::Null => out.push(b'n'),
            TupleValue::Unchanged => out.push(b'u'),
            TupleValue::Text(bytes) | TupleValue::Binary(bytes) => {
                out.push(if matches!(value, TupleValue::Text(_)) {
                    b't'
                } else {
                    b'b'
                });
                out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                out.extend(*bytes);
            }
        }
    }
    out
}
