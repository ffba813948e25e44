//! Batches into the bytes of a Parquet file.
//!
//! What `parquet`'s `ArrowWriter` does, whose parts these are, but for the columns that are encoded by runs
//! ([`crate::runs`]), as words ([`crate::words`]), and numbers as differences or of which there are few
//! ([`crate::numbers`]).

use std::io::Write;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use millstream_core::envelope;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use crate::encoding::Choice;
use crate::numbers::NumbersColumn;
use crate::runs::RunsColumn;
use crate::words::WordsColumn;

/// Rows in a row group at most. Scans that skip by statistics want small groups, compression
/// wants large ones.
const ROW_GROUP_ROWS: usize = 256 * 1024;

/// Columns that have runs by their nature. Whether another one has them, its first rows do not show.
const HAVE_RUNS: [&str; 3] = [envelope::OP, envelope::PARTITION, envelope::POSITION];

/// Writes one file to `W`.
pub(crate) struct Encoder<W: Write> {
    file: SerializedFileWriter<W>,
    columns: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// The columns of few different values.
    few: Vec<String>,
    group: Option<Group>,
}

/// A row group in progress.
struct Group {
    columns: Vec<Column>,
    rows: usize,
}

/// Rows that are written at once where a column has few different values: how many it has by now is asked behind them.
const ROWS_OF_FEW: usize = 8192;

/// A column of the schema in a row group.
enum Column {
    Arrow(Vec<Leaf>),
    Runs(RunsColumn),
    Words(WordsColumn),
    Numbers(NumbersColumn),
}

/// A column of Parquet's.
struct Leaf {
    writer: ArrowColumnWriter,
    /// What it says that it takes while it is empty: room, a mebibyte of it for differences, that is memory
    /// only once it is used.
    empty: usize,
}

impl Leaf {
    fn new(writer: ArrowColumnWriter) -> Self {
        Self {
            empty: writer.memory_size(),
            writer,
        }
    }

    fn memory_size(&self) -> usize {
        let more = self.writer.memory_size().saturating_sub(self.empty);
        more.max(self.writer.get_estimated_total_bytes())
    }
}

impl<W: Write + Send> Encoder<W> {
    /// Begins a file of this schema.
    pub(crate) fn new(sink: W, schema: SchemaRef, choice: Choice) -> Result<Self, ParquetError> {
        let Choice { mut properties, few } = choice;
        let types = ArrowSchemaConverter::new().convert(&schema)?;
        add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        let file = SerializedFileWriter::new(sink, types.root_schema_ptr(), Arc::new(properties))?;
        Ok(Self {
            columns: ArrowRowGroupWriterFactory::new(&file, schema.clone()),
            file,
            schema,
            few,
            group: None,
        })
    }

    /// Encodes rows, which have the file's schema.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        let mut first = 0;
        while first < rows.num_rows() {
            let left = rows.slice(first, rows.num_rows() - first);
            let group = match &mut self.group {
                Some(group) => group,
                none => none.insert(Group::begin(&self.file, &self.columns, &self.schema, &self.few, &left)?),
            };
            let most = if group.has_few() { ROWS_OF_FEW } else { ROW_GROUP_ROWS };
            let count = (ROW_GROUP_ROWS - group.rows).min(most).min(left.num_rows());
            group.write(&self.schema, &left.slice(0, count))?;
            first += count;
            if group.is_full() {
                self.end_row_group()?;
            }
        }
        Ok(())
    }

    /// Ends the row group in progress, if there is one.
    pub(crate) fn end_row_group(&mut self) -> Result<(), ParquetError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let mut written = self.file.next_row_group()?;
        for (field, column) in self.schema.fields().iter().zip(group.columns) {
            match column {
                Column::Arrow(leaves) => {
                    for leaf in leaves {
                        leaf.writer.close()?.append_to_row_group(&mut written)?;
                    }
                }
                Column::Runs(runs) => {
                    let (bytes, close) = runs.close()?;
                    written.append_column(&bytes, close)?;
                }
                Column::Words(words) => {
                    if words.suits_no_more() {
                        self.few.retain(|name| name != field.name());
                    }
                    let (bytes, close) = words.close()?;
                    written.append_column(&bytes, close)?;
                }
                Column::Numbers(numbers) => {
                    if numbers.suits_no_more() {
                        self.few.retain(|name| name != field.name());
                    }
                    let (bytes, close) = numbers.close()?;
                    written.append_column(&bytes, close)?;
                }
            }
        }
        written.close()?;
        Ok(())
    }

    /// The memory that the row group in progress takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        self.sum(|column| match column {
            Column::Arrow(leaves) => leaves.iter().map(Leaf::memory_size).sum(),
            Column::Runs(runs) => runs.memory_size(),
            Column::Words(words) => words.memory_size(),
            Column::Numbers(numbers) => numbers.memory_size(),
        })
    }

    /// The size that the row group in progress would have in the file, roughly.
    pub(crate) fn in_progress_size(&self) -> usize {
        self.sum(|column| match column {
            Column::Arrow(leaves) => leaves.iter().map(|leaf| leaf.writer.get_estimated_total_bytes()).sum(),
            Column::Runs(runs) => runs.estimated_bytes(),
            Column::Words(words) => words.estimated_bytes(),
            Column::Numbers(numbers) => numbers.estimated_bytes(),
        })
    }

    fn sum(&self, size: impl Fn(&Column) -> usize) -> usize {
        self.group.iter().flat_map(|group| &group.columns).map(size).sum()
    }

    /// Where the bytes go.
    pub(crate) fn inner(&self) -> &W {
        self.file.inner()
    }

    /// Where the bytes go. Nothing may be written to it.
    pub(crate) fn inner_mut(&mut self) -> &mut W {
        self.file.inner_mut()
    }

    /// Completes the file.
    pub(crate) fn into_inner(mut self) -> Result<W, ParquetError> {
        self.end_row_group()?;
        self.file.into_inner()
    }
}

impl Group {
    /// A row group that begins with `rows`, which tell how its columns are encoded.
    fn begin<W: Write + Send>(
        file: &SerializedFileWriter<W>,
        writers: &ArrowRowGroupWriterFactory,
        schema: &Schema,
        few: &[String],
        rows: &RecordBatch,
    ) -> Result<Self, ParquetError> {
        let types = file.schema_descr();
        let leaves = writers.create_column_writers(file.flushed_row_groups().len())?;
        let mut leaves = leaves.into_iter().enumerate().peekable();
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (root, (field, values)) in schema.fields().iter().zip(rows.columns()).enumerate() {
            let mut own = Vec::new();
            let mut first = None;
            while let Some((leaf, writer)) = leaves.next_if(|(leaf, _)| types.get_column_root_idx(*leaf) == root) {
                first.get_or_insert(leaf);
                own.push(Leaf::new(writer));
            }
            let has_runs = HAVE_RUNS.contains(&field.name().as_str());
            // Where runs have become short, ever more texts follow.
            let are_few = !has_runs && few.contains(field.name());
            columns.push(match first {
                Some(leaf) if has_runs && RunsColumn::suits(values) => {
                    Column::Runs(RunsColumn::new(types.column(leaf), file.properties()))
                }
                Some(leaf) if are_few && WordsColumn::suits(values) => {
                    Column::Words(WordsColumn::new(types.column(leaf), file.properties()))
                }
                Some(leaf) => match NumbersColumn::for_rows(values, &types.column(leaf), file.properties(), are_few)? {
                    Some(numbers) => Column::Numbers(numbers),
                    None => Column::Arrow(own),
                },
                None => Column::Arrow(own),
            });
        }
        Ok(Self { columns, rows: 0 })
    }

    fn has_few(&self) -> bool {
        self.columns.iter().any(|column| match column {
            Column::Words(_) => true,
            Column::Numbers(numbers) => numbers.are_few(),
            Column::Arrow(_) | Column::Runs(_) => false,
        })
    }

    fn is_full(&self) -> bool {
        let suits_no_more = |column: &Column| match column {
            Column::Arrow(_) => false,
            Column::Numbers(numbers) => numbers.suits_no_more(),
            Column::Runs(runs) => runs.suits_no_more(),
            Column::Words(words) => words.suits_no_more(),
        };
        self.rows == ROW_GROUP_ROWS || self.columns.iter().any(suits_no_more)
    }

    fn write(&mut self, schema: &Schema, rows: &RecordBatch) -> Result<(), ParquetError> {
        for ((field, values), column) in schema.fields().iter().zip(rows.columns()).zip(&mut self.columns) {
            match column {
                Column::Arrow(leaves) => {
                    let values = compute_leaves(field, values)?;
                    debug_assert_eq!(values.len(), leaves.len(), "{field}");
                    for (values, leaf) in values.iter().zip(leaves) {
                        leaf.writer.write(values)?;
                    }
                }
                Column::Runs(runs) => runs.push(values)?,
                Column::Words(words) => words.push(values),
                Column::Numbers(numbers) => numbers.push(values)?,
            }
        }
        self.rows += rows.num_rows();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{ListBuilder, MapBuilder, StringBuilder};
    use arrow_array::{ArrayRef, Int32Array, Int64Array, StringArray, StructArray};
    use arrow_schema::{DataType, Field};
    use bytes::Bytes;
    use millstream_core::{EnvelopeBuilder, Op, PartitionId};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Encoding;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::config::EncodingChoice;
    use crate::encoding::Encodings;

    /// Rows with nested columns and the reserved ones, `of_place` of which have their place in common.
    fn rows(count: usize, of_place: usize) -> RecordBatch {
        let mut lists = ListBuilder::new(StringBuilder::new());
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        let mut envelope = EnvelopeBuilder::default();
        for row in 0..count {
            lists.append_value([Some("a"), None].into_iter().take(row % 3));
            maps.keys().append_value("k");
            maps.values().append_option((row % 2 == 0).then_some("v"));
            maps.append(true).unwrap();
            let partition = PartitionId::new("s", if row < count / 2 { "t/0" } else { "t/1" });
            let position = format!("{:08}", row / of_place);
            envelope.append(Op::Create, &partition, &position, row as i64, Some(row as i64));
        }
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..count as i32));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|row| row.to_string())));
        let parts = StructArray::from(vec![
            (Arc::new(Field::new("n", DataType::Int32, true)), numbers.clone()),
            (Arc::new(Field::new("t", DataType::Utf8, true)), texts),
        ]);
        let nested: [ArrayRef; 4] = [
            Arc::new(lists.finish()),
            Arc::new(parts),
            Arc::new(maps.finish()),
            numbers,
        ];
        let fields = nested.iter().zip(["l", "s", "m", "n"]);
        let fields = fields.map(|(column, name)| Arc::new(Field::new(name, column.data_type().clone(), true)));
        let fields: Vec<_> = fields.chain(envelope::fields()).collect();
        let columns = nested.iter().cloned().chain(envelope.finish()).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    /// The names of the columns that are written as runs, and what is read.
    fn written(batches: &[RecordBatch]) -> (Vec<String>, Vec<RecordBatch>) {
        let schema = batches[0].schema();
        let choice = Choice {
            properties: WriterProperties::default(),
            few: Vec::new(),
        };
        let mut encoder = Encoder::new(Vec::new(), schema.clone(), choice).unwrap();
        for batch in batches {
            encoder.write(batch).unwrap();
        }
        let group = encoder.group.as_ref().unwrap();
        let named = group.columns.iter().zip(schema.fields());
        let runs = named.filter(|(column, _)| matches!(column, Column::Runs(_)));
        let runs = runs.map(|(_, field)| field.name().clone()).collect();
        let file = Bytes::from(encoder.into_inner().unwrap());
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let reader = reader.with_batch_size(batches[0].num_rows()).build().unwrap();
        (runs, reader.map(Result::unwrap).collect())
    }

    #[test]
    fn reserved_columns_are_written_as_runs_behind_nested_ones_and_are_read_as_they_were() {
        let batches = [rows(1000, 20), rows(1000, 1)];
        let (runs, read) = written(&batches);
        assert_eq!(runs, [envelope::OP, envelope::PARTITION, envelope::POSITION]);
        assert_eq!(read, batches);
        // The same texts by other keys, from the middle of it.
        let batches = [rows(1000, 20).slice(400, 300), rows(2000, 20).slice(800, 300)];
        let (runs, read) = written(&batches);
        assert_eq!(runs, [envelope::OP, envelope::PARTITION, envelope::POSITION]);
        assert_eq!(read, batches);
    }

    #[test]
    fn places_without_runs_are_left_to_the_library() {
        let batches = [rows(1000, 1), rows(1000, 20)];
        let (runs, read) = written(&batches);
        assert_eq!(runs, [envelope::OP, envelope::PARTITION]);
        assert_eq!(read, batches);
    }

    #[test]
    fn numbers_near_their_neighbours_and_few_of_them_are_columns_of_ours() {
        let near: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let few: ArrayRef = Arc::new(Int32Array::from_iter_values((0..1000).map(|row| row * row % 11)));
        let rows = RecordBatch::try_from_iter([("near", near), ("few", few)]).unwrap();
        let choice = Encodings::of(EncodingChoice::All).chosen(WriterProperties::default(), &rows);
        let mut encoder = Encoder::new(Vec::new(), rows.schema(), choice).unwrap();
        encoder.write(&rows).unwrap();
        let are_few = |column: &Column| match column {
            Column::Numbers(numbers) => Some(numbers.are_few()),
            _ => None,
        };
        let found: Vec<_> = encoder.group.as_ref().unwrap().columns.iter().map(are_few).collect();
        assert_eq!(found, [Some(false), Some(true)]);
    }

    #[test]
    fn room_that_is_not_used_is_no_memory() {
        let column = || -> ArrayRef { Arc::new(Int64Array::from_iter_values(0..1000)) };
        let rows = RecordBatch::try_from_iter((0..40).map(|number| (format!("c{number}"), column()))).unwrap();
        let choice = Encodings::of(EncodingChoice::All).chosen(WriterProperties::default(), &rows);
        let mut encoder = Encoder::new(Vec::new(), rows.schema(), choice).unwrap();
        encoder.write(&rows).unwrap();
        let (memory, bytes) = (encoder.memory_size(), encoder.in_progress_size());
        assert!((bytes..1 << 20).contains(&memory), "{memory} bytes for {bytes}");
        let file = Bytes::from(encoder.into_inner().unwrap());
        let read = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let encodings: Vec<_> = read.metadata().row_group(0).column(0).encodings().collect();
        assert!(encodings.contains(&Encoding::DELTA_BINARY_PACKED), "{encodings:?}");
    }
}
