//! Large values that an update leaves out (TOAST), read again from the table.

use std::time::{Duration, Instant};

use millstream_testkit::postgres::TestCluster;
use tokio_postgres::NoTls;

use crate::target::{Running, Target, config, eventually, present, source, table};

/// Two rows with bodies that are stored apart.
const NOTES: &str = "CREATE TABLE notes (id int PRIMARY KEY, n int, body text); \
    ALTER TABLE notes ALTER body SET STORAGE EXTERNAL; CREATE PUBLICATION p FOR TABLE notes; \
    INSERT INTO notes SELECT i, 0, repeat(i::text, 3000) FROM generate_series(1, 2) i";

pub fn reread(cluster: &TestCluster, tables: &[&str]) -> serde_json::Value {
    let mut config = config(cluster, tables);
    config["unchanged"] = "reread".into();
    config
}

async fn streaming(cluster: &TestCluster, config: &serde_json::Value) -> Running {
    let mut run = Running::start(source(config), Target::of(&["notes"]));
    run.until_streaming(cluster).await;
    run
}

/// The bodies that came with `sql` beside marks, of each change that has a mark.
async fn bodies(cluster: &TestCluster, config: &serde_json::Value, sql: &str) -> Vec<Option<String>> {
    let mut run = streaming(cluster, config).await;
    cluster.psql(sql).unwrap();
    run.catch_up(cluster).await;
    marked(&run.stop().await)
}

fn marked(target: &Target) -> Vec<Option<String>> {
    marked_of(target, "notes")
}

fn marked_of(target: &Target, name: &str) -> Vec<Option<String>> {
    let changes = target.changes(name).into_iter();
    changes
        .filter(|(_, _, unchanged)| *unchanged == ["body"])
        .map(|(_, cells, _)| cells.get("body").cloned())
        .collect()
}

fn body(of: &str) -> Option<String> {
    Some(of.repeat(3000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_left_out_stands_beside_its_mark() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(NOTES).unwrap();
    let found = bodies(&cluster, &reread(&cluster, &["notes"]), "UPDATE notes SET n = 1").await;
    assert_eq!(found, [body("1"), body("2")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_mode_differs_in_nothing_but_these_values() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(NOTES).unwrap();
    let mut runs = Vec::new();
    for (mode, slot) in [("mark", "a"), ("reread", "b")] {
        let mut config = config(&cluster, &["notes"]);
        (config["unchanged"], config["slot"]) = (mode.into(), slot.into());
        runs.push(streaming(&cluster, &config).await);
    }
    cluster
        .psql(
            "UPDATE notes SET n = 1; UPDATE notes SET id = 3 WHERE id = 1; UPDATE notes SET body = 'short' WHERE id = 2; \
             UPDATE notes SET n = 2; DELETE FROM notes WHERE id = 3; INSERT INTO notes VALUES (4)",
        )
        .unwrap();
    let mut changes = Vec::new();
    for mut run in runs {
        run.catch_up(&cluster).await;
        changes.push(run.stop().await.changes("notes"));
    }
    let (read, plain) = (changes.pop().unwrap(), changes.pop().unwrap());
    let marks = |(_, cells, unchanged): &&(_, millstream_testkit::change_log::Cells, Vec<String>)| {
        unchanged.iter().any(|name| cells.contains_key(name))
    };
    assert_eq!(plain.iter().filter(marks).count(), 0);
    let without = read.into_iter().map(|(op, mut cells, unchanged)| {
        cells.retain(|name, _| !unchanged.contains(name));
        (op, cells, unchanged)
    });
    assert_eq!(without.collect::<Vec<_>>(), plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_gone_or_moved_or_a_column_that_is_another_stays_marked() {
    // Each is one transaction: nothing can be read between its statements.
    let cases = [
        ("UPDATE notes SET n = 1 WHERE id = 1; DELETE FROM notes", vec![None]),
        (
            "UPDATE notes SET n = 1 WHERE id = 1; UPDATE notes SET id = 7 WHERE id = 1",
            vec![None, body("1")],
        ),
        (
            "UPDATE notes SET n = 1 WHERE id = 1; ALTER TABLE notes DROP body",
            vec![None],
        ),
        (
            "UPDATE notes SET n = 1 WHERE id = 1; ALTER TABLE notes RENAME body TO text",
            vec![body("1")],
        ),
        // Another column with the name.
        (
            "UPDATE notes SET n = 1 WHERE id = 1; ALTER TABLE notes RENAME body TO text; \
             ALTER TABLE notes ADD body text DEFAULT 'other'",
            vec![body("1")],
        ),
        // The key has another name, and another type.
        (
            "UPDATE notes SET n = 1 WHERE id = 1; ALTER TABLE notes RENAME id TO number; \
             ALTER TABLE notes ALTER number TYPE bigint",
            vec![body("1")],
        ),
        (
            "UPDATE notes SET n = 1 WHERE id = 1; ALTER TABLE notes ALTER body TYPE varchar(5000)",
            vec![None],
        ),
        // Set to NULL, which the next change says.
        (
            "UPDATE notes SET n = 1 WHERE id = 1; UPDATE notes SET body = NULL",
            vec![None],
        ),
        // Newer than the change, which is why it is marked.
        (
            "UPDATE notes SET n = 1 WHERE id = 1; UPDATE notes SET body = 'new' WHERE id = 1",
            vec![Some("new".to_owned())],
        ),
    ];
    let cluster = TestCluster::new().unwrap();
    cluster.psql("CREATE PUBLICATION p").unwrap();
    let names: Vec<String> = (0..cases.len()).map(|number| format!("notes{number}")).collect();
    for name in &names {
        let notes = NOTES.replace("CREATE PUBLICATION p FOR TABLE", "ALTER PUBLICATION p ADD TABLE");
        cluster.psql(&notes.replace("notes", name)).unwrap();
    }
    let tables: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut run = Running::start(source(&reread(&cluster, &tables)), Target::of(&tables));
    run.until_streaming(&cluster).await;
    for (name, (sql, _)) in tables.iter().zip(&cases) {
        cluster.psql(&sql.replace("notes", name)).unwrap();
    }
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    for (name, (sql, expected)) in tables.iter().zip(cases) {
        assert_eq!(marked_of(&target, name), expected, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_all_kinds_find_their_rows() {
    let mut kinds = vec![
        ("a bigint, b text", "a, b", "5, 'it''s'"),
        ("a uuid", "a", "'6f1c1ab0-0000-4000-8000-000000000001'"),
        ("a varchar(9), b numeric(9,2)", "b, a", "'x', 1.50"),
        ("a mood, b timestamptz", "a, b", "'bad', '2026-01-02 03:04:05.6+07'"),
        ("a positive, b date", "a, b", "7, '2026-01-02'"),
        ("a bytea, b bool", "a, b", "'\\x00ff', true"),
        ("a int[], b char(3)", "a, b", "'{1,2}', 'ab'"),
        ("\"A \"\"b\" int", "\"A \"\"b\"", "5"),
        // Names of the statement itself.
        ("n0 int, k0 int, found int", "k0, found", "1, 2, 3"),
    ];
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql("CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE SCHEMA ext; \
               CREATE DOMAIN prose AS varchar(9000); CREATE DOMAIN page AS prose NOT NULL")
        .unwrap();
    if cluster.psql("CREATE EXTENSION citext SCHEMA ext").is_ok() {
        kinds.push(("a ext.citext", "a", "'Ab'"));
    }
    let names: Vec<String> = (0..kinds.len()).map(|number| format!("t{number}")).collect();
    for (name, (columns, key, values)) in names.iter().zip(&kinds) {
        // The key is that of an index, and not in the order of the columns.
        let not_null = key.split(", ").map(|column| format!("ALTER {column} SET NOT NULL"));
        let not_null: Vec<String> = not_null.collect();
        cluster
            .psql(&format!(
                "CREATE TABLE {name} ({columns}, n int, body page); ALTER TABLE {name} ALTER body SET STORAGE EXTERNAL, {}; \
                 CREATE UNIQUE INDEX i{name} ON {name} ({key}); ALTER TABLE {name} REPLICA IDENTITY USING INDEX i{name}; \
                 INSERT INTO {name} VALUES ({values}, 0, repeat('x', 3000))",
                not_null.join(", ")
            ))
            .unwrap();
    }
    let tables: Vec<&str> = names.iter().map(String::as_str).collect();
    cluster
        .psql(&format!("CREATE PUBLICATION p FOR TABLE {}", tables.join(", ")))
        .unwrap();
    let binary = reread(&cluster, &tables);
    let mut text = binary.clone();
    text["slot"] = "text".into();
    let mut runs = Vec::new();
    for (config, number) in [(binary, 0), (text, 1)] {
        if number == 1 {
            // A type that has no binary form that is read, for the second.
            cluster.psql("ALTER TABLE t0 ADD span int4range").unwrap();
        }
        let mut run = Running::start(source(&config), Target::of(&tables));
        run.until_streaming(&cluster).await;
        for name in &tables {
            cluster.psql(&format!("UPDATE {name} SET n = n + 1")).unwrap();
        }
        run.catch_up(&cluster).await;
        runs.push(run.stop().await);
    }
    for (target, mode) in runs.iter().zip(["binary", "text"]) {
        for (name, kind) in tables.iter().zip(&kinds) {
            let changes = target.changes(name);
            let (_, cells, unchanged) = changes.last().unwrap();
            let found = (unchanged.join(","), cells.get("body").map(String::len));
            assert_eq!(found, ("body".to_owned(), Some(3000)), "{kind:?} in {mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_read_by_its_root() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "CREATE TABLE notes (id int PRIMARY KEY, n int, body text) PARTITION BY RANGE (id); \
             ALTER TABLE notes ALTER body SET STORAGE EXTERNAL; \
             CREATE TABLE low PARTITION OF notes FOR VALUES FROM (0) TO (10); \
             CREATE TABLE high (body text, n int, id int NOT NULL); ALTER TABLE high ALTER body SET STORAGE EXTERNAL; \
             ALTER TABLE notes ATTACH PARTITION high FOR VALUES FROM (10) TO (20); \
             CREATE PUBLICATION p FOR TABLE notes WITH (publish_via_partition_root = true); \
             INSERT INTO notes VALUES (1, 0, repeat('1', 3000)), (12, 0, repeat('2', 3000))",
        )
        .unwrap();
    let found = bodies(&cluster, &reread(&cluster, &["notes"]), "UPDATE notes SET n = 1").await;
    assert_eq!(found, [body("1"), body("2")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_published_are_not_read() {
    let cluster = TestCluster::new().unwrap();
    if !cluster.has("row filters", 15).unwrap() {
        return;
    }
    cluster.psql(NOTES).unwrap();
    // An update that takes a row out of the filter is sent as a delete, in an own transaction later.
    cluster
        .psql("ALTER TABLE notes ADD shown bool NOT NULL DEFAULT true")
        .unwrap();
    cluster
        .psql("ALTER TABLE notes DROP CONSTRAINT notes_pkey, ADD PRIMARY KEY (id, shown); ALTER PUBLICATION p SET TABLE notes WHERE (shown)")
        .unwrap();
    let sql = "UPDATE notes SET n = 1; UPDATE notes SET shown = false WHERE id = 1";
    let found = bodies(&cluster, &reread(&cluster, &["notes"]), sql).await;
    assert_eq!(found, [None, body("2")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_read_or_not_all_rows_leaves_marks() {
    for forbidden in [
        "REVOKE SELECT ON notes FROM reader",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON notes USING (id = 1)",
    ] {
        let cluster = TestCluster::new().unwrap();
        cluster
            .psql(&format!(
                "{NOTES}; CREATE ROLE reader LOGIN REPLICATION PASSWORD 'r'; GRANT SELECT ON notes TO reader"
            ))
            .unwrap();
        let mut config = reread(&cluster, &["notes"]);
        config["url"] = cluster.url_as("reader", "r", "postgres").into();
        let sql = format!("{forbidden}; UPDATE notes SET n = 1");
        assert_eq!(bodies(&cluster, &config, &sql).await, [None, None], "{forbidden}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_may_see_yet_is_waited_for_and_not_without_end() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(NOTES).unwrap();
    let mut run = streaming(&cluster, &reread(&cluster, &["notes"])).await;
    let standbys = |names: &str| {
        cluster
            .psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))
            .unwrap();
        cluster.psql("SELECT pg_reload_conf()").unwrap();
    };
    standbys("nobody");
    eventually("the setting is read", || {
        cluster.psql("SHOW synchronous_standby_names").unwrap() == "nobody"
    })
    .await;
    // In the log, and waiting for a standby that there is not: the reader must not see the old row.
    let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let wait = tokio::spawn(async move {
        let both = "SET synchronous_commit = on; BEGIN; UPDATE notes SET body = repeat('9', 3000) WHERE id = 1; \
                    UPDATE notes SET n = 1 WHERE id = 1; COMMIT";
        client.batch_execute(both).await
    });
    let since = Instant::now();
    run.until(|target| marked(target).len() == 1).await;
    assert!(since.elapsed() > Duration::from_secs(4), "it was waited for");
    assert_eq!(marked(&run.target), [None]);
    standbys("");
    wait.await.unwrap().unwrap();
    // And as before when commits are seen again.
    cluster.psql("UPDATE notes SET n = 2 WHERE id = 1").unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(marked(&run.stop().await), [None, body("9")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_the_table_holds_nothing_up_for_long() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(NOTES).unwrap();
    let mut run = streaming(&cluster, &reread(&cluster, &["notes"])).await;
    let (mut client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    cluster.psql("CREATE TABLE other (id int)").unwrap();
    client
        .batch_execute("UPDATE notes SET n = 1 WHERE id = 1")
        .await
        .unwrap();
    let locked = client.transaction().await.unwrap();
    locked.batch_execute("LOCK notes").await.unwrap();
    run.catch_up(&cluster).await;
    locked.rollback().await.unwrap();
    let target = run.stop().await;
    // The lock may have come after the value was read.
    assert_eq!(marked(&target).len(), 1);
    assert_eq!(
        target.folded("notes", "id"),
        present(&cluster, "notes", &["id", "n", "body"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_begun_again() {
    let cluster = TestCluster::new().unwrap();
    cluster.psql(NOTES).unwrap();
    let mut run = streaming(&cluster, &reread(&cluster, &["notes"])).await;
    for n in 1..4 {
        cluster.psql(&format!("UPDATE notes SET n = {n} WHERE id = 1")).unwrap();
        run.catch_up(&cluster).await;
        let ended = cluster
            .psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%millstream_keys%' AND pid <> pg_backend_pid()")
            .unwrap();
        assert_eq!(ended, "1");
    }
    assert_eq!(marked(&run.stop().await), [body("1"), body("1"), body("1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_come_in_batches_of_bounded_size() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(&format!(
            "{NOTES}; INSERT INTO notes SELECT i, 0, repeat('x', 100000) FROM generate_series(3, 62) i"
        ))
        .unwrap();
    let mut config = reread(&cluster, &["notes"]);
    config["batch"]["bytes"] = "1MB".into();
    let mut run = streaming(&cluster, &config).await;
    let copied = run.target.batches.len();
    cluster.psql("UPDATE notes SET n = 1 WHERE id > 2").unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let sizes: Vec<_> = target.batches[copied..].iter().map(|(_, rows)| *rows).collect();
    assert!(sizes.iter().all(|rows| *rows <= 11), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 60);
    assert!(
        marked(&target)
            .iter()
            .all(|body| body.as_ref().is_some_and(|body| body.len() == 100_000))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_progress_and_prepared_ones_are_waited_for() {
    let settings = [
        ("logical_decoding_work_mem", "64kB"),
        ("max_prepared_transactions", "5"),
    ];
    let cluster = TestCluster::with_settings(&settings).unwrap();
    // Before version 15 a prepared transaction is sent when it commits.
    let two_phase = cluster.major().unwrap() >= 15;
    cluster
        .psql(&format!(
            "{NOTES}; INSERT INTO notes SELECT i, 0, repeat('x', 3000) FROM generate_series(3, 1000) i"
        ))
        .unwrap();
    let mut config = reread(&cluster, &["notes"]);
    (config["two_phase"], config["batch"]["rows"]) = (two_phase.into(), 100.into());
    let mut run = streaming(&cluster, &config).await;
    cluster
        .psql("BEGIN; UPDATE notes SET n = 1; SAVEPOINT s; UPDATE notes SET n = 2 WHERE id < 500; COMMIT")
        .unwrap();
    cluster
        .psql("BEGIN; UPDATE notes SET n = 3; PREPARE TRANSACTION 'x'")
        .unwrap();
    run.catch_up(&cluster).await;
    cluster.psql("COMMIT PREPARED 'x'").unwrap();
    run.catch_up(&cluster).await;
    let target = run.stop().await;
    let bodies = marked(&target);
    assert_eq!(bodies.len(), 1000 + 499 + 1000);
    assert!(bodies.iter().all(Option::is_some));
    assert!(target.tables[&table("notes")].rows.len() > 2000);
}
