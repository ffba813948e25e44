//! A rejected row as JSON: what quarantine keeps of it.
//!
//! `{"__op": "u", "id": "7", "blob": {"hex": "00ff"}, "note": null, "__before": {…}}`.
//! A value is its text where it came as such or we can make it, else the bytes that were sent, in
//! hex: `bytea`, `geometry`, lists, what is malformed or not UTF-8.
//! A column that the source did not send is left out, and so is the before-image of a row that
//! has none.

use millstream_core::Op;

use super::ColumnType;
use super::text_form::write_any;
use super::tuple::TupleValue;

/// Writes a row. The values are as they were sent, decoded or not.
pub(super) fn row_as_json<'c, 'a>(
    op: Op,
    columns: impl Iterator<Item = (&'c str, &'c ColumnType)> + Clone,
    values: impl Iterator<Item = TupleValue<'a>>,
    before: Option<impl Iterator<Item = TupleValue<'a>>>,
) -> String {
    let mut out = format!("{{\"__op\":\"{}\"", op.letter());
    write_columns(&mut out, ",", columns.clone(), values);
    if let Some(before) = before {
        out.push_str(",\"__before\":{");
        write_columns(&mut out, "", columns, before);
        out.push('}');
    }
    out.push('}');
    out
}

/// Writes the values that were sent, named by the columns, which may be more.
fn write_columns<'c, 'a>(
    out: &mut String,
    first_separator: &str,
    columns: impl Iterator<Item = (&'c str, &'c ColumnType)>,
    values: impl Iterator<Item = TupleValue<'a>>,
) {
    let mut separator = first_separator;
    for ((name, r#type), value) in columns.zip(values) {
        if value == TupleValue::Unchanged {
            continue;
        }
        out.push_str(separator);
        separator = ",";
        push_string(out, name);
        out.push(':');
        write_value(out, r#type, value);
    }
}

fn write_value(out: &mut String, r#type: &ColumnType, value: TupleValue<'_>) {
    let bytes = match value {
        TupleValue::Null | TupleValue::Unchanged => return out.push_str("null"),
        TupleValue::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return push_string(out, text),
            Err(_) => bytes,
        },
        TupleValue::Binary(bytes) => {
            let mut text = String::new();
            if write_any(&mut text, &r#type.form, bytes).is_ok() {
                return push_string(out, &text);
            }
            bytes
        }
    };
    out.push_str("{\"hex\":\"");
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from_digit(u32::from(digit), 16).expect("four bits are one hex digit"));
        }
    }
    out.push_str("\"}");
}

fn push_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a string always serialises"));
}

#[cfg(test)]
mod tests {
    use super::super::Catalog;
    use super::*;

    #[test]
    fn a_row_keeps_text_where_there_is_one() {
        let types = [1700, 17, 25, 25, 23].map(|oid| ColumnType::resolve(oid, -1, &Catalog::new()));
        let columns = ["n", "b\"", "t", "same", "i"].into_iter().zip(&types);
        let nan = [0, 0, 0, 0, 0xC0, 0, 0, 0];
        let values = [
            TupleValue::Binary(&nan),
            TupleValue::Binary(&[0, 0xFF]),
            TupleValue::Text(&[0xFF]),
            TupleValue::Unchanged,
            TupleValue::Null,
        ];
        let before = [TupleValue::Text(b"1")];
        let json = row_as_json(Op::Update, columns, values.into_iter(), Some(before.into_iter()));
        let expected = r#"{"__op":"u","n":"NaN","b\"":{"hex":"00ff"},"t":{"hex":"ff"},"i":null,"__before":{"n":"1"}}"#;
        assert_eq!(json, expected);
    }
}
