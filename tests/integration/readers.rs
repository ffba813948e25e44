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
      tables: [public.things, public.bodies]
sinks:
  lake:
    parquet: {url: "${LAKE}", partition_by: ["bucket(3, id)"]}
    commit: {every: 100ms, idle_every: 300ms}
"#;

const SCHEMA: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so happy');
    CREATE TABLE things (id int PRIMARY KEY, amount numeric(30,4), free numeric, at timestamptz, local timestamp,
        day date, clock time, note text, raw bytea, flag boolean, ratio double precision, small real, big bigint,
        ident uuid, doc jsonb, feeling mood, tags text[], prices numeric(8,2)[]);
    CREATE TABLE bodies (id int PRIMARY KEY, version int, body text);
    ALTER TABLE bodies ALTER COLUMN body SET STORAGE EXTERNAL;
    CREATE PUBLICATION millstream FOR TABLE things, bodies;
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
    UPDATE bodies SET id = id + 100 WHERE id > 15;";

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
            project: ProjectFolder::new(&[("things.yaml", PIPELINE)]),
        };
        shop.cluster.psql(SCHEMA).unwrap();
        let env = [("SHOP_URL", shop.cluster.url()), ("LAKE", shop.project.lake())];
        let mut daemon = Daemon::start(shop.project.path(), &env);
        let mut wait = || {
            let marker = "UPDATE things SET note = 'marker' WHERE id = 11; UPDATE bodies SET version = 99 WHERE id = 7";
            caught_up::with_postgres(&mut daemon, &shop.cluster, "shop", &["things", "bodies"], marker);
        };
        wait();
        shop.cluster.psql(CHANGES).unwrap();
        wait();
        daemon.drain();
        shop
    }

    fn assert_reads_back(&self, reader: &str, table: &str, source: &str) {
        let mut python = Command::new(tools::program("python").unwrap());
        python.arg("-").arg(self.project.path().join("lake").join(table));
        let output = output_with_input(python, reader.as_bytes()).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (found, expected) = (
            rows(&String::from_utf8(output.stdout).unwrap()),
            rows(&self.cluster.psql(source).unwrap()),
        );
        assert_eq!(found.len(), expected.len(), "rows of {table}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
    }
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
}
