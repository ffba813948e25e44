//! The tables that the demo's pipeline writes, read back from their committed files.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use arrow_array::RecordBatch;
use millstream_parquet::{CommittedTable, ParquetConfig, committed_files};
use millstream_sql::QueryTable;

/// A table of `examples/shop`.
#[derive(Debug)]
pub struct Table {
    /// Its name in the target.
    pub name: &'static str,
    /// The folder of its sink in the lake.
    pub folder: &'static str,
    /// The columns that identify a row.
    pub key: &'static [&'static str],
    /// Whether it is fed by the topic; otherwise by PostgreSQL.
    pub from_kafka: bool,
}

/// All tables.
pub const TABLES: &[Table] = &[
    Table {
        name: "customers",
        folder: "shop",
        key: &["customer_id"],
        from_kafka: false,
    },
    Table {
        name: "order_items",
        folder: "shop",
        key: &["order_id", "line"],
        from_kafka: false,
    },
    Table {
        name: "orders_clean",
        folder: "shop",
        key: &["order_id"],
        from_kafka: false,
    },
    Table {
        name: "clicks_clean",
        folder: "clickstream",
        key: &[],
        from_kafka: true,
    },
];

/// A folder of tables.
#[derive(Debug)]
pub struct Lake(PathBuf);

impl Lake {
    /// The lake in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is committed in a table.
    ///
    /// # Errors
    /// If a commit record cannot be read.
    pub async fn committed(&self, folder: &str, table: &str) -> Result<CommittedTable> {
        let config = ParquetConfig::new(self.0.join(folder).display().to_string());
        committed_files(&config, table)
            .await
            .map_err(|error| anyhow!("{}", error.summary()))
    }

    /// Runs SQL over `tables`; each is there as its changes and as `<name>_current`.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn query(&self, tables: &[&Table], sql: &str) -> Result<Vec<RecordBatch>> {
        let mut all = Vec::with_capacity(tables.len());
        for table in tables {
            let key = table.key.iter().map(|column| (*column).to_owned()).collect();
            all.push(QueryTable {
                name: table.name.to_owned(),
                key,
                files: self.locations(table.folder, table.name).await?,
            });
        }
        run(&all, sql).await
    }

    /// Runs SQL over the table `rejected`: the rows that were meant for `table` and are in its
    /// quarantine.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn query_quarantine(&self, table: &Table, sql: &str) -> Result<Vec<RecordBatch>> {
        let files = self.committed(table.folder, table.name).await?.quarantine;
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let rejected = QueryTable {
            name: "rejected".to_owned(),
            key: Vec::new(),
            files: files.into_iter().map(|file| file.location).collect(),
        };
        run(&[rejected], sql).await
    }

    async fn locations(&self, folder: &str, table: &str) -> Result<Vec<String>> {
        let files = self.committed(folder, table).await?.files;
        Ok(files.into_iter().map(|file| file.location).collect())
    }
}

async fn run(tables: &[QueryTable], sql: &str) -> Result<Vec<RecordBatch>> {
    let batches = millstream_sql::query(tables, sql).await;
    batches.map_err(|error| anyhow!("{}", error.summary()))
}
