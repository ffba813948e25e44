//! Arrays, composites, ranges and multiranges as PostgreSQL writes them, whatever is in them.
//!
//! Binary: `array_send` in `src/backend/utils/adt/arrayfuncs.c`, `record_send` in `rowtypes.c`,
//! `range_send` in `rangetypes.c`, `multirange_send` in `multirangetypes.c`; the `_out` functions
//! beside them say what is put between quotes. PostgreSQL manual, 8.15 to 8.17.

use std::fmt::Write;

use super::ProtocolError;
use super::column_type::{Parts, Scalar, built_in};
use super::reader::Reader;
use super::text_form::write_scalar;
use super::value_error::{Result, ValueError};

/// `MAXDIM` in `src/include/utils/array.h`.
const MOST_DIMENSIONS: usize = 6;
const MALFORMED: ValueError = ValueError::Malformed("not an array");

/// The dimensions of an array: length and lower bound of each.
struct Dimensions {
    lengths: [usize; MOST_DIMENSIONS],
    lower: [i32; MOST_DIMENSIONS],
    count: usize,
}

impl Dimensions {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let count = usize::try_from(reader.i32().map_err(short)?).map_err(|_| MALFORMED)?;
        let (_has_nulls, _element) = (reader.i32().map_err(short)?, reader.u32().map_err(short)?);
        let mut dimensions = Self {
            lengths: [0; MOST_DIMENSIONS],
            lower: [1; MOST_DIMENSIONS],
            count,
        };
        if count > MOST_DIMENSIONS {
            return Err(MALFORMED);
        }
        for index in 0..count {
            let length = reader.i32().map_err(short)?;
            dimensions.lengths[index] = usize::try_from(length).map_err(|_| MALFORMED)?;
            dimensions.lower[index] = reader.i32().map_err(short)?;
        }
        Ok(dimensions)
    }

    fn lengths(&self) -> &[usize] {
        &self.lengths[..self.count]
    }

    /// How many elements there are.
    fn elements(&self) -> Result<usize> {
        let lengths = self.lengths().iter();
        match lengths.copied().try_fold(1usize, usize::checked_mul) {
            Some(_) if self.count == 0 => Ok(0),
            Some(elements) => Ok(elements),
            None => Err(MALFORMED),
        }
    }

    /// How many of the braces that open before element `index`, or close behind `index - 1`,
    /// belong to whole blocks of elements.
    fn braces_at(&self, index: usize) -> usize {
        let mut block = 1;
        let inner_first = self.lengths().iter().rev();
        let blocks = inner_first.take_while(|length| {
            block *= **length;
            index.is_multiple_of(block)
        });
        blocks.count()
    }
}

/// Writes `{{1,NULL},{"a b",3}}`; before it `[0:1][1:2]=` where a lower bound is not 1.
pub(super) fn write_array(out: &mut String, element: &Scalar, delimiter: char, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let dimensions = Dimensions::read(&mut reader)?;
    let elements = dimensions.elements()?;
    if elements == 0 {
        out.push_str("{}");
        return reader.end().map_err(short);
    }
    if dimensions.lower.iter().any(|bound| *bound != 1) {
        for (length, lower) in dimensions.lengths().iter().zip(dimensions.lower) {
            put(out, format_args!("[{lower}:{}]", i64::from(lower) + *length as i64 - 1));
        }
        out.push('=');
    }
    for index in 0..elements {
        if index > 0 {
            out.push(delimiter);
        }
        out.extend((0..dimensions.braces_at(index)).map(|_| '{'));
        match value(&mut reader)? {
            None => out.push_str("NULL"),
            Some(bytes) => {
                let start = out.len();
                write_scalar(out, element, bytes)?;
                quote(out, start, Doubling::Backslash, |text| {
                    text.is_empty()
                        || text.eq_ignore_ascii_case("NULL")
                        || text.contains(|letter| is_space(letter) || letter == delimiter || "\"\\{}".contains(letter))
                });
            }
        }
        out.extend((0..dimensions.braces_at(index + 1)).map(|_| '}'));
    }
    reader.end().map_err(short)
}

/// Writes `1 2 3`: `int2vector` and `oidvector`, which travel as arrays.
pub(super) fn write_plain_vector(out: &mut String, element: &Scalar, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let dimensions = Dimensions::read(&mut reader)?;
    if dimensions.count > 1 {
        return Err(MALFORMED);
    }
    for index in 0..dimensions.elements()? {
        if index > 0 {
            out.push(' ');
        }
        write_scalar(out, element, value(&mut reader)?.ok_or(MALFORMED)?)?;
    }
    reader.end().map_err(short)
}

/// Writes `(1,"a b",)`. Each value comes with the OID of its type, so that a composite to which
/// an attribute was added later is read too, if its type is known.
pub(super) fn write_record(out: &mut String, parts: &Parts, bytes: &[u8]) -> Result<()> {
    const UNKNOWN_PART: ValueError = ValueError::Malformed("a composite with an attribute of an unknown type");
    let mut reader = Reader::new(bytes);
    let attributes = u32::try_from(reader.i32().map_err(short)?).map_err(|_| ValueError::Length)?;
    out.push('(');
    for index in 0..attributes {
        if index > 0 {
            out.push(',');
        }
        let oid = reader.u32().map_err(short)?;
        let Some(bytes) = value(&mut reader)? else { continue };
        let start = out.len();
        match parts.get(oid) {
            Some(scalar) => write_scalar(out, scalar, bytes)?,
            None => write_scalar(out, &built_in(oid).ok_or(UNKNOWN_PART)?, bytes)?,
        }
        quote(out, start, Doubling::Itself, |text| {
            text.is_empty() || text.contains(|letter| is_space(letter) || "\"\\(),".contains(letter))
        });
    }
    out.push(')');
    reader.end().map_err(short)
}

/// Writes `[1,5)`, `(,"a b"]` or `empty`.
pub(super) fn write_range(out: &mut String, bound: &Scalar, bytes: &[u8]) -> Result<()> {
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const LOWER_INFINITE: u8 = 0x08;
    const UPPER_INFINITE: u8 = 0x10;
    let mut reader = Reader::new(bytes);
    let flags = reader.u8().map_err(short)?;
    let has = |flag| flags & flag != 0;
    if has(EMPTY) {
        out.push_str("empty");
        return reader.end().map_err(short);
    }
    out.push(if has(LOWER_INCLUSIVE) { '[' } else { '(' });
    if !has(LOWER_INFINITE) {
        write_bound(out, bound, &mut reader)?;
    }
    out.push(',');
    if !has(UPPER_INFINITE) {
        write_bound(out, bound, &mut reader)?;
    }
    out.push(if has(UPPER_INCLUSIVE) { ']' } else { ')' });
    reader.end().map_err(short)
}

fn write_bound(out: &mut String, bound: &Scalar, reader: &mut Reader<'_>) -> Result<()> {
    let bytes = value(reader)?.ok_or(ValueError::Length)?;
    let start = out.len();
    write_scalar(out, bound, bytes)?;
    quote(out, start, Doubling::Itself, |text| {
        text.is_empty() || text.contains(|letter| is_space(letter) || "\"\\()[],".contains(letter))
    });
    Ok(())
}

/// Writes `{[1,2),[5,7)}`.
pub(super) fn write_multirange(out: &mut String, bound: &Scalar, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let ranges = u32::try_from(reader.i32().map_err(short)?).map_err(|_| ValueError::Length)?;
    out.push('{');
    for index in 0..ranges {
        if index > 0 {
            out.push(',');
        }
        write_range(out, bound, value(&mut reader)?.ok_or(ValueError::Length)?)?;
    }
    out.push('}');
    reader.end().map_err(short)
}

/// A value behind its length; `None` is NULL.
pub(super) fn value<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>> {
    match reader.i32().map_err(short)? {
        -1 => Ok(None),
        len => {
            let len = usize::try_from(len).map_err(|_| ValueError::Length)?;
            reader.bytes(len).map(Some).map_err(short)
        }
    }
}

/// How a quote and a backslash are written between quotes.
#[derive(Clone, Copy, PartialEq)]
enum Doubling {
    /// `\"` and `\\`
    Backslash,
    /// `""` and `\\`
    Itself,
}

/// Puts what was written from `start` on between quotes, if it `needs` them.
fn quote(out: &mut String, start: usize, how: Doubling, needs: impl Fn(&str) -> bool) {
    if !needs(&out[start..]) {
        return;
    }
    let text = out.split_off(start);
    out.reserve(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' if how == Doubling::Backslash => out.push('\\'),
            '"' | '\\' => out.push(letter),
            _ => {}
        }
        out.push(letter);
    }
    out.push('"');
}

/// `isspace` of the C locale.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t'..='\r')
}

fn short(_: ProtocolError) -> ValueError {
    ValueError::Length
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
#[path = "nested_tests.rs"]
mod tests;
