//! Other people's Parquet readers: pyarrow and DuckDB read the files that the commits list,
//! fold the changes, and get the table that PostgreSQL has.

use std::process::Command;

use millstream_testkit::postgres::TestCluster;
use millstream_testkit::process::output_with_input;
use millstream_testkit::tools;
use serde_json::Value;

use crate::caught_up;
use crate::daemon::Daemon;
use crate::project::ProjectFolder;

const PIPELINE: &str = r#"
pipeline: things
sources:
  shop:
    postgres:
      url: {env: SHOP_URL}
      publication: millstream
      tables: [public.things, public.bodies, public.extremes, public.raw_orders]
models:
  orders:
    sql: orders.sql
    key: [order_id]
    checks:
      - not_null: [note]
        then: quarantine
sinks:
  lake:
    parquet: {url: "${LAKE}", partition_by: ["bucket(3, id)"]}
    tables: [things, bodies, extremes]
    commit: {every: 100ms, idle_every: 300ms}
  orders_lake:
    parquet: {url: "${LAKE}", partition_by: [region]}
    tables: [orders]
    commit: {every: 100ms, idle_every: 300ms}
"#;

const ORDERS: &str = "SELECT order_id, region, note, amount FROM shop.raw_orders";

const SCHEMA: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so happy');
    CREATE TABLE things (id int PRIMARY KEY, amount numeric(30,4), free numeric, at timestamptz, local timestamp,
        day date, clock time, note text, raw bytea, flag boolean, ratio double precision, small real, big bigint,
        ident uuid, doc jsonb, feeling mood, tags text[], prices numeric(8,2)[]);
    CREATE TABLE bodies (id int PRIMARY KEY, version int, body text);
    ALTER TABLE bodies ALTER COLUMN body SET STORAGE EXTERNAL;
    CREATE TABLE extremes (id int PRIMARY KEY, at timestamptz, local timestamp, day date, wide numeric(60,5), free numeric);
    INSERT INTO extremes VALUES
        (1, 'infinity', 'infinity', 'infinity', repeat('9', 55)::numeric + 0.12345, repeat('9', 100)::numeric),
        (2, '-infinity', '-infinity', '-infinity', -1e54, 'NaN'), (3, NULL, NULL, NULL, NULL, 'Infinity');
    CREATE TABLE raw_orders (order_id int PRIMARY KEY, region text, note text, amount numeric(12,2));
    INSERT INTO raw_orders SELECT g, 'first', 'copied', g FROM generate_series(1, 50) g;
    CREATE PUBLICATION millstream FOR TABLE things, bodies, extremes, raw_orders;
    INSERT INTO things VALUES
        (1, 12345678901234567890123456.7891, 1e-20, '2026-01-02 03:04:05.000001+02', '1969-12-31 23:59:59.999999',
         '2024-02-29', '23:59:59.999999', E'a\x22b\\c\n\té€𝄞', '\x00ff10', true, 0.1, 1.5, 9223372036854775807,
         'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": [1, 2.50, null]}', 'so happy', '{a,NULL,"b c"}', '{1.10,NULL}'),
        (2, -0.0001, 'NaN', '0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999', '0001-01-01', '00:00:00', '', '\x',
         false, -1e300, -0.25, -9223372036854775808, NULL, 'null', 'sad', '{}', '{}'),
        (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    INSERT INTO things (id, amount, note, at) SELECT g, g / 7.0, 'row ' || g, '2026-01-01'::timestamptz + g * '1 hour'::interval
        FROM generate_series(10, 400) g;
    INSERT INTO bodies SELECT g, 0, repeat(md5(g::text), 200) FROM generate_series(1, 20) g;"#;

/// Changes after the first copy: every operation, a change of key, a column that is added, a
/// body that the stream does not send again, also while its row gets another key.
const CHANGES: &str = r"
    UPDATE things SET amount = amount * 2, note = note || '!' WHERE id % 3 = 0;
    DELETE FROM things WHERE id % 5 = 0;
    UPDATE things SET id = id + 1000 WHERE id % 7 = 0;
    ALTER TABLE things ADD COLUMN later numeric(6,3);
    INSERT INTO things (id, note, later) VALUES (5000, 'after', 1.250), (5001, 'after', NULL);
    UPDATE things SET later = 0.125 WHERE id < 5;
    UPDATE bodies SET version = version + 1 WHERE id % 2 = 0;
    UPDATE bodies SET body = 'short' WHERE id = 3;
    UPDATE bodies SET id = id + 100 WHERE id > 15;
    TRUNCATE raw_orders;
    INSERT INTO raw_orders SELECT g, 'eu/' || g % 3, CASE WHEN g % 10 > 0 THEN 'note ' || g END, g FROM generate_series(10, 90) g;
    UPDATE raw_orders SET amount = 7 WHERE order_id = 11; DELETE FROM raw_orders WHERE order_id > 85;";

/// The rows of `things`, each as one line of JSON. `at` and `local` are in ISO 8601, so that
/// no setting of the session shows.
const THINGS: &str = r#"SELECT json_build_array(id, amount::text, free::text,
        to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), to_char(local, 'YYYY-MM-DD"T"HH24:MI:SS.US'),
        day::text, to_char(clock, 'HH24:MI:SS.US'), note, encode(raw, 'hex'), flag, ratio, small, big, ident::text,
        doc::text, feeling::text, to_json(tags), to_json(prices::text[]), later::text)
    FROM things ORDER BY id"#;

const BODIES: &str = "SELECT json_build_array(id, version, body) FROM bodies ORDER BY id";

struct Shop {
    cluster: TestCluster,
    project: ProjectFolder,
}

impl Shop {
    /// A lake that holds a first copy and changes.
    fn filled() -> Self {
        let shop = Self {
            cluster: TestCluster::new().expect("PostgreSQL starts"),
            project: ProjectFolder::new(&[("things.yaml", PIPELINE), ("orders.sql", ORDERS)]),
        };
        shop.cluster.psql(SCHEMA).unwrap();
        let env = [("SHOP_URL", shop.cluster.url()), ("LAKE", shop.project.lake())];
        let mut daemon = Daemon::start(shop.project.path(), &env);
        let mut wait = || {
            let marker = "UPDATE things SET note = 'marker' WHERE id = 11; UPDATE bodies SET version = 99 WHERE id = 7";
            let tables = ["things", "bodies", "extremes", "orders"];
            caught_up::with_postgres(&mut daemon, &shop.cluster, "shop", &tables, marker);
        };
        wait();
        shop.cluster.psql(CHANGES).unwrap();
        wait();
        daemon.drain();
        shop
    }

    fn folder(&self, table: &str) -> String {
        self.project.path().join("lake").join(table).display().to_string()
    }

    fn assert_reads_back(&self, reader: &str, table: &str, source: &str) {
        let found = python(reader, &self.folder(table));
        let expected = rows(&self.cluster.psql(source).unwrap());
        assert_eq!(found.len(), expected.len(), "rows of {table}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
    }
}

/// What a Python program prints, as one JSON value for each line.
fn python(program: &str, argument: &str) -> Vec<Value> {
    let mut python = Command::new(tools::program("python").unwrap());
    python.arg("-").arg(argument);
    let output = output_with_input(python, program.as_bytes()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    rows(&String::from_utf8(output.stdout).unwrap())
}

/// The blocks of one language in the page about Parquet tables, about the table `orders` in the
/// folder `orders`.
fn documented(language: &str, orders: &str) -> Vec<String> {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let page = std::fs::read_to_string(format!("{root}/docs/concepts/parquet-tables.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().replace("lake/orders", orders))
        .collect()
}

fn rows(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row in JSON"))
        .collect()
}

#[test]
fn pyarrow_and_duckdb_read_the_table_that_postgresql_has() {
    let shop = Shop::filled();
    shop.assert_reads_back(include_str!("readers/with_pyarrow.py"), "things", THINGS);
    shop.assert_reads_back(include_str!("readers/with_pyarrow.py"), "bodies", BODIES);
    shop.assert_reads_back(include_str!("readers/with_duckdb.py"), "things", THINGS);
    the_documented_queries_work(&shop);
    extremes_are_read_as_documented(&shop);
}

/// Numbers as differences, and values of which there are few, with pages of nulls alone.
#[test]
fn others_read_differences_and_few_values() {
    let cluster = TestCluster::new().expect("PostgreSQL starts");
    cluster
        .psql(
            "CREATE TABLE kinds (id int PRIMARY KEY, kind text, far bigint, amount numeric(12,2), rate numeric(5,2), \
             small smallint, same int, day date, at timestamptz); CREATE PUBLICATION millstream FOR TABLE kinds; \
             INSERT INTO kinds SELECT g, CASE WHEN g NOT BETWEEN 10000 AND 60000 THEN 'kind ' || g * 7919 % 5 END, \
             CASE WHEN g % 10 > 0 AND g NOT BETWEEN 10000 AND 60000 THEN g * 2654435761 % 4294967291 - 2000000000 END, \
             (g * 7919 % 1000003 - 500000) / 100.0, \
             CASE WHEN g NOT BETWEEN 10000 AND 60000 THEN (g * 7919 % 20 - 10) / 100.0 END, (g * 7919 % 7 - 3)::smallint, 7, \
             '1970-01-01'::date + (g * 7919 % 2500 - 1000)::int, '2026-01-01'::timestamptz + g * interval '1 second' \
             FROM generate_series(1, 100000::bigint) g",
        )
        .unwrap();
    let pipeline = "pipeline: kinds\nsources: {shop: {postgres: {url: {env: SHOP_URL}, publication: millstream, \
        tables: [kinds], copy: {workers: 1}}}}\nsinks: {lake: {parquet: {url: \"${LAKE}\"}, \
        commit: {every: 2s, idle_every: 2s}}}\n";
    let project = ProjectFolder::new(&[("kinds.yaml", pipeline)]);
    let env = [("SHOP_URL", cluster.url()), ("LAKE", project.lake())];
    let mut daemon = Daemon::start(project.path(), &env);
    caught_up::with_postgres(
        &mut daemon,
        &cluster,
        "shop",
        &["kinds"],
        "UPDATE kinds SET kind = 'last' WHERE id = 5",
    );
    daemon.drain();
    let folder = project.path().join("lake").join("kinds").display().to_string();
    let printed = python(include_str!("readers/kinds.py"), &folder);
    let expected = cluster.psql(
        "SELECT json_build_object('one', count(*) FILTER (WHERE kind = 'kind 3'), \
         'none', count(*) FILTER (WHERE kind IS NULL), 'sum', sum(id) FILTER (WHERE kind = 'kind 3'), \
         'far', sum(far)::bigint, 'above', count(*) FILTER (WHERE far > 1000000000), 'amount', sum(amount)::text, \
         'rate', sum(rate)::text, 'rated', count(*) FILTER (WHERE rate = -0.07), 'small', sum(small), 'same', sum(same), \
         'days', count(DISTINCT day), 'first', min(day)::text, 'early', count(*) FILTER (WHERE day < '1968-01-01'), \
         'seconds', sum(extract(epoch FROM at) - 1767225600)::bigint) FROM kinds WHERE id <> 5",
    );
    let expected: Value = serde_json::from_str(&expected.unwrap()).unwrap();
    assert_eq!(printed[0], expected, "pyarrow");
    assert_eq!(printed[1], expected, "DuckDB");
    for (column, encoding) in [
        ("id", "DELTA_BINARY_PACKED"),
        ("far", "DELTA_BINARY_PACKED"),
        ("amount", "DELTA_BINARY_PACKED"),
        ("day", "DELTA_BINARY_PACKED"),
        ("at", "DELTA_BINARY_PACKED"),
        ("kind", "RLE_DICTIONARY"),
        ("rate", "RLE_DICTIONARY"),
        ("small", "RLE_DICTIONARY"),
        ("same", "RLE_DICTIONARY"),
    ] {
        let found = printed[2][column].as_str().unwrap();
        assert!(found.contains(encoding), "{column}: {found}");
    }
}

fn the_documented_queries_work(shop: &Shop) {
    let orders = shop.folder("orders");
    let queries = documented("sql", &orders);
    assert_eq!(queries.len(), 2);
    let printed = python(include_str!("readers/with_documented_sql.py"), &queries.concat());
    let [_, changes, current, _, rejected] = &printed[..] else {
        panic!("five statements: {printed:?}")
    };
    let cells = |rows: &Value, columns: usize| -> Vec<Vec<Value>> {
        let rows = rows.as_array().unwrap().iter();
        let mut cells: Vec<_> = rows.map(|row| row.as_array().unwrap()[..columns].to_vec()).collect();
        cells.sort_by_key(|row| row[0].to_string());
        cells
    };
    assert!(changes.as_array().unwrap().len() > 120);
    let source = "SELECT json_build_array(order_id::text, region, note, amount::text) FROM raw_orders
        WHERE note IS NOT NULL ORDER BY order_id";
    let source = Value::Array(rows(&shop.cluster.psql(source).unwrap()));
    assert_eq!(cells(current, 4), cells(&source, 4));
    // Of 10, 20 … 90.
    let rejected = cells(rejected, 3);
    assert_eq!(rejected.len(), 9, "{rejected:?}");
    for row in &rejected {
        assert_eq!(row[0], "not_null_note");
        let raw: Value = serde_json::from_str(row[2].as_str().unwrap()).unwrap();
        assert!(raw["note"].is_null() && raw["order_id"].as_i64().unwrap() % 10 == 0);
    }
    let mut program = documented("python", &orders).remove(0);
    program.push_str("print(rejected.num_rows)");
    assert_eq!(python(&program, ""), [9]);
}

fn extremes_are_read_as_documented(shop: &Shop) {
    let found = python(include_str!("readers/extremes.py"), &shop.folder("extremes")).remove(0);
    let wide = format!("{}.12345", "9".repeat(55));
    let expected = serde_json::json!({
        "at": [i64::MAX, i64::MIN, null], "local": [i64::MAX, i64::MIN, null], "day": [i32::MAX, i32::MIN, null],
        "wide": [wide, format!("-1{}.00000", "0".repeat(54)), null],
        "free": ["9".repeat(100), "NaN", "Infinity"],
    });
    for (column, expected) in expected.as_object().unwrap() {
        assert_eq!(&found["pyarrow"][column], expected, "{column}");
    }
    let duckdb = &found["duckdb"];
    for column in ["at", "local", "day"] {
        assert_eq!(duckdb[column], serde_json::json!([true, false, null]), "{column}");
    }
    assert_eq!(duckdb["free"], expected["free"]);
    assert_eq!(duckdb["wide"], "DOUBLE");
}
