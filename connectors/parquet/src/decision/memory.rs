//! How the files that a table writes at the same time stay under their common byte budget.

/// What one open file holds in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Encoded but not yet in a finished row group.
    pub encoding: usize,
    /// In finished row groups, too little for a part of an upload.
    pub pending: usize,
    /// In parts that are being uploaded.
    pub in_flight: usize,
}

impl Footprint {
    /// Bytes altogether.
    pub fn total(&self) -> usize {
        self.encoding + self.pending + self.in_flight
    }
}

/// What frees memory, for the file at an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relief {
    /// Wait until its parts have been uploaded.
    AwaitUpload(usize),
    /// End its row group, which may fill parts to upload.
    EndRowGroup(usize),
    /// Close it before it has reached its target size.
    Close(usize),
}

/// Below this many bytes a row group is not worth ending: small groups compress and scan badly,
/// so the whole file is closed instead.
const WORTHWHILE_ROW_GROUP: usize = 1 << 20;

/// What to do while `files` together exceed `budget`; `None` once they do not. Each relief
/// brings the total down, so repeating it ends.
pub fn relieve(files: &[Footprint], budget: usize) -> Option<Relief> {
    let total: usize = files.iter().map(Footprint::total).sum();
    let (index, largest) = files.iter().enumerate().max_by_key(|(_, file)| file.total())?;
    if total <= budget || largest.total() == 0 {
        None
    } else if largest.in_flight > 0 {
        Some(Relief::AwaitUpload(index))
    } else if largest.encoding >= WORTHWHILE_ROW_GROUP.max(largest.pending) {
        Some(Relief::EndRowGroup(index))
    } else {
        Some(Relief::Close(index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn relief_ends_and_reaches_the_budget(
            sizes in proptest::collection::vec((0usize..40 << 20, 0usize..5 << 20, 0usize..10 << 20), 0..70),
            budget in 0usize..64 << 20,
        ) {
            let mut files: Vec<_> = sizes
                .into_iter()
                .map(|(encoding, pending, in_flight)| Footprint { encoding, pending, in_flight })
                .collect();
            let most = 4 * files.len();
            let mut steps = 0;
            while let Some(relief) = relieve(&files, budget) {
                steps += 1;
                prop_assert!(steps <= most);
                match relief {
                    Relief::AwaitUpload(file) => files[file].in_flight = 0,
                    // The worst case: nothing compresses, and the last part stays behind.
                    Relief::EndRowGroup(file) => {
                        let bytes = files[file].encoding + files[file].pending;
                        files[file] = Footprint { encoding: 0, pending: bytes % (5 << 20), in_flight: 0 };
                    }
                    Relief::Close(file) => files[file] = Footprint::default(),
                }
            }
            prop_assert!(files.iter().map(Footprint::total).sum::<usize>() <= budget);
        }
    }
}
