//! Stores on which no commit can stand.

use std::sync::Arc;

use arrow_schema::{DataType, Field};
use millstream_core::config::Text;
use millstream_core::{Severity, Sink, SinkTable, TableSchema};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use crate::faulty_store::FaultyStore;
use crate::lake::{Lake, commit_orders, orders, table};

#[tokio::test]
async fn a_store_whose_conditional_create_does_not_hold_is_refused() {
    let mut store = FaultyStore::new(Arc::new(InMemory::new()));
    store.forgets_conditions = true;
    refused(store).await;
}

/// A store that looks whether the object is there and then writes it, so that of two creates at
/// the same moment both succeed, though hardly ever.
#[tokio::test]
async fn a_store_that_checks_before_it_writes_is_refused() {
    let mut store = FaultyStore::new(Arc::new(InMemory::new()));
    store.checks_then_writes_from = Some(100);
    refused(store).await;
}

async fn refused(store: FaultyStore) {
    let lake = Lake::on(Arc::new(store)).await;
    let findings = lake.sink().preflight(&[]).await.unwrap();
    let [finding] = &findings[..] else {
        panic!("one finding: {findings:?}")
    };
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.code, Some("PQ0017"));
    assert!(finding.hint.is_some());
}

#[tokio::test]
async fn a_sound_folder_passes_and_is_left_as_it_was() {
    let mut lake = Lake::in_folder().await;
    lake.config.url = Text::literal(format!("{}/deep/lake", &*lake.config.url));
    assert_eq!(lake.sink().preflight(&sink_tables(&orders())).await.unwrap(), []);
    let left = std::fs::read_dir(lake.folder().unwrap()).unwrap().count();
    assert_eq!(left, 0, "not even the folder is created");
}

#[tokio::test]
async fn all_that_an_open_would_refuse_is_found_before() {
    let mut lake = Lake::in_memory().await;
    let mut writer = lake.open(&orders()).await.unwrap();
    commit_orders(&mut writer, 0, 1).await.unwrap();
    let id = Field::new("id", DataType::Int64, true);
    let changed = table("orders", vec![id.clone(), Field::new("name", DataType::Int32, true)]);
    let other = table("visits", vec![id, Field::new("at", DataType::Utf8View, true)]);
    let by = ["hour(name)", "day(placed_at)", "at"];
    lake.config.partition_by = by.map(|expr| expr.parse().unwrap()).to_vec();
    let tables: Vec<_> = [changed, other].iter().flat_map(sink_tables).collect();
    let findings = lake.sink().preflight(&tables).await.unwrap();
    let codes: Vec<_> = findings.iter().filter_map(|finding| finding.code).collect();
    // The table `orders` lacks `placed_at` and `at`, `visits` lacks `name` and `placed_at`, and a
    // text view is stored as text.
    let partitions = ["PQ0010"; 3].into_iter().chain(["PQ0010"; 2]);
    assert_eq!(
        codes,
        ["PQ0009"].into_iter().chain(partitions).collect::<Vec<_>>(),
        "{findings:?}"
    );
    assert_eq!(lake.records("orders").await.len(), 2);
    assert!(lake.records("visits").await.is_empty());

    let record = lake.path("orders", "_commits/00000000000000000003.json");
    lake.store.put(&record, "{".into()).await.unwrap();
    lake.config.partition_by.clear();
    let findings = lake.sink().preflight(&sink_tables(&orders())).await.unwrap();
    assert_eq!(findings[0].code, Some("PQ0008"));
    assert!(lake.open(&orders()).await.is_err());
}

fn sink_tables(schema: &Arc<TableSchema>) -> Vec<SinkTable> {
    let name = schema.id.name.to_string();
    vec![SinkTable {
        name,
        schema: schema.clone(),
    }]
}
