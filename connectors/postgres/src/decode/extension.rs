//! Types of extensions, beside those that are text (`citext`) or text behind a version byte
//! (`ltree`): `hstore`, and pgvector's `vector`, `halfvec` and `sparsevec`.
//!
//! Binary and text: `hstore_send` and `hstore_out` in `contrib/hstore/hstore_io.c`, `vector_send`
//! and its like in pgvector's `src/vector.c`, `halfvec.c` and `sparsevec.c`.

use std::fmt::Write;

use arrow_array::types::{ArrowPrimitiveType, Float16Type};

use super::ProtocolError;
use super::float::write_float4;
use super::nested::value;
use super::reader::Reader;
use super::text_form::utf8;
use super::value_error::{Result, ValueError};

/// How wide the numbers of a vector are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// `vector`: 32 bits.
    Single,
    /// `halfvec`: 16 bits, each of which is a number of 32 bits too.
    Half,
}

/// The numbers of a binary `vector` or `halfvec`.
pub(super) fn vector_from_wire(width: Width, bytes: &[u8]) -> Result<impl Iterator<Item = f32> + '_> {
    let mut reader = Reader::new(bytes);
    let (dimensions, _unused) = (reader.u16().map_err(short)?, reader.u16().map_err(short)?);
    let bytes_each = match width {
        Width::Single => 4,
        Width::Half => 2,
    };
    let numbers = reader.rest();
    if numbers.len() != usize::from(dimensions) * bytes_each {
        return Err(ValueError::Length);
    }
    Ok(numbers.chunks_exact(bytes_each).map(|number| match *number {
        [a, b] => <Float16Type as ArrowPrimitiveType>::Native::from_be_bytes([a, b]).to_f32(),
        [a, b, c, d] => f32::from_be_bytes([a, b, c, d]),
        _ => f32::NAN,
    }))
}

/// The numbers of a vector's text: `[1,-2.5]`.
pub(super) fn vector_from_text(text: &[u8]) -> Result<impl Iterator<Item = Result<f32>> + '_> {
    const MALFORMED: ValueError = ValueError::Malformed("not a vector");
    let inner = utf8(text)?.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = inner.ok_or(MALFORMED)?;
    let numbers = Some(inner.split(',')).filter(|_| !inner.is_empty());
    Ok(numbers
        .into_iter()
        .flatten()
        .map(|number| number.parse::<f32>().map_err(|_| MALFORMED)))
}

/// Writes `[1,-2.5]`.
pub(super) fn write_vector(out: &mut String, width: Width, bytes: &[u8]) -> Result<()> {
    out.push('[');
    for (index, number) in vector_from_wire(width, bytes)?.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_float4(out, number);
    }
    out.push(']');
    Ok(())
}

/// Writes `{1:1.5,3:-2}/5`: the numbers that are not zero with their places, counted from 1, and
/// how many there are of both.
pub(super) fn write_sparse_vector(out: &mut String, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let mut count = || reader.u32().map_err(short);
    let (dimensions, stored, _unused) = (count()?, count()?, count()?);
    let stored = usize::try_from(stored).map_err(|_| ValueError::Length)?;
    let (places, numbers) = reader
        .rest()
        .split_at_checked(stored.saturating_mul(4))
        .ok_or(ValueError::Length)?;
    if numbers.len() != places.len() {
        return Err(ValueError::Length);
    }
    out.push('{');
    let pairs = places.as_chunks::<4>().0.iter().zip(numbers.as_chunks::<4>().0);
    for (index, (place, number)) in pairs.enumerate() {
        let separator = if index == 0 { "" } else { "," };
        put(
            out,
            format_args!("{separator}{}:", u64::from(u32::from_be_bytes(*place)) + 1),
        );
        write_float4(out, f32::from_be_bytes(*number));
    }
    put(out, format_args!("}}/{dimensions}"));
    Ok(())
}

/// Writes `"a"=>"1", "b"=>NULL`.
pub(super) fn write_hstore(out: &mut String, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let pairs = u32::try_from(reader.i32().map_err(short)?).map_err(|_| ValueError::Length)?;
    for index in 0..pairs {
        if index > 0 {
            out.push_str(", ");
        }
        write_quoted(out, utf8(value(&mut reader)?.ok_or(ValueError::Length)?)?);
        out.push_str("=>");
        match value(&mut reader)? {
            Some(text) => write_quoted(out, utf8(text)?),
            None => out.push_str("NULL"),
        }
    }
    reader.end().map_err(short)
}

fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
}

fn short(_: ProtocolError) -> ValueError {
    ValueError::Length
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut String, &[u8]) -> Result<()>, bytes: &[u8]) -> Result<String> {
        let mut out = String::new();
        write(&mut out, bytes).map(|()| out)
    }

    #[test]
    fn vectors_of_both_widths() {
        let single = [&[0, 2, 0, 0][..], &1.5f32.to_be_bytes(), &(-2f32).to_be_bytes()].concat();
        assert_eq!(
            text(|out, bytes| write_vector(out, Width::Single, bytes), &single).unwrap(),
            "[1.5,-2]"
        );
        let half = [0, 2, 0, 0, 0x3E, 0x00, 0xC0, 0x00];
        assert_eq!(
            text(|out, bytes| write_vector(out, Width::Half, bytes), &half).unwrap(),
            "[1.5,-2]"
        );
        assert!(vector_from_wire(Width::Single, &half).is_err());
        let read = |text: &[u8]| vector_from_text(text).and_then(Iterator::collect::<Result<Vec<f32>>>);
        assert_eq!(read(b"[1.5,-2e3]").unwrap(), [1.5, -2000.0]);
        assert!(read(b"[]").unwrap().is_empty());
        assert!(read(b"1.5").is_err() && read(b"[1.5,]").is_err() && read(b"[x]").is_err());
    }

    #[test]
    fn a_sparse_vector_counts_from_one() {
        let bytes = [5u32, 2, 0, 0, 2, 1.5f32.to_bits(), 3f32.to_bits()]
            .map(u32::to_be_bytes)
            .concat();
        assert_eq!(text(write_sparse_vector, &bytes).unwrap(), "{1:1.5,3:3}/5");
        assert_eq!(text(write_sparse_vector, &bytes[..20]), Err(ValueError::Length));
        assert_eq!(text(write_sparse_vector, &[255; 12]), Err(ValueError::Length));
    }

    #[test]
    fn an_hstore_quotes_all_but_null() {
        let bytes = [
            &[0, 0, 0, 2, 0, 0, 0, 1][..],
            b"a",
            &[0, 0, 0, 2],
            b"\"\\",
            &[0, 0, 0, 0],
            &[255; 4],
        ]
        .concat();
        assert_eq!(text(write_hstore, &bytes).unwrap(), r#""a"=>"\"\\", ""=>NULL"#);
        assert_eq!(text(write_hstore, &bytes[..9]), Err(ValueError::Length));
    }
}
