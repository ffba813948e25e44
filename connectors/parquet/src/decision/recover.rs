//! What the next record of a table says, given the last.

use millstream_core::{Checkpoint, CheckpointDelta, DeltaVerdict, PartitionId};

use crate::names::DataFileName;
use crate::record::{CommitKind, CommitRecord, DataFile, FORMAT};
use crate::stored_schema::StoredSchema;

/// What is new in every record and not a matter of decision.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The writer's random id.
    pub writer_id: String,
    /// A fresh random id of this commit.
    pub commit_id: String,
    /// Now, in RFC 3339.
    pub committed_at: String,
}

/// The record by which a writer takes over a table whose newest record is `last`.
///
/// It carries the positions on unchanged. Once it is published every earlier writer is
/// fenced: the number that its next commit needs is taken, and a writer never skips a number.
pub fn open_record(last: Option<&CommitRecord>, schema: StoredSchema, stamp: Stamp) -> CommitRecord {
    let version = last.map_or(1, |last| last.version + 1);
    CommitRecord {
        format: FORMAT,
        version,
        commit_id: stamp.commit_id,
        kind: CommitKind::Open,
        generation: last.map_or(1, |last| last.generation + 1),
        writer_id: stamp.writer_id,
        committed_at: stamp.committed_at,
        generation_started_at_version: version,
        swept_generation: last.map_or(1, |last| last.swept_generation),
        last_file_seq: last.map(|last| last.last_file_seq.clone()).unwrap_or_default(),
        rows: 0,
        bytes: 0,
        files: Vec::new(),
        quarantine: Vec::new(),
        interim_schemas: Vec::new(),
        schema,
        advance: CheckpointDelta::default(),
        positions: last.map(|last| last.positions.clone()).unwrap_or_default(),
    }
}

/// Why an advance cannot be committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceFault {
    /// Rows between the table's position and the advance are missing.
    #[error("rows between the table's position and the commit are missing in partition {0}")]
    Gap(PartitionId),
    /// The table holds part of it.
    #[error("the table already holds part of the commit in partition {0}")]
    Overlap(PartitionId),
    /// The table holds all of it.
    #[error("the table already holds the whole commit")]
    AlreadyHeld,
}

/// The positions after `advance`.
///
/// # Errors
/// If the advance does not follow on from `held` without gap or overlap.
pub fn positions_after(held: &Checkpoint, advance: &CheckpointDelta) -> Result<Checkpoint, AdvanceFault> {
    match held.apply(advance) {
        DeltaVerdict::Applied(after) => Ok(after),
        DeltaVerdict::AlreadyApplied => Err(AdvanceFault::AlreadyHeld),
        DeltaVerdict::Gap(partition) => Err(AdvanceFault::Gap(partition)),
        DeltaVerdict::Overlap(partition) => Err(AdvanceFault::Overlap(partition)),
    }
}

/// The files of one commit.
#[derive(Debug, Clone, Default)]
pub struct CommitFiles {
    /// Of the table's rows.
    pub data: Vec<DataFile>,
    /// Of rejected rows.
    pub quarantine: Vec<DataFile>,
    /// Schemas that the table had since the last commit, and has no more.
    pub interim_schemas: Vec<StoredSchema>,
}

/// The record that commits `files` and `advance` after `head`, the writer's own last record.
/// `swept_generation` is how far orphans have been removed by now.
///
/// # Errors
/// As [`positions_after`].
pub fn data_record(
    head: &CommitRecord,
    files: CommitFiles,
    schema: StoredSchema,
    advance: CheckpointDelta,
    swept_generation: u64,
    stamp: Stamp,
) -> Result<CommitRecord, AdvanceFault> {
    let mut last_file_seq = head.last_file_seq.clone();
    last_file_seq.retain(|generation, _| *generation >= swept_generation);
    let CommitFiles {
        data: files,
        quarantine,
        mut interim_schemas,
    } = files;
    interim_schemas.retain(|schema| files.iter().any(|file| file.schema_id == schema.id));
    let names = files
        .iter()
        .chain(&quarantine)
        .filter_map(|file| file.path.rsplit('/').next()?.parse::<DataFileName>().ok());
    for name in names {
        let seq = last_file_seq.entry(name.generation).or_default();
        *seq = name.seq.max(*seq);
    }
    Ok(CommitRecord {
        format: FORMAT,
        version: head.version + 1,
        commit_id: stamp.commit_id,
        kind: CommitKind::Data,
        generation: head.generation,
        writer_id: stamp.writer_id,
        committed_at: stamp.committed_at,
        generation_started_at_version: head.generation_started_at_version,
        swept_generation,
        last_file_seq,
        rows: files.iter().map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        quarantine,
        interim_schemas,
        schema,
        positions: positions_after(&head.positions, &advance)?,
        advance,
    })
}

#[cfg(test)]
mod tests {
    use millstream_core::{Position, Span};

    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            writer_id: "w".into(),
            commit_id: "c".into(),
            committed_at: String::new(),
        }
    }

    fn schema() -> StoredSchema {
        StoredSchema {
            id: 1,
            columns: Vec::new(),
        }
    }

    fn span(from: &str, to: &str) -> CheckpointDelta {
        let position = |text: &str| text.parse::<Position>().unwrap();
        [(
            PartitionId::new("s", "p"),
            Span {
                from: position(from),
                to: position(to),
            },
        )]
        .into_iter()
        .collect()
    }

    #[test]
    fn a_takeover_keeps_positions_and_raises_the_generation() {
        let first = open_record(None, schema(), stamp());
        assert_eq!((first.version, first.generation, first.swept_generation), (1, 1, 1));
        let data = data_record(
            &first,
            CommitFiles::default(),
            schema(),
            span("beginning", "at:5"),
            1,
            stamp(),
        )
        .unwrap();
        assert_eq!((data.version, data.generation, data.kind), (2, 1, CommitKind::Data));
        let second = open_record(Some(&data), schema(), stamp());
        assert_eq!(
            (second.version, second.generation, second.generation_started_at_version),
            (3, 2, 3)
        );
        assert_eq!(second.positions, data.positions);
        assert!(second.advance.is_empty());
    }

    #[test]
    fn an_advance_must_follow_on() {
        let open = open_record(None, schema(), stamp());
        let head = data_record(
            &open,
            CommitFiles::default(),
            schema(),
            span("beginning", "at:5"),
            1,
            stamp(),
        )
        .unwrap();
        let partition = PartitionId::new("s", "p");
        for (from, to, fault) in [
            ("at:6", "at:7", AdvanceFault::Gap(partition.clone())),
            ("at:4", "at:7", AdvanceFault::Overlap(partition)),
            ("beginning", "at:5", AdvanceFault::AlreadyHeld),
        ] {
            assert_eq!(
                data_record(&head, CommitFiles::default(), schema(), span(from, to), 1, stamp()).unwrap_err(),
                fault
            );
        }
        assert!(
            data_record(
                &head,
                CommitFiles::default(),
                schema(),
                CheckpointDelta::default(),
                1,
                stamp()
            )
            .is_ok()
        );
    }
}
