//! The stream of `COPY … TO STDOUT (FORMAT binary)`, read piece by piece.
//!
//! PostgreSQL manual, `COPY`, "Binary Format": a signature, flags, an extension area, then
//! rows of length-prefixed fields, then a field count of -1. The server happens to send a
//! row per message; nothing here depends on it.

use std::ops::Range;

use super::ProtocolError;
use super::reader::Reader;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Bits 16–31 change the format; bit 16 says that rows carry an OID, which PostgreSQL 12 dropped.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;

/// Cuts a copy stream into rows. Feed it every `CopyData` message in order.
#[derive(Debug, Default)]
pub(crate) struct CopyDecoder {
    stage: Stage,
    /// The start of a row, or of the header, whose rest has not arrived.
    partial: Vec<u8>,
    /// Where the fields of the present row are.
    fields: Vec<Field>,
}

/// A field's place among the bytes of its row; `None` is SQL NULL.
type Field = Option<Range<usize>>;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Header,
    Rows,
    Ended,
}

/// One row of a copy stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyRow<'a> {
    fields: &'a [Field],
    bytes: &'a [u8],
}

impl<'a> CopyRow<'a> {
    /// The first field, and the row without it.
    ///
    /// # Errors
    /// If there is no field.
    pub(crate) fn split_first(self) -> Result<(Option<&'a [u8]>, Self), ProtocolError> {
        let (first, fields) = self
            .fields
            .split_first()
            .ok_or(ProtocolError::ColumnCount { expected: 1, found: 0 })?;
        let first = first.clone().map(|place| &self.bytes[place]);
        Ok((first, Self { fields, ..self }))
    }

    /// How many fields there are.
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    /// The fields; `None` is SQL NULL.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> + Clone + use<'a> {
        let bytes = self.bytes;
        self.fields
            .iter()
            .map(move |place| place.clone().map(|place| &bytes[place]))
    }
}

impl CopyDecoder {
    /// Takes the next bytes of the stream and calls `row` for each row that they complete.
    ///
    /// # Errors
    /// A [`ProtocolError`], or the first error of `row`. The decoder is of no use afterwards.
    pub(crate) fn feed<E: From<ProtocolError>>(
        &mut self,
        bytes: &[u8],
        mut row: impl FnMut(CopyRow<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.partial.is_empty() {
            let used = consume(&mut self.stage, &mut self.fields, bytes, &mut row)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            self.partial.extend_from_slice(bytes);
            let used = consume(&mut self.stage, &mut self.fields, &self.partial, &mut row)?;
            self.partial.drain(..used);
        }
        Ok(())
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

/// Reads as many whole items as `bytes` holds and returns how many bytes they took.
fn consume<E: From<ProtocolError>>(
    stage: &mut Stage,
    fields: &mut Vec<Field>,
    bytes: &[u8],
    row: &mut impl FnMut(CopyRow<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let mut reader = Reader::new(bytes);
    loop {
        let mut ahead = reader;
        let item = match stage {
            Stage::Ended if ahead.rest().is_empty() => break,
            Stage::Ended => return Err(ProtocolError::Trailing.into()),
            Stage::Header => read_header(&mut ahead).map(|()| *stage = Stage::Rows),
            Stage::Rows => match read_row(&mut ahead, fields) {
                Ok(Some(bytes)) => {
                    row(CopyRow { fields, bytes })?;
                    Ok(())
                }
                Ok(None) => {
                    *stage = Stage::Ended;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        match item {
            Ok(()) => reader = ahead,
            // The rest of the item comes with the next message.
            Err(ProtocolError::Truncated) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes.len() - reader.rest().len())
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

/// The bytes of the next row, whose fields are put into `fields`; `None` for the trailer.
fn read_row<'a>(reader: &mut Reader<'a>, fields: &mut Vec<Field>) -> Result<Option<&'a [u8]>, ProtocolError> {
    let count = match reader.i16()? {
        -1 => return Ok(None),
        count => u16::try_from(count).map_err(|_| ProtocolError::UnknownContent("a row's field count"))?,
    };
    let row = reader.rest();
    fields.clear();
    for _ in 0..count {
        let length = reader.i32()?;
        let start = row.len() - reader.rest().len();
        fields.push(match length {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| ProtocolError::UnknownContent("a field's length"))?;
                reader.bytes(length)?;
                Some(start..start + length)
            }
        });
    }
    Ok(Some(&row[..row.len() - reader.rest().len()]))
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

    fn feed(decoder: &mut CopyDecoder, bytes: &[u8], rows: &mut Rows) -> Result<(), ProtocolError> {
        decoder.feed(bytes, |row| {
            assert_eq!(row.iter().count(), row.len());
            rows.push(row.iter().map(|field| field.map(<[u8]>::to_vec)).collect());
            Ok(())
        })
    }

    #[test]
    fn a_stream_without_its_trailer_is_refused() {
        let bytes = stream(&vec![vec![Some(b"a".to_vec())]]);
        let mut decoder = CopyDecoder::default();
        feed(&mut decoder, &bytes[..bytes.len() - 1], &mut Vec::new()).unwrap();
        assert_eq!(decoder.finish(), Err(ProtocolError::NoTrailer));
    }

    #[test]
    fn other_formats_and_bytes_after_the_trailer_are_refused() {
        let mut rows = Vec::new();
        assert_eq!(
            feed(&mut CopyDecoder::default(), b"1\ttext\n", &mut rows),
            Err(ProtocolError::NoSignature)
        );
        let mut bytes = stream(&Vec::new());
        bytes.push(0);
        assert_eq!(
            feed(&mut CopyDecoder::default(), &bytes, &mut rows),
            Err(ProtocolError::Trailing)
        );
        bytes[12] = 1;
        assert!(matches!(
            feed(&mut CopyDecoder::default(), &bytes, &mut rows),
            Err(ProtocolError::UnknownContent(_))
        ));
    }

    proptest! {
        #[test]
        fn rows_survive_any_cut(
            rows in proptest::collection::vec(
                proptest::collection::vec(
                    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12)), 0..4), 0..6),
            piece in 1usize..40,
        ) {
            let mut decoder = CopyDecoder::default();
            let mut found = Vec::new();
            for part in stream(&rows).chunks(piece) {
                feed(&mut decoder, part, &mut found).unwrap();
            }
            prop_assert!(decoder.is_complete());
            prop_assert_eq!(found, rows);
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let mut decoder = CopyDecoder::default();
            let mut rows = Vec::new();
            let bytes = [&SIGNATURE[..], &[0; 8], &body].concat();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            if feed(&mut decoder, first, &mut rows).is_ok() {
                let _ = feed(&mut decoder, second, &mut rows);
            }
        }
    }
}
