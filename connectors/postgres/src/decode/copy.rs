//! The stream of `COPY … TO STDOUT (FORMAT binary)`, read piece by piece.
//!
//! PostgreSQL manual, `COPY`, "Binary Format": a signature, flags, an extension area, then
//! rows of length-prefixed fields, then a field count of -1. The server sends a row per message
//! (55.2.6 "COPY Operations"), which is fast here; but nothing depends on it.

use std::ops::Range;

use super::ProtocolError;
use super::reader::Reader;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Bits 16–31 change the format; bit 16 says that rows carry an OID, which PostgreSQL 12 dropped.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;

/// Cuts a copy stream into rows. Feed it every `CopyData` message in order.
#[derive(Debug)]
pub(crate) struct CopyDecoder {
    stage: Stage,
    /// How many fields each row has.
    columns: usize,
    /// The start of a row, or of the header, whose rest has not arrived.
    partial: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    Rows,
    Ended,
}

/// A field's bytes; `None` is SQL NULL.
type Field<'a> = Option<&'a [u8]>;

/// Rows of a copy stream that follow each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyRows<'a> {
    rows: usize,
    /// How many fields each row has among `fields`, of which the first `skipped` are not shown.
    stride: usize,
    skipped: usize,
    /// Row by row.
    fields: &'a [Field<'a>],
}

impl<'a> CopyRows<'a> {
    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// How many fields each row has.
    pub(crate) fn columns(&self) -> usize {
        self.stride - self.skipped
    }

    /// The field number `index` of each row.
    ///
    /// # Panics
    /// If the rows have no such field.
    pub(crate) fn column(&self, index: usize) -> impl Iterator<Item = Field<'a>> + use<'a> {
        assert!(index < self.columns(), "{index} of {}", self.columns());
        let fields = self.fields.get(self.skipped + index..).unwrap_or_default();
        fields.iter().step_by(self.stride).copied()
    }

    /// The fields of the row number `index`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row(&self, index: usize) -> &'a [Field<'a>] {
        let row = &self.fields[index * self.stride..(index + 1) * self.stride];
        &row[self.skipped..]
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub(crate) fn slice(&self, rows: Range<usize>) -> Self {
        Self {
            rows: rows.len(),
            fields: &self.fields[rows.start * self.stride..rows.end * self.stride],
            ..*self
        }
    }

    /// The rows without their first field.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn without_first(&self) -> Result<Self, ProtocolError> {
        if self.columns() == 0 {
            return Err(ProtocolError::ColumnCount { expected: 1, found: 0 });
        }
        Ok(Self {
            skipped: self.skipped + 1,
            ..*self
        })
    }
}

impl CopyDecoder {
    /// Of a stream whose rows have `columns` fields.
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            stage: Stage::Header,
            columns,
            partial: Vec::new(),
        }
    }

    /// Takes the next messages of the stream and calls `take` for the rows that they complete, as
    /// many at once as there are.
    ///
    /// # Errors
    /// A [`ProtocolError`], or the first error of `take`. The decoder is of no use afterwards.
    pub(crate) fn feed<'a, E: From<ProtocolError>>(
        &mut self,
        messages: impl IntoIterator<Item = &'a [u8]>,
        mut take: impl FnMut(CopyRows<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut found = Found::default();
        for message in messages {
            if self.partial.is_empty() {
                let used = match found.read(&mut self.stage, self.columns, message) {
                    Ok(used) => used,
                    Err(error) => {
                        found.give(self.columns, &mut take)?;
                        return Err(error.into());
                    }
                };
                self.partial.extend_from_slice(&message[used..]);
            } else {
                found.give(self.columns, &mut take)?;
                self.partial.extend_from_slice(message);
                let mut joined = Found::default();
                let read = joined.read(&mut self.stage, self.columns, &self.partial);
                joined.give(self.columns, &mut take)?;
                self.partial.drain(..read?);
            }
        }
        found.give(self.columns, &mut take)
    }

    /// Whether the trailer was read.
    pub(crate) fn is_complete(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// To be called at `CopyDone`.
    ///
    /// # Errors
    /// [`ProtocolError::NoTrailer`] if the stream was cut short.
    pub(crate) fn finish(self) -> Result<(), ProtocolError> {
        if self.is_complete() {
            Ok(())
        } else {
            Err(ProtocolError::NoTrailer)
        }
    }
}

/// Rows that were read and not given on.
#[derive(Default)]
struct Found<'a> {
    rows: usize,
    fields: Vec<Field<'a>>,
}

impl<'a> Found<'a> {
    /// Reads as many whole items as `bytes` holds and returns how many bytes they took.
    fn read(&mut self, stage: &mut Stage, columns: usize, bytes: &'a [u8]) -> Result<usize, ProtocolError> {
        let mut reader = Reader::new(bytes);
        loop {
            let mut ahead = reader;
            let before = self.fields.len();
            let item = match stage {
                Stage::Ended if ahead.rest().is_empty() => break,
                Stage::Ended => return Err(ProtocolError::Trailing),
                Stage::Header => read_header(&mut ahead).map(|()| *stage = Stage::Rows),
                Stage::Rows => read_row(&mut ahead, columns, &mut self.fields).map(|is_row| match is_row {
                    true => self.rows += 1,
                    false => *stage = Stage::Ended,
                }),
            };
            match item {
                Ok(()) => reader = ahead,
                Err(error) => {
                    self.fields.truncate(before);
                    match error {
                        // The rest of the item comes with the next message.
                        ProtocolError::Truncated => break,
                        error => return Err(error),
                    }
                }
            }
        }
        Ok(bytes.len() - reader.rest().len())
    }

    /// Gives the rows on, if there are any.
    fn give<E>(&mut self, columns: usize, take: &mut impl FnMut(CopyRows<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.rows == 0 {
            return Ok(());
        }
        let taken = take(CopyRows {
            rows: self.rows,
            stride: columns,
            skipped: 0,
            fields: &self.fields,
        });
        self.rows = 0;
        self.fields.clear();
        taken
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<(), ProtocolError> {
    let known = reader.rest().len().min(SIGNATURE.len());
    if reader.rest()[..known] != SIGNATURE[..known] {
        return Err(ProtocolError::NoSignature);
    }
    reader.bytes(SIGNATURE.len())?;
    if reader.u32()? & CRITICAL_FLAGS != 0 {
        return Err(ProtocolError::UnknownContent("the flags of a copy stream"));
    }
    let extension = reader.i32()?;
    let extension = usize::try_from(extension).map_err(|_| ProtocolError::UnknownContent("a copy stream's header"))?;
    reader.bytes(extension).map(drop)
}

/// Puts the fields of the next row behind `fields`; `false` for the trailer.
fn read_row<'a>(reader: &mut Reader<'a>, columns: usize, fields: &mut Vec<Field<'a>>) -> Result<bool, ProtocolError> {
    let count = reader.i16()?;
    if count == -1 {
        return Ok(false);
    }
    match usize::try_from(count) {
        Ok(found) if found == columns => {}
        Ok(found) => {
            return Err(ProtocolError::ColumnCount {
                expected: columns,
                found,
            });
        }
        Err(_) => return Err(ProtocolError::UnknownContent("a row's field count")),
    }
    fields.reserve(columns);
    for _ in 0..columns {
        fields.push(match reader.i32()? {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| ProtocolError::UnknownContent("a field's length"))?;
                Some(reader.bytes(length)?)
            }
        });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Rows = Vec<Vec<Option<Vec<u8>>>>;

    fn stream(rows: &Rows) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([0; 4]);
        out.extend(3u32.to_be_bytes());
        out.extend(b"ext");
        for row in rows {
            out.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
            for field in row {
                match field {
                    None => out.extend((-1i32).to_be_bytes()),
                    Some(bytes) => {
                        out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                        out.extend(bytes);
                    }
                }
            }
        }
        out.extend((-1i16).to_be_bytes());
        out
    }

    fn feed<'a>(
        decoder: &mut CopyDecoder,
        messages: impl IntoIterator<Item = &'a [u8]>,
        rows: &mut Rows,
    ) -> Result<(), ProtocolError> {
        decoder.feed(messages, |found| {
            for index in 0..found.len() {
                let row = found.row(index);
                for (number, field) in row.iter().enumerate() {
                    assert_eq!(found.column(number).nth(index), Some(*field));
                }
                rows.push(row.iter().map(|field| field.map(<[u8]>::to_vec)).collect());
            }
            Ok(())
        })
    }

    #[test]
    fn a_stream_without_its_trailer_is_refused() {
        let bytes = stream(&vec![vec![Some(b"a".to_vec())]]);
        let mut decoder = CopyDecoder::new(1);
        feed(&mut decoder, [&bytes[..bytes.len() - 1]], &mut Vec::new()).unwrap();
        assert_eq!(decoder.finish(), Err(ProtocolError::NoTrailer));
    }

    #[test]
    fn other_formats_and_bytes_after_the_trailer_are_refused() {
        let mut rows = Vec::new();
        assert_eq!(
            feed(&mut CopyDecoder::new(1), [&b"1\ttext\n"[..]], &mut rows),
            Err(ProtocolError::NoSignature)
        );
        let mut bytes = stream(&Vec::new());
        bytes.push(0);
        assert_eq!(
            feed(&mut CopyDecoder::new(1), [&bytes[..]], &mut rows),
            Err(ProtocolError::Trailing)
        );
        bytes[12] = 1;
        assert!(matches!(
            feed(&mut CopyDecoder::new(1), [&bytes[..]], &mut rows),
            Err(ProtocolError::UnknownContent(_))
        ));
    }

    #[test]
    fn rows_of_another_number_of_fields_are_refused() {
        let bytes = stream(&vec![vec![None; 2], vec![None; 3]]);
        let mut rows = Vec::new();
        assert_eq!(
            feed(&mut CopyDecoder::new(2), [&bytes[..]], &mut rows),
            Err(ProtocolError::ColumnCount { expected: 2, found: 3 })
        );
        assert_eq!(rows, [[None, None]], "what came before is not lost");
    }

    #[test]
    fn rows_are_cut_and_lose_their_first_field() {
        let fields = [b"a", b"b", b"c", b"d", b"e", b"f"].map(|name| Some(&name[..]));
        let all = CopyRows {
            rows: 3,
            stride: 2,
            skipped: 0,
            fields: &fields,
        };
        let rows = all.slice(1..3).without_first().unwrap();
        assert_eq!((rows.len(), rows.columns()), (2, 1));
        assert_eq!(rows.column(0).collect::<Vec<_>>(), [Some(&b"d"[..]), Some(b"f")]);
        assert_eq!(rows.row(1), [Some(&b"f"[..])]);
        assert!(rows.without_first().unwrap().without_first().is_err());
    }

    fn rows() -> impl Strategy<Value = (usize, Rows)> {
        (0usize..4).prop_flat_map(|columns| {
            let field = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12));
            let row = proptest::collection::vec(field, columns);
            (Just(columns), proptest::collection::vec(row, 0..6))
        })
    }

    proptest! {
        #[test]
        fn rows_survive_any_cut((columns, rows) in rows(), piece in 1usize..40, at_once in 1usize..5) {
            let bytes = stream(&rows);
            let messages: Vec<_> = bytes.chunks(piece).collect();
            let mut decoder = CopyDecoder::new(columns);
            let mut found = Vec::new();
            for some in messages.chunks(at_once) {
                feed(&mut decoder, some.iter().copied(), &mut found).unwrap();
            }
            prop_assert!(decoder.is_complete());
            prop_assert_eq!(found, rows);
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            for columns in 0..3 {
                let mut rows = Vec::new();
                let bytes = [&SIGNATURE[..], &[0; 8], &body].concat();
                let (first, second) = bytes.split_at(cut.min(bytes.len()));
                let _ = feed(&mut CopyDecoder::new(columns), [first, second], &mut rows);
            }
        }
    }
}
