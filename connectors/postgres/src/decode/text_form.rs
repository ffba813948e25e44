//! PostgreSQL's text output made from its binary output.

use std::fmt::Write;

use super::column_type::{Form, Scalar, TextForm};
use super::float::{write_float4, write_float8};
use super::reader::Reader;
use super::value_error::{Result, ValueError};
use super::{Lsn, ProtocolError, calendar, extension, geometry, nested, network, numeric, search};

/// Writes the text of a binary value whose column becomes Utf8.
pub(super) fn write_text_form(out: &mut String, form: &TextForm, bytes: &[u8]) -> Result<()> {
    match form {
        TextForm::Verbatim => out.push_str(utf8(bytes)?),
        TextForm::Char => write_char(out, bytes)?,
        TextForm::Versioned | TextForm::Ltree => out.push_str(utf8(versioned(bytes)?)?),
        TextForm::Uuid => write_uuid(out, exactly(bytes)?),
        TextForm::TimeTz => {
            let (micros, west) = fields(bytes, |r| Ok((r.i64()?, r.i32()?)))?;
            calendar::write_time_tz(out, calendar::time_from_wire(micros)?, west);
        }
        TextForm::Interval => {
            let (micros, days, months) = fields(bytes, |r| Ok((r.i64()?, r.i32()?, r.i32()?)))?;
            calendar::write_interval(out, months, days, micros);
        }
        TextForm::Numeric => numeric::write_text(out, bytes)?,
        TextForm::Inet => network::write_inet(out, bytes)?,
        TextForm::MacAddr => network::write_mac(out, bytes)?,
        TextForm::Bits => write_bits(out, bytes)?,
        TextForm::Lsn => put(out, format_args!("{}", Lsn(u64::from_be_bytes(exactly(bytes)?)))),
        TextForm::Tid => {
            let (block, offset) = fields(bytes, |r| Ok((r.u32()?, r.u16()?)))?;
            put(out, format_args!("({block},{offset})"));
        }
        TextForm::Unsigned32 => put(out, format_args!("{}", u32::from_be_bytes(exactly(bytes)?))),
        TextForm::Unsigned64 => put(out, format_args!("{}", u64::from_be_bytes(exactly(bytes)?))),
        TextForm::Snapshot => write_snapshot(out, bytes)?,
        TextForm::Int2Vector => nested::write_plain_vector(out, &Scalar::Int2, bytes)?,
        TextForm::OidVector => nested::write_plain_vector(out, &Scalar::Oid, bytes)?,
        TextForm::Geometry(shape) => geometry::write_shape(out, *shape, bytes)?,
        TextForm::TsVector => search::write_vector(out, bytes)?,
        TextForm::TsQuery => search::write_query(out, bytes)?,
        TextForm::Hstore => extension::write_hstore(out, bytes)?,
        TextForm::Vector(width) => extension::write_vector(out, *width, bytes)?,
        TextForm::SparseVector => extension::write_sparse_vector(out, bytes)?,
        TextForm::Array(array) => nested::write_array(out, &array.element, array.delimiter, bytes)?,
        TextForm::Record(parts) => nested::write_record(out, parts, bytes)?,
        TextForm::Range(bound) => nested::write_range(out, bound, bytes)?,
        TextForm::Multirange(bound) => nested::write_multirange(out, bound, bytes)?,
        TextForm::Unsent | TextForm::Unknown => return Err(ValueError::NoBinaryForm),
    }
    Ok(())
}

/// Writes the text of any binary value we know, for rejected rows.
///
/// # Errors
/// `NoBinaryForm` for arrays and what becomes Binary, and whatever is wrong with the value.
pub(super) fn write_any(out: &mut String, form: &Form, bytes: &[u8]) -> Result<()> {
    match form {
        Form::List(_) | Form::Scalar(Scalar::Bytea | Scalar::Ewkb) => Err(ValueError::NoBinaryForm),
        Form::Vector(width) => extension::write_vector(out, *width, bytes),
        Form::Scalar(scalar) => write_scalar(out, scalar, bytes),
    }
}

/// Writes PostgreSQL's text of a binary value.
pub(super) fn write_scalar(out: &mut String, scalar: &Scalar, bytes: &[u8]) -> Result<()> {
    match scalar {
        Scalar::Bool => out.push_str(if exactly::<1>(bytes)? == [0] { "f" } else { "t" }),
        Scalar::Int2 => put(out, format_args!("{}", i16::from_be_bytes(exactly(bytes)?))),
        Scalar::Int4 => put(out, format_args!("{}", i32::from_be_bytes(exactly(bytes)?))),
        Scalar::Int8 => put(out, format_args!("{}", i64::from_be_bytes(exactly(bytes)?))),
        Scalar::Oid => put(out, format_args!("{}", u32::from_be_bytes(exactly(bytes)?))),
        Scalar::Float4 => write_float4(out, f32::from_be_bytes(exactly(bytes)?)),
        Scalar::Float8 => write_float8(out, f64::from_be_bytes(exactly(bytes)?)),
        Scalar::Bytea => {
            out.push_str("\\x");
            write_hex(out, b"0123456789abcdef", bytes);
        }
        Scalar::Ewkb => write_hex(out, b"0123456789ABCDEF", bytes),
        Scalar::Date => calendar::write_date(out, i32::from_be_bytes(exactly(bytes)?)),
        Scalar::Time => calendar::write_time(out, calendar::time_from_wire(i64::from_be_bytes(exactly(bytes)?))?),
        Scalar::Timestamp { utc } => calendar::write_timestamp(out, i64::from_be_bytes(exactly(bytes)?), *utc),
        Scalar::Decimal128 { .. } | Scalar::Decimal256 { .. } => numeric::write_text(out, bytes)?,
        Scalar::Text(form) => write_text_form(out, form, bytes)?,
    }
    Ok(())
}

/// The value as an array of its type's length.
pub(super) fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| ValueError::Length)
}

/// Text is checked value by value: a database in `SQL_ASCII` sends whatever was stored.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| ValueError::NotUtf8)
}

/// What follows the version byte, which is 1 in all versions of PostgreSQL so far.
pub(super) fn versioned(bytes: &[u8]) -> Result<&[u8]> {
    match bytes {
        [1, text @ ..] => Ok(text),
        _ => Err(ValueError::Malformed("unknown version of the binary form")),
    }
}

/// `"char"` holds one byte: zero is the empty text, and from PostgreSQL 16 on the server
/// writes a byte above 127 as `\ooo`, which is done here for every version and both formats.
pub(super) fn write_char(out: &mut String, bytes: &[u8]) -> Result<()> {
    match bytes {
        [] | [0] => {}
        [byte] if byte.is_ascii() => out.push(char::from(*byte)),
        [byte] => put(out, format_args!("\\{byte:03o}")),
        escaped => out.push_str(utf8(escaped)?),
    }
    Ok(())
}

fn write_uuid(out: &mut String, bytes: [u8; 16]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

fn write_hex(out: &mut String, digits: &[u8; 16], bytes: &[u8]) {
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(digits[usize::from(byte >> 4)]));
        out.push(char::from(digits[usize::from(byte & 15)]));
    }
}

/// `xmin:xmax:xid,xid`; in binary the count comes first.
fn write_snapshot(out: &mut String, bytes: &[u8]) -> Result<()> {
    let (head, running) = bytes.split_first_chunk::<20>().ok_or(ValueError::Length)?;
    let [a, b, c, d, ends @ ..] = *head;
    let (ids, rest) = running.as_chunks::<8>();
    let ([from, to], []) = ends.as_chunks::<8>() else {
        return Err(ValueError::Length);
    };
    if !rest.is_empty() || usize::try_from(u32::from_be_bytes([a, b, c, d])) != Ok(ids.len()) {
        return Err(ValueError::Length);
    }
    let number = |id: &[u8; 8]| u64::from_be_bytes(*id);
    put(out, format_args!("{}:{}:", number(from), number(to)));
    for (index, id) in ids.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        put(out, format_args!("{separator}{}", number(id)));
    }
    Ok(())
}

fn write_bits(out: &mut String, bytes: &[u8]) -> Result<()> {
    let (len, packed) = bytes.split_first_chunk::<4>().ok_or(ValueError::Length)?;
    let len = usize::try_from(i32::from_be_bytes(*len)).map_err(|_| ValueError::Length)?;
    if packed.len() != len.div_ceil(8) {
        return Err(ValueError::Length);
    }
    out.extend((0..len).map(|bit| {
        if packed[bit / 8] >> (7 - bit % 8) & 1 == 1 {
            '1'
        } else {
            '0'
        }
    }));
    Ok(())
}

/// Reads the fields of a value.
type WireRead<'a, T> = fn(&mut Reader<'a>) -> std::result::Result<T, ProtocolError>;

fn fields<'a, T>(bytes: &'a [u8], read: WireRead<'a, T>) -> Result<T> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader).map_err(|_| ValueError::Length)?;
    reader.end().map_err(|_| ValueError::Length)?;
    Ok(value)
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(form: TextForm, bytes: &[u8]) -> Result<String> {
        let mut out = String::new();
        write_text_form(&mut out, &form, bytes).map(|()| out)
    }

    #[test]
    fn known_bytes() {
        let uuid: Vec<u8> = (0..16).map(|n| n * 17).collect();
        assert_eq!(
            text(TextForm::Uuid, &uuid).unwrap(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
        assert_eq!(text(TextForm::Versioned, b"\x01{\"a\": 1}").unwrap(), "{\"a\": 1}");
        assert_eq!(
            text(TextForm::Bits, &[0, 0, 0, 10, 0b1010_0000, 0b0100_0000]).unwrap(),
            "1010000001"
        );
        assert_eq!(
            text(TextForm::Lsn, &0x16_B374_D848u64.to_be_bytes()).unwrap(),
            "16/B374D848"
        );
        assert_eq!(text(TextForm::Tid, &[0, 0, 0, 7, 0, 2]).unwrap(), "(7,2)");
        assert_eq!(text(TextForm::Unsigned32, &[255; 4]).unwrap(), "4294967295");
        assert_eq!(text(TextForm::Unsigned64, &[255; 8]).unwrap(), "18446744073709551615");
        let snapshot = [
            &2u32.to_be_bytes()[..],
            &[10u64, 20, 11, 13].map(u64::to_be_bytes).concat(),
        ]
        .concat();
        assert_eq!(text(TextForm::Snapshot, &snapshot).unwrap(), "10:20:11,13");
        assert_eq!(text(TextForm::Snapshot, &snapshot[..28]), Err(ValueError::Length));
        assert_eq!(text(TextForm::Char, &[0]).unwrap(), "");
        assert_eq!(text(TextForm::Char, b"a").unwrap(), "a");
        assert_eq!(text(TextForm::Char, &[0xE9]).unwrap(), "\\351");
        let interval = [
            &1_000_000i64.to_be_bytes()[..],
            &3i32.to_be_bytes(),
            &14i32.to_be_bytes(),
        ]
        .concat();
        assert_eq!(
            text(TextForm::Interval, &interval).unwrap(),
            "1 year 2 mons 3 days 00:00:01"
        );
        let time_tz = [&0i64.to_be_bytes()[..], &(-7200i32).to_be_bytes()].concat();
        assert_eq!(text(TextForm::TimeTz, &time_tz).unwrap(), "00:00:00+02");
    }

    #[test]
    fn broken_bytes_are_refused() {
        assert_eq!(text(TextForm::Uuid, &[0; 15]), Err(ValueError::Length));
        assert_eq!(
            text(TextForm::Versioned, b"\x02{}"),
            Err(ValueError::Malformed("unknown version of the binary form"))
        );
        assert_eq!(text(TextForm::Verbatim, &[0xFF]), Err(ValueError::NotUtf8));
        assert_eq!(text(TextForm::Bits, &[0, 0, 0, 9, 0]), Err(ValueError::Length));
        assert_eq!(text(TextForm::Interval, &[0; 17]), Err(ValueError::Length));
        assert_eq!(text(TextForm::Unknown, b""), Err(ValueError::NoBinaryForm));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            use TextForm::*;
            for form in [
                Verbatim, Char, Versioned, Uuid, TimeTz, Interval, Numeric, Inet, MacAddr, Bits, Lsn, Tid, Unsigned32,
                Unsigned64, Snapshot, Int2Vector, OidVector, TsVector, TsQuery, Hstore, Ltree, SparseVector, Unsent,
                Unknown,
            ] {
                let _ = write_any(&mut String::new(), &Form::Scalar(Scalar::Text(form)), &bytes);
            }
            for scalar in [Scalar::Date, Scalar::Time, Scalar::Timestamp { utc: true }, Scalar::Float8, Scalar::Bool] {
                let _ = write_any(&mut String::new(), &Form::Scalar(scalar), &bytes);
            }
        }
    }
}
