//! A log of transactions in memory, and the tables that they amount to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_schema::{DataType, Field, Schema};
use millstream_core::{PartitionId, Position, TableId, TableSchema};
use proptest::prelude::*;
use tokio::sync::watch;

use crate::change_log::{Cells, FoldedTable};

/// A row of every table of a [`MemoryLog`]: `id` (Int64, the key), `value` (Int64) and `label` (Utf8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRow {
    /// The key.
    pub id: i64,
    /// A small column.
    pub value: Option<i64>,
    /// A column that an update may leave out, as PostgreSQL leaves out unchanged TOAST.
    pub label: Option<String>,
}

/// One change of a transaction; `table` counts from 0 in the order given to [`MemoryLog::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new row.
    Create(usize, MemoryRow),
    /// All columns of a row.
    Update(usize, MemoryRow),
    /// The `value` of the row `id`; the label is marked as not sent.
    UpdateValue(usize, i64, Option<i64>),
    /// The row with this key goes.
    Delete(usize, i64),
    /// All rows go.
    Truncate(usize),
    /// A row that cannot be decoded: sent as rejected, with these bytes.
    Poison(usize, Vec<u8>),
}

/// An append-only log of transactions over several tables, in one partition. Shared by the
/// sources that read it and the test that writes it; it outlives both.
#[derive(Debug)]
pub struct MemoryLog {
    name: String,
    tables: Vec<Arc<TableSchema>>,
    state: Mutex<LogState>,
    length: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct LogState {
    transactions: Vec<Arc<Vec<Change>>>,
    acknowledged: u64,
}

impl MemoryLog {
    /// An empty log of a source called `name`, with these tables.
    pub fn new(name: &str, tables: &[&str]) -> Arc<Self> {
        let tables = tables
            .iter()
            .map(|table| Arc::new(table_schema(TableId::new(name, None, table))))
            .collect();
        Arc::new(Self {
            name: name.to_owned(),
            tables,
            state: Mutex::default(),
            length: watch::Sender::new(0),
        })
    }

    /// The source's name in the pipeline.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tables' schemas.
    pub fn tables(&self) -> &[Arc<TableSchema>] {
        &self.tables
    }

    /// The one partition: `<name>/log`.
    pub fn partition(&self) -> PartitionId {
        PartitionId::new(&self.name, "log")
    }

    /// Appends a transaction and returns its number, from 1.
    pub fn commit(&self, changes: Vec<Change>) -> u64 {
        let mut state = self.lock();
        state.transactions.push(Arc::new(changes));
        let length = state.transactions.len() as u64;
        self.length.send_replace(length);
        length
    }

    /// How many transactions there are: the number of the last one.
    pub fn len(&self) -> u64 {
        *self.length.borrow()
    }

    /// Whether there is no transaction yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many changes transaction `number` has.
    pub fn transaction_len(&self, number: u64) -> usize {
        self.transaction(number).len()
    }

    /// The position after transaction `number`; [`Position::Beginning`] for 0.
    pub fn position(number: u64) -> Position {
        if number == 0 {
            Position::Beginning
        } else {
            Position::at(format!("{number:020}"))
        }
    }

    /// The greatest transaction that a source was told is durable: a real system would drop
    /// its log up to here.
    pub fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    /// The rows of `table` after transaction `number`.
    pub fn rows_at(&self, table: usize, number: u64) -> BTreeMap<i64, MemoryRow> {
        let mut rows = BTreeMap::new();
        for changes in &self.lock().transactions[..usize::try_from(number).expect("a length fits")] {
            for change in changes.iter() {
                apply(&mut rows, table, change);
            }
        }
        rows
    }

    /// What `table` must hold in the target once all is read.
    pub fn expected(&self, table: usize) -> FoldedTable {
        let rows = self.rows_at(table, self.len());
        rows.into_values()
            .map(|row| {
                let id = ("id".to_owned(), row.id.to_string());
                let cells = [
                    Some(id.clone()),
                    row.value.map(|value| ("value".to_owned(), value.to_string())),
                    row.label.map(|label| ("label".to_owned(), label)),
                ];
                (Cells::from([id]), cells.into_iter().flatten().collect())
            })
            .collect()
    }

    pub(crate) fn transaction(&self, number: u64) -> Arc<Vec<Change>> {
        self.lock().transactions[usize::try_from(number - 1).expect("a length fits")].clone()
    }

    pub(crate) fn watch_length(&self) -> watch::Receiver<u64> {
        self.length.subscribe()
    }

    pub(crate) fn acknowledge(&self, position: &Position) {
        if let Some(number) = position.ordered().and_then(|text| text.parse().ok()) {
            let mut state = self.lock();
            state.acknowledged = state.acknowledged.max(number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        // Every change of the state is one assignment, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(rows: &mut BTreeMap<i64, MemoryRow>, wanted: usize, change: &Change) {
    match change {
        Change::Create(table, row) | Change::Update(table, row) if *table == wanted => {
            rows.insert(row.id, row.clone());
        }
        Change::UpdateValue(table, id, value) if *table == wanted => {
            let row = rows.entry(*id).or_insert(MemoryRow {
                id: *id,
                value: None,
                label: None,
            });
            row.value = *value;
        }
        Change::Delete(table, id) if *table == wanted => {
            rows.remove(id);
        }
        Change::Truncate(table) if *table == wanted => rows.clear(),
        _ => {}
    }
}

fn table_schema(id: TableId) -> TableSchema {
    let columns = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("value", DataType::Int64, true),
        Field::new("label", DataType::Utf8, true),
    ];
    TableSchema {
        id,
        columns: Arc::new(Schema::new(columns)),
        key: vec!["id".to_owned()],
        not_null: vec!["id".to_owned()],
        before_image: false,
    }
}

/// Random transactions over `tables` tables that a real database could have made: rows are
/// created before they are updated, and deleted once. Few keys, so that they meet often.
pub fn transactions(tables: usize, most: usize) -> impl Strategy<Value = Vec<Vec<Change>>> {
    let intent = (0..tables, 0i64..12, 0u8..20, any::<Option<i16>>());
    let sizes = prop_oneof![8 => 1usize..6, 1 => 20usize..60];
    let transaction = sizes.prop_flat_map(move |size| proptest::collection::vec(intent.clone(), size));
    proptest::collection::vec(transaction, 1..=most).prop_map(move |intents| resolve(tables, intents))
}

/// A change as it is drawn: table, key, which operation, and the value if there is one.
type Intent = (usize, i64, u8, Option<i16>);

/// Turns wishes into changes that fit the rows there are.
fn resolve(tables: usize, intents: Vec<Vec<Intent>>) -> Vec<Vec<Change>> {
    let mut rows = vec![BTreeMap::new(); tables];
    let mut one = |(table, id, kind, value): (usize, i64, u8, Option<i16>)| {
        let value = value.map(i64::from);
        let row = MemoryRow {
            id,
            value,
            label: value.map(|value| format!("label {value}")),
        };
        let change = match (kind, rows[table].contains_key(&id)) {
            (0, _) => Change::Truncate(table),
            (1..=4, true) => Change::Delete(table, id),
            (5..=9, true) => Change::UpdateValue(table, id, value),
            (_, true) => Change::Update(table, row),
            (_, false) => Change::Create(table, row),
        };
        apply(&mut rows[table], table, &change);
        change
    };
    intents
        .into_iter()
        .map(|transaction| transaction.into_iter().map(&mut one).collect())
        .collect()
}
