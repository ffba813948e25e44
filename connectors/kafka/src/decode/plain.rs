//! Objects as producers write nearly all of them: names and strings without escapes, and plain numbers.
//!
//! What is not so plain is left to `serde_json`: a value, or, where [`Plain`] gives up, the whole text. So nothing is
//! refused here, and what is accepted is what `serde_json` accepts.

use serde_json::value::RawValue;

/// An object that is walked through, field by field.
pub struct Plain<'t> {
    text: &'t str,
    /// The place, always at the beginning of a character.
    at: usize,
    /// Whether a field was read.
    begun: bool,
}

/// A value, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<'t> {
    /// As it is written.
    pub json: &'t str,
    /// What stands between its quotes, if it is a string without escapes.
    pub text: Option<&'t str>,
    /// What it is, if it is a whole number, not below zero, of few digits.
    pub whole: Option<i64>,
}

/// Not plain enough.
#[derive(Debug, PartialEq, Eq)]
pub struct Odd;

/// How a field with this name begins; `None` for a name that JSON escapes.
pub fn beginning(name: &str) -> Option<Box<str>> {
    let plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    plain.then(|| format!("\"{name}\":").into())
}

impl<'t> Plain<'t> {
    /// The object that `text` is.
    pub fn new(text: &'t str) -> Result<Self, Odd> {
        let mut object = Self {
            text,
            at: 0,
            begun: false,
        };
        object.pass_blanks();
        object.pass(b'{')?;
        Ok(object)
    }

    /// Whether there is another field, whose name comes next. If not, the object was the whole text.
    pub fn has_field(&mut self) -> Result<bool, Odd> {
        self.pass_blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.pass_blanks();
            return if self.at == self.text.len() {
                Ok(false)
            } else {
                Err(Odd)
            };
        }
        if self.begun {
            self.pass(b',')?;
            self.pass_blanks();
        }
        self.begun = true;
        Ok(true)
    }

    /// Passes over the name that is written like this, if it comes next.
    pub fn pass_beginning(&mut self, beginning: &str) -> bool {
        let passed = self.text[self.at..].starts_with(beginning);
        if passed {
            self.at += beginning.len();
        }
        passed
    }

    /// The name that comes next.
    pub fn name(&mut self) -> Result<&'t str, Odd> {
        let name = self.string()?;
        self.pass_blanks();
        self.pass(b':')?;
        Ok(&name[1..name.len() - 1])
    }

    /// The value that comes next.
    pub fn value(&mut self) -> Result<Written<'t>, Odd> {
        self.pass_blanks();
        let rest = &self.text[self.at..];
        let (mut text, mut whole) = (None, None);
        let json = match self.peek().ok_or(Odd)? {
            b'"' => match self.string() {
                Ok(json) => {
                    text = Some(&json[1..json.len() - 1]);
                    json
                }
                Err(Odd) => self.by_library()?,
            },
            b'-' | b'0'..=b'9' => {
                let number = number(rest.as_bytes()).ok_or(Odd)?;
                whole = number.whole;
                self.cut(number.length)
            }
            b't' if rest.starts_with("true") => self.cut("true".len()),
            b'f' if rest.starts_with("false") => self.cut("false".len()),
            b'n' if rest.starts_with("null") => self.cut("null".len()),
            _ => self.by_library()?,
        };
        Ok(Written { json, text, whole })
    }

    /// A string without escapes, with its quotes.
    fn string(&mut self) -> Result<&'t str, Odd> {
        let rest = &self.text.as_bytes()[self.at..];
        let inner = rest.strip_prefix(b"\"").ok_or(Odd)?;
        let length = memchr::memchr2(b'"', b'\\', inner).ok_or(Odd)?;
        // Not `any`, which would look at one byte after the other.
        let controls = inner[..length].iter().fold(false, |found, byte| found | (*byte < 0x20));
        if inner[length] == b'\\' || controls {
            return Err(Odd);
        }
        Ok(self.cut(length + 2))
    }

    fn by_library(&mut self) -> Result<&'t str, Odd> {
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<&RawValue>();
        let value = values.next().ok_or(Odd)?.map_err(|_| Odd)?;
        self.at += values.byte_offset();
        Ok(value.get())
    }

    fn cut(&mut self, length: usize) -> &'t str {
        let cut = &self.text[self.at..self.at + length];
        self.at += length;
        cut
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn pass(&mut self, byte: u8) -> Result<(), Odd> {
        if self.peek() != Some(byte) {
            return Err(Odd);
        }
        self.at += 1;
        Ok(())
    }

    fn pass_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }
}

/// A number that a text begins with.
struct Number {
    length: usize,
    /// What it is, if it is whole, not below zero, and has few digits.
    whole: Option<i64>,
}

/// So many digits are a number that an `i64` holds.
const FEW_DIGITS: usize = 18;

/// The number that `text` begins with (RFC 8259, 6); `None` if it is none.
fn number(text: &[u8]) -> Option<Number> {
    let digits = |from: usize| from + text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let first = usize::from(text.first() == Some(&b'-'));
    let (mut end, mut value) = (first, 0i64);
    while let Some(digit @ b'0'..=b'9') = text.get(end) {
        // Of more digits than are few it is not asked for.
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
        end += 1;
    }
    let leading_zero = text.get(first) == Some(&b'0') && end > first + 1;
    if end == first || leading_zero {
        return None;
    }
    let integer = end;
    if text.get(end) == Some(&b'.') {
        let fraction = end + 1;
        end = digits(fraction);
        if end == fraction {
            return None;
        }
    }
    if let Some(b'e' | b'E') = text.get(end) {
        let exponent = end + 1 + usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        end = digits(exponent.min(text.len()));
        if end <= exponent.min(text.len()) {
            return None;
        }
    }
    let is_whole = first == 0 && end == integer && end <= FEW_DIGITS;
    Some(Number {
        length: end,
        whole: is_whole.then_some(value),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is walked through, names and values.
    fn fields(text: &str) -> Result<Vec<(&str, &str)>, Odd> {
        let mut object = Plain::new(text)?;
        let mut fields = Vec::new();
        while object.has_field()? {
            fields.push((object.name()?, object.value()?.json));
        }
        Ok(fields)
    }

    #[test]
    fn plain_objects_are_walked_through() {
        assert_eq!(fields("{}"), Ok(vec![]));
        assert_eq!(
            fields(" {\"a\" : -1.5e+3 , \"ä\":\"é\",\"c\":[{\"x\":\"\\n\"}],\"d\":\"\\u0041\",\"e\":null}\n"),
            Ok(vec![
                ("a", "-1.5e+3"),
                ("ä", "\"é\""),
                ("c", "[{\"x\":\"\\n\"}]"),
                ("d", "\"\\u0041\""),
                ("e", "null")
            ])
        );
        for odd in [
            "",
            "[]",
            "{",
            "{\"a\":1",
            "{\"a\":1,}",
            "{,}",
            "{\"a\" 1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":+1}",
            "{\"a\":tru}",
            "{\"a\":\"\n\"}",
            "{\"a\\n\":1}",
            "{\"a\":1} 2",
            "{\"a\":1 2}",
            "{\"a\":truee}",
        ] {
            assert_eq!(fields(odd), Err(Odd), "{odd}");
        }
    }

    #[test]
    fn a_name_with_escapes_has_no_beginning() {
        assert_eq!(beginning("a b").as_deref(), Some("\"a b\":"));
        for name in ["a\"", "\\n", "\u{1}"] {
            assert_eq!(beginning(name), None);
        }
    }

    /// Text that is JSON, or nearly.
    fn nearly_json() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{"),
            Just("}"),
            Just("\"a\":"),
            Just("\"b\" :"),
            Just(","),
            Just("1"),
            Just("-0.5e1"),
            Just("007"),
            Just("\"x\""),
            Just("\"\\u00e9\""),
            Just("\"\\ud800\""),
            Just("[1,2]"),
            Just("{\"c\":1}"),
            Just("true"),
            Just("null"),
            Just(" "),
            Just("\""),
            Just("\\"),
            Just("é"),
            Just("\t"),
            Just("1e"),
            Just("."),
        ];
        proptest::collection::vec(piece, 0..9).prop_map(|pieces| format!("{{{}}}", pieces.concat()))
    }

    proptest! {
        /// What is accepted is what the library accepts, and the same.
        #[test]
        fn nothing_is_accepted_that_is_not_json(text in nearly_json()) {
            if let Ok(fields) = fields(&text) {
                let whole: serde_json::Value = match serde_json::from_str(&text) {
                    Ok(whole) => whole,
                    // A text as such may be JSON whose strings are no text: a column refuses these.
                    Err(_) => {
                        prop_assert!(serde_json::from_str::<&RawValue>(&text).is_ok(), "{text}");
                        return Ok(());
                    }
                };
                let object = whole.as_object().unwrap();
                for (name, value) in fields.iter().rev() {
                    let value: serde_json::Value = serde_json::from_str(value).unwrap();
                    if fields.iter().filter(|(other, _)| other == name).count() == 1 {
                        prop_assert_eq!(object.get(*name), Some(&value));
                    }
                }
                let mut names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
                names.sort_unstable();
                names.dedup();
                prop_assert_eq!(names.len(), object.len());
            }
        }

        #[test]
        fn numbers_are_those_of_json(text in "-?([0-9]{0,3}|[0-9]{17,20})(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?") {
            let number = number(text.as_bytes()).filter(|number| number.length == text.len());
            prop_assert_eq!(number.is_some(), serde_json::from_str::<&RawValue>(&text).is_ok(), "{}", text);
            let few = number.is_some() && text.len() <= FEW_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
            let value = few.then(|| text.parse().ok()).flatten();
            prop_assert_eq!(number.and_then(|number| number.whole), value, "{}", text);
        }
    }
}
