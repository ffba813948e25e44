//! The files that one table writes at the same time: one per partition, within bounds of
//! number and memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_schema::SchemaRef;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::file::properties::WriterProperties;

use crate::config::FileTarget;
use crate::data_file::{DataFileWriter, WriteFault};
use crate::decision::memory::{Footprint, Relief, relieve};
use crate::names::DataFileName;
use crate::partition::Slice;
use crate::record::DataFile;

/// Files open at the same time; the one that was used least recently is closed for the next.
const MAX_OPEN: usize = 64;

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
    /// Bytes of memory for all open files together.
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
    open: HashMap<String, Open>,
    clock: u64,
    /// Finished, in the order in which they were finished.
    finished: Vec<DataFile>,
    /// Every object that was begun since the last [`Self::take`] or [`Self::discard`].
    begun: Vec<Path>,
}

impl OpenFiles {
    pub(crate) fn new(destination: Destination, schema: (u32, SchemaRef), properties: WriterProperties) -> Self {
        Self {
            destination,
            schema,
            properties,
            open: HashMap::new(),
            clock: 0,
            finished: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// The settings of files that are begun from now on.
    pub(crate) fn set_properties(&mut self, properties: WriterProperties) {
        self.properties = properties;
    }

    /// Files that are begun from now on have this schema; those of the old one are closed.
    pub(crate) async fn set_schema(&mut self, schema: (u32, SchemaRef)) -> Result<(), WriteFault> {
        self.finish_all().await?;
        self.schema = schema;
        Ok(())
    }

    /// Writes the rows of one partition.
    pub(crate) async fn write(&mut self, slice: Slice) -> Result<(), WriteFault> {
        let Slice { folder, values, rows } = slice;
        self.clock += 1;
        if !self.open.contains_key(&folder) {
            self.make_room().await?;
            let file = self.begin(&folder, values)?;
            self.open.insert(folder.clone(), Open { file, used: 0 });
        }
        let clock = self.clock;
        let open = self.open.get_mut(&folder).ok_or(WriteFault::Interrupted)?;
        open.used = clock;
        open.file.write(rows).await?;
        let target = self.destination.target;
        let full =
            open.file.estimated_bytes() >= target.bytes.0 || target.rows.is_some_and(|rows| open.file.rows() >= rows);
        if full {
            self.finish(&folder).await?;
        }
        self.relieve().await
    }

    /// Closes all files.
    pub(crate) async fn finish_all(&mut self) -> Result<(), WriteFault> {
        let mut folders: Vec<_> = self.open.keys().cloned().collect();
        folders.sort_unstable();
        for folder in folders {
            self.finish(&folder).await?;
        }
        Ok(())
    }

    /// The files finished so far, with every object that was begun for them.
    pub(crate) fn take(&mut self) -> (Vec<DataFile>, Vec<Path>) {
        (std::mem::take(&mut self.finished), std::mem::take(&mut self.begun))
    }

    /// Gives up the open files; the objects that may have appeared are for the caller to remove.
    pub(crate) async fn discard(&mut self) -> Vec<Path> {
        for (_, open) in self.open.drain() {
            open.file.abort().await;
        }
        self.finished.clear();
        std::mem::take(&mut self.begun)
    }

    fn begin(
        &mut self,
        folder: &str,
        values: std::collections::BTreeMap<String, Option<String>>,
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
        let (schema, properties) = (self.schema.clone(), self.properties.clone());
        let file = DataFileWriter::begin(store.clone(), table, relative, schema, values, properties)?;
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

    async fn relieve(&mut self) -> Result<(), WriteFault> {
        loop {
            let (folders, footprints): (Vec<&String>, Vec<Footprint>) = self
                .open
                .iter()
                .map(|(folder, open)| (folder, open.file.footprint()))
                .unzip();
            let Some(relief) = relieve(&footprints, self.destination.buffer) else {
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
