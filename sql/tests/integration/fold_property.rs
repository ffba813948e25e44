//! The property that matters: what is left of the transformed stream is the model's SQL, run
//! over what is left of the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use millstream_sql::{ModelSpec, fold, plan};
use millstream_testkit::change_log::{Cells, change_rows, fold_rows};
use proptest::prelude::*;

use crate::stream::{Row, Shape, Stream, Wish, schema, wishes};
use crate::text_table::shown;

/// A model and the streams that it takes.
struct Case {
    sql: &'static str,
    key: &'static [&'static str],
    shape: Shape,
    /// Whether a number can be too large for it, so that a row is rejected.
    overflows: bool,
}

/// Whether an update changes a key that has the group in it.
fn moves_group(before: &Row, after: &Row) -> bool {
    before.grp.unwrap_or(-1) != after.grp.unwrap_or(-1)
}

const PLAIN: Shape = Shape {
    before_image: false,
    unsent: false,
    truncates: true,
    tables: 1,
    upserts: false,
};

/// As a topic of upserts: a row is not created, and a delete may find none.
const UPSERTS: Shape = Shape {
    upserts: true,
    truncates: false,
    ..PLAIN
};

/// With the row before every change, what was not sent is known.
const FULL: Shape = Shape {
    before_image: true,
    unsent: true,
    ..PLAIN
};

const CASES: &[Case] = &[
    Case {
        sql: "SELECT * FROM shop.t",
        key: &[],
        shape: Shape { unsent: true, ..PLAIN },
        overflows: false,
    },
    Case {
        sql: "SELECT id AS k, name AS label, name AS again, coalesce(val, 0) AS v FROM shop.t",
        key: &["k"],
        shape: Shape { unsent: true, ..PLAIN },
        overflows: false,
    },
    Case {
        sql: "SELECT id, val FROM shop.t WHERE val > 5",
        key: &[],
        shape: PLAIN,
        overflows: false,
    },
    Case {
        sql: "SELECT id, upper(name) AS name, val * 2 AS twice FROM shop.t WHERE grp IN (1, 2) OR name IS NULL",
        key: &[],
        shape: PLAIN,
        overflows: true,
    },
    Case {
        sql: "SELECT id, upper(name) AS name, val * 2 AS twice FROM shop.t WHERE grp IN (1, 2) OR name IS NULL",
        key: &[],
        shape: FULL,
        overflows: true,
    },
    Case {
        sql: "WITH big AS (SELECT * FROM shop.t WHERE val >= 3) \
              SELECT id, name, CASE WHEN grp = 1 THEN 'one' ELSE 'other' END AS g FROM big WHERE name <> 'x'",
        key: &[],
        shape: FULL,
        overflows: false,
    },
    // A key that an update can change: it becomes a delete and a create.
    Case {
        sql: "SELECT coalesce(grp, -1) AS grp, id, name FROM shop.t WHERE val IS NOT NULL",
        key: &["grp", "id"],
        shape: FULL,
        overflows: false,
    },
    Case {
        sql: "SELECT coalesce(grp, -1) AS grp, id, val * 2 AS twice, name FROM shop.t WHERE val + 1 > 3",
        key: &["grp", "id"],
        shape: FULL,
        overflows: true,
    },
    Case {
        sql: "SELECT id + 100 AS id, -val AS negative, name FROM shop.t WHERE grp <> 2",
        key: &["id"],
        shape: UPSERTS,
        overflows: true,
    },
    Case {
        sql: "SELECT id, val - 1 AS less, abs(val) AS size FROM shop.t",
        key: &[],
        shape: FULL,
        overflows: true,
    },
    // A key that may name fewer rows than there are would be no table; this one names as many.
    Case {
        sql: "SELECT concat('#', CAST(id AS VARCHAR)) AS number, grp FROM shop.t WHERE NOT (val = 1)",
        key: &["number"],
        shape: PLAIN,
        overflows: false,
    },
    Case {
        sql: "SELECT 't' AS src, id, val FROM shop.t UNION ALL SELECT 'u', id, grp FROM shop.u WHERE val > 5",
        key: &["src", "id"],
        shape: Shape {
            truncates: false,
            tables: 2,
            ..PLAIN
        },
        overflows: false,
    },
    Case {
        sql: "SELECT 't' AS src, id, name FROM shop.t WHERE val < 9 UNION ALL SELECT 'u', id, name FROM shop.u",
        key: &["src", "id"],
        shape: Shape {
            truncates: false,
            tables: 2,
            ..FULL
        },
        overflows: false,
    },
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_fold_of_the_transformed_is_the_model_of_the_fold(wishes in wishes(), most in 1usize..20) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for case in CASES {
            let (found, expected) = runtime.block_on(both_ways(case, &wishes, most));
            prop_assert_eq!(found, expected, "{}", case.sql);
        }
    }
}

/// The rows that the transformed stream leaves, and the rows that they must be.
async fn both_ways(case: &Case, wishes: &[Wish], most: usize) -> (BTreeSet<Cells>, BTreeSet<Cells>) {
    let stream = Stream::of(wishes, case.shape);
    let tables: Vec<_> = (0..2).map(|table| schema(table, case.shape.before_image)).collect();
    let spec = ModelSpec {
        name: "model".to_owned(),
        sql: case.sql.to_owned(),
        file: None,
        key: case.key.iter().map(|name| (*name).to_owned()).collect(),
    };
    let model = plan(&spec, &tables)
        .await
        .unwrap_or_else(|error| panic!("{}", error.summary()));
    let mut changes: Vec<RecordBatch> = Vec::new();
    let mut rejected: BTreeSet<usize> = BTreeSet::new();
    for batch in stream.batches(most) {
        let transformed = model.apply(&batch).await.unwrap();
        if let Some(rows) = &transformed.rejected {
            assert!(case.overflows, "{}: a row was rejected", case.sql);
            let reasons = rows.rows()["reason"].as_string::<i32>();
            assert!(
                reasons
                    .iter()
                    .flatten()
                    .all(|reason| reason.ends_with("a number is out of range"))
            );
            let places = rows.positions().iter().flatten().zip(rows.ordinals().values());
            rejected.extend(places.map(|(position, ordinal)| stream.number(position, *ordinal)));
        }
        changes.extend(transformed.changes.map(|changes| changes.rows().clone()));
    }
    let key = &model.output().key;
    let rows = change_rows(&changes);
    let places: BTreeSet<_> = rows.iter().map(|row| row.place()).collect();
    assert_eq!(places.len(), rows.len(), "{}: two changes at one place", case.sql);
    let found: BTreeSet<Cells> = fold_rows(key, rows.clone()).into_values().collect();
    // The daemon's own fold must agree with the tests' one.
    let current = fold::current(&changes, key).unwrap();
    assert_eq!(cells(current.as_slice()), found, "{}: the folds differ", case.sql);
    (found, query(case, &stream, &rejected).await)
}

/// Runs the model's SQL over the rows that are left, with DataFusion itself.
async fn query(case: &Case, stream: &Stream, rejected: &BTreeSet<usize>) -> BTreeSet<Cells> {
    let moves = if case.key.contains(&"grp") {
        moves_group
    } else {
        |_: &Row, _: &Row| false
    };
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let context = SessionContext::new_with_config(config);
    let shop = MemorySchemaProvider::new();
    for (index, name) in ["t", "u"].into_iter().enumerate() {
        let rows = stream.rows_left(index, rejected, moves);
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
        shop.register_table(name.to_owned(), Arc::new(table)).unwrap();
    }
    let catalog = context.catalog("datafusion").unwrap();
    catalog.register_schema("shop", Arc::new(shop)).unwrap();
    let rows = context.sql(case.sql).await.unwrap().collect().await.unwrap();
    cells(&rows)
}

/// Rows as the test kit shows them: without their nulls.
fn cells(batches: &[RecordBatch]) -> BTreeSet<Cells> {
    let mut all = BTreeSet::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let mut cells: Cells = BTreeMap::new();
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                if arrow_array::Array::is_valid(column, row) {
                    let text = shown(column, row);
                    cells.insert(field.name().clone(), if text == "''" { String::new() } else { text });
                }
            }
            assert!(all.insert(cells), "a key names each row once");
        }
    }
    all
}
