//! One-dimensional arrays into lists.
//!
//! Text: PostgreSQL manual, 8.15.6 "Array Input and Output Syntax". Binary: `array_send` in
//! `src/backend/utils/adt/arrayfuncs.c`: dimensions, a flag for nulls, the element's OID, then
//! length and lower bound of each dimension, then length-prefixed elements.

use std::sync::Arc;

use arrow_array::{ArrayRef, ListArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};

use super::ProtocolError;
use super::column::ColumnBuilder;
use super::column_type::{Scalar, element_field};
use super::reader::Reader;
use super::value_error::{Result, ValueError};

const MALFORMED: ValueError = ValueError::Malformed("not an array");

/// Collects lists of one scalar type.
pub(super) struct ListColumn {
    element: Scalar,
    values: ColumnBuilder,
    /// Where each list ends in `values`, after a leading zero.
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
    /// An element of a text array without its quotes and escapes.
    unescaped: Vec<u8>,
}

impl ListColumn {
    pub(super) fn new(element: &Scalar) -> Self {
        Self {
            element: element.clone(),
            values: ColumnBuilder::scalar(element),
            offsets: vec![0],
            nulls: NullBufferBuilder::new(0),
            unescaped: Vec::new(),
        }
    }

    /// After an error the elements read so far stay in `values`, until a null takes them.
    pub(super) fn append_binary(&mut self, bytes: &[u8]) -> Result<()> {
        self.room()?;
        let mut reader = Reader::new(bytes);
        let short = |_: ProtocolError| ValueError::Length;
        let (dimensions, _has_nulls, _element) = (
            reader.i32().map_err(short)?,
            reader.i32().map_err(short)?,
            reader.u32().map_err(short)?,
        );
        let elements = match dimensions {
            0 => 0,
            1 => {
                let len = reader.i32().map_err(short)?;
                if reader.i32().map_err(short)? != 1 {
                    return Err(ValueError::LowerBound);
                }
                len
            }
            2.. => return Err(ValueError::MultiDimensional),
            _ => return Err(MALFORMED),
        };
        if elements < 0 {
            return Err(MALFORMED);
        }
        for _ in 0..elements {
            match reader.i32().map_err(short)? {
                -1 => self.values.append_null(),
                len => {
                    let len = usize::try_from(len).map_err(|_| MALFORMED)?;
                    self.values.append_binary(reader.bytes(len).map_err(short)?)?;
                }
            }
        }
        reader.end().map_err(short)?;
        self.close();
        Ok(())
    }

    /// As [`append_binary`](Self::append_binary).
    pub(super) fn append_text(&mut self, text: &[u8]) -> Result<()> {
        self.room()?;
        let inner = match text {
            [b'{', inner @ .., b'}'] => inner,
            // `[2:4]={…}`: bounds are written where one of the lower ones is not 1.
            [b'[', ..] => {
                let equals = text.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
                let dimensions = text[..equals].iter().filter(|byte| **byte == b'[').count();
                return Err(match dimensions {
                    1 => ValueError::LowerBound,
                    _ => ValueError::MultiDimensional,
                });
            }
            _ => return Err(MALFORMED),
        };
        let mut rest = inner;
        while !rest.is_empty() {
            rest = self.append_element(rest)?;
            match rest {
                [] => break,
                [b',', more @ ..] if !more.is_empty() => rest = more,
                _ => return Err(MALFORMED),
            }
        }
        self.close();
        Ok(())
    }

    /// Appends the element that `text` begins with and returns what follows it.
    fn append_element<'a>(&mut self, text: &'a [u8]) -> Result<&'a [u8]> {
        match text {
            [b'{', ..] => Err(ValueError::MultiDimensional),
            [b'"', quoted @ ..] => {
                self.unescaped.clear();
                let mut rest = quoted;
                loop {
                    match rest {
                        [b'"', after @ ..] => {
                            self.values.append_text(&self.unescaped)?;
                            return Ok(after);
                        }
                        [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                            self.unescaped.push(*byte);
                            rest = after;
                        }
                        [] => return Err(MALFORMED),
                    }
                }
            }
            _ => {
                let end = text.iter().position(|byte| *byte == b',').unwrap_or(text.len());
                let (element, rest) = text.split_at(end);
                if element == b"NULL" {
                    self.values.append_null();
                } else if element.is_empty() || element.iter().any(|byte| b"{}\"\\".contains(byte)) {
                    return Err(MALFORMED);
                } else {
                    self.values.append_text(element)?;
                }
                Ok(rest)
            }
        }
    }

    /// Appends a null, and gives it the elements that a refused list left behind.
    pub(super) fn append_null(&mut self) {
        self.offsets
            .push(i32::try_from(self.values.len()).expect("`room` keeps the elements within 31 bits"));
        self.nulls.append_null();
    }

    /// That the elements of one more value, which is at most 1 GiB on the wire, fit in 31 bits,
    /// and that no refused list's elements would become part of it.
    fn room(&self) -> Result<()> {
        const FULL: ValueError = ValueError::OutOfRange("the batch has no room for so many elements");
        const UNCLOSED: ValueError = ValueError::Malformed("a list after a refused one");
        match i32::try_from(self.values.len()) {
            Ok(start) if start != self.last_end() => Err(UNCLOSED),
            Ok(start) if start < i32::MAX / 4 => Ok(()),
            _ => Err(FULL),
        }
    }

    /// Ends a list.
    fn close(&mut self) {
        self.offsets
            .push(i32::try_from(self.values.len()).expect("`room` keeps the elements within 31 bits"));
        self.nulls.append_non_null();
    }

    fn last_end(&self) -> i32 {
        self.offsets.last().copied().unwrap_or(0)
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let (values, nulls) = (self.values.finish(), self.nulls.finish());
        Arc::new(ListArray::new(element_field(&self.element), offsets, values, nulls))
    }
}

#[cfg(test)]
mod tests {
    use arrow_cast::display::array_value_to_string;
    use proptest::prelude::*;

    use super::super::column_type::TextForm;
    use super::*;

    const TEXT: Scalar = Scalar::Text(TextForm::Verbatim);

    fn from_text(element: Scalar, text: &str) -> Result<String> {
        let mut list = ListColumn::new(&element);
        list.append_text(text.as_bytes())?;
        Ok(array_value_to_string(&list.finish(), 0).unwrap())
    }

    fn binary(elements: &[Option<&[u8]>]) -> Vec<u8> {
        let len = i32::try_from(elements.len()).unwrap();
        let mut out = [1i32, 1, 25, len, 1].map(i32::to_be_bytes).concat();
        for element in elements {
            out.extend(
                element
                    .map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap())
                    .to_be_bytes(),
            );
            out.extend(element.unwrap_or_default());
        }
        out
    }

    #[test]
    fn text_arrays_are_read() {
        assert_eq!(from_text(Scalar::Int4, "{}").unwrap(), "[]");
        assert_eq!(from_text(Scalar::Int4, "{1,NULL,-3}").unwrap(), "[1, , -3]");
        assert_eq!(
            from_text(TEXT, r#"{"a,b","c\"d","e\\f",null}"#).unwrap(),
            r#"[a,b, c"d, e\f, null]"#
        );
    }

    #[test]
    fn broken_and_nested_arrays_are_refused() {
        for text in [
            "",
            "{",
            "}",
            "1",
            "{1",
            "{1,}",
            "{,1}",
            "{1,,2}",
            "{\"1}",
            "{\"1\"2}",
            "[0:1]{1,2}",
            "{x}",
        ] {
            assert!(
                matches!(from_text(Scalar::Int4, text), Err(ValueError::Malformed(_))),
                "{text}"
            );
        }
        assert_eq!(from_text(Scalar::Int4, "{{1},{2}}"), Err(ValueError::MultiDimensional));
        assert_eq!(
            from_text(Scalar::Int4, "[0:0][1:1]={{1}}"),
            Err(ValueError::MultiDimensional)
        );
        assert_eq!(from_text(Scalar::Int4, "[0:1]={1,2}"), Err(ValueError::LowerBound));
        let zero_based = [1i32, 0, 23, 1, 0, 4, 7].map(i32::to_be_bytes).concat();
        assert_eq!(
            ListColumn::new(&Scalar::Int4).append_binary(&zero_based),
            Err(ValueError::LowerBound)
        );
        let two = [2i32, 0, 23, 1, 1, 1, 1].map(i32::to_be_bytes).concat();
        assert_eq!(
            ListColumn::new(&Scalar::Int4).append_binary(&two),
            Err(ValueError::MultiDimensional)
        );
    }

    #[test]
    fn a_null_takes_what_a_refused_list_left() {
        let mut list = ListColumn::new(&Scalar::Int4);
        assert!(list.append_text(b"{1,2,x}").is_err());
        assert!(list.append_text(b"{3}").is_err());
        list.append_null();
        list.append_text(b"{3}").unwrap();
        let array = list.finish();
        assert!(array.is_null(0));
        assert_eq!(array_value_to_string(&array, 1).unwrap(), "[3]");
    }

    proptest! {
        #[test]
        fn both_formats_agree(elements in proptest::collection::vec(proptest::option::of("[ -~é]{0,6}"), 0..6)) {
            let quoted: Vec<String> = elements
                .iter()
                .map(|element| match element {
                    None => "NULL".to_owned(),
                    Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
                })
                .collect();
            let mut list = ListColumn::new(&TEXT);
            list.append_text(format!("{{{}}}", quoted.join(",")).as_bytes()).unwrap();
            let wire: Vec<Option<&[u8]>> = elements.iter().map(|e| e.as_ref().map(|text| text.as_bytes())).collect();
            list.append_binary(&binary(&wire)).unwrap();
            let array = list.finish();
            prop_assert!(array.slice(0, 1) == array.slice(1, 1));
        }
    }
}
