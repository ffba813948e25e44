//! Tests of [`super`].

use millstream_core::TableId;

use super::*;
use crate::attnums::Attribute;
use crate::decode::Forms;
use crate::decode::pgoutput::{self, Message};

/// Columns as `number:name`, with a `*` behind the key's; a number `?` is not known. Names that
/// begin with `t` are of type `text`, others of type `int4`.
fn columns(written: &str) -> Vec<CatalogColumn> {
    let column = |column: &str| {
        let (number, name) = column.split_once(':').unwrap();
        let (name, key) = (name.trim_end_matches('*'), name.ends_with('*'));
        CatalogColumn {
            attnum: number.parse().ok(),
            name: name.to_owned(),
            type_oid: type_of(name),
            typmod: -1,
            type_name: String::new(),
            not_null: key,
            key,
        }
    };
    written.split_whitespace().map(column).collect()
}

fn type_of(name: &str) -> u32 {
    if name.starts_with('t') { 25 } else { 23 }
}

fn shape(written: &str) -> Shape {
    Shape {
        id: TableId::new("shop", Some("public"), "orders"),
        identity: ReplicaIdentity::Full,
        columns: columns(written),
        forms: Forms::default(),
    }
}

/// A relation of a full identity with these `live` columns, of which those with `unsettled`
/// numbers changed lately, and those `dropped` lately too.
fn look(live: &str, unsettled: &[i16], dropped: &[i16]) -> RelationLook {
    let columns = columns(live);
    let numbers = columns.iter().filter_map(|column| column.attnum);
    let mut attributes: Vec<Attribute> = numbers
        .map(|attnum| Attribute {
            attnum,
            is_live: true,
            is_settled: !unsettled.contains(&attnum),
        })
        .chain(dropped.iter().map(|attnum| Attribute {
            attnum: *attnum,
            is_live: false,
            is_settled: false,
        }))
        .collect();
    attributes.sort_by_key(|one| one.attnum);
    RelationLook {
        relation: Some(LiveRelation {
            identity: ReplicaIdentity::Full,
            columns,
            attributes,
            key_is_settled: true,
        }),
        ..RelationLook::default()
    }
}

/// What a Relation message with the columns `sent` makes of `before`, which was told by the stream.
fn after(before: &Shape, sent: &str, look: &RelationLook) -> Result<Shape> {
    let before = Before {
        shape: before,
        is_past: true,
    };
    told(before, sent, look)
}

fn told(before: Before<'_>, sent: &str, look: &RelationLook) -> Result<Shape> {
    let sent: Vec<&str> = sent.split_whitespace().collect();
    let mut message = b"R\0\0\0\x07public\0orders\0f".to_vec();
    message.extend(u16::try_from(sent.len()).unwrap().to_be_bytes());
    for name in sent {
        message.push(1);
        message.extend(name.as_bytes());
        message.push(0);
        message.extend(type_of(name).to_be_bytes());
        message.extend((-1i32).to_be_bytes());
    }
    let Message::Relation(relation) = pgoutput::parse(&message).unwrap() else {
        panic!("not a relation")
    };
    Shape::looked_up(&relation, before, look, &TypeNames::default())
}

/// As [`columns`] reads it.
fn written(shape: &Shape) -> String {
    let column = |column: &CatalogColumn| {
        let number = column.attnum.map_or("?".to_owned(), |attnum| attnum.to_string());
        format!("{number}:{}{}", column.name, if column.key { "*" } else { "" })
    };
    shape.columns.iter().map(column).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_key_that_was_renamed_is_followed_though_the_stream_tells_no_key() {
    let before = shape("1:a 2:id*");
    let now = look("1:a 2:number*", &[2], &[]);
    let found = after(&before, "a number", &now).unwrap();
    assert_eq!(written(&found), "1:a 2:number*");
    let renamed: Vec<_> = found.renamed_since(&before).collect();
    assert_eq!(renamed, [("id", "number")]);
}

#[test]
fn a_message_is_read_as_of_its_time_though_the_catalog_moved_on() {
    // Renamed twice, and another one added; the message tells the first step.
    let now = look("1:a 2:last* 3:more", &[2, 3], &[]);
    let found = after(&shape("1:a 2:id*"), "a number", &now).unwrap();
    assert_eq!(written(&found), "1:a 2:number*");
    let found = after(&found, "a last more", &now).unwrap();
    assert_eq!(written(&found), "1:a 2:last* 3:more");
}

#[test]
fn a_name_that_changes_hands_is_another_column() {
    let before = shape("1:id* 2:a 3:b");
    let swapped = after(&before, "id b a", &look("1:id* 2:b 3:a", &[2, 3], &[])).unwrap();
    assert_eq!(written(&swapped), "1:id* 2:b 3:a");
    assert_eq!(swapped.under_others_names_of(&before).collect::<Vec<_>>(), ["b", "a"]);
    // The last was dropped and made again.
    let again = after(&before, "id a b", &look("1:id* 2:a 4:b", &[4], &[3])).unwrap();
    assert_eq!(written(&again), "1:id* 2:a ?:b");
    assert!(again.reads_as(&before));
    // Once the catalog's past is settled it is certain.
    let mut settled = look("1:id* 2:a 4:b", &[], &[]);
    settled
        .relation
        .as_mut()
        .unwrap()
        .attributes
        .sort_by_key(|one| one.attnum);
    let again = after(&again, "id a b", &settled).unwrap();
    assert_eq!(written(&again), "1:id* 2:a 4:b");
    assert_eq!(again.under_others_names_of(&before).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_key_of_a_later_catalog_is_none_of_an_earlier_message() {
    // The key was dropped, and another column took its name and became the key.
    let mut now = look("2:id*", &[2], &[1]);
    now.relation.as_mut().unwrap().key_is_settled = false;
    let before = shape("2:id*");
    let at_start = Before {
        shape: &before,
        is_past: false,
    };
    let error = told(at_start, "id code", &now).unwrap_err();
    assert_eq!(error.error_code(), Some("PG0033"));
}

#[test]
fn what_is_not_certain_keeps_the_key_by_its_name_alone() {
    // The key may be the column that was dropped, or the one that came after it.
    let now = look("1:a 3:number*", &[3], &[2]);
    let mut unsettled = now.clone();
    unsettled.relation.as_mut().unwrap().key_is_settled = false;
    let kept = after(&shape("1:a 2:id*"), "a id", &unsettled).unwrap();
    assert_eq!(written(&kept), "1:a ?:id*");
    let error = after(&shape("1:a 2:id*"), "a other", &unsettled).unwrap_err();
    assert_eq!(error.error_code(), Some("PG0033"));
}

#[test]
fn of_a_relation_that_is_gone_the_message_alone_is_believed() {
    let found = after(&shape("1:a 2:id*"), "a id more", &RelationLook::default()).unwrap();
    assert_eq!(written(&found), "?:a ?:id* ?:more");
}

#[test]
fn a_catalog_that_contradicts_the_stream_is_not_believed() {
    // Settled, and with another name than was told.
    let found = after(&shape("1:a 2:id*"), "other id", &look("1:a 2:id*", &[], &[])).unwrap();
    assert_eq!(written(&found), "?:other ?:id*");
}
