//! A row whose key changed while a large column was not sent.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use millstream_sql::{ModelSpec, fold, plan};
use millstream_testkit::change_log::{change_rows, fold_rows};

use crate::text_table::{parse_changes, parse_table};

/// A model whose ordinals are doubled because an update of one of its tables can become two
/// changes must still put the create of a moved row right behind its delete.
#[tokio::test]
async fn what_was_not_sent_comes_from_the_row_that_was_moved() {
    let plain = parse_table("shop.articles (id int64, title utf8, body utf8) key (id)").unwrap();
    let full = parse_table("shop.pages (id int64, kind utf8, body utf8) key (id) before").unwrap();
    let spec = ModelSpec {
        name: "model".to_owned(),
        sql: "SELECT 'article' AS kind, id, body FROM shop.articles UNION ALL SELECT kind, id, body FROM shop.pages"
            .to_owned(),
        file: None,
        key: vec!["kind".to_owned(), "id".to_owned()],
    };
    let model = plan(&spec, &[plain.clone(), full]).await.unwrap();
    let blocks: [&[&str]; 2] = [
        &["c | 1 | first | long", "c | 2 | second | longer"],
        &[
            "d | 1",
            "c | 3 | first | ~",
            "u | 2 | other | ~",
            "d | 3",
            "c | 1 | again | ~",
        ],
    ];
    let mut changes: Vec<RecordBatch> = Vec::new();
    for (position, block) in (1..).zip(blocks) {
        let batch = parse_changes(&plain, block, position).unwrap();
        let transformed = model.apply(&batch).await.unwrap();
        changes.push(transformed.changes.unwrap().rows().clone());
    }
    let key = &model.output().key;
    let folded = fold_rows(key, change_rows(&changes));
    let bodies: Vec<_> = folded
        .values()
        .map(|row| (row["id"].as_str(), row["body"].as_str()))
        .collect();
    assert_eq!(bodies, [("1", "long"), ("2", "longer")]);
    let current = fold::current(&changes, key).unwrap().unwrap();
    let bodies: Vec<_> = current["body"].as_string::<i32>().iter().flatten().collect();
    assert_eq!(bodies, ["longer", "long"], "in the order in which the keys appeared");
}

/// What a fold has is exact; a value that was read again may be newer, or another row's.
#[tokio::test]
async fn a_value_that_was_read_again_counts_where_there_is_none() {
    let table = parse_table("shop.articles (id int64, body utf8) key (id)").unwrap();
    let changes = [
        "c | 1 | long",
        "u | 1 | ~newer",
        "u | 2 | ~first",
        "u | 2 | ~newer",
        "d | 2",
        "c | 3 | ~newer",
        "c | 4 | NULL",
        "u | 4 | ~known",
        // The key is another row's when it is read, and the row has another key.
        "u | 5 | ~another's",
        "d | 5",
        "c | 6 | ~its own",
        "u | 7 | ~another's",
        "d | 7",
        "c | 8 | ~",
        "u | 9 | ~earlier",
        "u | 9 | ~later",
        "u | 9 | ~",
    ];
    let changes = [parse_changes(&table, &changes, 1).unwrap().rows().clone()];
    let key = ["id".to_owned()];
    let folded = fold_rows(&key, change_rows(&changes));
    let expected = [
        ("1", Some("long")),
        ("3", Some("newer")),
        ("4", Some("known")),
        ("6", Some("its own")),
        ("8", None),
        ("9", Some("later")),
    ];
    let body = |row: &'_ std::collections::BTreeMap<String, String>| row.get("body").cloned();
    let rows: Vec<_> = folded.values().map(|row| (row["id"].clone(), body(row))).collect();
    assert_eq!(
        rows,
        expected.map(|(id, body)| (id.to_owned(), body.map(str::to_owned)))
    );
    let current = fold::current(&changes, &key).unwrap().unwrap();
    let bodies: Vec<_> = current["body"].as_string::<i32>().iter().collect();
    assert_eq!(bodies, expected.map(|(_, body)| body));
}
