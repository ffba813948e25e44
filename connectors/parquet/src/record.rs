//! The commit record: the one persisted format of this sink.
//!
//! Every record holds the whole schema and all positions, so that a writer that opens the
//! table reads one record and a reader of the positions reads one record.

use std::collections::BTreeMap;

use millstream_core::{Checkpoint, CheckpointDelta};
use serde::{Deserialize, Serialize};

use crate::stored_schema::StoredSchema;

/// The format that this version writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// Why a commit was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitKind {
    /// A writer took over the table. It holds no rows; it fences every earlier writer,
    /// because it takes the number that their next commit would need.
    Open,
    /// Rows, positions or both.
    Data,
}

/// One committed Parquet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Where it is, relative to the table's folder.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
    /// The schema that it was written with.
    pub schema_id: u32,
    /// Its partition values by folder name; `None` is the null partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partition: BTreeMap<String, Option<String>>,
}

/// What `_commits/<20 digits>.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// Version of this format.
    pub format: u32,
    /// The commit's number in the table, from 1, without gaps.
    pub version: u64,
    /// A random id by which the writer recognises its own commit.
    pub commit_id: String,
    /// Why it was made.
    pub kind: CommitKind,
    /// The writer's generation: each open raises it by one.
    pub generation: u64,
    /// A random id of the writer.
    pub writer_id: String,
    /// When the record was built, by the writer's clock, in RFC 3339; for people, never for decisions.
    pub committed_at: String,
    /// The version of the open commit of this generation.
    pub generation_started_at_version: u64,
    /// Generations below this one are done with: their files that no commit references have been
    /// removed. It lags behind the last sweep, as a writer may upload before it learns that it is
    /// fenced; generations from here on are judged again at each open.
    pub swept_generation: u64,
    /// For each generation from `swept_generation` on that committed a file, the highest
    /// sequence number that it committed. A file of an ended generation above it is an orphan.
    pub last_file_seq: BTreeMap<u64, u64>,
    /// Rows in `files`.
    pub rows: u64,
    /// Bytes in `files`.
    pub bytes: u64,
    /// The files that this commit adds.
    pub files: Vec<DataFile>,
    /// Files of rejected rows that this commit adds. They have the fixed schema of
    /// [`quarantine`](millstream_core::quarantine), whose number here is 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<DataFile>,
    /// Schemas that the table had only between the last commit and this one, where files of this
    /// commit were written with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interim_schemas: Vec<StoredSchema>,
    /// The table's columns as of this commit.
    pub schema: StoredSchema,
    /// The advance that this commit made.
    pub advance: CheckpointDelta,
    /// All positions after this commit.
    pub positions: Checkpoint,
}

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordFault {
    /// Not JSON, or not a record.
    #[error("the record cannot be parsed")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer version.
    #[error("the record has format {0}, this version reads up to {FORMAT}")]
    TooNew(u32),
    /// The record's number is not that of its file.
    #[error("the record says that it is version {0}")]
    WrongVersion(u64),
}

impl CommitRecord {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has text keys only and cannot fail to serialise")
    }

    /// Reads the record of `version`.
    pub(crate) fn parse(version: u64, json: &[u8]) -> Result<Self, RecordFault> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let Header { format } = serde_json::from_slice(json)?;
        if format > FORMAT {
            return Err(RecordFault::TooNew(format));
        }
        let record: Self = serde_json::from_slice(json)?;
        if record.version == version {
            Ok(record)
        } else {
            Err(RecordFault::WrongVersion(record.version))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &str = include_str!("../tests/fixtures/commit-v1.json");
    const WITH_QUARANTINE: &str = include_str!("../tests/fixtures/commit-v1-quarantine.json");

    #[test]
    fn records_of_format_1_keep_parsing() {
        let record = CommitRecord::parse(7, FIXTURE.as_bytes()).unwrap();
        assert_eq!(
            (record.version, record.generation, record.kind),
            (7, 2, CommitKind::Data)
        );
        assert_eq!(record.files.len(), 2);
        assert_eq!(
            record.files[0].partition["day_placed_at"].as_deref(),
            Some("2026-01-31")
        );
        assert_eq!(record.files[1].partition["day_placed_at"], None);
        assert_eq!(record.last_file_seq[&2], 4);
        assert_eq!(record.positions.iter().count(), 2);
        record.schema.to_arrow().unwrap();
        assert_eq!(CommitRecord::parse(7, &record.to_json()).unwrap(), record);
    }

    #[test]
    fn rejected_rows_stand_apart_from_the_tables_own() {
        let record = CommitRecord::parse(8, WITH_QUARANTINE.as_bytes()).unwrap();
        assert_eq!((record.rows, record.quarantine[0].rows), (2, 1));
        assert_eq!(CommitRecord::parse(8, &record.to_json()).unwrap(), record);
    }

    #[test]
    fn interim_schemas_are_optional_and_kept() {
        let mut record = CommitRecord::parse(7, FIXTURE.as_bytes()).unwrap();
        assert!(record.interim_schemas.is_empty());
        record.interim_schemas.push(record.schema.clone());
        assert_eq!(CommitRecord::parse(7, &record.to_json()).unwrap(), record);
    }

    #[test]
    fn a_newer_format_and_a_misplaced_record_are_refused() {
        let newer = FIXTURE.replacen("\"format\": 1", "\"format\": 2", 1);
        assert!(matches!(
            CommitRecord::parse(7, newer.as_bytes()),
            Err(RecordFault::TooNew(2))
        ));
        assert!(matches!(
            CommitRecord::parse(8, FIXTURE.as_bytes()),
            Err(RecordFault::WrongVersion(7))
        ));
        assert!(matches!(CommitRecord::parse(7, b"{"), Err(RecordFault::Malformed(_))));
    }
}
