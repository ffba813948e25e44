//! Values that their usual Arrow type cannot hold in full.

use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, present, source};

/// Row 3 is sound in any form; row 1 and 2 are read by the first copy, 4 and 5 by the stream.
const COPIED: &str = "CREATE TABLE things (id int PRIMARY KEY, amount numeric(5,2), grid int[]); \
     CREATE PUBLICATION p FOR TABLE things; \
     INSERT INTO things VALUES (1, 'NaN', NULL), (2, NULL, '{{1,2},{3,4}}'), (3, 1.50, '{5,NULL}')";
const STREAMED: &str = "INSERT INTO things VALUES (4, 'NaN', '{}'), (5, -0.10, '[0:1]={5,6}')";

#[tokio::test(flavor = "multi_thread")]
async fn as_text_every_value_is_exact() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(COPIED).unwrap();
    let mut texts = config(&cluster, &["things"]);
    (texts["numeric"], texts["arrays"]) = ("text".into(), "text".into());
    let mut run = Running::start(source(&texts), Target::of(&["things"]));
    run.until_copied().await;
    cluster.psql(STREAMED).unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let columns = ["id", "amount", "grid"];
    assert_eq!(target.folded("things", "id"), present(&cluster, "things", &columns));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_decimal_or_a_list_cannot_hold_is_rejected() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(COPIED).unwrap();
    let mut target = Target::of(&["things"]);
    target.may_reject = true;
    let mut run = Running::start(source(&config(&cluster, &["things"])), target);
    run.until_copied().await;
    cluster.psql(STREAMED).unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(target.rejected, 4);
    let rows: Vec<_> = target.folded("things", "id").into_values().collect();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0]["amount"].as_str(), rows[0]["grid"].as_str()),
        ("1.50", "[5, ]")
    );
}
