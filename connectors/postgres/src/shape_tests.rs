//! Tests of [`super::Shape`].

use super::*;
use crate::decode::pgoutput::{self, Message};

/// Columns of type `int4`, or `text` where the name begins with `t`.
fn shape(identity: ReplicaIdentity, columns: &[&str], key: &[&str]) -> Shape {
    let column = |name: &&str| CatalogColumn {
        attnum: None,
        name: (*name).to_owned(),
        type_oid: type_of(name),
        typmod: -1,
        type_name: String::new(),
        not_null: true,
        key: key.contains(name),
    };
    Shape {
        id: TableId::new("shop", Some("public"), "orders"),
        identity,
        columns: columns.iter().map(column).collect(),
        forms: Forms::default(),
    }
}

fn type_of(name: &str) -> u32 {
    if name.starts_with('t') { 25 } else { 23 }
}

/// What a Relation message with these columns makes of `before`.
fn after(before: &Shape, identity: u8, columns: &[&str]) -> Result<Shape> {
    let mut message = [b"R\0\0\0\x07public\0orders\0", &[identity][..]].concat();
    message.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
    for name in columns {
        message.push(1);
        message.extend(name.as_bytes());
        message.push(0);
        message.extend(type_of(name).to_be_bytes());
        message.extend((-1i32).to_be_bytes());
    }
    let Message::Relation(relation) = pgoutput::parse(&message).unwrap() else {
        panic!("not a relation")
    };
    Shape::from_relation(&relation, before, &TypeNames::default())
}

fn key(shape: &Shape) -> Vec<String> {
    shape.schema(&Catalog::new()).unwrap().key.clone()
}

#[test]
fn with_a_full_identity_the_key_stays_as_the_catalog_told_it() {
    let before = shape(ReplicaIdentity::Full, &["id", "note"], &["id"]);
    assert_eq!(key(&after(&before, b'f', &["id", "note", "more"]).unwrap()), ["id"]);
    assert_eq!(key(&after(&before, b'f', &["id"]).unwrap()), ["id"]);
    let without_key = shape(ReplicaIdentity::Full, &["id", "note"], &[]);
    assert_eq!(key(&after(&without_key, b'f', &["x", "y"]).unwrap()), [""; 0]);
}

#[test]
fn a_key_column_that_can_only_have_been_renamed_stays_the_key() {
    let before = shape(ReplicaIdentity::Full, &["id", "note"], &["id"]);
    let renamed = after(&before, b'f', &["number", "note"]).unwrap();
    assert_eq!(key(&renamed), ["number"]);
    assert!(renamed.columns[0].not_null);
}

#[test]
fn a_key_that_the_stream_does_not_tell_stops_it() {
    for (before, now) in [
        // The last column may be a new one.
        (["note", "id"], &["note", "number"][..]),
        (["id", "note"], &["text", "note"]),
        (["id", "note"], &["note"]),
        (["id", "note"], &["number", "words"]),
    ] {
        let before = shape(ReplicaIdentity::Full, &before, &["id"]);
        let error = after(&before, b'f', now).unwrap_err();
        assert_eq!(
            (error.kind(), error.error_code()),
            (ErrorKind::SchemaChange, Some("PG0033")),
            "{now:?}"
        );
    }
    // With an identity of its own the message says what the key is.
    let before = shape(ReplicaIdentity::Default, &["note", "id"], &["id"]);
    assert_eq!(
        key(&after(&before, b'd', &["note", "number"]).unwrap()),
        ["note", "number"]
    );
}

#[test]
fn a_reserved_name_is_refused() {
    let before = shape(ReplicaIdentity::Default, &["id"], &["id"]);
    let shape = after(&before, b'd', &["id", "__op"]).unwrap();
    let error = shape.schema(&Catalog::new()).unwrap_err();
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::SchemaChange, Some("PG0030"))
    );
}
