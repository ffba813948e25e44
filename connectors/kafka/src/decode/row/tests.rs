use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decode::column_type::struct_fields;

fn decoder(columns: &[(&str, &str)], key: &[&str]) -> (Vec<(String, ColumnType)>, RowDecoder) {
    let columns: Vec<_> = columns
        .iter()
        .map(|(n, t)| ((*n).to_owned(), t.parse().unwrap()))
        .collect();
    let key: Vec<_> = key.iter().map(|k| (*k).to_owned()).collect();
    let decoder = RowDecoder::new(&columns, &key, 0);
    (columns, decoder)
}

const COLUMNS: &[(&str, &str)] = &[
    ("id", "int64"),
    ("small", "int8"),
    ("price", "decimal(18,2)"),
    ("name", "utf8"),
    ("ok", "bool"),
    ("score", "float64"),
    ("tags", "list<utf8>"),
    ("place", "struct<city: utf8, zip: int32>"),
    ("any", "json"),
    ("at", "timestamp_ms"),
];

#[test]
fn a_poison_message_leaves_no_trace_among_good_ones() {
    let (columns, mut rows) = decoder(COLUMNS, &[]);
    let good =
        br#"{"id":1,"name":"a\u00e9","tags":["x","y"],"place":{"city":"B","zip":7},"ok":true,"price":1.5,"at":5}"#;
    let poison: &[(&[u8], &str)] = &[
        (b"", "truncated JSON: the message ends after 0 bytes"),
        (b"\xff\xfe", "invalid UTF-8 after 0 bytes"),
        (b"{\"id\":1", "truncated JSON: the message ends after 7 bytes"),
        (b"{\"id\":1,}", "invalid JSON at line 1, column 9"),
        (b"[1]", "not a JSON object"),
        (b"17", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{\"id\":1}{\"id\":2}", "more than one JSON document in the message"),
        (b"{\"id\":1,\"id\":2}", "column `id`: the field is there twice"),
        (b"{\"id\":\"secret\"}", "column `id`: expected int64, found a string"),
        (
            b"{\"id\":9223372036854775808}",
            "column `id`: expected int64, found a number out of range",
        ),
        (
            b"{\"name\":\"z\",\"small\":128}",
            "column `small`: expected int8, found a number out of range",
        ),
        (
            b"{\"price\":1.234}",
            "column `price`: expected decimal(18,2), found a number with more fraction digits than the scale allows",
        ),
        (
            b"{\"score\":9007199254740993}",
            "column `score`: expected float64, found an integer that a float cannot hold exactly",
        ),
        (
            b"{\"tags\":[\"a\",3]}",
            "column `tags`: expected list<utf8>, found a number",
        ),
        (
            b"{\"place\":{\"city\":\"q\",\"zip\":1.5}}",
            "column `place`: expected struct<city: utf8, zip: int32>, found a number that is not an integer",
        ),
        (
            b"{\"place\":{\"zip\":1,\"zip\":2}}",
            "column `place`: expected struct<city: utf8, zip: int32>, found an object that names a field twice",
        ),
        (
            b"{\"name\":\"\\ud800\"}",
            "column `name`: expected utf8, found a string with an invalid escape",
        ),
    ];
    for (bytes, reason) in poison {
        rows.append(good).unwrap();
        assert_eq!(rows.append(bytes).unwrap_err().to_string(), *reason);
    }
    let (arrays, extra) = rows.finish();
    let batch = RecordBatch::try_new(
        std::sync::Arc::new(arrow_schema::Schema::new(struct_fields(&columns))),
        arrays,
    )
    .unwrap();
    assert_eq!(batch.num_rows(), poison.len());
    assert_eq!(extra.null_count(), poison.len());
    for row in 0..batch.num_rows() {
        assert_eq!(batch.slice(row, 1), batch.slice(0, 1), "row {row}");
    }
    assert_eq!(batch.column(3).as_string::<i32>().value(3), "aé");
}

#[test]
fn fields_without_a_column_are_kept_as_they_were_sent() {
    let (_, mut rows) = decoder(&[("id", "int64"), ("place", "struct<city: utf8>")], &[]);
    rows.append(br#"{"id":1,"big":123456789012345678901234567890,"q\"k": [1, 2]}"#)
        .unwrap();
    rows.append(br#"{"id":2}"#).unwrap();
    rows.append(br#"{"place":{"city":"B","floor":3}}"#).unwrap();
    let (_, extra) = rows.finish();
    let extra = extra.as_string::<i32>();
    assert_eq!(
        extra.value(0),
        r#"{"big":123456789012345678901234567890,"q\"k":[1, 2]}"#
    );
    assert!(extra.is_null(1));
    assert_eq!(extra.value(2), r#"{"place":{"city":"B","floor":3}}"#);
}

#[test]
fn a_key_comes_from_an_object_a_value_or_plain_text() {
    let (_, mut rows) = decoder(&[("id", "utf8"), ("n", "int64")], &["id"]);
    rows.append_key(b"plain").unwrap();
    rows.append_key(b"\"quoted\"").unwrap();
    rows.append_key(b"{\"id\":\"object\"}").unwrap();
    rows.append_key(b"42").unwrap();
    assert_eq!(
        rows.append_key(b"{\"other\":1}").unwrap_err(),
        Reject::NoKey("id".into())
    );
    assert_eq!(rows.append(b"{\"id\":null}").unwrap_err(), Reject::NoKey("id".into()));
    let (arrays, _) = rows.finish();
    let ids: Vec<_> = arrays[0].as_string::<i32>().iter().flatten().collect();
    assert_eq!(ids, ["plain", "quoted", "object", "42"]);
}

fn object() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::collection::vec(any::<String>(), 0..4).prop_map(Value::from),
    ];
    prop::collection::btree_map(
        prop_oneof![
            Just("i".to_owned()),
            Just("f".into()),
            Just("s".into()),
            Just("b".into()),
            Just("l".into()),
            any::<String>()
        ],
        value,
        0..7,
    )
    .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

/// What column `name` should hold of `value`; `None` if the message must be refused.
fn expected(name: &str, value: &Value) -> Option<Value> {
    let fits = match (name, value) {
        (_, Value::Null) => true,
        ("i", v) => v.is_i64() || v.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9e18),
        ("f", v) => v.is_f64() || v.as_i64().is_some_and(|i| i as f64 as i128 == i128::from(i)),
        ("s", v) => v.is_string(),
        ("b", v) => v.is_boolean(),
        ("l", v) => v.is_array(),
        _ => true,
    };
    fits.then(|| value.clone())
}

/// Of a float's text the column holds the exact value, of which the float is the nearest:
/// `2.892258424599603e16` is 28922584245996030, and no `f64` holds that.
fn same_integer(found: Option<i64>, sent: Option<&Value>) -> bool {
    match sent.map(|value| value.as_i64().ok_or(value.as_f64())) {
        None => found.is_none(),
        Some(Ok(exact)) => found == Some(exact),
        Some(Err(nearest)) => found.map(|integer| integer as f64) == nearest,
    }
}

proptest! {
    #[test]
    fn decoding_equals_serde_json(objects in prop::collection::vec(object(), 1..20)) {
        let names = [("i", "int64"), ("f", "float64"), ("s", "utf8"), ("b", "bool"), ("l", "list<utf8>")];
        let (_, mut rows) = decoder(&names, &[]);
        let mut kept = Vec::new();
        for object in &objects {
            let fits = names.iter().all(|(name, _)| object.get(name).is_none_or(|v| expected(name, v).is_some()));
            prop_assert_eq!(rows.append(object.to_string().as_bytes()).is_ok(), fits, "{}", object);
            if fits { kept.push(object); }
        }
        let (arrays, extra) = rows.finish();
        prop_assert_eq!(extra.len(), kept.len());
        for (row, object) in kept.iter().enumerate() {
            let at = |name: &str| object.get(name).filter(|v| !v.is_null());
            let null = |column: usize| arrays[column].is_null(row);
            let integer = (!null(0)).then(|| arrays[0].as_primitive::<Int64Type>().value(row));
            prop_assert!(same_integer(integer, at("i")), "{integer:?} {:?}", at("i"));
            prop_assert_eq!((!null(1)).then(|| arrays[1].as_primitive::<Float64Type>().value(row)), at("f").map(|v| v.as_f64().unwrap()));
            prop_assert_eq!((!null(2)).then(|| arrays[2].as_string::<i32>().value(row)), at("s").map(|v| v.as_str().unwrap()));
            prop_assert_eq!((!null(3)).then(|| arrays[3].as_boolean().value(row)), at("b").map(|v| v.as_bool().unwrap()));
            let list = (!null(4)).then(|| json!(arrays[4].as_list::<i32>().value(row).as_string::<i32>().iter().collect::<Vec<_>>()));
            prop_assert_eq!(list.as_ref(), at("l"));
            let unknown: serde_json::Map<_, _> = object.as_object().unwrap().iter()
                .filter(|(name, _)| names.iter().all(|(known, _)| known != name)).map(|(n, v)| (n.clone(), v.clone())).collect();
            let found = (!extra.is_null(row)).then(|| serde_json::from_str::<Value>(extra.as_string::<i32>().value(row)).unwrap());
            // serde_json reads some floats one unit off, so both sides are read by it.
            let sent = serde_json::from_str::<Value>(&Value::Object(unknown.clone()).to_string()).unwrap();
            prop_assert_eq!(found, (!unknown.is_empty()).then_some(sent));
        }
    }

    #[test]
    fn any_bytes_are_a_row_or_a_reject(messages in prop::collection::vec(
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[\\[\\]{}\",:0-9a-ins.\\\\ -]{0,40}".prop_map(String::into_bytes),
            (object(), any::<prop::sample::Index>()).prop_map(|(o, cut)| { let mut b = o.to_string().into_bytes(); b.truncate(cut.index(b.len() + 1)); b }),
        ], 1..30))
    {
        let (_, mut rows) = decoder(&[("i", "int64"), ("s", "utf8"), ("l", "list<struct<a: int8, b: list<float32>>>"), ("f", "decimal(5,2)")], &[]);
        let rejects = messages.iter().filter(|message| rows.append(message).is_err()).count();
        let (arrays, extra) = rows.finish();
        for array in arrays.iter().chain([&extra]) {
            prop_assert_eq!(array.len() + rejects, messages.len());
        }
    }
}

/// A field as some producer writes it, plainly or not.
fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("id"),
        Just("name"),
        Just("na\\u006de"),
        Just("tags"),
        Just("place"),
        Just("any"),
        Just("new"),
        Just("score"),
        Just("small"),
        Just("at")
    ];
    let value = prop_oneof![
        Just("1"),
        Just("-0"),
        Just("-128"),
        Just("128"),
        Just("999999999999999999"),
        Just("9999999999999999999"),
        Just("-7.5"),
        Just("1e2"),
        Just("01"),
        Just("\"x\""),
        Just("\"a\\nb\""),
        Just("\"\\ud800\""),
        Just("null"),
        Just("true"),
        Just("[\"x\",null]"),
        Just("{\"city\":\"B\",\"more\":1}"),
        Just("nul")
    ];
    (name, "[ \n]?", value).prop_map(|(name, blank, value)| format!("\"{name}\"{blank}:{blank}{value}"))
}

proptest! {
    /// The two ways to take an object apart agree: on rows, on what is kept beside them, and on what is wrong.
    #[test]
    fn an_object_is_the_same_however_it_is_taken_apart(
        messages in proptest::collection::vec((proptest::collection::vec(field(), 0..5), "[ }x]?"), 1..6),
    ) {
        let (_, mut rows) = decoder(COLUMNS, &[]);
        let (_, mut parsed) = decoder(COLUMNS, &[]);
        for (fields, behind) in messages {
            let text = format!("{{{}}}{behind}", fields.join(","));
            parsed.unknown.clear();
            let outcome = parsed.parsed_object(&text).and_then(|()| parsed.complete());
            if outcome.is_err() {
                parsed.take_back();
            }
            prop_assert_eq!(rows.append(text.as_bytes()), outcome, "{}", text);
        }
        prop_assert_eq!(rows.finish(), parsed.finish());
    }
}
