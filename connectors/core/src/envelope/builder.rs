//! Building the reserved columns.

use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, StringArray};

use super::Op;
use crate::PartitionId;

/// Builds the six reserved columns, of one row or several at a time.
///
/// Rows that follow each other have their place in common, all of a block of a first copy and
/// all of a transaction. So places are kept as runs, and written out when the columns are.
#[derive(Default)]
pub struct EnvelopeBuilder {
    ops: Vec<Op>,
    places: Vec<Place>,
    /// The positions of all places, one behind the other.
    positions: String,
    partitions: Vec<PartitionId>,
    ordinals: Vec<i64>,
    /// The rows that have columns which were not sent, and these.
    partial: Vec<(usize, Vec<String>)>,
}

/// What rows that follow each other have in common.
struct Place {
    /// The number of the partition among those of the builder.
    partition: i32,
    committed_at: Option<i64>,
    /// The bytes of the position.
    length: usize,
    rows: usize,
}

impl EnvelopeBuilder {
    /// Appends a row. `position` is the text of a [`Position::At`](crate::Position::At);
    /// `committed_at` counts microseconds since the Unix epoch.
    pub fn append(&mut self, op: Op, partition: &PartitionId, position: &str, ordinal: i64, committed_at: Option<i64>) {
        self.append_run(op, partition, position, &[ordinal], committed_at);
    }

    /// Appends rows that have all but their ordinals in common.
    pub fn append_run(
        &mut self,
        op: Op,
        partition: &PartitionId,
        position: &str,
        ordinals: &[i64],
        committed_at: Option<i64>,
    ) {
        self.ops.resize(self.ops.len() + ordinals.len(), op);
        self.ordinals.extend_from_slice(ordinals);
        match self.places.last_mut() {
            Some(last)
                if last.committed_at == committed_at
                    && self.partitions[last.partition as usize] == *partition
                    && self.positions.as_bytes()[self.positions.len() - last.length..] == *position.as_bytes() =>
            {
                last.rows += ordinals.len();
            }
            _ => self.begin_place(partition, position, committed_at, ordinals.len()),
        }
    }

    /// Appends a row in which the columns named by `unchanged` were not sent by the source. A
    /// create has such columns only right behind the delete of the row that it moves.
    pub fn append_partial(
        &mut self,
        op: Op,
        partition: &PartitionId,
        position: &str,
        ordinal: i64,
        committed_at: Option<i64>,
        unchanged: &[&str],
    ) {
        if !unchanged.is_empty() {
            let names = unchanged.iter().map(|name| (*name).to_owned());
            self.partial.push((self.len(), names.collect()));
        }
        self.append(op, partition, position, ordinal, committed_at);
    }

    fn begin_place(&mut self, partition: &PartitionId, position: &str, committed_at: Option<i64>, rows: usize) {
        let known = self.partitions.iter().position(|known| known == partition);
        let number = known.unwrap_or(self.partitions.len());
        if known.is_none() {
            self.partitions.push(partition.clone());
        }
        self.positions.push_str(position);
        self.places.push(Place {
            partition: number as i32,
            committed_at,
            length: position.len(),
            rows,
        });
    }

    /// Rows appended since the last [`finish`](Self::finish).
    pub fn len(&self) -> usize {
        self.ordinals.len()
    }

    /// Whether no row was appended since the last [`finish`](Self::finish).
    pub fn is_empty(&self) -> bool {
        self.ordinals.is_empty()
    }

    /// The columns in the order of [`fields`](super::fields); the builder is empty afterwards.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        let built = std::mem::take(self);
        let rows = built.len();
        let (partition, position, committed_at) = built.write_places(rows);
        let unchanged = built.write_unchanged(rows);
        vec![
            Arc::new(StringArray::from_iter_values(built.ops.iter().map(|op| op.letter()))),
            partition,
            position,
            Arc::new(Int64Array::from(built.ordinals)),
            committed_at,
            unchanged,
        ]
    }

    fn write_places(&self, rows: usize) -> (ArrayRef, ArrayRef, ArrayRef) {
        let bytes = self.places.iter().map(|place| place.length * place.rows).sum();
        let mut partitions = Vec::with_capacity(rows);
        let mut positions = StringBuilder::with_capacity(rows, bytes);
        let mut committed_at = TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC");
        let mut texts = self.positions.as_str();
        for place in &self.places {
            let (text, rest) = texts.split_at(place.length);
            texts = rest;
            partitions.resize(partitions.len() + place.rows, place.partition);
            positions.append_value_n(text, place.rows);
            match place.committed_at {
                Some(micros) => committed_at.append_value_n(micros, place.rows),
                None => committed_at.append_nulls(place.rows),
            }
        }
        let names = StringArray::from_iter_values(self.partitions.iter().map(PartitionId::as_str));
        let partitions: DictionaryArray<Int32Type> =
            DictionaryArray::new(Int32Array::from(partitions), Arc::new(names));
        (
            Arc::new(partitions),
            Arc::new(positions.finish()),
            Arc::new(committed_at.finish()),
        )
    }

    /// Null but for the partial rows.
    fn write_unchanged(&self, rows: usize) -> ArrayRef {
        let mut lists = ListBuilder::with_capacity(StringBuilder::new(), rows);
        for (row, names) in &self.partial {
            lists.append_nulls(row - lists.len());
            names.iter().for_each(|name| lists.values().append_value(name));
            lists.append(true);
        }
        lists.append_nulls(rows - lists.len());
        Arc::new(lists.finish())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Int64Type, TimestampMicrosecondType};
    use arrow_array::{Array, RecordBatch};
    use arrow_schema::Schema;
    use proptest::prelude::*;

    use super::*;
    use crate::envelope;

    #[derive(Debug, Clone, PartialEq)]
    struct Row {
        op: Op,
        partition: &'static str,
        position: &'static str,
        ordinal: i64,
        committed_at: Option<i64>,
        unchanged: Vec<&'static str>,
    }

    /// The rows from `first` on that differ from it by their ordinals at most, and have all that was sent.
    fn run(rows: &[Row], first: usize) -> &[Row] {
        let alike = |row: &&Row| {
            row.unchanged.is_empty()
                && Row {
                    ordinal: rows[first].ordinal,
                    ..(*row).clone()
                } == rows[first]
        };
        let length = rows[first..].iter().take_while(alike).count();
        &rows[first..first + length]
    }

    fn row() -> impl Strategy<Value = Row> {
        let op = prop::sample::select(vec![Op::Read, Op::Create, Op::Update, Op::Delete, Op::Truncate]);
        // Each may end as another does.
        let position = prop::sample::select(vec!["01", "02", "102", "2", ""]);
        let partition = prop::sample::select(vec!["t/0", "t/1", "t/2"]);
        let unchanged = prop_oneof![4 => Just(vec![]), 1 => Just(vec!["a"]), 1 => Just(vec!["b", "a"])];
        let committed_at = prop::option::of(0_i64..2);
        (op, partition, position, 0_i64..3, committed_at, unchanged).prop_map(
            |(op, partition, position, ordinal, committed_at, unchanged)| Row {
                op,
                partition,
                position,
                ordinal,
                committed_at,
                unchanged,
            },
        )
    }

    /// The rows of the columns, of which each text is one that was given.
    fn read(columns: Vec<ArrayRef>) -> Vec<Row> {
        let known = |text: &str| {
            let all = ["01", "02", "102", "2", "", "t/0", "t/1", "t/2", "a", "b"];
            all.into_iter().find(|known| *known == text).unwrap()
        };
        let schema = Arc::new(Schema::new(envelope::fields().collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, columns).unwrap();
        let partitions = batch.column(1).as_dictionary::<Int32Type>();
        let names = partitions.downcast_dict::<StringArray>().unwrap();
        let committed_at = batch.column(4).as_primitive::<TimestampMicrosecondType>();
        let unchanged = batch.column(5).as_list::<i32>();
        let rows = 0..batch.num_rows();
        rows.map(|row| Row {
            op: Op::from_letter(batch.column(0).as_string::<i32>().value(row)).unwrap(),
            partition: known(
                names
                    .into_iter()
                    .nth(row)
                    .flatten()
                    .unwrap()
                    .strip_prefix("s/")
                    .unwrap(),
            ),
            position: known(batch.column(2).as_string::<i32>().value(row)),
            ordinal: batch.column(3).as_primitive::<Int64Type>().value(row),
            committed_at: committed_at.is_valid(row).then(|| committed_at.value(row)),
            unchanged: match unchanged.is_valid(row) {
                false => Vec::new(),
                true => unchanged
                    .value(row)
                    .as_string::<i32>()
                    .iter()
                    .flatten()
                    .map(known)
                    .collect(),
            },
        })
        .collect()
    }

    proptest! {
        #[test]
        fn the_columns_hold_the_rows(
            batches in prop::collection::vec(prop::collection::vec((row(), 1..4_i64), 0..20), 1..4),
            in_runs in any::<bool>(),
        ) {
            let mut builder = EnvelopeBuilder::default();
            for rows in batches {
                // Each comes a few times, with ordinals that go on.
                let repeated = rows.into_iter().flat_map(|(row, times)| {
                    (0..times).map(move |more| Row { ordinal: row.ordinal + more, ..row.clone() })
                });
                let rows: Vec<Row> = repeated.collect();
                let mut index = 0;
                while let Some(row) = rows.get(index) {
                    let partition = PartitionId::new("s", row.partition);
                    let Row { op, position, ordinal, committed_at, .. } = *row;
                    let run = run(&rows, index);
                    if in_runs && !run.is_empty() {
                        let ordinals: Vec<_> = run.iter().map(|row| row.ordinal).collect();
                        builder.append_run(op, &partition, position, &ordinals, committed_at);
                        index += run.len();
                    } else {
                        builder.append_partial(op, &partition, position, ordinal, committed_at, &row.unchanged);
                        index += 1;
                    }
                }
                prop_assert_eq!(builder.len(), rows.len());
                prop_assert_eq!(read(builder.finish()), rows);
                prop_assert!(builder.is_empty());
            }
        }
    }

    #[test]
    fn rows_of_one_place_are_kept_once() {
        let mut builder = EnvelopeBuilder::default();
        let partition = PartitionId::new("s", "wal");
        for ordinal in 0..1000 {
            builder.append(Op::Read, &partition, "0123", ordinal, None);
        }
        assert_eq!((builder.places.len(), builder.positions.len()), (1, 4));
    }
}
