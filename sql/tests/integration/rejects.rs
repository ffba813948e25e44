//! Rows on their way to quarantine, from models and from checks.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    ArrayRef, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use millstream_core::{ChangeBatch, EnvelopeBuilder, Op, PartitionId, TableId, TableSchema};
use millstream_sql::checks::{self, CheckSpec, Checks};
use millstream_sql::{Model, ModelSpec, plan};

use crate::text_table::{parse_changes, parse_table};

async fn model(sql: &str, key: &[&str], table: &Arc<TableSchema>) -> Model {
    let spec = ModelSpec {
        name: "m".to_owned(),
        sql: sql.to_owned(),
        file: None,
        key: key.iter().map(|name| (*name).to_owned()).collect(),
    };
    plan(&spec, std::slice::from_ref(table))
        .await
        .unwrap_or_else(|error| panic!("{}", error.summary()))
}

fn planned(yaml: &str, model: &Model) -> Checks {
    let specs: Vec<CheckSpec> = serde_saphyr::from_str(yaml).unwrap();
    checks::plan_model(&specs, model).unwrap()
}

/// What `model` makes of one change.
async fn changed(model: &Model, table: &Arc<TableSchema>, line: &str) -> ChangeBatch {
    let batch = parse_changes(table, &[line], 1).unwrap();
    model.apply(&batch).await.unwrap().changes.unwrap()
}

/// Ordinal, table, check and row of each row of a quarantine batch.
fn shown(batch: &ChangeBatch) -> Vec<String> {
    let text = |name: &str, row| batch.rows()[name].as_string::<i32>().value(row).to_owned();
    let raw = batch.rows()["raw"].as_binary::<i32>();
    let line = |row| {
        let json = std::str::from_utf8(raw.value(row)).unwrap();
        format!(
            "{} {} {} {json}",
            batch.ordinals().value(row),
            text("table", row),
            text("check", row)
        )
    };
    (0..batch.num_rows()).map(line).collect()
}

#[tokio::test]
async fn a_transform_keeps_the_row_as_it_came() {
    let columns = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("ratio", DataType::Float64, true),
        Field::new("amount", DataType::Decimal128(38, 2), true),
        Field::new("day", DataType::Date32, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("body", DataType::Utf8, true),
    ]);
    let table = Arc::new(TableSchema {
        id: TableId::new("shop", None, "t"),
        columns: Arc::new(columns),
        key: vec!["id".to_owned()],
        not_null: Vec::new(),
        before_image: false,
    });
    let amount = Decimal128Array::from(vec![12_345_678_901_234_567_890_123_456_789; 2]);
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![0, 0])),
        Arc::new(Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY])),
        Arc::new(amount.with_precision_and_scale(38, 2).unwrap()),
        Arc::new(Date32Array::from(vec![i32::MAX, 0])),
        Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN, i64::MAX])),
        Arc::new(StringArray::from(vec![None::<&str>, None])),
    ];
    let mut envelope = EnvelopeBuilder::default();
    let partition = PartitionId::new("shop", "log");
    envelope.append_partial(Op::Update, &partition, "1", 4, None, &["body"]);
    envelope.append(Op::Create, &partition, "1", 5, None);
    arrays.extend(envelope.finish());
    let rows = RecordBatch::try_new(table.batch_schema(), arrays).unwrap();
    let batch = ChangeBatch::try_new(table.clone(), rows).unwrap();
    let model = model("SELECT id, 1 / id AS x FROM shop.t", &[], &table).await;
    let rejected = model.apply(&batch).await.unwrap().rejected.unwrap();
    assert_eq!(
        shown(&rejected),
        [
            r#"4 m transform {"id":0,"ratio":"NaN","amount":"123456789012345678901234567.89","day":"infinity","at":"-infinity","__op":"u"}"#,
            r#"5 m transform {"id":0,"ratio":"-Infinity","amount":"123456789012345678901234567.89","day":"1970-01-01","at":"infinity","body":null,"__op":"c"}"#,
        ]
    );
}

#[tokio::test]
async fn the_row_before_is_kept_too() {
    let table = parse_table("shop.t (id int64, n decimal(8,2)) key (id) before").unwrap();
    let model = model("SELECT id, 1 / id AS x FROM shop.t", &[], &table).await;
    let batch = parse_changes(&table, &["u | 0 | 1.5", "< | 0 | 2"], 1).unwrap();
    assert!(batch.rows()["__before"].as_any().is::<StructArray>());
    let rejected = model.apply(&batch).await.unwrap().rejected.unwrap();
    assert_eq!(
        shown(&rejected),
        [r#"0 m transform {"id":0,"n":"1.50","__op":"u","__before":{"id":0,"n":"2.00"}}"#]
    );
}

#[tokio::test]
async fn quarantine_has_the_sources_ordinals_and_the_models_name() {
    let table = parse_table("shop.t (id int64, grp utf8, n int64) key (id) before").unwrap();
    let model = model("SELECT grp, id, 10 / n AS n FROM shop.t", &["grp", "id"], &table).await;
    let mut checks = planned("- accepted_range: {column: n, min: 2}\n  name: enough", &model);
    let lines = [
        "c | 1 | a | 1",
        "c | 2 | a | 10",
        "u | 3 | b | 10",
        "< | 3 | a | 1",
        "c | 4 | a | 0",
    ];
    let batch = parse_changes(&table, &lines, 1).unwrap();
    let transformed = model.apply(&batch).await.unwrap();
    let outcome = checks.on_batch(transformed.changes.unwrap()).unwrap();
    let mut all = shown(&outcome.quarantined.unwrap());
    all.extend(shown(&transformed.rejected.unwrap()));
    assert_eq!(
        all,
        [
            r#"1 m enough {"grp":"a","id":2,"n":1}"#,
            r#"2 m enough {"grp":"b","id":3,"n":1}"#,
            r#"3 m transform {"id":4,"grp":"a","n":0,"__op":"c","__before":null}"#,
        ]
    );
    assert_eq!(outcome.reports[0].table, "m");
}

#[tokio::test]
async fn checks_follow_a_model_that_was_planned_again() {
    let wide = parse_table("shop.t (id int64, grp utf8, n int64) key (id)").unwrap();
    let narrow = parse_table("shop.t (id int64, n int64) key (id) before").unwrap();
    let sql = "SELECT * FROM shop.t";
    let first = model(sql, &["id"], &wide).await;
    let yaml = "- schema_match: {columns: {grp: text}}\n- unique: [n]";
    let mut checks = planned(yaml, &first);
    let rows = changed(&first, &wide, "c | 1 | a | 7").await;
    checks.on_batch(rows).unwrap();

    let second = model(sql, &["id"], &narrow).await;
    let strict: Vec<CheckSpec> = serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(
        checks::plan_model(&strict, &second).unwrap_err()[0].1.error_code(),
        Some("CK0009")
    );
    checks.follow(&second).unwrap();
    let rows = changed(&second, &narrow, "c | 2 | 7").await;
    let outcome = checks.on_batch(rows).unwrap();
    assert_eq!(outcome.reports[0].failing, 1, "what was seen of the epoch is kept");
    let failed = checks.on_epoch_end().failed.unwrap();
    assert!(
        failed.summary().contains("column `grp` is missing"),
        "{}",
        failed.summary()
    );

    let mut unplannable = planned("- not_null: grp", &first);
    let error = unplannable.follow(&second).unwrap_err();
    assert_eq!(error.error_code(), Some("CK0102"));
}
