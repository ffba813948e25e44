//! Random streams of changes that a real table could have made, and the rows they leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Schema};
use millstream_core::{ChangeBatch, EnvelopeBuilder, Op, PartitionId, TableId, TableSchema};
use proptest::prelude::*;

/// A row beside its key `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub grp: Option<i64>,
    pub val: Option<i64>,
    pub name: Option<String>,
}

/// What is wished for; [`Stream::of`] makes of it what is possible.
#[derive(Debug, Clone)]
pub struct Wish {
    table: usize,
    id: i64,
    /// 0 truncates, 1 to 3 delete, 4 and 5 write under another key, others write.
    kind: u8,
    row: Row,
    /// An update, also one of the key, leaves `name` as it is, and does not send it.
    keeps_name: bool,
}

pub fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let ends = proptest::sample::select(vec![i64::MIN, i64::MIN / 2, i64::MAX / 2 + 1, i64::MAX - 1, i64::MAX]);
    let number = proptest::option::weighted(0.8, prop_oneof![6 => -3i64..20, 1 => ends]);
    let name = proptest::option::weighted(0.8, proptest::sample::select(vec!["x", "y", "ß", ""]));
    let row = (proptest::option::weighted(0.8, 0i64..4), number, name).prop_map(|(grp, val, name)| Row {
        grp,
        val,
        name: name.map(str::to_owned),
    });
    let wish = (0usize..2, 0i64..8, 0u8..24, row, any::<bool>()).prop_map(|(table, id, kind, row, keeps_name)| Wish {
        table,
        id,
        kind,
        row,
        keeps_name,
    });
    proptest::collection::vec(wish, 1..60)
}

/// What a stream may hold.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Updates and deletes carry the row before.
    pub before_image: bool,
    /// Updates may leave out `name`.
    pub unsent: bool,
    /// Tables may be truncated.
    pub truncates: bool,
    /// How many of the two tables there are.
    pub tables: usize,
    /// As from Kafka: rows are written and deleted whether they are there or not.
    pub upserts: bool,
}

struct Change {
    table: usize,
    /// Position and ordinal. Three changes share a position, as in a transaction, or four if
    /// the last two are those of a moved row.
    place: (usize, i64),
    op: Op,
    id: Option<i64>,
    after: Option<Row>,
    before: Option<Row>,
    keeps_name: bool,
}

/// Changes of `shop.t` and `shop.u`, and the rows that they leave.
pub struct Stream {
    changes: Vec<Change>,
    position: usize,
    ordinal: i64,
    before_image: bool,
    left: [BTreeMap<i64, Row>; 2],
}

pub fn schema(table: usize, before_image: bool) -> Arc<TableSchema> {
    let columns = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("grp", DataType::Int64, true),
        Field::new("val", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ];
    Arc::new(TableSchema {
        id: TableId::new("shop", None, ["t", "u"][table]),
        columns: Arc::new(Schema::new(columns)),
        key: vec!["id".to_owned()],
        not_null: vec!["id".to_owned()],
        before_image,
    })
}

impl Stream {
    pub fn of(wishes: &[Wish], shape: Shape) -> Self {
        let mut stream = Self {
            changes: Vec::new(),
            position: 0,
            ordinal: 0,
            before_image: shape.before_image,
            left: Default::default(),
        };
        for (number, wish) in wishes.iter().enumerate() {
            if wish.table < shape.tables {
                stream.fulfil(wish, shape, number < 5);
            }
        }
        stream
    }

    fn fulfil(&mut self, wish: &Wish, shape: Shape, copying: bool) {
        if self.changes.last().is_some_and(|last| last.place.1 >= 2) {
            self.position += 1;
            self.ordinal = 0;
        }
        if matches!(wish.kind, 4 | 5) && !copying && self.moved(wish, shape) {
            return;
        }
        let rows = &mut self.left[wish.table];
        let before = rows.get(&wish.id).cloned();
        let mut after = wish.row.clone();
        let mut keeps_name = false;
        let op = match (wish.kind, &before) {
            (0, _) if shape.truncates && !copying => Op::Truncate,
            (1..=3, Some(_)) => Op::Delete,
            (1..=3, None) if shape.upserts => Op::Delete,
            (_, None) if shape.upserts => Op::Update,
            (_, Some(before)) => {
                if shape.unsent && wish.keeps_name {
                    after.name.clone_from(&before.name);
                    keeps_name = true;
                }
                Op::Update
            }
            (_, None) if copying => Op::Read,
            (_, None) => Op::Create,
        };
        match op {
            Op::Truncate => rows.clear(),
            Op::Delete => drop(rows.remove(&wish.id)),
            _ => drop(rows.insert(wish.id, after.clone())),
        }
        self.push(Change {
            table: wish.table,
            place: (0, 0),
            op,
            id: (op != Op::Truncate).then_some(wish.id),
            after: (!matches!(op, Op::Truncate | Op::Delete)).then_some(after),
            before: before.filter(|_| shape.before_image && matches!(op, Op::Update | Op::Delete)),
            keeps_name,
        });
    }

    /// Moves the row to the next key, if it is there and that key is free.
    fn moved(&mut self, wish: &Wish, shape: Shape) -> bool {
        let rows = &mut self.left[wish.table];
        let (from, to) = (wish.id, wish.id + 1);
        if rows.contains_key(&to) {
            return false;
        }
        let Some(before) = rows.remove(&from) else { return false };
        let mut after = wish.row.clone();
        // With the row before, a source knows what did not change.
        let keeps_name = shape.unsent && wish.keeps_name && !shape.before_image;
        if keeps_name {
            after.name.clone_from(&before.name);
        }
        rows.insert(to, after.clone());
        let change = |op, id, after, before, keeps_name| Change {
            table: wish.table,
            place: (0, 0),
            op,
            id: Some(id),
            after,
            before,
            keeps_name,
        };
        self.push(change(
            Op::Delete,
            from,
            None,
            Some(before).filter(|_| shape.before_image),
            false,
        ));
        self.push(change(Op::Create, to, Some(after), None, keeps_name));
        true
    }

    fn push(&mut self, change: Change) {
        let place = (self.position, self.ordinal);
        self.changes.push(Change { place, ..change });
        self.ordinal += 1;
    }

    /// The changes as batches of one table each, with at most `most` rows.
    pub fn batches(&self, most: usize) -> Vec<ChangeBatch> {
        let mut batches = Vec::new();
        let mut number = 0;
        while number < self.changes.len() {
            let table = self.changes[number].table;
            let run = self.changes[number..]
                .iter()
                .take(most)
                .take_while(|change| change.table == table)
                .count();
            batches.push(self.batch(table, number, run));
            number += run;
        }
        batches
    }

    /// `count` changes from `first` on.
    fn batch(&self, table: usize, first: usize, count: usize) -> ChangeBatch {
        let schema = schema(table, self.before_image);
        let changes = &self.changes[first..first + count];
        let partition = PartitionId::new("shop", "log");
        let mut envelope = EnvelopeBuilder::default();
        for change in changes {
            let unchanged: &[&str] = if change.keeps_name { &["name"] } else { &[] };
            let (position, ordinal) = change.place;
            envelope.append_partial(
                change.op,
                &partition,
                &format!("{position:08}"),
                ordinal,
                None,
                unchanged,
            );
        }
        let after = changes.iter().map(|change| {
            let mut row = change.after.clone();
            if let (Some(row), true) = (&mut row, change.keeps_name) {
                row.name = None;
            }
            (change.id, row)
        });
        let mut columns = columns(after.collect());
        columns.extend(envelope.finish());
        if self.before_image {
            let befores = changes
                .iter()
                .map(|change| (change.id.filter(|_| change.before.is_some()), change.before.clone()));
            let valid: BooleanArray = changes.iter().map(|change| Some(change.before.is_some())).collect();
            let fields = schema.columns.fields().clone();
            let nulls = Some(valid.values().clone().into());
            columns.push(Arc::new(StructArray::new(
                fields,
                self::columns(befores.collect()),
                nulls,
            )));
        }
        let rows = RecordBatch::try_new(schema.batch_schema(), columns).unwrap();
        ChangeBatch::try_new(schema, rows).unwrap()
    }

    /// The rows that `table` is left with, as a plain table, if the changes numbered in `rejected`
    /// did not take place. Such an update still removes the row if it `moves` it.
    pub fn rows_left(&self, table: usize, rejected: &BTreeSet<usize>, moves: fn(&Row, &Row) -> bool) -> RecordBatch {
        let mut left: BTreeMap<i64, Row> = BTreeMap::new();
        let mut removed = None;
        for (number, change) in self
            .changes
            .iter()
            .enumerate()
            .filter(|(_, change)| change.table == table)
        {
            match (change.id, &change.after) {
                (None, _) => left.clear(),
                (Some(id), None) => removed = left.remove(&id),
                (Some(id), Some(after)) if rejected.contains(&number) => {
                    if change.before.as_ref().is_some_and(|before| moves(before, after)) {
                        left.remove(&id);
                    }
                }
                (Some(id), Some(after)) => {
                    let mut row = after.clone();
                    if change.keeps_name && !self.before_image {
                        // A row that was moved keeps what it had under its old key.
                        let known = if change.op == Op::Create {
                            removed.as_ref()
                        } else {
                            left.get(&id)
                        };
                        row.name = known.and_then(|known| known.name.clone());
                    }
                    left.insert(id, row);
                }
            }
        }
        if rejected.is_empty() {
            assert_eq!(left, self.left[table], "the stream is the table");
        }
        let rows = left.into_iter().map(|(id, row)| (Some(id), Some(row)));
        RecordBatch::try_new(schema(table, false).columns.clone(), columns(rows.collect())).unwrap()
    }

    /// The number of the change at a place.
    pub fn number(&self, position: &str, ordinal: i64) -> usize {
        let place = (position.parse().unwrap(), ordinal);
        let found = self.changes.iter().position(|change| change.place == place);
        found.expect("a change is at every place")
    }
}

fn columns(rows: Vec<(Option<i64>, Option<Row>)>) -> Vec<ArrayRef> {
    let number = |cell: fn(&Row) -> Option<i64>| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|(_, row)| row.as_ref().and_then(cell))
                .collect::<Int64Array>(),
        )
    };
    let names: StringArray = rows
        .iter()
        .map(|(_, row)| row.as_ref().and_then(|row| row.name.as_deref()))
        .collect();
    vec![
        Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>()),
        number(|row| row.grp),
        number(|row| row.val),
        Arc::new(names),
    ]
}
