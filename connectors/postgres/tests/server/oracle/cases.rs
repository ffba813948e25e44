//! What a real subscriber makes of a workload, and what our source makes of it.

use super::pair::Servers;

/// Rows of `t`, of which every third has a value that lies outside of it.
const ROWS: &str = "INSERT INTO t SELECT i, i % 5, 'n' || i, CASE WHEN i % 3 = 0 THEN repeat(md5(i::text), 200) END \
    FROM generate_series(1, 60) i;";
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, region int NOT NULL, note text, body text); \
    ALTER TABLE t ALTER body SET STORAGE EXTERNAL;";
const BY_FULL_ROW: &str = "ALTER TABLE t REPLICA IDENTITY FULL;";
const BY_INDEX: &str =
    "CREATE UNIQUE INDEX by_two ON t (region, id); ALTER TABLE t REPLICA IDENTITY USING INDEX by_two;";

/// Changes of every kind, some of which are rolled back. Keys move, also to where others were.
const WORK: &str = "UPDATE t SET note = note || 'u' WHERE id % 4 = 0; DELETE FROM t WHERE id % 10 = 1; \
    UPDATE t SET id = id + 1000 WHERE id % 10 = 2; UPDATE t SET id = -id, note = 'moved' WHERE id % 10 = 3; \
    BEGIN; INSERT INTO t SELECT i, i % 5, 'late', repeat('x', i % 90) FROM generate_series(2000, 2800) i; SAVEPOINT a; \
    UPDATE t SET body = repeat('gone', 3000) WHERE id > 2600; DELETE FROM t WHERE id < 0; SAVEPOINT b; \
    UPDATE t SET id = id + 5000 WHERE id > 2650; ROLLBACK TO a; UPDATE t SET region = region + 1 WHERE id % 7 = 0; \
    SAVEPOINT c; INSERT INTO t VALUES (9000, 1, 'kept'); RELEASE c; \
    UPDATE t SET region = 0 WHERE region = 3; COMMIT; \
    BEGIN; DELETE FROM t; INSERT INTO t VALUES (1, 1, 'never'); ROLLBACK; \
    UPDATE t SET id = 1 WHERE id = 9000; UPDATE t SET note = note || 'again' WHERE id % 3 = 0; \
    UPDATE t SET region = 3 - region WHERE id % 2 = 0 AND id % 3 > 0;";

const IN_PARTS: &str = "WITH (streaming = on)";

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_table_by_each_replica_identity() {
    for identity in ["", BY_FULL_ROW, BY_INDEX] {
        let tables = format!("{TABLE}{identity}");
        let publish = format!("{ROWS} CREATE PUBLICATION p FOR TABLE t");
        let mut pair = Servers::start().pair(&tables, &publish, &["p"], IN_PARTS).await;
        pair.write(WORK);
        pair.compare(&[("t", "")]).await;
        pair.write("TRUNCATE t; INSERT INTO t VALUES (1, 1, 'anew')");
        pair.compare(&[("t", "")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key() {
    let table = format!("CREATE TABLE t (id int, region int, note text, body text); {BY_FULL_ROW}");
    let publish = format!("{ROWS}{ROWS} CREATE PUBLICATION p FOR TABLE t");
    let mut pair = Servers::start().pair(&table, &publish, &["p"], IN_PARTS).await;
    pair.write(WORK);
    pair.compare(&[("t", "")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_enter_and_leave_a_filter() {
    for (identity, filter) in [
        (BY_FULL_ROW, "region < 2 AND note <> 'moved'"),
        (BY_INDEX, "region < 2 AND id > -20"),
        ("", "id % 4 < 2"),
    ] {
        let servers = Servers::start();
        if !servers.publisher.has("row filters", 15).unwrap() {
            return;
        }
        let tables = format!("{TABLE}{identity}");
        let publish = format!("{ROWS} CREATE PUBLICATION p FOR TABLE t WHERE ({filter})");
        let mut pair = servers.pair(&tables, &publish, &["p"], IN_PARTS).await;
        pair.write(WORK);
        // Without the whole old row a value outside of a row that enters is not sent: PostgreSQL
        // has it neither in the old row nor in the new one.
        let filter = format!("WHERE {filter}");
        let known: &[(&str, &str)] = if identity == BY_FULL_ROW {
            &[("t", &filter)]
        } else {
            &[]
        };
        pair.compare(known).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_list_and_a_filter() {
    let servers = Servers::start();
    if !servers.publisher.has("column lists", 15).unwrap() {
        return;
    }
    let publish = format!("{ROWS} CREATE PUBLICATION p FOR TABLE t (note, id, region) WHERE (region < 2)");
    let mut pair = servers
        .pair(&format!("{TABLE}{BY_INDEX}"), &publish, &["p"], IN_PARTS)
        .await;
    pair.write(WORK);
    pair.compare(&[("t", "WHERE region < 2")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_publications() {
    let servers = Servers::start();
    if !servers.publisher.has("row filters", 15).unwrap() {
        return;
    }
    let tables = format!("{TABLE} CREATE TABLE whole (id int PRIMARY KEY); CREATE TABLE added (id int PRIMARY KEY)");
    let publish = format!(
        "{ROWS} CREATE PUBLICATION p FOR TABLE t WHERE (id < 30), whole WHERE (id < 0) WITH (publish = 'insert, update, delete'); \
         CREATE PUBLICATION q FOR TABLE t WHERE (id > 2100), whole; CREATE PUBLICATION r FOR TABLE added WITH (publish = 'insert')"
    );
    let tables = format!("{tables}; {BY_FULL_ROW}");
    let mut pair = servers.pair(&tables, &publish, &["p", "q", "r"], IN_PARTS).await;
    pair.write(WORK);
    pair.write(
        "INSERT INTO whole SELECT generate_series(-3, 3); INSERT INTO added VALUES (1), (2); \
         DELETE FROM added WHERE id = 1; UPDATE added SET id = 3",
    );
    pair.compare(&[("t", "WHERE id < 30 OR id > 2100"), ("whole", "")])
        .await;
    // What one of the publications sends is sent.
    pair.write("TRUNCATE t; TRUNCATE added; INSERT INTO t SELECT i, 0 FROM generate_series(20, 40) i");
    pair.compare(&[("t", "WHERE id < 30 OR id > 2100")]).await;
}

const TREE: &str = "CREATE TABLE t (id int, region int NOT NULL, note text, body text, PRIMARY KEY (id, region)) \
    PARTITION BY LIST (region); \
    CREATE TABLE t_low PARTITION OF t FOR VALUES IN (0, 1) PARTITION BY HASH (id); \
    CREATE TABLE t_low_0 PARTITION OF t_low FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
    CREATE TABLE t_low_1 (body text, region int NOT NULL, gone int, note text, id int NOT NULL); \
    ALTER TABLE t_low_1 DROP gone; ALTER TABLE t_low ATTACH PARTITION t_low_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
    CREATE TABLE t_rest PARTITION OF t DEFAULT;";

#[tokio::test(flavor = "multi_thread")]
async fn partitions_by_their_root_and_by_their_leaves() {
    for by_root in [true, false] {
        let publish = format!("{ROWS} CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = {by_root})");
        let mut pair = Servers::start().pair(TREE, &publish, &["p"], IN_PARTS).await;
        pair.write(WORK);
        let tables: &[(&str, &str)] = if by_root {
            &[("t", "")]
        } else {
            &[("t_low_0", ""), ("t_low_1", ""), ("t_rest", "")]
        };
        pair.compare(tables).await;
        // By the root no partition's truncation is sent.
        let table = if by_root { "t" } else { "t_low" };
        pair.write(&format!("TRUNCATE {table}; INSERT INTO t VALUES (1, 1, 'anew')"));
        pair.compare(tables).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_that_are_published() {
    let servers = Servers::start();
    if !servers.publisher.has("published generated columns", 18).unwrap() {
        return;
    }
    servers
        .publisher
        .psql(
            "CREATE TABLE t (id int PRIMARY KEY, region int, note text, body text, \
             twice int GENERATED ALWAYS AS (region * 2) STORED)",
        )
        .unwrap();
    let publish = format!(
        "{} CREATE PUBLICATION p FOR TABLE t WITH (publish_generated_columns = stored)",
        ROWS.replace("INTO t ", "INTO t (id, region, note, body) ")
    );
    // Its own column takes what is sent.
    let tables = "CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY, region int, note text, body text, twice int)";
    let mut pair = servers.pair(tables, &publish, &["p"], IN_PARTS).await;
    pair.write(WORK);
    pair.compare(&[("t", "")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_came_from_elsewhere_are_left_to_their_origin() {
    let servers = Servers::start();
    if !servers.publisher.has("origins to leave out", 16).unwrap() {
        return;
    }
    let publish = format!("{ROWS} CREATE PUBLICATION p FOR TABLE t; SELECT pg_replication_origin_create('elsewhere')");
    let mut pair = servers
        .pair(TABLE, &publish, &["p"], "WITH (streaming = on, origin = none)")
        .await;
    pair.write(
        "SELECT pg_replication_origin_session_setup('elsewhere'); UPDATE t SET note = 'theirs' WHERE id < 40; \
         DELETE FROM t WHERE id < 10; INSERT INTO t SELECT i, 0, 'theirs' FROM generate_series(100, 900) i",
    );
    pair.write("UPDATE t SET region = 7 WHERE id BETWEEN 30 AND 50; INSERT INTO t VALUES (1000, 0, 'ours')");
    pair.compare(&[]).await;
}
