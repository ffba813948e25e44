//! The statement that reads rows of a table by their keys.

use std::collections::HashMap;
use std::fmt::Write as _;

use postgres_protocol::escape::escape_identifier;

use super::{Incomplete, Readable};
use crate::catalog::{self, CatalogColumn, CatalogTable, ReplicaIdentity};
use crate::decode::gaps::KeyValue;
use crate::shape::Shape;
use crate::wire::{Connection, Parameter, Row, WireError};

/// How columns are compared of which the index does not say it.
const EQUALS: &str = "OPERATOR(pg_catalog.=)";

/// Columns of the result before those of the table: the key's number, and whether there is a row.
pub(super) const BEFORE_COLUMNS: usize = 2;

/// The statement for `keys` keys of the published rows of a table, and `columns` of the shape;
/// nothing if a column of the key is no longer there.
///
/// Each key is looked up by itself and in order, because a subquery with a limit is neither
/// merged with the rest nor run once for all: the rows come by ascending numbers, one with the
/// number alone for a key that is not there, two for one that is there twice.
pub(super) fn statement(readable: &Readable, shape: &Shape, columns: &[usize], keys: usize) -> Option<String> {
    let table = &readable.table;
    let key: Vec<&CatalogColumn> = shape
        .columns
        .iter()
        .filter(|column| column.key)
        .map(|column| readable.present(column))
        .collect::<Option<_>>()?;
    let (mut rows, mut parameter) = (String::new(), 0);
    for number in 0..keys {
        let separator = if number == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(rows, "{separator}({number}");
        for _ in &key {
            parameter += 1;
            let _ = write!(rows, ", ${parameter}");
        }
        rows.push(')');
    }
    let (mut labels, mut wanted, mut result) = (String::new(), String::new(), String::new());
    let mut conditions = Vec::new();
    for (number, column) in key.iter().enumerate() {
        let name = escape_identifier(&column.name);
        let equals = readable.equals.get(&column.name).map_or(EQUALS, String::as_str);
        let _ = write!(labels, ", k{number}");
        conditions.push(format!("{name} {equals} millstream_keys.k{number}"));
    }
    for (number, column) in columns.iter().enumerate() {
        let name = escape_identifier(&readable.present(&shape.columns[*column])?.name);
        let _ = write!(wanted, ", {name} AS c{number}");
        let _ = write!(result, ", millstream_rows.c{number}");
    }
    // The line's end closes a comment.
    conditions.extend(table.row_filter.iter().map(|filter| format!("({filter}\n)")));
    let only = if table.kind == "p" { "" } else { "ONLY " };
    Some(format!(
        "SELECT millstream_keys.n, millstream_rows.found{result} FROM (VALUES {rows}) AS millstream_keys(n{labels}) \
         LEFT JOIN LATERAL (SELECT true AS found{wanted} FROM {only}{} WHERE {} LIMIT 2) AS millstream_rows ON true",
        catalog::quoted(&table.id),
        conditions.join(" AND ")
    ))
}

/// By column of the key's index: the operator by which it is unique, which need not be in reach
/// of the search path, as that of citext.
pub(super) async fn read_equals(
    sql: &mut Connection,
    table: &CatalogTable,
) -> Result<HashMap<String, String>, WireError> {
    // Strategy 3 of a B-tree is equality.
    let query = format!(
        "SELECT a.attname, pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[])) AS k(attnum, opclass) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         JOIN pg_catalog.pg_opclass c ON c.oid = k.opclass \
         JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3 \
         AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype \
         JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace \
         WHERE i.indrelid = {} AND {}",
        table.oid,
        if table.identity == ReplicaIdentity::Index {
            "i.indisreplident"
        } else {
            "i.indisprimary"
        },
    );
    let rows = sql.query(&query).await?;
    let named = |row: &Row| Some((row.get(0)?.to_owned(), row.get(1)?.to_owned()));
    Ok(rows.iter().filter_map(named).collect())
}

/// The values of its parameters.
pub(super) fn parameters<'a>(incomplete: &Incomplete, keys: &[&'a [KeyValue]]) -> Vec<Parameter<'a>> {
    let types: Vec<u32> = incomplete
        .shape
        .columns
        .iter()
        .filter(|column| column.key)
        .map(|column| column.type_oid)
        .collect();
    let values = keys.iter().flat_map(|key| types.iter().zip(*key));
    let parameter = |(type_oid, value): (&u32, &'a KeyValue)| {
        let (binary, bytes) = match value {
            KeyValue::Text(text) => (false, text),
            KeyValue::Binary(bytes) => (true, bytes),
        };
        Parameter {
            type_oid: *type_oid,
            binary,
            bytes,
        }
    };
    values.map(parameter).collect()
}
