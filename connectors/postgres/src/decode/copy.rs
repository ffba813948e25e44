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
/// Rows that are given on at once: where the fields of so many are stays in the processor's cache,
/// unless there are very many columns.
const ROWS_AT_ONCE: usize = 256;
/// For so many of their fields at most there is room from the beginning.
const MOST_ROOM: usize = 16 * ROWS_AT_ONCE;

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
#[derive(Clone, Copy)]
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
    pub(crate) fn column(&self, index: usize) -> impl Iterator<Item = Field<'a>> + Clone + use<'a> {
        assert!(index < self.columns(), "{index} of {}", self.columns());
        let fields = self.fields.get(self.skipped + index..).unwrap_or_default();
        fields.iter().step_by(self.stride).copied()
    }

    /// The fields of the row number `index`.
    ///
    /// # Panics
    /// If there is no such row, and they have fields.
    pub(crate) fn row(&self, index: usize) -> &'a [Field<'a>] {
        let row = &self.fields[index * self.stride..(index + 1) * self.stride];
        &row[self.skipped..]
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If there are fewer rows, and they have fields.
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
            return Err(ProtocolError::FieldCount { expected: 1, found: 0 });
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

    /// Takes the next messages of the stream and calls `take` for the rows that they complete, many at
    /// once.
    ///
    /// # Errors
    /// A [`ProtocolError`], or the first error of `take`. The decoder is of no use afterwards, and
    /// rows in front of what is wrong may not have been given.
    pub(crate) fn feed<'a, E: From<ProtocolError>>(
        &mut self,
        messages: impl IntoIterator<Item = &'a [u8]>,
        mut take: impl FnMut(CopyRows<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut found = Found::new(self.columns);
        found.fields.reserve((self.columns * ROWS_AT_ONCE).min(MOST_ROOM));
        for message in messages {
            if self.partial.is_empty() {
                let used = found.read(&mut self.stage, message, &mut take)?;
                self.partial.extend_from_slice(&message[used..]);
            } else {
                found.give(&mut take)?;
                self.partial.extend_from_slice(message);
                let mut joined = Found::new(self.columns);
                let used = joined.read(&mut self.stage, &self.partial, &mut take)?;
                joined.give(&mut take)?;
                self.partial.drain(..used);
            }
        }
        found.give(&mut take)
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
struct Found<'a> {
    columns: usize,
    rows: usize,
    fields: Vec<Field<'a>>,
}

impl<'a> Found<'a> {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            rows: 0,
            fields: Vec::new(),
        }
    }

    /// Reads as many whole items as `bytes` holds and returns how many bytes they took. Gives rows on
    /// whenever there are many.
    fn read<E: From<ProtocolError>>(
        &mut self,
        stage: &mut Stage,
        bytes: &'a [u8],
        take: &mut impl FnMut(CopyRows<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut reader = Reader::new(bytes);
        loop {
            let mut ahead = reader;
            let whole = self.fields.len();
            let item = match stage {
                Stage::Ended if ahead.rest().is_empty() => break,
                Stage::Ended => return Err(ProtocolError::Trailing.into()),
                Stage::Header => read_header(&mut ahead).map(|()| *stage = Stage::Rows),
                Stage::Rows => read_row(&mut ahead, self.columns, &mut self.fields).map(|is_row| match is_row {
                    true => self.rows += 1,
                    false => *stage = Stage::Ended,
                }),
            };
            match item {
                Ok(()) => reader = ahead,
                // The rest of the item comes with the next message.
                Err(ProtocolError::Truncated) => {
                    self.fields.truncate(whole);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            if self.rows == ROWS_AT_ONCE {
                self.give(take)?;
            }
        }
        Ok(bytes.len() - reader.rest().len())
    }

    /// Gives the rows on, if there are any.
    fn give<E>(&mut self, take: &mut impl FnMut(CopyRows<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.rows == 0 {
            return Ok(());
        }
        take(CopyRows {
            rows: self.rows,
            stride: self.columns,
            skipped: 0,
            fields: &self.fields,
        })?;
        self.rows = 0;
        self.fields.clear();
        Ok(())
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
            return Err(ProtocolError::FieldCount {
                expected: columns,
                found,
            });
        }
        Err(_) => return Err(ProtocolError::UnknownContent("a row's field count")),
    }
    let first = fields.len();
    // Room is made for all of them, rather than looked for with each.
    fields.resize(first + columns, None);
    *reader = Reader::new(read_fields(reader.rest(), &mut fields[first..])?);
    Ok(true)
}

/// Reads so many fields off the front of `bytes`, and returns what is behind them. Much of the time of
/// a copy goes here, so that as little as possible is done for each.
fn read_fields<'a>(mut bytes: &'a [u8], fields: &mut [Field<'a>]) -> Result<&'a [u8], ProtocolError> {
    for field in fields {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(ProtocolError::Truncated)?;
        match i32::from_be_bytes(*length) {
            -1 => bytes = rest,
            length @ 0.. => {
                let (value, rest) = rest.split_at_checked(length as usize).ok_or(ProtocolError::Truncated)?;
                *field = Some(value);
                bytes = rest;
            }
            _ => return Err(ProtocolError::UnknownContent("a field's length")),
        }
    }
    Ok(bytes)
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
            Err(ProtocolError::FieldCount { expected: 2, found: 3 })
        );
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

        /// Rows that begin as they should, and bytes behind that mean now this and now that.
        #[test]
        fn no_bytes_panic(
            columns in 0u16..3,
            fields in proptest::collection::vec((-2i32..9, proptest::collection::vec(any::<u8>(), 0..9)), 0..20),
            cut in 0usize..200,
        ) {
            let mut bytes = [&SIGNATURE[..], &[0; 8]].concat();
            for (index, (length, content)) in fields.iter().enumerate() {
                if index % usize::from(columns.max(1)) == 0 {
                    bytes.extend(columns.to_be_bytes());
                }
                bytes.extend(length.to_be_bytes());
                // Often as long as is said.
                bytes.extend(&content[..content.len().min(usize::try_from(*length).unwrap_or(0))]);
            }
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let _ = feed(&mut CopyDecoder::new(columns.into()), [first, second], &mut Vec::new());
        }

        #[test]
        fn many_rows_are_given_on_in_parts(rows in 0..3 * ROWS_AT_ONCE, cut in 1usize..900) {
            let rows: Rows = (0..rows).map(|row| vec![Some(row.to_be_bytes().to_vec())]).collect();
            let bytes = stream(&rows);
            let (mut decoder, mut found) = (CopyDecoder::new(1), Vec::new());
            let given = decoder.feed(bytes.chunks(cut), |rows| {
                assert!((1..=ROWS_AT_ONCE).contains(&rows.len()));
                found.extend(rows.column(0).map(|field| vec![field.map(<[u8]>::to_vec)]));
                Ok::<_, ProtocolError>(())
            });
            prop_assert_eq!(given, Ok(()));
            prop_assert_eq!(found, rows);
        }
    }
}
