//! The columns of a topic whose configuration declares none, from a sample of its messages.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::column::FieldName;
use super::column_type::ColumnType;

/// What was seen of one field.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    bools: bool,
    integers: bool,
    fractions: bool,
    strings: bool,
    /// Arrays, objects, and integers beyond an `i64`.
    others: bool,
}

/// Infers columns from sampled messages, in the order in which fields were first seen.
///
/// A field is `bool`, `int64`, `float64` or `utf8` where all its values are, and `json` (its
/// text as it was sent) otherwise: for arrays, objects, mixed values, integers beyond an
/// `i64`, and fields that were null throughout. Fields for which `skip` holds get no column.
/// Messages that are not JSON objects are passed over; reading them will quarantine them.
pub fn infer<'a>(
    messages: impl IntoIterator<Item = &'a [u8]>,
    skip: impl Fn(&str) -> bool,
) -> Vec<(String, ColumnType)> {
    let mut fields: Vec<(String, Seen)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for message in messages {
        let Ok(object) = serde_json::from_slice::<Members<'_>>(message) else {
            continue;
        };
        for (FieldName(name), value) in object.0 {
            if skip(&name) {
                continue;
            }
            let at = *places.entry(name.into_owned()).or_insert_with_key(|name| {
                fields.push((name.clone(), Seen::default()));
                fields.len() - 1
            });
            fields[at].1.note(value.get());
        }
    }
    fields
        .into_iter()
        .map(|(name, seen)| (name, seen.column_type()))
        .collect()
}

impl Seen {
    fn note(&mut self, json: &str) {
        match json.as_bytes().first() {
            Some(b'n') => {}
            Some(b't' | b'f') => self.bools = true,
            Some(b'"') => self.strings = true,
            Some(b'[' | b'{') => self.others = true,
            _ if json.parse::<i64>().is_ok() => self.integers = true,
            _ if json.contains(['.', 'e', 'E']) => self.fractions = true,
            _ => self.others = true,
        }
    }

    fn column_type(self) -> ColumnType {
        match (self.bools, self.integers, self.fractions, self.strings, self.others) {
            (true, false, false, false, false) => ColumnType::Bool,
            (false, true, false, false, false) => ColumnType::Int(64),
            (false, _, true, false, false) => ColumnType::Float64,
            (false, false, false, true, false) => ColumnType::Utf8,
            _ => ColumnType::Json,
        }
    }
}

/// The members of an object in their order.
struct Members<'a>(Vec<(FieldName<'a>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_and_nested_fields_keep_their_text() {
        let messages: Vec<&[u8]> = vec![
            br#"{"id":1,"x":1,"name":"a","n":null,"__op":"c"}"#,
            br#"{"id":2,"x":1.5,"tags":[1],"b":true,"mixed":1}"#,
            br#"{"id":3,"mixed":"1","big":99999999999999999999}"#,
        ];
        let columns = infer(messages.iter().copied().chain([b"not json".as_slice()]), |name| {
            name.starts_with("__")
        });
        let text: Vec<_> = columns
            .iter()
            .map(|(name, column)| format!("{name} {column}"))
            .collect();
        assert_eq!(
            text,
            [
                "id int64",
                "x float64",
                "name utf8",
                "n json",
                "tags json",
                "b bool",
                "mixed json",
                "big json"
            ]
        );
        let mut rows = crate::decode::row::RowDecoder::new(&columns, &[]);
        assert!(messages.iter().all(|message| rows.append(message).is_ok()));
    }
}
