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
    /// Integers that a `float64` cannot hold exactly.
    large: bool,
    fractions: bool,
    strings: bool,
    /// Arrays, objects, and integers beyond an `i64`.
    others: bool,
}

/// At most so many columns are inferred, in case a field's name is data. The rest is in `_extra`.
const MOST_COLUMNS: usize = 500;
/// `float64` holds every integer up to here.
const EXACT: i64 = 1 << 53;

/// Infers columns from sampled messages, in the order in which fields were first seen.
///
/// A field is `bool`, `int64`, `float64` or `utf8` where all its values are, and `json` (its
/// text as it was sent) otherwise: for arrays, objects, mixed values, and numbers that no one of
/// these types holds exactly. A field that was null throughout gets no column, and neither does one
/// for which `skip` holds. Messages that are not JSON objects are passed over; reading them
/// will quarantine them.
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
            if skip(&name) || value.get() == "null" {
                continue;
            }
            let at = match places.get(name.as_ref()) {
                Some(&at) => at,
                None if fields.len() == MOST_COLUMNS => continue,
                None => {
                    fields.push((name.clone().into_owned(), Seen::default()));
                    places.insert(name.into_owned(), fields.len() - 1);
                    fields.len() - 1
                }
            };
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
        match (json.as_bytes().first(), json.parse::<i64>()) {
            (Some(b't' | b'f'), _) => self.bools = true,
            (Some(b'"'), _) => self.strings = true,
            (Some(b'[' | b'{'), _) => self.others = true,
            (_, Ok(integer)) => {
                self.integers = true;
                self.large |= !(-EXACT..=EXACT).contains(&integer);
            }
            _ if json.contains(['.', 'e', 'E']) => self.fractions = true,
            _ => self.others = true,
        }
    }

    fn column_type(self) -> ColumnType {
        match (self.bools, self.integers, self.fractions, self.strings, self.others) {
            (true, false, false, false, false) => ColumnType::Bool,
            (false, true, false, false, false) => ColumnType::Int(64),
            (false, _, true, false, false) if !self.large => ColumnType::Float64,
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
            br#"{"id":3,"mixed":"1","big":99999999999999999999,"wide":9007199254740993}"#,
            br#"{"id":4,"wide":0.5}"#,
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
                "tags json",
                "b bool",
                "mixed json",
                "big json",
                "wide json"
            ]
        );
        let mut rows = crate::decode::row::RowDecoder::new(&columns, &[], 0);
        assert!(messages.iter().all(|message| rows.append(message).is_ok()));
    }

    #[test]
    fn names_that_are_data_do_not_become_columns_without_end() {
        let messages: Vec<String> = (0..2 * MOST_COLUMNS)
            .map(|n| format!(r#"{{"user-{n}":{n}}}"#))
            .collect();
        let columns = infer(messages.iter().map(|message| message.as_bytes()), |_| false);
        assert_eq!(columns.len(), MOST_COLUMNS);
    }
}
