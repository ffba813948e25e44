//! `tsvector` and `tsquery` as PostgreSQL writes them.
//!
//! Binary: `tsvectorsend` in `src/backend/utils/adt/tsvector.c`, `tsquerysend` in `tsquery.c`.
//! Text: PostgreSQL manual, 8.11 "Text Search Types".

use std::fmt::Write;

use super::ProtocolError;
use super::reader::Reader;
use super::value_error::{Result, ValueError};

const MALFORMED: ValueError = ValueError::Malformed("not a text search value");

/// Writes `'a':1A,2 'b'`: lexemes with their positions and weights.
pub(super) fn write_vector(out: &mut String, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let lexemes = reader.u32().map_err(broken)?;
    for index in 0..lexemes {
        if index > 0 {
            out.push(' ');
        }
        write_lexeme(out, reader.name().map_err(broken)?);
        let positions = reader.u16().map_err(broken)?;
        for index in 0..positions {
            let packed = reader.u16().map_err(broken)?;
            let separator = if index == 0 { ':' } else { ',' };
            put(out, format_args!("{separator}{}", packed & 0x3FFF));
            out.push_str(["", "C", "B", "A"][usize::from(packed >> 14)]);
        }
    }
    reader.end().map_err(broken)
}

/// A part of a query: a lexeme, or an operator before its operands, the right one first.
enum Item<'a> {
    Lexeme { text: &'a str, weights: u8, prefix: bool },
    Not,
    Binary { operator: Operator, left: usize },
}

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    And,
    Or,
    Phrase { distance: i16 },
}

const NOT_PRIORITY: u8 = 4;

impl Operator {
    /// How tightly it binds.
    fn priority(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Phrase { .. } => 3,
        }
    }

    fn is_phrase(self) -> bool {
        matches!(self, Self::Phrase { .. })
    }
}

/// What is still to be written, the next last. Not a recursion, since a query may be as deep as
/// it is long.
enum Todo {
    Item {
        index: usize,
        parent: u8,
        right_of_phrase: bool,
    },
    Operator(Operator),
    Close,
}

/// Writes `'a' & !( 'b':*A | 'c' )`.
pub(super) fn write_query(out: &mut String, bytes: &[u8]) -> Result<()> {
    let items = read_query(bytes)?;
    let mut todo = Vec::new();
    if !items.is_empty() {
        todo.push(Todo::Item {
            index: 0,
            parent: 0,
            right_of_phrase: false,
        });
    }
    while let Some(next) = todo.pop() {
        match next {
            Todo::Close => out.push_str(" )"),
            Todo::Operator(Operator::And) => out.push_str(" & "),
            Todo::Operator(Operator::Or) => out.push_str(" | "),
            Todo::Operator(Operator::Phrase { distance: 1 }) => out.push_str(" <-> "),
            Todo::Operator(Operator::Phrase { distance }) => put(out, format_args!(" <{distance}> ")),
            Todo::Item {
                index,
                parent,
                right_of_phrase,
            } => match &items[index] {
                Item::Lexeme { text, weights, prefix } => {
                    write_lexeme(out, text);
                    write_weights(out, *weights, *prefix);
                }
                Item::Not => {
                    if NOT_PRIORITY < parent {
                        out.push_str("( ");
                        todo.push(Todo::Close);
                    }
                    out.push('!');
                    todo.push(Todo::Item {
                        index: index + 1,
                        parent: NOT_PRIORITY,
                        right_of_phrase: false,
                    });
                }
                Item::Binary { operator, left } => {
                    let priority = operator.priority();
                    if priority < parent || operator.is_phrase() && right_of_phrase {
                        out.push_str("( ");
                        todo.push(Todo::Close);
                    }
                    let operand = |index, right_of_phrase| Todo::Item {
                        index,
                        parent: priority,
                        right_of_phrase,
                    };
                    todo.push(operand(index + 1, operator.is_phrase()));
                    todo.push(Todo::Operator(*operator));
                    todo.push(operand(*left, false));
                }
            },
        }
    }
    Ok(())
}

/// Reads the items, and finds the left operand of each operator.
fn read_query(bytes: &[u8]) -> Result<Vec<Item<'_>>> {
    const LEXEME: u8 = 1;
    const OPERATOR: u8 = 2;
    let mut reader = Reader::new(bytes);
    let count = reader.u32().map_err(broken)?;
    let mut items = Vec::new();
    for _ in 0..count {
        let item = match reader.u8().map_err(broken)? {
            LEXEME => Item::Lexeme {
                weights: reader.u8().map_err(broken)?,
                prefix: reader.u8().map_err(broken)? != 0,
                text: reader.name().map_err(broken)?,
            },
            OPERATOR => {
                let operator = match reader.u8().map_err(broken)? {
                    1 => None,
                    2 => Some(Operator::And),
                    3 => Some(Operator::Or),
                    4 => Some(Operator::Phrase {
                        distance: reader.i16().map_err(broken)?,
                    }),
                    _ => return Err(MALFORMED),
                };
                operator.map_or(Item::Not, |operator| Item::Binary { operator, left: 0 })
            }
            _ => return Err(MALFORMED),
        };
        items.push(item);
    }
    reader.end().map_err(broken)?;
    // From the last item to the first every operand is known before its operator.
    let mut operands: Vec<usize> = Vec::new();
    for index in (0..items.len()).rev() {
        match &mut items[index] {
            Item::Lexeme { .. } => {}
            Item::Not => drop(operands.pop().ok_or(MALFORMED)?),
            Item::Binary { left, .. } => {
                operands.pop().ok_or(MALFORMED)?;
                *left = operands.pop().ok_or(MALFORMED)?;
            }
        }
        operands.push(index);
    }
    match operands.len() {
        0 | 1 => Ok(items),
        _ => Err(MALFORMED),
    }
}

/// A lexeme between quotes, with what is special in it doubled.
fn write_lexeme(out: &mut String, lexeme: &str) {
    out.push('\'');
    for letter in lexeme.chars() {
        if matches!(letter, '\'' | '\\') {
            out.push(letter);
        }
        out.push(letter);
    }
    out.push('\'');
}

fn write_weights(out: &mut String, weights: u8, prefix: bool) {
    if weights == 0 && !prefix {
        return;
    }
    out.push(':');
    if prefix {
        out.push('*');
    }
    let letters = [(8, 'A'), (4, 'B'), (2, 'C'), (1, 'D')].into_iter();
    out.extend(letters.filter(|(bit, _)| weights & bit != 0).map(|(_, letter)| letter));
}

fn broken(error: ProtocolError) -> ValueError {
    match error {
        ProtocolError::NotUtf8 => ValueError::NotUtf8,
        _ => ValueError::Length,
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AND: &[u8] = &[2, 2];
    const OR: &[u8] = &[2, 3];
    const NOT: &[u8] = &[2, 1];
    const PHRASE: &[u8] = &[2, 4, 0, 1];

    fn lexeme(text: &str, weights: u8, prefix: u8) -> Vec<u8> {
        [&[1, weights, prefix], text.as_bytes(), &[0]].concat()
    }

    fn query(items: &[&[u8]]) -> Result<String> {
        let count = u32::try_from(items.len()).unwrap().to_be_bytes();
        let mut out = String::new();
        write_query(&mut out, &[&count[..], &items.concat()].concat()).map(|()| out)
    }

    #[test]
    fn vectors_show_positions_and_weights() {
        let bytes = [
            &2u32.to_be_bytes()[..],
            b"a'\\\0",
            &2u16.to_be_bytes(),
            &(1u16 | 3 << 14).to_be_bytes(),
            &7u16.to_be_bytes(),
            b"b\0\0\0",
        ];
        let mut out = String::new();
        write_vector(&mut out, &bytes.concat()).unwrap();
        assert_eq!(out, r"'a''\\':1A,7 'b'");
    }

    #[test]
    fn operators_bind_as_postgresql_writes_them() {
        let (a, b, c) = (lexeme("a", 0, 0), lexeme("b", 9, 1), lexeme("c", 0, 0));
        assert_eq!(query(&[]).unwrap(), "");
        assert_eq!(query(&[AND, &b, &a]).unwrap(), "'a' & 'b':*AD");
        assert_eq!(query(&[AND, OR, &b, &a, &c]).unwrap(), "'c' & ( 'a' | 'b':*AD )");
        assert_eq!(query(&[OR, AND, &b, &a, &c]).unwrap(), "'c' | 'a' & 'b':*AD");
        assert_eq!(query(&[NOT, AND, &c, &a]).unwrap(), "!( 'a' & 'c' )");
        assert_eq!(query(&[PHRASE, PHRASE, &c, &a, &a]).unwrap(), "'a' <-> ( 'a' <-> 'c' )");
        assert_eq!(query(&[PHRASE, &c, PHRASE, &a, &a]).unwrap(), "'a' <-> 'a' <-> 'c'");
        assert_eq!(query(&[&[2, 4, 0, 3], &c, &a]).unwrap(), "'a' <3> 'c'");
    }

    #[test]
    fn a_query_is_as_deep_as_it_likes() {
        let a = lexeme("a", 0, 0);
        let mut items = vec![NOT; 100_000];
        items.push(&a);
        assert_eq!(query(&items).unwrap().len(), 100_003);
    }

    #[test]
    fn broken_queries_are_refused() {
        let a = lexeme("a", 0, 0);
        for items in [&[AND, &a][..], &[NOT], &[&a, &a], &[&[3]], &[&[2, 9], &a]] {
            assert_eq!(query(items), Err(MALFORMED));
        }
        assert_eq!(query(&[b"\x01\0\0a"]), Err(ValueError::Length));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(0u8..6, 0..60)) {
            let _ = write_query(&mut String::new(), &bytes);
            let _ = write_vector(&mut String::new(), &bytes);
        }
    }
}
