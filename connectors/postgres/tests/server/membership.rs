//! Tables that join and leave the publication while it is read.

use millstream_core::{ErrorKind, Source};
use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, source};

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_pattern_selects_from_now_on_has_the_pipeline_planned_anew() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION p FOR ALL TABLES")
        .unwrap();
    let mut config = config(&cluster, &["public.*"]);
    config["exclude"] = serde_json::json!(["public.other*", "public.marker"]);
    config["governor"] = serde_json::json!({"every": "100ms"});
    let mut planned = source(&config);
    let tables = planned.tables().await.unwrap();
    assert_eq!(tables.len(), 1);
    // Between the plan and the start counts, too; what is excluded does not.
    cluster
        .psql("CREATE TABLE others (id int PRIMARY KEY); CREATE TABLE later (id int PRIMARY KEY)")
        .unwrap();
    let mut run = Running::start(planned, Target::of(&["orders"]));
    run.until(|target| target.tables_changed).await;
    let mut target = run.stop().await;
    target.boundaries.clear();
    target.tables_changed = false;

    let mut planned = source(&config);
    assert_eq!(planned.tables().await.unwrap().len(), 2);
    let mut run = Running::start(planned, target);
    run.catch_up(&cluster).await;
    cluster.psql("INSERT INTO orders VALUES (1)").unwrap();
    run.catch_up(&cluster).await;
    assert!(!run.target.tables_changed, "nothing has changed since it was planned");
    cluster.psql("DROP TABLE later").unwrap();
    run.until(|target| target.tables_changed).await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_dropped_between_plan_and_start_has_the_pipeline_planned_anew_if_a_pattern_selected_it() {
    let cluster = TestCluster::new().unwrap();
    let tables = ["orders", "lines"];
    for (selection, kind) in [
        (vec!["public.*"], ErrorKind::Unavailable),
        (vec!["orders", "lines"], ErrorKind::Config),
    ] {
        cluster
            .psql(
                "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE lines (id int PRIMARY KEY); \
                 CREATE PUBLICATION p FOR ALL TABLES",
            )
            .unwrap();
        let mut planned = source(&config(&cluster, &selection));
        assert_eq!(planned.tables().await.unwrap().len(), tables.len());
        cluster.psql("DROP TABLE lines").unwrap();
        let failure = Running::start(planned, Target::of(&tables)).failure().await;
        assert_eq!((failure.kind(), failure.error_code()), (kind, Some("PG0017")));
        cluster.psql("DROP TABLE orders; DROP PUBLICATION p").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_leaves_the_publication_halts_the_pipeline() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE lines (id int PRIMARY KEY); \
             CREATE PUBLICATION p FOR TABLE orders, lines",
        )
        .unwrap();
    let mut config = config(&cluster, &["orders", "lines"]);
    config["governor"] = serde_json::json!({"every": "100ms"});
    let mut run = Running::start(source(&config), Target::of(&["orders", "lines"]));
    run.until_copied().await;
    cluster.psql("ALTER PUBLICATION p DROP TABLE lines").unwrap();
    let failure = run.failure().await;
    assert_eq!(
        (failure.kind(), failure.error_code()),
        (ErrorKind::Config, Some("PG0015")),
        "{}",
        failure.summary()
    );
}
