//! Uniqueness among the rows that are alive in an epoch.
//!
//! A stream may create, delete and create one key again, so values are followed, not counted:
//! a create or an update takes its value, a delete or a truncate frees it, and an update that
//! moves a row to another value frees the old one. A row fails if its value is held by another.
//! In a table without a key rows only come, so that nothing is freed there.
//!
//! A row that a copy read stands at the place in the log that it was read as of, and may come
//! after changes with later places, or once more as of a later place. So rows of a copy are held
//! against those of the same reading, and changes against changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_buffer::BooleanBuffer;
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::ArrowError;
use millstream_core::{Op, TableSchema, envelope};

use crate::float::{self, Zeros};

/// How many values, and how many rows with a value, an epoch may hold before uniqueness is no
/// longer verified. A map of this many takes 35 MB; there are two unless the unique columns are
/// the table's key, or it has none.
pub(super) const MAX_VALUES: usize = 900_000;

/// The columns that must be unique, and those that tell one row from another.
#[derive(Debug)]
pub(super) struct UniqueTest {
    pub(super) reason: std::sync::Arc<str>,
    names: Vec<String>,
    columns: Vec<usize>,
    values: RowConverter,
    identity: Identity,
}

/// How rows are told apart.
#[derive(Debug)]
enum Identity {
    /// The table has no key: an update cannot be told from another row, and is not checked.
    None,
    /// The unique columns are the key, so an update never takes another row's value.
    Same,
    /// The table's key.
    Key {
        columns: Vec<usize>,
        converter: RowConverter,
    },
}

/// The values that rows of this epoch hold, as 128-bit hashes.
#[derive(Debug, Default)]
pub(super) struct UniqueState {
    /// Value to those who hold it.
    holders: HashMap<u128, Holders>,
    /// Row to the value that it holds; empty where the value is the row's identity.
    held: HashMap<u128, u128>,
    hashers: (RandomState, RandomState),
    /// Rows whose value could not be remembered.
    pub(super) unverified: u64,
}

/// Who holds a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Holders {
    /// Rows that were changed; several where a duplicate was let pass.
    rows: u32,
    /// The last reading of a copy that a row with the value came with, as a hash; 0 for none.
    reading: u32,
}

/// The values and identities of a batch, ready to be compared.
pub(super) struct Prepared {
    values: Rows,
    keys: Option<Rows>,
    /// Where each row stands in its partition.
    positions: StringArray,
    /// Rows with a NULL in a unique column, which equals nothing.
    null: BooleanBuffer,
}

impl UniqueTest {
    pub(super) fn new(names: &[String], columns: Vec<usize>, table: &TableSchema) -> Result<Self, ArrowError> {
        let converter = |columns: &[usize]| {
            let fields = columns
                .iter()
                .map(|index| SortField::new(table.columns.field(*index).data_type().clone()));
            RowConverter::new(fields.collect())
        };
        let mut key: Vec<usize> = table
            .key
            .iter()
            .filter_map(|name| table.columns.index_of(name).ok())
            .collect();
        key.sort_unstable();
        let mut sorted = columns.clone();
        sorted.sort_unstable();
        let identity = if key.is_empty() {
            Identity::None
        } else if key == sorted {
            Identity::Same
        } else {
            Identity::Key {
                converter: converter(&key)?,
                columns: key,
            }
        };
        let listed = names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let reason = match names {
            [_] => format!("unique: another row of the epoch holds the same value in column {listed}"),
            _ => format!("unique: another row of the epoch holds the same values in columns {listed}"),
        };
        Ok(Self {
            reason: reason.into(),
            names: names.to_vec(),
            values: converter(&columns)?,
            columns,
            identity,
        })
    }

    /// Names of the unique columns.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn prepare(&self, rows: &RecordBatch) -> Result<Prepared, ArrowError> {
        let pick = |columns: &[usize]| -> Vec<ArrayRef> {
            let picked = columns.iter().map(|index| rows.column(*index));
            picked.map(|column| float::normal(column, Zeros::Equal)).collect()
        };
        let columns = pick(&self.columns);
        let mut null = BooleanBuffer::new_unset(rows.num_rows());
        for nulls in columns.iter().filter_map(|column| column.logical_nulls()) {
            null = &null | &!nulls.inner();
        }
        let keys = match &self.identity {
            Identity::Key { columns, converter } => Some(converter.convert_columns(&pick(columns))?),
            Identity::None | Identity::Same => None,
        };
        let position = rows.schema().index_of(envelope::POSITION)?;
        Ok(Prepared {
            values: self.values.convert_columns(&columns)?,
            keys,
            positions: rows.column(position).as_string().clone(),
            null,
        })
    }

    /// Whether `row`, which is about to live, takes a value that another row holds. `None` if
    /// that cannot be told, or if its value is NULL.
    pub(super) fn clashes(&self, batch: &Prepared, row: usize, op: Op, state: &UniqueState) -> Option<bool> {
        if batch.null.value(row) || (matches!(self.identity, Identity::None) && op == Op::Update) {
            return None;
        }
        let (value, owner) = state.hashes(batch, row);
        let holders = state.holders.get(&value).copied().unwrap_or_default();
        if op == Op::Read {
            return Some(holders.reading == state.reading(batch, row));
        }
        let own = op == Op::Update
            && match self.identity {
                Identity::Key { .. } => state.held.get(&owner) == Some(&value),
                Identity::Same | Identity::None => true,
            };
        Some(holders.rows > u32::from(own))
    }

    /// Notes that `row` lives with its value.
    pub(super) fn admit(&self, batch: &Prepared, row: usize, op: Op, state: &mut UniqueState) {
        if matches!(self.identity, Identity::None) && op == Op::Update {
            return;
        }
        let (value, owner) = state.hashes(batch, row);
        let keyed = batch.keys.is_some() && op != Op::Read;
        if keyed {
            state.free(owner);
        }
        if batch.null.value(row) {
            return;
        }
        let new_value = !state.holders.contains_key(&value);
        if (new_value && state.holders.len() >= MAX_VALUES) || state.held.len() >= MAX_VALUES {
            state.unverified += 1;
            return;
        }
        let reading = (op == Op::Read).then(|| state.reading(batch, row));
        let holders = state.holders.entry(value).or_default();
        if let Some(reading) = reading {
            holders.reading = reading;
        } else if keyed {
            holders.rows += 1;
            state.held.insert(owner, value);
        } else {
            holders.rows = 1;
        }
    }

    /// Notes that `row` is gone, or no longer subject to the check.
    pub(super) fn release(&self, batch: &Prepared, row: usize, state: &mut UniqueState) {
        let (value, owner) = state.hashes(batch, row);
        match self.identity {
            Identity::Key { .. } => state.free(owner),
            Identity::Same => {
                state.holders.remove(&value);
            }
            // Whose value it was is not known.
            Identity::None => {}
        }
    }
}

impl UniqueState {
    /// Frees every value: the table was emptied.
    pub(super) fn empty(&mut self) {
        self.holders.clear();
        self.held.clear();
    }

    /// Forgets all rows, and gives the memory back.
    pub(super) fn clear(&mut self) {
        self.holders = HashMap::new();
        self.held = HashMap::new();
        self.unverified = 0;
    }

    fn free(&mut self, owner: u128) {
        if let Some(value) = self.held.remove(&owner)
            && let Entry::Occupied(mut holders) = self.holders.entry(value)
        {
            holders.get_mut().rows -= 1;
            if holders.get().rows == 0 && holders.get().reading == 0 {
                holders.remove();
            }
        }
    }

    /// The hashes of a row's value and of its identity.
    fn hashes(&self, batch: &Prepared, row: usize) -> (u128, u128) {
        let value = self.hash(batch.values.row(row).data());
        let owner = batch
            .keys
            .as_ref()
            .map_or(value, |keys| self.hash(keys.row(row).data()));
        (value, owner)
    }

    /// The reading that a row of a copy came with: what its position says before the place in
    /// the table.
    fn reading(&self, batch: &Prepared, row: usize) -> u32 {
        let position = batch.positions.value(row);
        let reading = position.split('/').next().unwrap_or_default();
        (self.hashers.0.hash_one(reading) as u32).max(1)
    }

    /// Two keyed 64-bit hashes: nobody can craft rows that collide.
    fn hash(&self, bytes: &[u8]) -> u128 {
        let (high, low) = (self.hashers.0.hash_one(bytes), self.hashers.1.hash_one(bytes));
        (u128::from(high) << 64) | u128::from(low)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::{DataType, Field, Schema};
    use millstream_core::TableId;

    use super::*;

    #[test]
    fn memory_has_a_bound_also_where_all_rows_hold_one_value() {
        let columns = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("email", DataType::Utf8, true),
        ]);
        let table = TableSchema {
            id: TableId::new("shop", None, "users"),
            columns: Arc::new(columns),
            key: vec!["id".to_owned()],
            not_null: Vec::new(),
            before_image: false,
        };
        let test = UniqueTest::new(&["email".to_owned()], vec![1], &table).unwrap();
        let mut state = UniqueState::default();
        let size = 50_000;
        let rows = MAX_VALUES as i64 + 2 * size;
        for first in (0..rows).step_by(size as usize) {
            let ids = Int64Array::from_iter_values(first..first + size);
            let emails = StringArray::from_iter_values((0..size).map(|_| "a"));
            let places = emails.clone();
            let position = Field::new(envelope::POSITION, DataType::Utf8, false);
            let fields = table.columns.fields().iter().cloned().chain([Arc::new(position)]);
            let schema = Schema::new(fields.collect::<Vec<_>>());
            let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(emails), Arc::new(places)];
            let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
            let prepared = test.prepare(&batch).unwrap();
            for row in 0..size as usize {
                test.admit(&prepared, row, Op::Create, &mut state);
            }
        }
        assert_eq!((state.holders.len(), state.held.len()), (1, MAX_VALUES));
        assert_eq!(state.unverified, 2 * size as u64);
        assert!(state.held.capacity() <= 1 << 20, "33 bytes for each");
    }
}
