//! A column of texts that takes many of them at a time.
//!
//! Arrow's own builder takes one text, checked already, or a finished array. Most texts are too short for a
//! check of each to be fast, and an array of those that come together would be put together first, and
//! copied then.

use arrow_array::StringArray;
use arrow_buffer::{Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};

use super::text_form::utf8;
use super::value_error::{Result, ValueError};

/// Most bytes that one column of one batch holds: Arrow's offsets have 31 bits.
pub(super) const MAX_COLUMN_BYTES: usize = i32::MAX as usize;

/// See the module.
#[derive(Debug)]
pub(super) struct TextBuilder {
    /// Whole texts of UTF-8, one behind the other.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<i32>,
    valid: NullBufferBuilder,
}

impl TextBuilder {
    /// With room for so many texts, of so many bytes in all.
    pub(super) fn with_capacity(texts: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(texts + 1);
        // Where the first begins.
        ends.push(0);
        Self {
            bytes: Vec::with_capacity(bytes),
            ends,
            valid: NullBufferBuilder::new(texts),
        }
    }

    /// Appends a text, unless the column would be too large with it.
    pub(super) fn append(&mut self, text: &str) -> Result<()> {
        let end = self.bytes.len() + text.len();
        let Some(end) = i32::try_from(end).ok() else {
            return Err(ValueError::OutOfRange(
                "the batch has no room for a text of this length",
            ));
        };
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(end);
        self.valid.append_non_null();
        Ok(())
    }

    pub(super) fn append_null(&mut self) {
        self.ends.extend(self.ends.last().copied());
        self.valid.append_null();
    }

    /// Appends each of `fields`, as a text or as a null. One that is refused is told to `refuse` with its
    /// number, and a null stands in its place.
    pub(super) fn append_each<'a>(
        &mut self,
        fields: impl Iterator<Item = Option<&'a [u8]>> + Clone,
        refuse: impl FnMut(usize, ValueError),
    ) {
        let (bytes, count) = (self.bytes.len(), self.ends.len());
        let mut nulls = 0;
        for field in fields.clone() {
            nulls += usize::from(field.is_none());
            self.bytes.extend_from_slice(field.unwrap_or_default());
            // One that is too large is found below.
            self.ends.push(i32::try_from(self.bytes.len()).unwrap_or(i32::MAX));
        }
        if !self.is_sound_behind(bytes, count) {
            self.bytes.truncate(bytes);
            self.ends.truncate(count);
            return self.append_one_by_one(fields, refuse);
        }
        if nulls == 0 {
            self.valid.append_n_non_nulls(self.ends.len() - count);
        } else {
            fields.for_each(|field| self.valid.append(field.is_some()));
        }
    }

    /// Whether what was appended behind so many bytes and ends is whole texts, and not too long.
    fn is_sound_behind(&self, bytes: usize, ends: usize) -> bool {
        let new = &self.bytes[bytes..];
        let are_whole = |all: &str| {
            let mut ends = self.ends[ends..].iter();
            ends.all(|end| all.is_char_boundary(*end as usize - bytes))
        };
        self.bytes.len() <= MAX_COLUMN_BYTES && (new.is_ascii() || simdutf8::basic::from_utf8(new).is_ok_and(are_whole))
    }

    fn append_one_by_one<'a>(
        &mut self,
        fields: impl Iterator<Item = Option<&'a [u8]>>,
        mut refuse: impl FnMut(usize, ValueError),
    ) {
        for (number, field) in fields.enumerate() {
            let Some(field) = field else {
                self.append_null();
                continue;
            };
            if let Err(error) = utf8(field).and_then(|text| self.append(text)) {
                self.append_null();
                refuse(number, error);
            }
        }
    }

    /// Values appended since the last [`finish`](Self::finish).
    pub(super) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    /// The column; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> StringArray {
        let Self { bytes, ends, mut valid } = std::mem::replace(self, Self::with_capacity(0, 0));
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        StringArray::new(ends, Buffer::from_vec(bytes), valid.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(builder: &mut TextBuilder, fields: &[Option<&[u8]>]) -> Vec<(usize, ValueError)> {
        let mut refused = Vec::new();
        builder.append_each(fields.iter().copied(), |number, error| refused.push((number, error)));
        refused
    }

    #[test]
    fn texts_and_nulls_come_behind_each_other_in_any_way() {
        let mut builder = TextBuilder::with_capacity(2, 4);
        builder.append("é").unwrap();
        assert_eq!(appended(&mut builder, &[Some(b"a"), None, Some(b"")]), []);
        builder.append_null();
        assert_eq!(appended(&mut builder, &[Some("ü".as_bytes()), Some(b"b")]), []);
        assert_eq!(builder.len(), 7);
        let expected = [Some("é"), Some("a"), None, Some(""), None, Some("ü"), Some("b")];
        assert_eq!(builder.finish(), StringArray::from_iter(expected));
        assert_eq!(builder.len(), 0);
        assert_eq!(builder.finish(), StringArray::from_iter([None::<&str>; 0]));
    }

    /// Together they are UTF-8, each by itself is not.
    #[test]
    fn the_halves_of_a_character_are_refused_and_nothing_else() {
        let mut builder = TextBuilder::with_capacity(0, 0);
        builder.append("before").unwrap();
        let refused = appended(&mut builder, &[Some(b"a\xC3"), Some(b"\xA9b"), Some(b"c"), None]);
        assert_eq!(refused, [(0, ValueError::NotUtf8), (1, ValueError::NotUtf8)]);
        let expected = [Some("before"), None, None, Some("c"), None];
        assert_eq!(builder.finish(), StringArray::from_iter(expected));
    }
}
