//! Which changes of a table's columns leave older rows behind.

use std::collections::BTreeSet;

use crate::owed::Why;
use crate::shape::Shape;

/// Why a table is owed a copy whose columns changed; `None` where the stream tells what became of
/// older rows. It does not tell what a column that is added holds in them, nor that another was
/// renamed or has the name of another now, nor what values became that were converted. A column that is dropped owes nothing.
pub(super) fn owes_copy(before: &Shape, after: &Shape) -> Option<Why> {
    if key(before) != key(after) {
        return Some(Why::KeyChanged);
    }
    let known = |column: &&crate::catalog::CatalogColumn| {
        let typed = (column.type_oid, column.typmod);
        before
            .columns
            .iter()
            .any(|known| known.name == column.name && (known.type_oid, known.typmod) == typed)
    };
    let is_told =
        after.columns.iter().all(|column| known(&column)) && after.under_others_names_of(before).next().is_none();
    (!is_told).then_some(Why::Changed)
}

fn key(shape: &Shape) -> BTreeSet<&str> {
    let key = shape.columns.iter().filter(|column| column.key);
    key.map(|column| column.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use millstream_core::TableId;

    use super::*;
    use crate::catalog::{CatalogColumn, ReplicaIdentity};
    use crate::decode::Forms;

    /// Columns as `name:type`, with a `*` where they are part of the key.
    fn shape(columns: &str) -> Shape {
        let columns = columns.split_whitespace().map(|column| {
            let (name, type_oid) = column.split_once(':').unwrap();
            CatalogColumn {
                attnum: None,
                name: name.trim_end_matches('*').to_owned(),
                type_oid: type_oid.parse().unwrap(),
                typmod: -1,
                type_name: String::new(),
                not_null: false,
                key: name.ends_with('*'),
            }
        });
        Shape {
            id: TableId::new("shop", Some("public"), "orders"),
            identity: ReplicaIdentity::Default,
            columns: columns.collect(),
            forms: Forms::default(),
        }
    }

    #[test]
    fn a_name_that_belongs_to_another_column_is_owed() {
        let (mut before, mut after) = (shape("id*:23 a:25 b:25"), shape("id*:23 a:25 b:25"));
        // The last was dropped, and another added in its name.
        for (shape, numbers) in [(&mut before, [1, 2, 3]), (&mut after, [1, 2, 4])] {
            for (column, number) in shape.columns.iter_mut().zip(numbers) {
                column.attnum = Some(number);
            }
        }
        assert_eq!(owes_copy(&before, &after), Some(Why::Changed));
        assert_eq!(owes_copy(&before, &before.clone()), None);
    }

    #[test]
    fn what_the_stream_does_not_tell_of_older_rows_is_owed() {
        let before = shape("id*:23 note:25 amount:23");
        for (after, owes) in [
            ("id*:23 note:25 amount:23", None),
            ("id*:23 note:25", None),
            ("id*:23 note:25 amount:23 more:25", Some(Why::Changed)),
            ("id*:23 note:25 total:23", Some(Why::Changed)),
            ("id*:23 note:25 amount:20", Some(Why::Changed)),
            ("id:23 note*:25 amount:23", Some(Why::KeyChanged)),
            ("id:23 note:25 amount:23", Some(Why::KeyChanged)),
        ] {
            assert_eq!(owes_copy(&before, &shape(after)), owes, "{after}");
        }
    }
}
