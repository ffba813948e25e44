//! Which data files a crashed writer left behind.
//!
//! Proof that a file is an orphan: our open commit took the number that any earlier writer's
//! next commit would need, so no commit of an earlier generation can appear any more; and the
//! newest record tells the highest sequence number that each unswept generation committed. A
//! file of an earlier generation above that number is in no commit, and never will be.
//!
//! A writer that was fenced learns it at its next commit alone, and uploads until then. So an
//! ended generation is judged again at the next [`LATE_GENERATIONS`] opens.

use std::collections::BTreeMap;

use crate::names::DataFileName;

/// How many generations that were swept are judged again, for files that were uploaded since.
pub const LATE_GENERATIONS: u64 = 16;

/// Below which generation no orphans are looked for any more, once the writer of generation
/// `own` has swept; `swept` is what the record said before.
pub fn swept_by(own: u64, swept: u64) -> u64 {
    own.saturating_sub(LATE_GENERATIONS).max(swept)
}

/// What is known when a writer of generation `own` has published its open commit.
#[derive(Debug, Clone)]
pub struct SweepFacts<'a> {
    /// The generation of the writer that sweeps.
    pub own_generation: u64,
    /// Generations below this one have been swept.
    pub swept_generation: u64,
    /// For each unswept generation that committed a file, the highest committed sequence number.
    pub last_file_seq: &'a BTreeMap<u64, u64>,
}

/// Whether `file` is proven to be in no commit. Files of generations that have been swept are
/// not judged, as the record no longer tells what those generations committed.
pub fn is_orphan(facts: &SweepFacts<'_>, file: &DataFileName) -> bool {
    let ended = (facts.swept_generation..facts.own_generation).contains(&file.generation);
    ended && file.seq > facts.last_file_seq.get(&file.generation).copied().unwrap_or(0)
}

/// Whether the staging file of the commit `version` in a local folder is of no use to anyone:
/// our open commit is at or above it, so creating that version can only fail.
pub fn is_dead_staging(own_open_version: u64, version: u64) -> bool {
    version <= own_open_version
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millstream_core::CheckpointDelta;
    use proptest::prelude::*;

    use super::*;
    use crate::decision::recover::{CommitFiles, Stamp, data_record, open_record};
    use crate::record::{CommitRecord, DataFile};
    use crate::stored_schema::StoredSchema;

    #[derive(Debug, Clone)]
    enum Step {
        Upload,
        Commit,
        /// A fenced writer, so many generations old, uploads a file before it learns that it is.
        LateUpload(u64),
        /// The uncommitted files are removed, then the writer goes on.
        Abort,
        /// A new writer takes over; whether its sweep succeeds.
        Reopen(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Upload),
            3 => Just(Step::Commit),
            1 => Just(Step::Abort),
            2 => (1u64..=LATE_GENERATIONS).prop_map(Step::LateUpload),
            2 => any::<bool>().prop_map(Step::Reopen),
        ];
        proptest::collection::vec(step, 0..60)
    }

    fn stamp() -> Stamp {
        Stamp {
            writer_id: "w".into(),
            commit_id: "c".into(),
            committed_at: String::new(),
        }
    }

    fn file(generation: u64, seq: u64) -> DataFileName {
        DataFileName {
            generation,
            writer: "00000000".into(),
            seq,
        }
    }

    proptest! {
        #[test]
        fn a_sweep_removes_all_orphans_and_no_committed_file(steps in steps()) {
            let schema = StoredSchema { id: 1, columns: Vec::new() };
            let mut head: CommitRecord = open_record(None, schema.clone(), stamp());
            let mut swept = 1;
            let (mut stored, mut committed) = (BTreeSet::new(), BTreeSet::new());
            let mut pending: Vec<u64> = Vec::new();
            let mut seq = 0;
            // The highest number of each generation, of which the last is that of its lost writer.
            let mut last_seq = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Upload => {
                        seq += 1;
                        pending.push(seq);
                        stored.insert((head.generation, seq));
                        last_seq.insert(head.generation, seq);
                    }
                    Step::LateUpload(age) => {
                        // Only of generations that the next open still judges.
                        if let Some(generation) = head.generation.checked_sub(age).filter(|old| *old >= 1) {
                            let seq = last_seq.entry(generation).or_insert(0);
                            *seq += 1;
                            stored.insert((generation, *seq));
                        }
                    }
                    Step::Abort => {
                        for seq in pending.drain(..) {
                            stored.remove(&(head.generation, seq));
                        }
                    }
                    Step::Commit => {
                        let data: Vec<_> = pending.drain(..).map(|seq| {
                            committed.insert((head.generation, seq));
                            DataFile {
                                path: format!("data/x=1/{}", file(head.generation, seq)),
                                rows: 1, bytes: 1, sha256: String::new(), schema_id: 1,
                                partition: BTreeMap::new(),
                            }
                        }).collect();
                        let files = CommitFiles { data, ..CommitFiles::default() };
                        head = data_record(&head, files, schema.clone(), CheckpointDelta::default(), swept, stamp()).unwrap();
                    }
                    Step::Reopen(sweep_works) => {
                        // A crash: what was pending stays in the store, and so does the swept
                        // generation that only the lost writer knew.
                        pending.clear();
                        seq = 0;
                        head = open_record(Some(&head), schema.clone(), stamp());
                        swept = head.swept_generation;
                        let facts = SweepFacts {
                            own_generation: head.generation,
                            swept_generation: head.swept_generation,
                            last_file_seq: &head.last_file_seq,
                        };
                        let orphans: Vec<_> =
                            stored.iter().copied().filter(|(g, s)| is_orphan(&facts, &file(*g, *s))).collect();
                        for orphan in &orphans {
                            prop_assert!(!committed.contains(orphan));
                        }
                        if sweep_works {
                            for orphan in orphans {
                                stored.remove(&orphan);
                            }
                            swept = swept_by(head.generation, head.swept_generation);
                            prop_assert_eq!(&stored, &committed);
                        }
                    }
                }
            }
        }
    }
}
