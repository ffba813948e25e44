//! The statement that reads rows of a table by their keys.

use std::fmt::Write as _;

use postgres_protocol::escape::escape_identifier;

use super::Incomplete;
use crate::catalog::{self, CatalogTable};
use crate::decode::gaps::KeyValue;
use crate::wire::Parameter;

/// Columns of the result before those of the table: the key's number, and whether there is a row.
pub(super) const BEFORE_COLUMNS: usize = 2;

/// The statement for `keys` keys of the published rows of `table`.
///
/// Each key is looked up by itself and in order, because a subquery with a limit is neither
/// merged with the rest nor run once for all: the rows come by ascending numbers, one with the
/// number alone for a key that is not there, two for one that is there twice.
pub(super) fn statement(table: &CatalogTable, incomplete: &Incomplete, columns: &[usize], keys: usize) -> String {
    let shape = &incomplete.shape;
    let names: Vec<String> = shape
        .columns
        .iter()
        .map(|column| escape_identifier(&column.name))
        .collect();
    let key: Vec<&String> = names
        .iter()
        .zip(&shape.columns)
        .filter(|(_, column)| column.key)
        .map(|(name, _)| name)
        .collect();
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
    for (number, name) in key.iter().enumerate() {
        let _ = write!(labels, ", k{number}");
        conditions.push(format!("{name} = millstream_keys.k{number}"));
    }
    for (number, column) in columns.iter().enumerate() {
        let _ = write!(wanted, ", {} AS c{number}", names[*column]);
        let _ = write!(result, ", millstream_rows.c{number}");
    }
    // The line's end closes a comment.
    conditions.extend(table.row_filter.iter().map(|filter| format!("({filter}\n)")));
    let only = if table.kind == "p" { "" } else { "ONLY " };
    format!(
        "SELECT millstream_keys.n, millstream_rows.found{result} FROM (VALUES {rows}) AS millstream_keys(n{labels}) \
         LEFT JOIN LATERAL (SELECT true AS found{wanted} FROM {only}{} WHERE {} LIMIT 2) AS millstream_rows ON true",
        catalog::quoted(&table.id),
        conditions.join(" AND ")
    )
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
