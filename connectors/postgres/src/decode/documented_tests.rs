//! The table of types in `docs/reference/postgres-types.md` says what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use arrow_schema::DataType;

use super::fuzzing::catalog;
use super::{ColumnType, built_in};

/// A file of the repository, read when the test runs.
fn text_of(path: &str) -> String {
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let path = PathBuf::from(crate_folder).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page() -> String {
    text_of("docs/reference/postgres-types.md")
}

/// The rows of the table: the types that are named, and the other cells.
fn documented() -> Vec<(Vec<String>, Vec<String>)> {
    let page = page();
    let table = page
        .lines()
        .skip_while(|line| !line.starts_with("| PostgreSQL | Arrow | Parquet"))
        .skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells: Vec<String> = line
            .trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect();
        let names = cells[0].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (names, cells)
    })
    .collect()
}

/// OID and typmod by the name in the table.
fn known() -> BTreeMap<String, (u32, i32)> {
    let aliases = [
        ("bool", "boolean"),
        ("int2", "smallint"),
        ("int4", "integer"),
        ("int8", "bigint"),
        ("float4", "real"),
        ("float8", "double precision"),
        ("bpchar", "char(n)"),
    ];
    let mut known = BTreeMap::new();
    for oid in 1..16_384 {
        let Some((_, name)) = built_in::form(oid, -1).filter(|(_, name)| !name.ends_with("[]")) else {
            continue;
        };
        let alias = aliases.iter().find(|(internal, _)| *internal == name);
        known.insert(alias.map_or(name, |(_, alias)| (*alias).to_owned()), (oid, -1));
    }
    for (precision, scale) in [(10, 2), (76, 30), (100, 2)] {
        known.insert(
            format!("numeric({precision},{scale})"),
            (1700, (precision << 16 | scale) + 4),
        );
    }
    let extensions = catalog().into_values().filter(|found| found.extension.is_some());
    known.extend(extensions.map(|found| (found.name, (found.oid, -1))));
    known.insert("money".to_owned(), (790, -1));
    known.insert("regclass".to_owned(), (2205, -1));
    known.insert("regtype".to_owned(), (2206, -1));
    known.insert("geography".to_owned(), known["geometry"]);
    known
}

/// How the table writes an Arrow type, and how Parquet stores it.
fn written(arrow: &DataType) -> (String, &'static str) {
    let (name, parquet) = match arrow {
        DataType::Boolean => ("Boolean", "BOOLEAN"),
        DataType::Int16 => ("Int16", "INT32 (INT 16)"),
        DataType::Int32 => ("Int32", "INT32"),
        DataType::Int64 => ("Int64", "INT64"),
        DataType::Float32 => ("Float32", "FLOAT"),
        DataType::Float64 => ("Float64", "DOUBLE"),
        DataType::Utf8 => ("Utf8", "BYTE_ARRAY (STRING)"),
        DataType::Binary => ("Binary", "BYTE_ARRAY"),
        DataType::Date32 => ("Date32", "INT32 (DATE)"),
        DataType::Time64(_) => ("Time64(µs)", "INT64 (TIME)"),
        DataType::Timestamp(_, None) => ("Timestamp(µs)", "INT64 (TIMESTAMP)"),
        DataType::Timestamp(_, Some(_)) => ("Timestamp(µs, UTC)", "INT64 (TIMESTAMP, UTC)"),
        DataType::List(element) if *element.data_type() == DataType::Float32 => ("List<Float32>", "LIST of FLOAT"),
        DataType::Decimal128(precision, scale) => {
            let parquet = "INT32, INT64 or FIXED_LEN_BYTE_ARRAY (DECIMAL)";
            return (format!("Decimal128({precision}, {scale})"), parquet);
        }
        DataType::Decimal256(precision, scale) => {
            return (
                format!("Decimal256({precision}, {scale})"),
                "FIXED_LEN_BYTE_ARRAY (DECIMAL)",
            );
        }
        other => panic!("the table has no {other}"),
    };
    (name.to_owned(), parquet)
}

#[test]
fn every_row_of_the_table_is_what_the_code_does() {
    let (known, catalog) = (known(), catalog());
    for (names, cells) in documented() {
        for name in names {
            let (oid, typmod) = *known.get(&name).unwrap_or_else(|| panic!("the table names {name}"));
            let found = ColumnType::resolve(oid, typmod, &catalog);
            let (arrow, parquet) = written(&found.arrow());
            assert_eq!(
                (cells[1].as_str(), cells[2].as_str()),
                (arrow.as_str(), parquet),
                "{name}"
            );
            assert_eq!(found.needs_text_stream(), cells[3] == "text mode", "{name}");
        }
    }
}

#[test]
fn the_table_has_every_type_that_is_known() {
    let named: BTreeSet<String> = documented().into_iter().flat_map(|(names, _)| names).collect();
    let missing: Vec<_> = known().into_keys().filter(|name| !named.contains(name)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_tests_that_show_it_are_there() {
    let files =
        ["mod.rs", "debezium.rs"].map(|file| text_of(&format!("connectors/postgres/tests/server/types/{file}")));
    let tests = files.concat();
    let page = page();
    let named = page.split('`').filter(|code| code.contains("_the_server_shows_"));
    let mut count = 0;
    for name in named {
        assert!(tests.contains(&format!("async fn {name}()")), "{name}");
        count += 1;
    }
    assert_eq!(count, 4);
}
