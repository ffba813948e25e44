//! One message, one row: the fields of a JSON object into the columns of a table.

use std::collections::HashMap;
use std::fmt;

use arrow_array::ArrayRef;
use serde::de::{self, DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::column::{Appended, Column, FieldName};
use super::column_type::ColumnType;
use super::plain::{Odd, Plain, beginning};
use super::scalar::Misfit;

/// Why a message was not decoded. Its text names the column and what was found, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The bytes are not text.
    #[error("invalid UTF-8 after {0} bytes")]
    NotUtf8(usize),
    /// The text is not JSON.
    #[error("invalid JSON at line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In bytes, from 1.
        column: usize,
    },
    /// The text ends inside the object.
    #[error("truncated JSON: the message ends after {0} bytes")]
    Truncated(usize),
    /// The JSON is something else.
    #[error("not a JSON object")]
    NotAnObject,
    /// Something stands behind the object.
    #[error("more than one JSON document in the message")]
    Trailing,
    /// A value does not fit its column.
    #[error("column `{column}`: expected {expected}, {found}")]
    Misfit {
        /// The column's name.
        column: String,
        /// The column's type.
        expected: String,
        /// What the value is.
        found: Misfit,
    },
    /// A field is there twice.
    #[error("column `{0}`: the field is there twice")]
    Twice(String),
    /// A column of the key is missing or null.
    #[error("key column `{0}`: missing or null")]
    NoKey(String),
    /// A message without a payload has a key that cannot be decoded.
    #[error("the message's key, which names the row to delete: {0}")]
    MessageKey(Box<Reject>),
    /// A header's name is not text.
    #[error("a header's name is not UTF-8")]
    HeaderName,
    /// The headers' lengths are not theirs.
    #[error("the headers cannot be told apart")]
    Headers,
}

/// Decodes JSON objects into columns; a message that fails leaves no trace in them.
pub struct RowDecoder {
    columns: Vec<(String, Column)>,
    /// How their fields begin, where they are plainly written.
    beginnings: Vec<Option<Box<str>>>,
    places: HashMap<String, usize>,
    /// Indexes of the key's columns.
    key: Vec<usize>,
    /// Unknown fields of all rows: a JSON object each, or null.
    extra: Column,
    /// Unknown fields of the row being decoded, `{"a":1` without the closing brace.
    unknown: String,
    rows: usize,
}

impl RowDecoder {
    /// A decoder for these columns, which has room for `rows` rows; `key` names some of them.
    pub fn new(columns: &[(String, ColumnType)], key: &[String], rows: usize) -> Self {
        let places: HashMap<_, _> = columns
            .iter()
            .enumerate()
            .map(|(at, (name, _))| (name.clone(), at))
            .collect();
        Self {
            key: key.iter().filter_map(|name| places.get(name).copied()).collect(),
            columns: columns
                .iter()
                .map(|(name, column)| (name.clone(), Column::new(column, rows)))
                .collect(),
            beginnings: columns.iter().map(|(name, _)| beginning(name)).collect(),
            places,
            extra: Column::new(&ColumnType::Json, rows),
            unknown: String::new(),
            rows: 0,
        }
    }

    /// Whether the key has columns among these.
    pub fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    /// Adds the row of a message.
    ///
    /// # Errors
    /// Why the message was refused; no row was added then.
    pub fn append(&mut self, message: &[u8]) -> Result<(), Reject> {
        let text = simdutf8::compat::from_utf8(message).map_err(|error| Reject::NotUtf8(error.valid_up_to()))?;
        let outcome = self.object(text).and_then(|()| self.complete());
        if outcome.is_err() {
            self.take_back();
        }
        outcome
    }

    /// Adds a row of nulls.
    pub fn append_nulls(&mut self) {
        self.columns.iter_mut().for_each(|(_, column)| column.append_null());
        self.extra.append_null();
        self.rows += 1;
    }

    /// Adds a row that has its key alone, from a message's key: a JSON object with the key's
    /// columns, or, where the key is one column, its value as JSON or as plain text.
    ///
    /// # Errors
    /// Why the key was refused; no row was added then.
    pub fn append_key(&mut self, key: &[u8]) -> Result<(), Reject> {
        let text = std::str::from_utf8(key).map_err(|error| Reject::NotUtf8(error.valid_up_to()))?;
        let outcome = match (text.trim_start().starts_with('{'), self.key.as_slice()) {
            (false, &[only]) => self.scalar_key(only, text).and_then(|()| self.complete()),
            _ => self.object(text).and_then(|()| self.complete()),
        };
        if outcome.is_err() {
            self.take_back();
        }
        outcome
    }

    /// The columns' arrays, then that of the unknown fields; the decoder is empty afterwards.
    pub fn finish(&mut self) -> (Vec<ArrayRef>, ArrayRef) {
        self.rows = 0;
        (
            self.columns.iter_mut().map(|(_, column)| column.finish()).collect(),
            self.extra.finish(),
        )
    }

    fn scalar_key(&mut self, at: usize, text: &str) -> Result<(), Reject> {
        let (name, column) = &mut self.columns[at];
        // Plain text is not JSON, and `abc` is not `"abc"`; both are usual as keys.
        let json = serde_json::from_str::<&RawValue>(text).ok();
        let outcome = match (json, column.r#type()) {
            (Some(json), ColumnType::Utf8) if json.get().starts_with('"') => column.append(json.get()).map(|_| ()),
            (_, ColumnType::Utf8) => column.append_text(text),
            (Some(json), _) => column.append(json.get()).map(|_| ()),
            (None, _) => Err("found text that is not JSON"),
        };
        outcome.map_err(|found| Reject::Misfit {
            column: name.clone(),
            expected: column.r#type().to_string(),
            found,
        })
    }

    fn object(&mut self, text: &str) -> Result<(), Reject> {
        self.unknown.clear();
        if self.plain_object(text).is_ok() {
            return Ok(());
        }
        // What is wrong with it, if anything is, the parser tells.
        self.take_back();
        self.parsed_object(text)
    }

    /// As [`parsed_object`](Self::parsed_object). Whatever is unusual or wrong is left to that; a part of the row may be in the
    /// columns then.
    fn plain_object(&mut self, text: &str) -> Result<(), Odd> {
        let mut object = Plain::new(text)?;
        // Producers write fields in one order nearly always: look at the next column first.
        let mut next = 0;
        while object.has_field()? {
            let expected = self.beginnings.get(next).and_then(Option::as_deref);
            let at = if expected.is_some_and(|beginning| object.pass_beginning(beginning)) {
                next
            } else {
                let name = object.name()?;
                match self.places.get(name) {
                    Some(at) => *at,
                    None => {
                        self.keep(name, object.value()?.json);
                        continue;
                    }
                }
            };
            next = at + 1;
            let (name, column) = &mut self.columns[at];
            if column.len() > self.rows {
                return Err(Odd);
            }
            let value = object.value()?;
            let appended = match (value.text, value.whole, column.r#type()) {
                (Some(text), _, ColumnType::Utf8) => column.append_text(text).map(|()| Appended::Whole),
                (_, Some(number), ColumnType::Int(_) | ColumnType::Epoch(_)) => {
                    column.append_whole(number).map(|()| Appended::Whole)
                }
                _ => column.append(value.json),
            };
            match appended {
                Ok(Appended::Whole) => {}
                Ok(Appended::WithUnknownFields) => {
                    let name = name.clone();
                    self.keep(&name, value.json);
                }
                Err(_) => return Err(Odd),
            }
        }
        Ok(())
    }

    fn parsed_object(&mut self, text: &str) -> Result<(), Reject> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let mut reject = None;
        let row = Row {
            decoder: self,
            reject: &mut reject,
        };
        if let Err(error) = row.deserialize(&mut parser) {
            return Err(reject.unwrap_or_else(|| classify(&error, text)));
        }
        parser.end().map_err(|_| Reject::Trailing)
    }

    /// Fills the columns that the message did not name, and the unknown fields.
    fn complete(&mut self) -> Result<(), Reject> {
        let rows = self.rows;
        self.columns
            .iter_mut()
            .filter(|(_, column)| column.len() == rows)
            .for_each(|(_, column)| column.append_null());
        if let Some(&missing) = self.key.iter().find(|&&at| self.columns[at].1.last_is_null()) {
            return Err(Reject::NoKey(self.columns[missing].0.clone()));
        }
        if self.unknown.is_empty() {
            self.extra.append_null();
        } else {
            self.unknown.push('}');
            let extra = self.extra.append_text(&self.unknown);
            self.unknown.clear();
            extra.map_err(|found| Reject::Misfit {
                column: "_extra".into(),
                expected: "json".into(),
                found,
            })?;
        }
        self.rows += 1;
        Ok(())
    }

    fn take_back(&mut self) {
        let rows = self.rows;
        self.columns.iter_mut().for_each(|(_, column)| column.truncate(rows));
        self.extra.truncate(rows);
        self.unknown.clear();
    }

    /// Keeps a field that no column takes, or not all of, as it was sent.
    fn keep(&mut self, name: &str, json: &str) {
        self.unknown.push(if self.unknown.is_empty() { '{' } else { ',' });
        let plain = !name.bytes().any(|byte| byte == b'"' || byte == b'\\' || byte < 0x20);
        if plain {
            self.unknown.push('"');
            self.unknown.push_str(name);
            self.unknown.push('"');
        } else {
            self.unknown.push_str(&serde_json::Value::from(name).to_string());
        }
        self.unknown.push(':');
        self.unknown.push_str(json);
    }
}

fn classify(error: &serde_json::Error, text: &str) -> Reject {
    match error.classify() {
        serde_json::error::Category::Eof => Reject::Truncated(text.len()),
        serde_json::error::Category::Data => Reject::NotAnObject,
        _ => Reject::Syntax {
            line: error.line(),
            column: error.column(),
        },
    }
}

struct Row<'d> {
    decoder: &'d mut RowDecoder,
    reject: &'d mut Option<Reject>,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { decoder, reject } = self;
        // Producers write fields in one order nearly always: look at the next column first.
        let mut next = 0;
        while let Some((FieldName(name), value)) = map.next_entry::<FieldName<'de>, &'de RawValue>()? {
            let guess = decoder.columns.get(next).is_some_and(|(column, _)| *column == name);
            let Some(at) = (if guess {
                Some(next)
            } else {
                decoder.places.get(name.as_ref()).copied()
            }) else {
                decoder.keep(&name, value.get());
                continue;
            };
            next = at + 1;
            let (_, column) = &mut decoder.columns[at];
            if column.len() > decoder.rows {
                *reject = Some(Reject::Twice(name.into_owned()));
                return Err(de::Error::custom(""));
            }
            match column.append(value.get()) {
                Ok(Appended::Whole) => {}
                Ok(Appended::WithUnknownFields) => decoder.keep(&name, value.get()),
                Err(found) => {
                    let expected = column.r#type().to_string();
                    *reject = Some(Reject::Misfit {
                        column: name.into_owned(),
                        expected,
                        found,
                    });
                    return Err(de::Error::custom(""));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
