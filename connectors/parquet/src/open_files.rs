//! The files that one table writes at the same time: one per partition, within bounds of
//! number and memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::file::properties::WriterProperties;

use crate::backlog::{Backlog, Taken};
use crate::config::{EncodingChoice, FileTarget};
use crate::data_file::{DataFileWriter, WriteFault};
use crate::decision::memory::{Footprint, Relief, relieve};
use crate::encoding::Encodings;
use crate::names::DataFileName;
use crate::partition::{Group, PartitionExpr};
use crate::record::DataFile;

/// Files open at the same time; the one that was used least recently is closed for the next.
const MAX_OPEN: usize = 64;
/// Files that are completed at the same time.
const FINISHING: usize = 8;
/// A partition with at least so many bytes gets a file that stays open for more.
const WORTH_KEEPING_OPEN: usize = 256 << 10;
/// Rows that are encoded in one go: as many as a batch has. Smaller ones were seen to cost a
/// quarter more memory at the peak.
const CHUNK_ROWS: usize = 64 * 1024;

/// Who writes, and where.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub store: Arc<dyn ObjectStore>,
    pub table: Path,
    /// The folder within the table.
    pub folder: &'static str,
    pub generation: u64,
    /// The first eight hex digits of the writer's id.
    pub writer: String,
    pub target: FileTarget,
    pub encodings: EncodingChoice,
    /// Bytes of memory for all open files together, and for the rows that wait for one.
    pub buffer: usize,
    /// The number of the last file that was begun in the table. All folders of a table share
    /// it, because what is an orphan is told by one number for each generation.
    pub last_seq: Arc<AtomicU64>,
}

struct Open {
    file: DataFileWriter,
    used: u64,
}

/// See the module.
pub(crate) struct OpenFiles {
    destination: Destination,
    schema: (u32, SchemaRef),
    properties: WriterProperties,
    encodings: Encodings,
    backlog: Backlog,
    open: HashMap<String, Open>,
    clock: u64,
    finished: Vec<DataFile>,
    /// Every object that was begun since the last [`Self::take`] or [`Self::discard`].
    begun: Vec<Path>,
}

impl OpenFiles {
    pub(crate) fn new(
        destination: Destination,
        partition_by: Vec<PartitionExpr>,
        schema: (u32, SchemaRef),
        properties: WriterProperties,
    ) -> Self {
        Self {
            encodings: Encodings::of(destination.encodings),
            destination,
            schema,
            properties,
            backlog: Backlog::new(partition_by),
            open: HashMap::new(),
            clock: 0,
            finished: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// The settings of files that are begun from now on. Nothing may be open.
    pub(crate) fn set_properties(&mut self, properties: WriterProperties) {
        self.properties = properties;
    }

    /// Files that are begun from now on have this schema; those of the old one are closed.
    pub(crate) async fn set_schema(&mut self, schema: (u32, SchemaRef)) -> Result<(), WriteFault> {
        self.finish_all().await?;
        self.schema = schema;
        Ok(())
    }

    /// Takes rows, and splits them where the table is partitioned.
    pub(crate) async fn write(&mut self, rows: RecordBatch) -> Result<(), WriteFault> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if self.backlog.is_partitioned() {
            self.backlog.push(rows)?;
        } else {
            self.append("", &BTreeMap::new(), rows).await?;
        }
        self.relieve().await
    }

    /// Closes all files.
    pub(crate) async fn finish_all(&mut self) -> Result<(), WriteFault> {
        if self.backlog.bytes() > 0 {
            self.drain(0).await?;
        }
        let mut open: Vec<_> = self.open.drain().collect();
        open.sort_by_key(|(_, open)| std::cmp::Reverse(open.used));
        let mut finishing = FuturesUnordered::new();
        while !open.is_empty() || !finishing.is_empty() {
            if finishing.len() < FINISHING
                && let Some((_, next)) = open.pop()
            {
                finishing.push(next.file.finish());
            } else if let Some(done) = finishing.next().await {
                self.finished.push(done?);
            }
        }
        Ok(())
    }

    /// The files finished so far in the order of their numbers, with every object that was
    /// begun for them.
    pub(crate) fn take(&mut self) -> (Vec<DataFile>, Vec<Path>) {
        let mut finished = std::mem::take(&mut self.finished);
        let name = |file: &DataFile| file.path.rsplit('/').next().unwrap_or_default().to_owned();
        finished.sort_by_cached_key(|file| name(file));
        (finished, std::mem::take(&mut self.begun))
    }

    /// Gives up the open files; the objects that may have appeared are for the caller to remove.
    pub(crate) async fn discard(&mut self) -> Vec<Path> {
        self.backlog.clear();
        for (_, open) in self.open.drain() {
            open.file.abort().await;
        }
        self.finished.clear();
        std::mem::take(&mut self.begun)
    }

    /// Writes rows of one partition to its file, which stays open until it is full.
    async fn append(
        &mut self,
        folder: &str,
        values: &BTreeMap<String, Option<String>>,
        mut rows: RecordBatch,
    ) -> Result<(), WriteFault> {
        let FileTarget { bytes, rows: most_rows } = self.destination.target;
        let most_rows = most_rows.unwrap_or(u64::MAX).max(1);
        while rows.num_rows() > 0 {
            self.clock += 1;
            if !self.open.contains_key(folder) {
                self.make_room().await?;
                let file = self.begin(folder, values.clone(), &rows)?;
                self.open.insert(folder.to_owned(), Open { file, used: 0 });
            }
            let open = self.open.get_mut(folder).ok_or(WriteFault::Interrupted)?;
            open.used = self.clock;
            let room = usize::try_from(most_rows - open.file.rows()).unwrap_or(usize::MAX);
            let count = rows.num_rows().min(room).min(CHUNK_ROWS);
            open.file.write(rows.slice(0, count)).await?;
            rows = rows.slice(count, rows.num_rows() - count);
            if open.file.estimated_bytes() >= bytes.0 || open.file.rows() >= most_rows {
                self.finish(folder).await?;
            }
        }
        Ok(())
    }

    /// Writes what waits, the largest partitions first, until at most `keep` bytes wait on.
    async fn drain(&mut self, keep: usize) -> Result<(), WriteFault> {
        let mut taken = self.backlog.take(keep)?;
        let target = self.destination.target;
        let mut finishing = FuturesUnordered::new();
        for group in std::mem::take(&mut taken.groups) {
            let bytes = group.rows.len() * taken.row_bytes;
            let grows = bytes >= WORTH_KEEPING_OPEN
                || bytes as u64 >= target.bytes.0
                || target.rows.is_some_and(|rows| group.rows.len() as u64 >= rows)
                || self.open.contains_key(&group.folder);
            if grows {
                // What is being finished makes no progress while another file is written.
                while let Some(done) = finishing.next().await {
                    self.finished.push(done?);
                }
                self.append_group(&taken, &group).await?;
                continue;
            }
            if finishing.len() >= FINISHING
                && let Some(done) = finishing.next().await
            {
                self.finished.push(done?);
            }
            let rows = taken.rows(&group.rows)?;
            let mut file = self.begin(&group.folder, group.values, &rows)?;
            finishing.push(async move {
                file.write(rows).await?;
                file.finish().await
            });
        }
        while let Some(done) = finishing.next().await {
            self.finished.push(done?);
        }
        Ok(())
    }

    async fn append_group(&mut self, taken: &Taken, group: &Group) -> Result<(), WriteFault> {
        for places in group.rows.chunks(CHUNK_ROWS) {
            self.append(&group.folder, &group.values, taken.rows(places)?).await?;
            self.relieve_files().await?;
        }
        Ok(())
    }

    /// Begins a file whose first rows are these.
    fn begin(
        &mut self,
        folder: &str,
        values: BTreeMap<String, Option<String>>,
        rows: &RecordBatch,
    ) -> Result<DataFileWriter, WriteFault> {
        let Destination {
            store,
            table,
            folder: top,
            generation,
            writer,
            last_seq,
            ..
        } = &self.destination;
        let name = DataFileName {
            generation: *generation,
            writer: writer.clone(),
            seq: last_seq.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let relative = if folder.is_empty() {
            format!("{top}/{name}")
        } else {
            format!("{top}/{folder}/{name}")
        };
        let choice = self.encodings.chosen(self.properties.clone(), rows);
        let schema = self.schema.clone();
        let file = DataFileWriter::begin(store.clone(), table, relative, schema, values, choice)?;
        self.begun.push(file.path().clone());
        Ok(file)
    }

    async fn make_room(&mut self) -> Result<(), WriteFault> {
        if self.open.len() >= MAX_OPEN
            && let Some(oldest) = self
                .open
                .iter()
                .min_by_key(|(_, open)| open.used)
                .map(|(folder, _)| folder.clone())
        {
            self.finish(&oldest).await?;
        }
        Ok(())
    }

    /// Brings the bytes held under the buffer. Where rows wait, they and the files each have one
    /// half, because the rows are still there while they are being written to files.
    async fn relieve(&mut self) -> Result<(), WriteFault> {
        while self.backlog.bytes() > self.destination.buffer / 2 {
            self.drain(self.destination.buffer / 4).await?;
        }
        self.relieve_files().await
    }

    async fn relieve_files(&mut self) -> Result<(), WriteFault> {
        let budget = match self.backlog.is_partitioned() {
            true => self.destination.buffer / 2,
            false => self.destination.buffer,
        };
        loop {
            let (folders, footprints): (Vec<&String>, Vec<Footprint>) = self
                .open
                .iter()
                .map(|(folder, open)| (folder, open.file.footprint()))
                .unzip();
            let Some(relief) = relieve(&footprints, budget) else {
                return Ok(());
            };
            let (Relief::AwaitUpload(index) | Relief::EndRowGroup(index) | Relief::Close(index)) = relief;
            let folder = folders[index].clone();
            let open = self.open.get_mut(&folder).ok_or(WriteFault::Interrupted)?;
            match relief {
                Relief::AwaitUpload(_) => open.file.settle().await?,
                Relief::EndRowGroup(_) => open.file.end_row_group().await?,
                Relief::Close(_) => self.finish(&folder).await?,
            }
        }
    }

    async fn finish(&mut self, folder: &str) -> Result<(), WriteFault> {
        if let Some(open) = self.open.remove(folder) {
            self.finished.push(open.file.finish().await?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Date32Array, Int64Array};
    use object_store::memory::InMemory;

    use super::*;
    use crate::config::Compression;
    use crate::data_file::properties;

    const DAYS: i64 = 2_000;

    /// Row `number` of all; neighbours lie in distant days.
    fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
        let day = |number: i64| i32::try_from(number * 1_237 % DAYS).unwrap();
        let days: ArrayRef = Arc::new(Date32Array::from_iter_values(numbers.clone().map(day)));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("id", ids), ("at", days)]).unwrap()
    }

    fn held(files: &OpenFiles) -> usize {
        let open = files.open.values().map(|open| open.file.footprint().total());
        files.backlog.bytes() + open.sum::<usize>()
    }

    /// The files that 40,000 rows in 2,000 days make.
    async fn files_within(buffer: usize) -> usize {
        let destination = Destination {
            store: Arc::new(InMemory::new()),
            table: Path::from("t"),
            folder: "data",
            generation: 1,
            writer: "1a2b3c4d".to_owned(),
            target: FileTarget::default(),
            encodings: EncodingChoice::default(),
            buffer,
            last_seq: Arc::default(),
        };
        let schema = (1, rows(0..1).schema());
        let properties = properties(Compression::Snappy, "t", "c");
        let mut files = OpenFiles::new(destination, vec!["day(at)".parse().unwrap()], schema, properties);
        for from in (0..40_000).step_by(500) {
            files.write(rows(from..from + 500)).await.unwrap();
            assert!(held(&files) <= buffer, "{} of {buffer}", held(&files));
        }
        files.finish_all().await.unwrap();
        let (finished, begun) = files.take();
        assert_eq!(finished.len(), begun.len());
        assert_eq!(finished.iter().map(|file| file.rows).sum::<u64>(), 40_000);
        finished.len()
    }

    #[tokio::test]
    async fn each_partition_gets_one_file_where_the_rows_fit_the_buffer() {
        assert_eq!(files_within(1 << 20).await, 2_000);
    }

    #[tokio::test]
    async fn a_buffer_that_is_too_small_makes_no_more_files_than_it_must() {
        // The rows are about 480 kB, so each partition is written out at most a few times.
        let files = files_within(160_000).await;
        assert!((2_000..=12_000).contains(&files), "{files}");
    }
}
