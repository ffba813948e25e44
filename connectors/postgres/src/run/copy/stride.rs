//! How many blocks a statement reads.

use super::piece::Amount;

/// As many rows as a block of 8 KiB can have (`MaxHeapTuplesPerPage` in the server's `htup_details.h`).
pub(super) const MOST_ROWS_OF_A_BLOCK: u64 = 291;
/// What comes behind a stretch of the file that is nearly empty may be full.
const MOST_BLOCKS: u64 = 1024;

/// How many blocks the next statement reads, so that its rows make about one piece.
#[derive(Debug)]
pub(super) struct Stride {
    most: Amount,
    blocks: u64,
}

impl Stride {
    /// Towards pieces that have nearly as much as `most`. Blocks of which nothing is known count as full
    /// of the shortest rows.
    pub(super) fn new(most: Amount) -> Self {
        Self {
            most,
            blocks: (most.rows / MOST_ROWS_OF_A_BLOCK).clamp(1, MOST_BLOCKS),
        }
    }

    /// The last of the blocks to read from `first` on, in a range of a file with `blocks` that ends with
    /// `last`. It is that of the range where nothing lies behind it.
    pub(super) fn last(&self, first: u32, last: u32, blocks: u32) -> u32 {
        let end = first.saturating_add(self.blocks as u32);
        if end >= blocks { last } else { last.min(end - 1) }
    }

    /// Learns what so many blocks had.
    pub(super) fn learn(&mut self, blocks: u32, found: Amount) {
        let blocks = u64::from(blocks);
        // An eighth is left for blocks that are fuller than these.
        let fitting = |most: u64, found: u64| (most - most / 8).saturating_mul(blocks) / found.max(1);
        let fitting = fitting(self.most.rows, found.rows).min(fitting(self.most.bytes, found.bytes));
        self.blocks = fitting.clamp(1, MOST_BLOCKS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::copy::place::LAST_BLOCK;

    #[test]
    fn statements_come_to_read_about_one_piece() {
        let mut stride = Stride::new(amount(32_768, 4 << 20));
        assert_eq!(stride.last(0, 9_999, 100_000), 111);
        stride.learn(112, amount(112 * 120, 112 * 120 * 60));
        assert_eq!(stride.last(112, 9_999, 100_000), 112 + 238 - 1);
        // Longer rows, which are bound by their bytes.
        stride.learn(238, amount(238 * 60, 238 * 60 * 190));
        assert_eq!(stride.last(0, 9_999, 100_000), 320);
        assert_eq!(stride.last(9_990, 9_999, 100_000), 9_999);
        stride.learn(321, amount(0, 0));
        assert_eq!(stride.last(0, LAST_BLOCK, 100_000), MOST_BLOCKS as u32 - 1);
        assert_eq!(stride.last(99_000, LAST_BLOCK, 100_000), LAST_BLOCK);
    }

    fn amount(rows: u64, bytes: u64) -> Amount {
        Amount { rows, bytes }
    }

    proptest! {
        #[test]
        fn a_statement_reads_one_block_at_least_and_not_very_many(
            limits in (1u64..100_000, 1u64..1 << 27),
            found in proptest::collection::vec((1u32..2000, 0u64..1 << 40, 0u64..1 << 60), 0..5),
            (first, blocks) in (0..LAST_BLOCK, any::<u32>()),
        ) {
            let mut stride = Stride::new(amount(limits.0, limits.1));
            for (blocks, rows, bytes) in found {
                stride.learn(blocks, amount(rows, bytes));
            }
            let last = stride.last(first, LAST_BLOCK, blocks);
            prop_assert!(last >= first);
            prop_assert!(u64::from(last.min(blocks).saturating_sub(first)) <= MOST_BLOCKS);
        }
    }
}
