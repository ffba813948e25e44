//! The statement that reads rows of a table by their keys.

use std::fmt::Write as _;

use postgres_protocol::escape::escape_identifier;

use super::readable::Readable;
use crate::catalog::{self, CatalogColumn};
use crate::decode::gaps::KeyValue;
use crate::shape::Shape;
use crate::wire::Parameter;

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
    // Qualified, so that a column that is gone is missed and not taken for one of the keys.
    let qualified = |column: &CatalogColumn| format!("millstream_table.{}", escape_identifier(&column.name));
    for (number, column) in key.iter().enumerate() {
        let (name, equals) = (qualified(column), readable.equals(column));
        let _ = write!(labels, ", k{number}");
        conditions.push(format!("{name} {equals} millstream_keys.k{number}"));
    }
    for (number, column) in columns.iter().enumerate() {
        let name = qualified(readable.present(&shape.columns[*column])?);
        let _ = write!(wanted, ", {name} AS c{number}");
        let _ = write!(result, ", millstream_rows.c{number}");
    }
    conditions.extend(table.row_filter.iter().map(|filter| format!("({filter})")));
    let only = if table.kind == "p" { "" } else { "ONLY " };
    Some(format!(
        "SELECT millstream_keys.n, millstream_rows.found{result} FROM (VALUES {rows}) AS millstream_keys(n{labels}) \
         LEFT JOIN LATERAL (SELECT true AS found{wanted} FROM {only}{} AS millstream_table WHERE {} LIMIT 2) AS millstream_rows ON true",
        catalog::quoted(&table.present),
        conditions.join(" AND ")
    ))
}

/// The values of its parameters.
pub(super) fn parameters<'a>(readable: &Readable, shape: &Shape, keys: &[&'a [KeyValue]]) -> Vec<Parameter<'a>> {
    let types: Vec<u32> = shape
        .columns
        .iter()
        .filter(|column| column.key)
        .map(|column| readable.sent_as(column).0)
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
