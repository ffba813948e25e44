//! Queries over written tables.

use millstream_sql::{QueryTable, query};

#[tokio::test]
async fn a_query_that_cannot_be_run_says_why() {
    for (sql, said) in [
        ("SELECT 1 +", "SQL error"),
        ("SELECT nope FROM orders", "table 'orders' not found"),
        ("SELECT 1 / 0", "Divide by zero"),
    ] {
        let error = query(&[], sql).await.unwrap_err();
        assert_eq!(error.error_code(), Some("SQ0024"), "{sql}");
        assert!(error.summary().contains(said), "{}", error.summary());
        assert!(error.hint_text().is_some_and(|hint| hint.contains("<name>_current")));
    }
    let table = QueryTable {
        name: "orders".to_owned(),
        key: Vec::new(),
        files: vec!["/nonexistent/orders.parquet".to_owned()],
    };
    let error = query(&[table], "SELECT * FROM orders").await.unwrap_err();
    assert_eq!(error.error_code(), Some("SQ0024"));
    assert!(error.summary().contains("table=orders"), "{}", error.summary());
}
