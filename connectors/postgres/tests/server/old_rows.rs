//! Tables with `REPLICA IDENTITY FULL`: what the old row is good for, and what it must not break.

use millstream_testkit::postgres::TestCluster;

use crate::target::{Running, Target, config, present, source};

fn cluster(table: &str) -> TestCluster {
    let cluster = TestCluster::new().unwrap();
    let identity = "ALTER TABLE notes REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE notes;";
    cluster
        .psql(&format!("CREATE TABLE notes ({table}); {identity}"))
        .unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_could_not_be_decoded_are_repaired_and_deleted() {
    let cluster = cluster("id int PRIMARY KEY, amount numeric(5,2)");
    cluster
        .psql("INSERT INTO notes SELECT i, 5 FROM generate_series(1, 4) i; INSERT INTO notes VALUES (5, 'NaN')")
        .unwrap();
    let mut target = Target::of(&["notes"]);
    target.may_reject = true;
    let mut run = Running::start(source(&config(&cluster, &["notes"])), target);
    run.until_copied().await;
    cluster
        .psql(
            "UPDATE notes SET amount = 'NaN' WHERE id < 4; \
             UPDATE notes SET amount = 6 WHERE id = 1; \
             DELETE FROM notes WHERE id = 2; \
             UPDATE notes SET id = 7, amount = 7 WHERE id = 3; \
             UPDATE notes SET amount = 8 WHERE id = 5;",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    assert_eq!(target.rejected, 4, "those that were NaN when they were read or written");
    assert_eq!(
        target.folded("notes", "id"),
        present(&cluster, "notes", &["id", "amount"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_old_rows_are_counted() {
    let cluster = cluster("id int PRIMARY KEY, version int, body text");
    cluster
        .psql("ALTER TABLE notes ALTER body SET STORAGE EXTERNAL; INSERT INTO notes SELECT i, 0, repeat('x', 100000) FROM generate_series(1, 30) i")
        .unwrap();
    let mut small = config(&cluster, &["notes"]);
    small["batch"]["bytes"] = "1MB".into();
    let mut run = Running::start(source(&small), Target::of(&["notes"]));
    run.until_copied().await;
    let copied = run.target.batches.len();
    cluster.psql("UPDATE notes SET version = 1; DELETE FROM notes").unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    // Half of the bytes for a part of a copy, whose rows hold their body once.
    let sizes: Vec<_> = target.batches[..copied].iter().map(|(_, rows)| *rows).collect();
    assert!(sizes.iter().all(|rows| *rows <= 6), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 30);
    // Each row holds its body twice.
    let sizes: Vec<_> = target.batches[copied..].iter().map(|(_, rows)| *rows).collect();
    assert!(sizes.iter().all(|rows| *rows <= 5), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 60);
    assert!(target.folded("notes", "id").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_key_column_stays_the_key() {
    let cluster = cluster("id int PRIMARY KEY, body text");
    let mut run = Running::start(source(&config(&cluster, &["notes"])), Target::of(&["notes"]));
    run.until_copied().await;
    cluster
        .psql(
            "INSERT INTO notes VALUES (1, 'a'); ALTER TABLE notes RENAME id TO number; \
             UPDATE notes SET number = 2",
        )
        .unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let ops: Vec<_> = target.changes("notes").into_iter().map(|(op, ..)| op).collect();
    assert_eq!(ops, ["c", "d", "c"]);
    assert_eq!(target.batches.last().unwrap().0.key, ["number"]);
}
