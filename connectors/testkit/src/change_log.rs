//! Change logs as tests look at them: rows as named text cells, and the table they fold to.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use millstream_core::envelope;

/// The cells of a row by column name, as text. Null cells are left out, so that a row from
/// before a nullable column was added equals one in which it is null.
pub type Cells = BTreeMap<String, String>;

/// The rows of a table by the cells of their key.
pub type FoldedTable = BTreeMap<Cells, Cells>;

/// One change, read back from a batch. Ordered as the log is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeRow {
    /// The `__partition` column.
    pub partition: String,
    /// The `__position` column.
    pub position: String,
    /// The `__ordinal` column.
    pub ordinal: i64,
    /// The `__op` column.
    pub op: String,
    /// The user's columns.
    pub cells: Cells,
    /// The `__unchanged` column: columns that keep the value they had.
    pub unchanged: Vec<String>,
}

impl ChangeRow {
    /// What identifies a change: partition, position, ordinal.
    pub fn place(&self) -> (&str, &str, i64) {
        (&self.partition, &self.position, self.ordinal)
    }
}

/// The table that a change log amounts to: its changes applied by key in the order of
/// (position, ordinal, partition), whatever their order in `batches`. Columns in `__unchanged`
/// keep what the row had: the one with the same key, or for a `c` right behind a `d`, the one
/// that this removed. The rows of a copy stand among the changes at the position that they were
/// read as of. Of sources with several logs the keys must be apart.
///
/// # Panics
/// If a batch lacks a reserved column, or a change has no key.
pub fn fold(key: &[String], batches: &[RecordBatch]) -> FoldedTable {
    fold_rows(key, change_rows(batches))
}

/// As [`fold`], of rows that were read already.
///
/// # Panics
/// If a change other than a truncation has no key.
pub fn fold_rows(key: &[String], mut changes: Vec<ChangeRow>) -> FoldedTable {
    changes.sort_by(|a, b| (&a.position, a.ordinal, &a.partition).cmp(&(&b.position, b.ordinal, &b.partition)));
    let mut table = FoldedTable::new();
    // Columns whose values were left out and read again, which may be those of later rows.
    let mut read_again: BTreeMap<Cells, BTreeSet<String>> = BTreeMap::new();
    // The row that the last delete of a partition removed, and the place of a create that moves it.
    let mut removed: BTreeMap<String, (String, i64, Cells)> = BTreeMap::new();
    for ChangeRow {
        partition,
        position,
        ordinal,
        op,
        mut cells,
        unchanged,
    } in changes
    {
        if op == "t" {
            table.clear();
            read_again.clear();
            continue;
        }
        let id: Cells = key
            .iter()
            .filter_map(|name| cells.get(name).map(|cell| (name.clone(), cell.clone())))
            .collect();
        assert_eq!(id.len(), key.len(), "a change without its key");
        if op == "d" {
            let not_sent = read_again.remove(&id).unwrap_or_default();
            if let Some(mut row) = table.remove(&id) {
                row.retain(|name, _| !not_sent.contains(name));
                removed.insert(partition, (position, ordinal + 1, row));
            }
            continue;
        }
        let moved = removed
            .get(&partition)
            .filter(|(at, next, _)| op == "c" && (at, *next) == (&position, ordinal));
        let old = moved.map(|(.., row)| row).or_else(|| table.get(&id));
        let before = if moved.is_some() { None } else { read_again.get(&id) };
        let mut not_sent = BTreeSet::new();
        for name in unchanged {
            let was_read = before.is_some_and(|columns| columns.contains(&name));
            let cell = old.and_then(|row| row.get(&name));
            match cell {
                Some(cell) if !was_read => {
                    cells.insert(name, cell.clone());
                    continue;
                }
                Some(cell) => {
                    cells.entry(name.clone()).or_insert_with(|| cell.clone());
                }
                None => {}
            }
            not_sent.insert(name);
        }
        read_again.insert(id.clone(), not_sent);
        table.insert(id, cells);
    }
    table
}

/// The changes in `batches`, in their order there. The reserved columns may have any type that
/// shows as text, so that rows read back from files are taken as well; `__unchanged` may be absent.
///
/// # Panics
/// If a batch lacks one of the other reserved columns.
pub fn change_rows(batches: &[RecordBatch]) -> Vec<ChangeRow> {
    batches.iter().flat_map(rows_of).collect()
}

fn rows_of(batch: &RecordBatch) -> Vec<ChangeRow> {
    let options = FormatOptions::default();
    let schema = batch.schema_ref();
    let text = |name: &str| {
        let column = batch
            .column_by_name(name)
            .unwrap_or_else(|| panic!("no column {name} in {schema}"));
        ArrayFormatter::try_new(column.as_ref(), &options).expect("reserved columns can be shown as text")
    };
    let (partition, position) = (text(envelope::PARTITION), text(envelope::POSITION));
    let (ordinal, op) = (text(envelope::ORDINAL), text(envelope::OP));
    let user: Vec<_> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .filter(|(field, _)| !envelope::is_reserved(field.name()))
        .map(|(field, column)| {
            let shown = ArrayFormatter::try_new(column.as_ref(), &options).expect("every Arrow type has a text form");
            (field.name(), column, shown)
        })
        .collect();
    let unchanged = batch.column_by_name(envelope::UNCHANGED);
    (0..batch.num_rows())
        .map(|row| ChangeRow {
            partition: partition.value(row).to_string(),
            position: position.value(row).to_string(),
            ordinal: ordinal
                .value(row)
                .to_string()
                .parse()
                .expect("an ordinal is a whole number"),
            op: op.value(row).to_string(),
            cells: user
                .iter()
                .filter(|(_, column, _)| column.is_valid(row))
                .map(|(name, _, shown)| ((*name).clone(), shown.value(row).to_string()))
                .collect(),
            unchanged: unchanged
                .filter(|column| column.is_valid(row))
                .map_or_else(Vec::new, |column| {
                    let names = column.as_list::<i32>().value(row);
                    let names: &StringArray = names.as_string();
                    names.iter().flatten().map(str::to_owned).collect()
                }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(position: &str, op: &str, cells: &[(&str, &str)], unchanged: &[&str]) -> ChangeRow {
        ChangeRow {
            partition: "s/log".into(),
            position: position.into(),
            ordinal: 0,
            op: op.into(),
            cells: cells
                .iter()
                .map(|(name, cell)| ((*name).into(), (*cell).into()))
                .collect(),
            unchanged: unchanged.iter().map(|name| (*name).into()).collect(),
        }
    }

    #[test]
    fn the_fold_is_by_position_and_keeps_what_did_not_change() {
        let log = vec![
            change("3", "u", &[("id", "1"), ("v", "b")], &["body"]),
            change("1", "c", &[("id", "1"), ("v", "a"), ("body", "long")], &[]),
            change("2", "c", &[("id", "2"), ("v", "x")], &[]),
            change("4", "d", &[("id", "2")], &[]),
        ];
        let table = fold_rows(&["id".to_owned()], log);
        let rows: Vec<_> = table.values().cloned().collect();
        assert_eq!(
            rows,
            [change("", "", &[("id", "1"), ("v", "b"), ("body", "long")], &[]).cells]
        );
    }

    #[test]
    fn a_row_of_a_copy_stands_where_it_was_read_as_of() {
        let copied = ChangeRow {
            partition: "s/copy/t/7:0-9".into(),
            ..change("3/7/0", "r", &[("id", "1"), ("v", "old")], &[])
        };
        for (changed_at, expected) in [("3", "old"), ("4", "new")] {
            let changed = change(changed_at, "u", &[("id", "1"), ("v", "new")], &[]);
            let table = fold_rows(&["id".to_owned()], vec![changed, copied.clone()]);
            assert_eq!(table.into_values().next().unwrap()["v"], expected);
        }
    }

    #[test]
    fn a_moved_row_keeps_what_did_not_change() {
        let at = |ordinal: i64, change: ChangeRow| ChangeRow { ordinal, ..change };
        let body = [("id", "1"), ("body", "long")];
        let log = |between: i64| {
            vec![
                change("1", "c", &body, &[]),
                at(4, change("2", "d", &[("id", "1")], &[])),
                at(4 + between, change("2", "c", &[("id", "2")], &["body"])),
            ]
        };
        let key = ["id".to_owned()];
        let moved = change("", "", &[("id", "2"), ("body", "long")], &[]).cells;
        assert_eq!(fold_rows(&key, log(1)).into_values().collect::<Vec<_>>(), [moved]);
        // Only the delete just before it is the other half of a move.
        let apart = change("", "", &[("id", "2")], &[]).cells;
        assert_eq!(fold_rows(&key, log(2)).into_values().collect::<Vec<_>>(), [apart]);
    }

    #[test]
    fn a_truncation_empties_the_table() {
        let log = vec![change("1", "c", &[("id", "1")], &[]), change("2", "t", &[], &[])];
        assert!(fold_rows(&["id".to_owned()], log).is_empty());
    }
}
