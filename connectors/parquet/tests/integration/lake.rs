//! A throw-away lake: where a sink writes, and what a reader finds there.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use millstream_core::{
    ChangeBatch, Checkpoint, CheckpointDelta, CommitReceipt, EnvelopeBuilder, Op, PartitionId, Position, Result, Sink,
    SinkTable, TableId, TableSchema, TableWriter,
};
use millstream_parquet::{CommitRecord, DataFile, ParquetConfig, ParquetSink};
use millstream_testkit::seaweedfs::{ACCESS_KEY, SECRET_KEY, TestS3};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard};

/// Failpoints are global to the process: a test that sets one holds this for writing, every
/// other lake holds it for reading. So a test has one lake at a time.
pub static FAILPOINTS: RwLock<()> = RwLock::const_new(());

pub struct Lake {
    pub config: ParquetConfig,
    pub store: Arc<dyn ObjectStore>,
    prefix: Path,
    folder: Option<TempDir>,
    _quiet: Option<RwLockReadGuard<'static, ()>>,
}

impl Lake {
    /// On a local folder, through the same code as in production.
    pub async fn in_folder() -> Self {
        let quiet = FAILPOINTS.read().await;
        Self {
            _quiet: Some(quiet),
            ..Self::in_folder_with_failpoints()
        }
    }

    /// As [`in_folder`](Self::in_folder), for a test that holds [`FAILPOINTS`] for writing.
    pub fn in_folder_with_failpoints() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            config: ParquetConfig::new(format!("file://{}", folder.path().display())),
            store: Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()),
            prefix: Path::default(),
            folder: Some(folder),
            _quiet: None,
        }
    }

    /// On an object store.
    pub async fn on(store: Arc<dyn ObjectStore>) -> Self {
        let quiet = FAILPOINTS.read().await;
        Self {
            _quiet: Some(quiet),
            ..Self::on_with_failpoints(store)
        }
    }

    pub fn on_with_failpoints(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            config: ParquetConfig::new("s3://lake/shop"),
            store,
            prefix: Path::from("shop"),
            folder: None,
            _quiet: None,
        }
    }

    pub async fn in_memory() -> Self {
        Self::on(Arc::new(InMemory::new())).await
    }

    /// In the bucket `lake` of an S3 server, that is trusted from the start.
    pub async fn on_s3(s3: &TestS3) -> Self {
        let endpoint = format!("http://{}", s3.address());
        let store = AmazonS3Builder::new()
            .with_bucket_name("lake")
            .with_endpoint(&endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .build()
            .unwrap();
        Self::on(Arc::new(store)).await
    }

    /// A new sink over the lake, as another process would make it.
    pub fn sink(&self) -> ParquetSink {
        match &self.folder {
            Some(_) => ParquetSink::new(self.config.clone()).unwrap(),
            None => self.sink_on(self.store.clone()),
        }
    }

    /// A sink that reaches the lake's objects through another store.
    pub fn sink_on(&self, store: Arc<dyn ObjectStore>) -> ParquetSink {
        ParquetSink::with_store(self.config.clone(), store, self.prefix.clone())
    }

    /// The local folder.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.folder.as_ref().map(TempDir::path)
    }

    pub async fn open(&self, schema: &Arc<TableSchema>) -> Result<Box<dyn TableWriter>> {
        open(&self.sink(), schema).await
    }

    pub fn path(&self, table: &str, relative: &str) -> Path {
        Path::from(format!("{}/{table}/{relative}", self.prefix))
    }

    /// The commit records, in order.
    pub async fn records(&self, table: &str) -> Vec<CommitRecord> {
        let mut records = Vec::new();
        for path in self.objects(table, "_commits").await {
            if path.ends_with("_last.json") {
                continue;
            }
            let json = self.content(table, &path).await;
            records.push(serde_json::from_slice::<CommitRecord>(&json).unwrap());
        }
        records
    }

    /// The relative paths of all files that records list.
    pub async fn committed(&self, table: &str) -> BTreeSet<String> {
        let records = self.records(table).await;
        records
            .into_iter()
            .flat_map(|record| record.files)
            .map(|file| file.path)
            .collect()
    }

    /// The relative paths of all objects in a folder of a table, whether committed or not.
    pub async fn objects(&self, table: &str, folder: &str) -> BTreeSet<String> {
        let all: Vec<_> = self
            .store
            .list(Some(&self.path(table, folder)))
            .try_collect()
            .await
            .unwrap();
        all.into_iter()
            .map(|object| {
                let whole = object.location.to_string();
                let start = whole.find(&format!("{folder}/")).unwrap();
                whole[start..].to_owned()
            })
            .collect()
    }

    /// The content of an object of a table; `relative` is escaped already.
    pub async fn content(&self, table: &str, relative: &str) -> bytes::Bytes {
        let whole = format!("{}/{table}/{relative}", self.prefix);
        let path = Path::parse(whole.trim_start_matches('/')).unwrap();
        self.store.get(&path).await.unwrap().bytes().await.unwrap()
    }

    /// The committed rows, after a check of every file against its record.
    pub async fn rows(&self, table: &str) -> Vec<RecordBatch> {
        let records = self.records(table).await.into_iter();
        self.read(table, records.flat_map(|record| record.files)).await
    }

    /// The same of the rejected rows.
    pub async fn quarantined(&self, table: &str) -> Vec<RecordBatch> {
        let records = self.records(table).await.into_iter();
        self.read(table, records.flat_map(|record| record.quarantine)).await
    }

    async fn read(&self, table: &str, files: impl Iterator<Item = DataFile>) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        for file in files {
            let content = self.content(table, &file.path).await;
            assert_eq!(content.len() as u64, file.bytes);
            assert_eq!(hex::encode(Sha256::digest(&content)), file.sha256);
            let reader = ParquetRecordBatchReaderBuilder::try_new(content)
                .unwrap()
                .build()
                .unwrap();
            let read: Vec<RecordBatch> = reader.map(|batch| batch.unwrap()).collect();
            assert_eq!(read.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), file.rows);
            batches.extend(read);
        }
        batches
    }

    /// Names in the folder that listings of an object store leave out: staging files.
    #[cfg(feature = "failpoints")]
    pub fn staging_files(&self) -> Vec<std::path::PathBuf> {
        fn visit(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    visit(&path, found);
                } else if path.to_string_lossy().contains('#') {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        if let Some(folder) = &self.folder {
            visit(folder.path(), &mut found);
        }
        found
    }
}

pub async fn open(sink: &ParquetSink, schema: &Arc<TableSchema>) -> Result<Box<dyn TableWriter>> {
    let table = SinkTable {
        name: schema.id.name.to_string(),
        schema: schema.clone(),
    };
    sink.open(table).await
}

/// A table without a before-image; the first column is its key.
pub fn table(name: &str, columns: Vec<Field>) -> Arc<TableSchema> {
    let key = columns[0].name().clone();
    Arc::new(TableSchema {
        id: TableId::new("shop", None, name),
        columns: Arc::new(Schema::new(columns)),
        not_null: vec![key.clone()],
        key: vec![key],
        before_image: false,
    })
}

/// `id` and `name`.
pub fn orders() -> Arc<TableSchema> {
    table(
        "orders",
        vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ],
    )
}

/// Creations at the positions after `from`, one for each row of `columns`.
pub fn creations(schema: &Arc<TableSchema>, from: u64, mut columns: Vec<ArrayRef>) -> ChangeBatch {
    let mut envelope = EnvelopeBuilder::default();
    for number in (from + 1..).take(columns[0].len()) {
        envelope.append(Op::Create, &partition(), &format!("{number:020}"), 0, None);
    }
    columns.extend(envelope.finish());
    let rows = RecordBatch::try_new(schema.batch_schema(), columns).unwrap();
    ChangeBatch::try_new(schema.clone(), rows).unwrap()
}

/// `count` rows of [`orders`] at the positions after `from`.
pub fn some_orders(from: u64, count: u64) -> ChangeBatch {
    let ids = from as i64 + 1..=(from + count) as i64;
    let names: StringArray = ids.clone().map(|id| Some(format!("order {id}"))).collect();
    creations(
        &orders(),
        from,
        vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(names)],
    )
}

/// The same with long names that neither dictionaries nor compression shrink.
pub fn incompressible_orders(from: u64, count: u64) -> ChangeBatch {
    let ids = from as i64 + 1..=(from + count) as i64;
    let names: StringArray = ids
        .clone()
        .map(|id| Some(format!("{:064}", id * 2_654_435_761)))
        .collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(names)];
    creations(&orders(), from, columns)
}

pub fn partition() -> PartitionId {
    PartitionId::new("shop", "log")
}

pub fn checkpoint(number: u64) -> Checkpoint {
    let position = match number {
        0 => return Checkpoint::default(),
        number => Position::at(format!("{number:020}")),
    };
    [(partition(), position)].into_iter().collect()
}

pub fn advance(from: u64, to: u64) -> CheckpointDelta {
    checkpoint(from).delta_to(&checkpoint(to))
}

pub async fn commit(writer: &mut Box<dyn TableWriter>, from: u64, to: u64) -> Result<CommitReceipt> {
    let prepared = writer.prepare(advance(from, to)).await?;
    writer.commit(prepared).await
}

/// Writes and commits `count` orders after `from`.
pub async fn commit_orders(writer: &mut Box<dyn TableWriter>, from: u64, count: u64) -> Result<CommitReceipt> {
    writer.write(some_orders(from, count)).await?;
    commit(writer, from, from + count).await
}
