//! Geometric types and `cube` as PostgreSQL writes them.
//!
//! Binary: the `_send` functions in `src/backend/utils/adt/geo_ops.c` and `contrib/cube/cube.c`;
//! every coordinate is a `float8`. Text: PostgreSQL manual, 8.8 "Geometric Types", and F.9 "cube".

use super::ProtocolError;
use super::float::write_float8;
use super::reader::Reader;
use super::value_error::{Result, ValueError};

/// Which geometric type a value has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Point,
    Line,
    Segment,
    Box,
    Path,
    Polygon,
    Circle,
    /// Of the extension `cube`.
    Cube,
}

/// Writes the text of a binary value.
pub(super) fn write_shape(out: &mut String, shape: Shape, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    write_parts(out, shape, &mut reader)?;
    reader.end().map_err(short)
}

fn write_parts(out: &mut String, shape: Shape, reader: &mut Reader<'_>) -> Result<()> {
    match shape {
        Shape::Point => write_point(out, reader)?,
        Shape::Line => {
            out.push('{');
            write_numbers(out, reader, 3, ",")?;
            out.push('}');
        }
        Shape::Segment => {
            out.push('[');
            write_points(out, reader, 2)?;
            out.push(']');
        }
        Shape::Box => write_points(out, reader, 2)?,
        Shape::Path => {
            let (open, close) = if reader.u8().map_err(short)? == 0 {
                ('[', ']')
            } else {
                ('(', ')')
            };
            out.push(open);
            write_counted_points(out, reader)?;
            out.push(close);
        }
        Shape::Polygon => {
            out.push('(');
            write_counted_points(out, reader)?;
            out.push(')');
        }
        Shape::Circle => {
            out.push('<');
            write_point(out, reader)?;
            out.push(',');
            write_numbers(out, reader, 1, "")?;
            out.push('>');
        }
        Shape::Cube => write_cube(out, reader)?,
    }
    Ok(())
}

/// A header, whose upper bit says that it is a point and whose lower ones count the dimensions,
/// then the coordinates of one corner or of two. Two equal ones are written as a point too.
fn write_cube(out: &mut String, reader: &mut Reader<'_>) -> Result<()> {
    const POINT: u32 = 1 << 31;
    const MOST_DIMENSIONS: u32 = 100;
    let header = reader.u32().map_err(short)?;
    let dimensions = header & !POINT;
    if dimensions > MOST_DIMENSIONS {
        return Err(ValueError::Malformed("a cube of more than 100 dimensions"));
    }
    let mut corner = *reader;
    out.push('(');
    write_numbers(out, reader, dimensions, ", ")?;
    out.push(')');
    if header & POINT != 0 {
        return Ok(());
    }
    let mut other = *reader;
    let mut is_point = true;
    for _ in 0..dimensions {
        is_point &= number(&mut corner)? == number(&mut other)?;
    }
    if is_point {
        *reader = other;
    } else {
        out.push_str(",(");
        write_numbers(out, reader, dimensions, ", ")?;
        out.push(')');
    }
    Ok(())
}

fn write_counted_points(out: &mut String, reader: &mut Reader<'_>) -> Result<()> {
    let points = reader.i32().map_err(short)?;
    // Each point has its 16 bytes, so that a count without them ends soon.
    write_points(out, reader, u32::try_from(points).map_err(|_| ValueError::Length)?)
}

fn write_points(out: &mut String, reader: &mut Reader<'_>, points: u32) -> Result<()> {
    for index in 0..points {
        if index > 0 {
            out.push(',');
        }
        write_point(out, reader)?;
    }
    Ok(())
}

fn write_point(out: &mut String, reader: &mut Reader<'_>) -> Result<()> {
    out.push('(');
    write_numbers(out, reader, 2, ",")?;
    out.push(')');
    Ok(())
}

fn write_numbers(out: &mut String, reader: &mut Reader<'_>, count: u32, separator: &str) -> Result<()> {
    for index in 0..count {
        if index > 0 {
            out.push_str(separator);
        }
        write_float8(out, number(reader)?);
    }
    Ok(())
}

fn number(reader: &mut Reader<'_>) -> Result<f64> {
    reader.u64().map(f64::from_bits).map_err(short)
}

fn short(_: ProtocolError) -> ValueError {
    ValueError::Length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shape: Shape, prefix: &[u8], numbers: &[f64]) -> Result<String> {
        let mut bytes = prefix.to_vec();
        bytes.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        let mut out = String::new();
        write_shape(&mut out, shape, &bytes).map(|()| out)
    }

    #[test]
    fn shapes_are_written_as_postgresql_does() {
        let numbers = [1.5, -2.0, f64::INFINITY, 1e-7];
        let two = [0, 0, 0, 2];
        assert_eq!(text(Shape::Point, &[], &numbers[..2]).unwrap(), "(1.5,-2)");
        assert_eq!(text(Shape::Line, &[], &numbers[..3]).unwrap(), "{1.5,-2,Infinity}");
        assert_eq!(
            text(Shape::Segment, &[], &numbers).unwrap(),
            "[(1.5,-2),(Infinity,1e-07)]"
        );
        assert_eq!(text(Shape::Box, &[], &numbers).unwrap(), "(1.5,-2),(Infinity,1e-07)");
        assert_eq!(text(Shape::Circle, &[], &numbers[..3]).unwrap(), "<(1.5,-2),Infinity>");
        assert_eq!(
            text(Shape::Polygon, &two, &numbers).unwrap(),
            "((1.5,-2),(Infinity,1e-07))"
        );
        assert_eq!(
            text(Shape::Path, &[&[1], &two[..]].concat(), &numbers).unwrap(),
            "((1.5,-2),(Infinity,1e-07))"
        );
        assert_eq!(
            text(Shape::Path, &[&[0], &two[..]].concat(), &numbers).unwrap(),
            "[(1.5,-2),(Infinity,1e-07)]"
        );
    }

    #[test]
    fn a_cube_with_equal_corners_is_a_point() {
        assert_eq!(text(Shape::Cube, &[0x80, 0, 0, 2], &[1.0, 2.0]).unwrap(), "(1, 2)");
        assert_eq!(text(Shape::Cube, &[0, 0, 0, 1], &[1.0, 2.0]).unwrap(), "(1),(2)");
        assert_eq!(text(Shape::Cube, &[0, 0, 0, 1], &[1.0, 1.0]).unwrap(), "(1)");
        assert_eq!(text(Shape::Cube, &[0; 4], &[]).unwrap(), "()");
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for (shape, prefix) in [
            (Shape::Point, &[][..]),
            (Shape::Polygon, &[0, 0, 0, 9]),
            (Shape::Polygon, &[255; 4]),
            (Shape::Path, &[1, 0, 0, 0, 0]),
            (Shape::Cube, &[0, 0, 0, 3]),
        ] {
            assert_eq!(text(shape, prefix, &[0.0]), Err(ValueError::Length), "{shape:?}");
        }
        assert!(matches!(
            text(Shape::Cube, &[0x7F, 0, 0, 0], &[]),
            Err(ValueError::Malformed(_))
        ));
    }
}
