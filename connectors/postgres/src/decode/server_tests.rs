//! Both formats of a real server's values, for every type.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Schema};
use futures::{StreamExt, pin_mut};
use millstream_core::{PartitionId, TableId, TableSchema};
use millstream_testkit::postgres::{TestCluster, say_skipped};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::catalog_type::CATALOG_QUERY;
use super::column::ColumnBuilder;
use super::{
    Catalog, CatalogType, ChangeContext, ColumnType, CopyDecoder, ProtocolError, TableDecoder,
    pgoutput::{self, Message},
};

/// A type, how it must be read, and literals of it that are decoded in both formats.
const MATRIX: &[(&str, DataType, &[&str])] = &[
    ("bool", DataType::Boolean, &["t", "f"]),
    ("int2", DataType::Int16, &["-32768", "0", "32767"]),
    ("int4", DataType::Int32, &["-2147483648", "2147483647"]),
    (
        "int8",
        DataType::Int64,
        &["-9223372036854775808", "9223372036854775807"],
    ),
    ("oid", DataType::Int64, &["0", "4294967295"]),
    (
        "float4",
        DataType::Float32,
        &["0.1", "-0", "1e-45", "3.4028235e38", "NaN", "Infinity", "-Infinity"],
    ),
    (
        "float8",
        DataType::Float64,
        &[
            "0.1",
            "-0",
            "5e-324",
            "1e23",
            "1.7976931348623157e308",
            "NaN",
            "-Infinity",
        ],
    ),
    ("text", DataType::Utf8, &["", "a\"b\\c\n\té€𝄞", "NULL"]),
    ("varchar(10)", DataType::Utf8, &["abc"]),
    ("char(5)", DataType::Utf8, &["ab"]),
    ("\"char\"", DataType::Utf8, &["", "x"]),
    ("name", DataType::Utf8, &["a_name"]),
    ("citext", DataType::Utf8, &["MiXed"]),
    ("json", DataType::Utf8, &["{\"a\" :  [1, 2.50]}"]),
    ("jsonb", DataType::Utf8, &["{\"a\" :  [1, 2.50, \"é\"]}", "null"]),
    ("jsonpath", DataType::Utf8, &["$.a[*] ? (@ > 1)"]),
    (
        "xml",
        DataType::Utf8,
        &["<a b=\"1\">é</a>", "<?xml version=\"1.0\" standalone=\"yes\"?><a/>"],
    ),
    ("mood", DataType::Utf8, &["sad", "so happy"]),
    ("bytea", DataType::Binary, &["\\x", "\\x00ff10"]),
    ("uuid", DataType::Utf8, &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    (
        "date",
        DataType::Date32,
        &[
            "2024-02-29",
            "1970-01-01",
            "0001-01-01",
            "0044-03-15 BC",
            "4713-01-01 BC",
            "5874897-12-31",
            "infinity",
            "-infinity",
        ],
    ),
    (
        "time",
        DataType::Time64(arrow_schema::TimeUnit::Microsecond),
        &["00:00:00", "23:59:59.999999", "24:00:00"],
    ),
    (
        "timetz",
        DataType::Utf8,
        &["12:34:56.7+05:30", "00:00:00-15:59:59", "24:00:00+00"],
    ),
    (
        "timestamp",
        DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, None),
        &[
            "2024-02-29 12:34:56.789",
            "1969-12-31 23:59:59.999999",
            "0044-03-15 01:00:00 BC",
            "294246-12-31",
            "infinity",
        ],
    ),
    (
        "interval",
        DataType::Utf8,
        &[
            "0",
            "1 year 2 mons 3 days 04:05:06.7",
            "-1 year +2 days -00:00:00.000001",
            "1 mon -1 day +5 seconds",
            "-1 mons 1 day",
            "178000000 years",
            "-2147483648 months",
            "2562047788:00:54.775807",
            "100 hours",
        ],
    ),
    (
        "numeric",
        DataType::Utf8,
        &[
            "0",
            "0.000",
            "-12.3400",
            "1e20",
            "1e-20",
            "10000",
            "9999.0001",
            "123456789012345678901234567890.12345",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
    ),
    (
        "numeric(10,2)",
        DataType::Decimal128(10, 2),
        &["0", "-0.01", "99999999.99", "10000", "1.5"],
    ),
    (
        "numeric(38,10)",
        DataType::Decimal128(38, 10),
        &["0.0000000001", "-1234567890123456789012345678.0123456789"],
    ),
    ("numeric(3,-2)", DataType::Decimal128(5, 0), &["99900", "-100"]),
    ("numeric(2,4)", DataType::Decimal128(4, 4), &["0.0099", "-0.0001"]),
    (
        "numeric(76,30)",
        DataType::Decimal256(76, 30),
        &[
            "0",
            "-1234567890123456789012345678901234567890123456.000000000000000000000000000001",
        ],
    ),
    (
        "numeric(100,2)",
        DataType::Utf8,
        &[
            "1.5",
            "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890.12",
        ],
    ),
    ("price", DataType::Decimal128(12, 3), &["1.25"]),
    (
        "inet",
        DataType::Utf8,
        &[
            "10.0.0.1",
            "10.0.0.1/8",
            "::1",
            "::",
            "2001:db8::1/64",
            "::ffff:1.2.3.4",
            "::1.2.3.4",
            "1:0:0:2::",
            "1:0:2:3:4:5:6:7",
            "::2:3:4:5:6:7:8",
        ],
    ),
    (
        "cidr",
        DataType::Utf8,
        &[
            "10.0.0.0/8",
            "192.168.1.1/32",
            "2001:db8::/32",
            "::ffff:0:0/96",
            "::1/128",
            "0.0.0.0/0",
        ],
    ),
    ("macaddr", DataType::Utf8, &["08:00:2b:01:02:ff"]),
    ("macaddr8", DataType::Utf8, &["08:00:2b:01:02:03:04:ff"]),
    ("bit(10)", DataType::Utf8, &["1010000001"]),
    ("varbit", DataType::Utf8, &["", "1", "101010101"]),
    ("pg_lsn", DataType::Utf8, &["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"]),
    ("tid", DataType::Utf8, &["(4294967295,65535)"]),
    ("xid", DataType::Utf8, &["4294967295"]),
    ("cid", DataType::Utf8, &["7"]),
    ("xid8", DataType::Utf8, &["18446744073709551615"]),
    ("refcursor", DataType::Utf8, &["c1"]),
    // Made of others, and read as text only: `money`, `regclass`.
    ("money", DataType::Utf8, &["12.34"]),
    ("point", DataType::Utf8, &["(1.5,-2)"]),
    ("int4range", DataType::Utf8, &["[1,5)", "empty"]),
    ("tsvector", DataType::Utf8, &["a:1 b:2"]),
    ("pair", DataType::Utf8, &["(1,\"x y\")"]),
    ("regclass", DataType::Utf8, &["pg_class"]),
    ("point[]", DataType::Utf8, &["{\"(1,2)\"}"]),
    ("int2vector", DataType::Utf8, &["1 2"]),
    ("hstore", DataType::Utf8, &["a=>1"]),
];

/// Arrays, and the Arrow type of their elements.
const LISTS: &[(&str, DataType, &[&str])] = &[
    ("int4[]", DataType::Int32, &["{}", "{1,NULL,-3}"]),
    (
        "text[]",
        DataType::Utf8,
        &["{}", "{a,\"b c\",\"NULL\",NULL,\"\",\"q\\\"\\\\,{}\",é}"],
    ),
    ("numeric(10,2)[]", DataType::Decimal128(10, 2), &["{1.5,-2}"]),
    ("numeric[]", DataType::Utf8, &["{1.50,NaN}"]),
    (
        "timestamp[]",
        DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, None),
        &["{2024-01-01,infinity}"],
    ),
    ("date[]", DataType::Date32, &["{2024-01-01,0001-01-01 BC}"]),
    ("bool[]", DataType::Boolean, &["{t,f,NULL}"]),
    ("bytea[]", DataType::Binary, &["{\"\\\\x00ff\",\"\\\\x\"}"]),
    ("mood[]", DataType::Utf8, &["{sad,\"so happy\"}"]),
    ("price[]", DataType::Decimal128(12, 3), &["{1.250}"]),
    ("inet[]", DataType::Utf8, &["{10.0.0.1,::1}"]),
    ("interval[]", DataType::Utf8, &["{\"1 day 00:00:01\"}"]),
    ("tags", DataType::Utf8, &["{x,y}"]),
];

const SETUP: &str = "CREATE EXTENSION citext; CREATE EXTENSION hstore; \
     CREATE TYPE mood AS ENUM ('sad', 'so happy'); CREATE TYPE pair AS (a int, b text); \
     CREATE DOMAIN price AS numeric(12,3); CREATE DOMAIN tags AS text[];";
const SETTINGS: &str = "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; \
     SET bytea_output = 'hex'; SET TimeZone = 'UTC'; SET xmloption = 'content';";

async fn connect(cluster: &TestCluster) -> Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(SETTINGS).await.unwrap();
    client
}

async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client
        .simple_query(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

async fn catalog(client: &Client) -> Catalog {
    let entry = |row: Vec<Option<String>>| {
        let found = CatalogType::read(|index| row[index].as_deref()).unwrap();
        (found.oid, found)
    };
    rows(client, CATALOG_QUERY).await.into_iter().map(entry).collect()
}

/// The types of a table's columns, in order.
async fn column_types(client: &Client, table: &str) -> Vec<(String, ColumnType)> {
    let catalog = catalog(client).await;
    let sql = format!(
        "SELECT attname, atttypid::int8, atttypmod FROM pg_attribute \
         WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"
    );
    let resolve = |row: Vec<Option<String>>| {
        let [name, oid, typmod] = &row[..] else {
            panic!("three columns")
        };
        let oid = oid.as_ref().unwrap().parse().unwrap();
        (
            name.clone().unwrap(),
            ColumnType::resolve(oid, typmod.as_ref().unwrap().parse().unwrap(), &catalog),
        )
    };
    rows(client, &sql).await.into_iter().map(resolve).collect()
}

/// The value and its text of each row of table `t`, decoded from a binary copy.
async fn copy_both(client: &Client, r#type: &ColumnType) -> (ArrayRef, ArrayRef, Vec<Option<String>>) {
    let value = if r#type.needs_text() { "v::text" } else { "v" };
    // A cast to text is not the text output for bool, char(n) and inet; what format() writes is.
    let shown = "CASE WHEN v IS NULL THEN NULL ELSE format('%s', v) END";
    let sql = format!("COPY (SELECT {value}, {shown} FROM t ORDER BY i) TO STDOUT (FORMAT binary)");
    let stream = client.copy_out(&sql).await.unwrap();
    pin_mut!(stream);
    let (mut binary, mut text) = (ColumnBuilder::new(r#type), ColumnBuilder::new(r#type));
    let mut texts = Vec::new();
    let mut decoder = CopyDecoder::new(2);
    while let Some(piece) = stream.next().await {
        let piece = piece.unwrap();
        let mut take = |fields: &[Option<&[u8]>]| {
            let (Some(wire), Some(shown)) = (fields[0], fields[1]) else {
                binary.append_null();
                text.append_null();
                return texts.push(None);
            };
            texts.push(Some(String::from_utf8(shown.to_vec()).unwrap()));
            let appended = if r#type.needs_text() {
                binary.append_text(wire)
            } else {
                binary.append_binary(wire)
            };
            appended.unwrap_or_else(|error| panic!("{} {texts:?}: {error}", r#type.name()));
            text.append_text(shown)
                .unwrap_or_else(|error| panic!("{} {texts:?}: {error}", r#type.name()));
        };
        let fed = decoder.feed([&piece[..]], |rows| {
            (0..rows.len()).for_each(|row| take(rows.row(row)));
            Ok::<_, ProtocolError>(())
        });
        fed.unwrap();
    }
    decoder.finish().unwrap();
    (binary.finish(), text.finish(), texts)
}

async fn check(client: &Client, name: &str, arrow: &DataType, literals: &[&str]) {
    let quoted = literals
        .iter()
        .map(|literal| format!("('{}')", literal.replace('\'', "''")));
    let values = quoted.collect::<Vec<_>>().join(",");
    let sql = format!(
        "DROP TABLE IF EXISTS t; CREATE TABLE t (i int GENERATED ALWAYS AS IDENTITY, v {name}); \
         INSERT INTO t (v) VALUES {values}, (NULL);"
    );
    if let Err(error) = client.batch_execute(&sql).await {
        let message = format!("{error:?}");
        assert!(message.contains("built with libxml"), "{sql}: {message}");
        return say_skipped(&format!("this PostgreSQL was built without {name}")).unwrap();
    }
    let r#type = column_types(client, "t").await.remove(1).1;
    assert_eq!(r#type.arrow(), *arrow, "{name}");
    let (binary, text, shown) = copy_both(client, &r#type).await;
    assert_eq!(binary.len(), literals.len() + 1);
    assert_eq!(binary.null_count(), 1);
    assert_eq!(binary.as_ref(), text.as_ref(), "{name}: {shown:?}");
    if *arrow == DataType::Utf8 {
        let decoded: Vec<_> = binary
            .as_string::<i32>()
            .iter()
            .map(|value| value.map(str::to_owned))
            .collect();
        assert_eq!(decoded, shown, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_real_server_s_values_are_decoded_exactly() {
    let cluster = TestCluster::new().unwrap();
    let client = connect(&cluster).await;
    client.batch_execute(SETUP).await.unwrap();

    let utc = DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into()));
    check(
        &client,
        "timestamptz",
        &utc,
        &["2024-02-29 12:34:56.789+02", "0044-03-15 01:00:00+00 BC", "-infinity"],
    )
    .await;
    for (name, arrow, literals) in MATRIX {
        check(&client, name, arrow, literals).await;
    }
    for (name, element, literals) in LISTS {
        let list = DataType::List(Arc::new(arrow_schema::Field::new_list_field(element.clone(), true)));
        check(&client, name, &list, literals).await;
    }

    // Both formats could be wrong together: the server's own arithmetic says they are not.
    let types = ["int8", "date", "timestamp", "numeric(38,6)"];
    let sql = "DROP TABLE t; CREATE TABLE t (id int8, d date, ts timestamp, n numeric(38,6)); \
         INSERT INTO t SELECT g, d, ts, extract(epoch FROM ts)::numeric(38,6) FROM generate_series(1, 3000) g, \
         LATERAL (SELECT '0099-01-01 BC'::date + g * 479, '0099-01-01 BC'::timestamp + g * interval '479 days 1.000001 s') x(d, ts)";
    client.batch_execute(sql).await.unwrap();
    let columns = column_types(&client, "t").await;
    assert_eq!(columns.len(), types.len());
    let batch = copy_table(&client, "SELECT id, d, ts, n FROM t ORDER BY id", columns).await;
    let days = rows(&client, "SELECT d - '1970-01-01'::date FROM t ORDER BY id").await;
    let dates = batch.rows().column(1).as_primitive::<Date32Type>();
    let times = batch.rows().column(2).as_primitive::<TimestampMicrosecondType>();
    let numbers = batch.rows().column(3).as_primitive::<Decimal128Type>();
    for (row, day) in days.iter().enumerate() {
        assert_eq!(dates.value(row).to_string(), *day[0].as_ref().unwrap());
        assert_eq!(i128::from(times.value(row)), numbers.value(row));
    }
    assert_eq!(batch.rows().column(0).as_primitive::<Int64Type>().value(2999), 3000);
}

async fn copy_table(client: &Client, query: &str, columns: Vec<(String, ColumnType)>) -> millstream_core::ChangeBatch {
    let mut decoder = table_decoder(columns, &["id"], false);
    let stream = client
        .copy_out(&format!("COPY ({query}) TO STDOUT (FORMAT binary)"))
        .await
        .unwrap();
    pin_mut!(stream);
    let mut copy = CopyDecoder::new(decoder.types().len());
    while let Some(piece) = stream.next().await {
        copy.feed([&piece.unwrap()[..]], |rows| {
            decoder.copy("0000000000000001", &vec![0; rows.len()], &rows)
        })
        .unwrap();
    }
    copy.finish().unwrap();
    assert!(decoder.finish_rejects().unwrap().is_none());
    decoder.finish().unwrap().unwrap()
}

fn table_decoder(columns: Vec<(String, ColumnType)>, key: &[&str], before_image: bool) -> TableDecoder {
    let (fields, types): (Vec<_>, Vec<_>) = columns
        .into_iter()
        .map(|(name, r#type)| (r#type.field(&name), r#type))
        .unzip();
    let schema = TableSchema {
        id: TableId::new("shop", Some("public"), "changes"),
        columns: Arc::new(Schema::new(fields)),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        not_null: Vec::new(),
        before_image,
    };
    TableDecoder::new(Arc::new(schema), types, PartitionId::new("shop", "wal"))
}

/// The messages of the slot `s`, as the walsender would send them.
async fn messages(client: &Client, binary: bool) -> Vec<Vec<u8>> {
    let sql = format!(
        "SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL, \
         'proto_version', '1', 'publication_names', 'p', 'binary', '{binary}')"
    );
    let hex = |row: &Vec<Option<String>>| -> Vec<u8> {
        let text = row[0].as_ref().unwrap();
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    };
    rows(client, &sql).await.iter().map(hex).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_real_server_s_changes_are_decoded_in_both_modes() {
    let cluster = TestCluster::new().unwrap();
    let client = connect(&cluster).await;
    let sql = "CREATE TABLE changes (id int PRIMARY KEY, note text, amount numeric(8,2)); \
         ALTER TABLE changes ALTER note SET STORAGE EXTERNAL; \
         CREATE PUBLICATION p FOR TABLE changes;";
    client.batch_execute(sql).await.unwrap();
    for statement in [
        "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
        "INSERT INTO changes VALUES (1, repeat('x', 9000), 1.5), (2, NULL, 'NaN')",
        "UPDATE changes SET amount = 2.5 WHERE id = 1",
        "UPDATE changes SET id = 3 WHERE id = 1",
        "ALTER TABLE changes REPLICA IDENTITY FULL",
        "UPDATE changes SET amount = 3 WHERE id = 3",
        "DELETE FROM changes WHERE id = 3",
        "TRUNCATE changes",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let columns = column_types(&client, "changes").await;
    for binary in [false, true] {
        let mut decoder = table_decoder(columns.clone(), &["id"], true);
        let (mut committed_at, mut transactions, mut relations) = (0, 0, 0);
        for message in messages(&client, binary).await {
            let position = "0000000000000001";
            let context = ChangeContext {
                position,
                ordinal: 0,
                committed_at: Some(committed_at),
            };
            match pgoutput::parse(&message).unwrap() {
                Message::Begin(begin) => committed_at = begin.committed_at,
                Message::Commit(commit) => {
                    assert_eq!(commit.committed_at, committed_at);
                    transactions += 1;
                }
                Message::Relation(relation) => {
                    relations += 1;
                    let names: Vec<_> = relation.columns().map(|column| column.name.to_owned()).collect();
                    assert_eq!(names, ["id", "note", "amount"]);
                }
                Message::Insert { new, .. } => drop(decoder.insert(&context, &new).unwrap()),
                Message::Update { old, new, .. } => drop(decoder.update(&context, old.as_ref(), &new).unwrap()),
                Message::Delete { old, .. } => drop(decoder.delete(&context, &old).unwrap()),
                Message::Truncate { relations } => {
                    assert_eq!(relations.iter().count(), 1);
                    decoder.truncate(&context).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(transactions, 6);
        assert!(
            relations >= 2,
            "one before the first row, one after the table was altered"
        );
        let batch = decoder.finish().unwrap().unwrap();
        let ops: Vec<_> = batch.ops().iter().flatten().collect();
        assert_eq!(ops, ["c", "u", "d", "c", "u", "d", "t"]);
        let notes = batch.rows().column(1).as_string::<i32>();
        let long: Vec<_> = (0..7)
            .map(|row| notes.is_valid(row) && notes.value(row).len() == 9000)
            .collect();
        // The update and the moved row lack it; with the full identity it is resolved.
        assert_eq!(long, [true, false, false, false, true, true, false]);
        let unchanged = batch.rows().column_by_name("__unchanged").unwrap();
        assert_eq!(
            (0..7).filter(|row| unchanged.is_valid(*row)).collect::<Vec<_>>(),
            [1, 3]
        );
        let amounts = batch.rows().column(2).as_primitive::<Decimal128Type>();
        assert_eq!(
            amounts.iter().collect::<Vec<_>>(),
            [150, 250, 0, 250, 300, 300, 0].map(|n| (n > 0).then_some(n))
        );
        let before = batch.rows().column_by_name("__before").unwrap();
        assert_eq!((0..7).filter(|row| before.is_valid(*row)).collect::<Vec<_>>(), [4, 5]);

        let rejects = decoder.finish_rejects().unwrap().unwrap();
        let raw = rejects
            .rows()
            .column_by_name("raw")
            .unwrap()
            .as_binary::<i32>()
            .value(0)
            .to_vec();
        assert_eq!(
            String::from_utf8(raw).unwrap(),
            r#"{"__op":"c","id":"2","note":null,"amount":"NaN"}"#
        );
        assert_eq!(rejects.num_rows(), 1);
    }
}
