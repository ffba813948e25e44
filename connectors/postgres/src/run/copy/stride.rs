//! How many blocks a statement reads.

use super::piece::Amount;
use super::ranges::Range;

/// As many rows as a block of 8 KiB can have (`MaxHeapTuplesPerPage` in the server's `htup_details.h`).
pub(super) const MOST_ROWS_OF_A_BLOCK: u64 = 291;
/// Bytes of the blocks that a statement reads at most: what comes next may be fuller than what came, and its values
/// longer than they are in the block, where they are compressed.
const MOST_BLOCK_BYTES: u64 = 2 << 20;

/// How many blocks the next statement reads, so that its rows make about one piece.
#[derive(Debug, Clone)]
pub(super) struct Stride {
    most: Amount,
    most_blocks: u64,
    blocks: u64,
}

impl Stride {
    /// Towards pieces that have nearly as much as `most`, of blocks of so many bytes. Those of which nothing is
    /// known count as full of the shortest rows.
    pub(super) fn new(most: Amount, block_bytes: u64) -> Self {
        let most_blocks = (MOST_BLOCK_BYTES / block_bytes.max(1)).max(1);
        Self {
            most,
            most_blocks,
            blocks: (most.rows / MOST_ROWS_OF_A_BLOCK).clamp(1, most_blocks),
        }
    }

    /// The last of the blocks of `range` to read next. It is that of the range where its file ends before.
    pub(super) fn last(&self, range: &Range) -> u32 {
        let end = range.next_block().saturating_add(self.blocks as u32);
        if end >= range.file.blocks {
            range.last
        } else {
            range.last.min(end - 1)
        }
    }

    /// Learns what so many blocks had.
    pub(super) fn learn(&mut self, blocks: u32, found: Amount) {
        let blocks = u64::from(blocks);
        // An eighth is left for blocks that are fuller than these.
        let fitting = |most: u64, found: u64| (most - most / 8).saturating_mul(blocks) / found.max(1);
        let fitting = fitting(self.most.rows, found.rows).min(fitting(self.most.bytes, found.bytes));
        self.blocks = fitting.clamp(1, self.most_blocks);
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::PartitionId;
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::TableFile;
    use crate::run::copy::place::{LAST_BLOCK, Tid};
    use crate::run::copy::ranges::ranges;

    /// The one range of a file with so many blocks, read up to and including the block before `next`.
    fn range(blocks: u32, next: u32) -> Range {
        let file = TableFile {
            node: 7,
            relation: "t".to_owned(),
            filter: None,
            blocks,
            addressable: true,
            toasted: false,
        };
        let root = PartitionId::new("s", "copy/public.t");
        let mut range = ranges(&root, &[file], &millstream_core::Checkpoint::default(), (1, 1)).remove(0);
        if let Some(last) = next.checked_sub(1) {
            range.reach(Tid::end_of(last));
        }
        range
    }

    fn amount(rows: u64, bytes: u64) -> Amount {
        Amount { rows, bytes }
    }

    #[test]
    fn statements_come_to_read_about_one_piece() {
        let mut stride = Stride::new(amount(32_768, 4 << 20), 8192);
        assert_eq!(stride.last(&range(100_000, 0)), 111);
        stride.learn(112, amount(112 * 120, 112 * 120 * 60));
        assert_eq!(stride.last(&range(100_000, 112)), 112 + 238 - 1);
        // Longer rows, which are bound by their bytes.
        stride.learn(238, amount(238 * 60, 238 * 60 * 300));
        assert_eq!(stride.last(&range(100_000, 0)), 202);
        // As good as empty ones.
        stride.learn(203, amount(0, 0));
        assert_eq!(stride.last(&range(100_000, 0)), 255);
        assert_eq!(stride.last(&range(100_000, 99_900)), LAST_BLOCK);
        let large = Stride::new(amount(1_000_000, 4 << 20), 32_768);
        assert_eq!(large.last(&range(100_000, 0)), 63);
    }

    proptest! {
        /// Whatever they find, statements read each block once, and not very many at a time.
        #[test]
        fn statements_read_all_of_a_range(
            limits in (1u64..100_000, 1u64..1 << 27),
            found in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 60), 1..5),
            (blocks, last) in (0u32..5000, prop_oneof![Just(LAST_BLOCK), 0u32..5000]),
        ) {
            let mut range = range(blocks, 0);
            range.last = last;
            let mut stride = Stride::new(amount(limits.0, limits.1), 8192);
            for (rows, bytes) in found.iter().cycle() {
                let (first, end) = (range.next_block(), stride.last(&range));
                prop_assert!(first <= end && end <= last);
                prop_assert!(end.min(blocks).saturating_sub(first) <= 256, "{first} to {end}");
                stride.learn(1 + end - first, amount(*rows, *bytes));
                range.reach(Tid::end_of(end));
                if range.is_done() {
                    break;
                }
                prop_assert_eq!(range.next_block(), end + 1);
                prop_assert_eq!(range.blocks_read(), (end + 1).min(blocks));
            }
        }
    }
}
