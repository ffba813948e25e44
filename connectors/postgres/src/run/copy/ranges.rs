//! Which ranges of a table are left to read, decided from what the target holds.

use std::fmt;
use std::str::FromStr;

use millstream_core::{Checkpoint, PartitionId, Position};

use super::place::{LAST_BLOCK, Tid, file_of, read_up_to};
use crate::catalog::TableFile as File;

/// The name of a range, as the part of the copy's partition: `<file>:<first>-<last>`, or
/// `<file>:all` for a file that is read in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RangeName {
    file: u32,
    blocks: Option<(u32, u32)>,
}

/// A range of a file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) file: File,
    pub(super) partition: PartitionId,
    /// The last block; [`LAST_BLOCK`] for whatever there is.
    pub(super) last: u32,
    /// What was read of it, under earlier snapshots too.
    pub(super) read: Tid,
    /// What of that was read under earlier snapshots.
    pub(super) stale: Tid,
    /// The first block.
    pub(super) first: u32,
}

impl Range {
    fn new(root: &PartitionId, file: &File, first: u32, last: u32) -> Self {
        let name = RangeName {
            file: file.node,
            blocks: file.addressable.then_some((first, last)),
        };
        Self {
            file: file.clone(),
            partition: root.part(name),
            first,
            last,
            read: Tid::start_of(first),
            stale: Tid::start_of(first),
        }
    }

    /// Whether everything was read.
    pub(super) fn is_done(&self) -> bool {
        self.read >= Tid::end_of(self.last)
    }

    /// The block that reading goes on with.
    pub(super) fn next_block(&self) -> u32 {
        self.read.block.saturating_add(u32::from(self.read.row == u16::MAX))
    }

    /// Notes that it was read up to and including `read`. Returns how many blocks more that is.
    pub(super) fn reach(&mut self, read: Tid) -> u32 {
        let before = self.blocks_read();
        self.read = read;
        self.blocks_read() - before
    }

    /// Blocks of it that were read, among those that the file had.
    pub(super) fn blocks_read(&self) -> u32 {
        self.next_block().min(self.file.blocks).saturating_sub(self.first)
    }
}

/// The ranges of a table's files that make up its copy. Those that the target holds in part go
/// on where they stand; the rest is cut into about `parts` ranges of the same size, of at least
/// `smallest` blocks.
///
/// `held` is what every target table holds below `root`. What it tells of files that are no
/// longer there is of no use: their rows are in others, and are read again.
pub(super) fn ranges(
    root: &PartitionId,
    files: &[File],
    held: &Checkpoint,
    (parts, smallest): (u32, u32),
) -> Vec<Range> {
    let total: u64 = files.iter().map(|file| u64::from(file.blocks)).sum();
    let size = u32::try_from(total.div_ceil(u64::from(parts.max(1)))).unwrap_or(LAST_BLOCK);
    let size = size.max(smallest);
    let mut ranges = Vec::new();
    for file in files {
        if !file.addressable {
            ranges.push(Range::new(root, file, 0, LAST_BLOCK));
            continue;
        }
        let mut begun = begun(root, file, held);
        begun.sort_by_key(|range| range.first);
        let mut next = 0;
        for range in begun {
            if range.first < next {
                // Two layouts overlap: the second is of no use, its rows are read with the first.
                continue;
            }
            cut(root, file, next, range.first, size, &mut ranges);
            next = range.last.saturating_add(1);
            ranges.push(range);
        }
        cut(root, file, next, LAST_BLOCK + 1, size, &mut ranges);
    }
    ranges
}

/// Ranges of the blocks from `next` to before `end`. The last is open where `end` is.
fn cut(root: &PartitionId, file: &File, mut next: u32, end: u32, size: u32, ranges: &mut Vec<Range>) {
    while next < end {
        let whole = next.saturating_add(size);
        let rest_is_small = whole.saturating_add(size / 2) >= file.blocks.min(end);
        let last = if rest_is_small { end } else { whole.min(end) } - 1;
        ranges.push(Range::new(root, file, next, last));
        next = last.saturating_add(1);
    }
}

/// The files of a table as ranges of one partition, read one after the other. `held` is what the
/// target holds of it: files before the one that it names were read.
pub(super) fn line(partition: &PartitionId, files: &[File], held: &Position) -> Vec<Range> {
    let mut files: Vec<&File> = files.iter().collect();
    files.sort_by_key(|file| file.node);
    let place = held.ordered().unwrap_or_default();
    let begun = read_up_to(place);
    let all_read = begun.is_some() && file_of(place).is_none();
    let range = |file: &File| {
        let (at, whole) = (file_of(place).unwrap_or_default(), Tid::end_of(LAST_BLOCK));
        let read = match begun {
            // What has no addresses is read in one go, or again.
            _ if !file.addressable => None,
            Some(_) if all_read || file.node < at => Some(whole),
            Some(read) if file.node == at => Some(read),
            _ => None,
        };
        let read = read.unwrap_or(Tid::start_of(0));
        Range {
            partition: partition.clone(),
            read,
            stale: read,
            ..Range::new(partition, file, 0, LAST_BLOCK)
        }
    };
    files.into_iter().map(range).collect()
}

/// Whether `partition` is a range of the copy `root`.
pub(super) fn is_range(root: &PartitionId, partition: &PartitionId) -> bool {
    let name = partition.as_str().rsplit('/').next().unwrap_or_default();
    partition.is_within(root) && name.parse::<RangeName>().is_ok()
}

/// The ranges of `file` that the target holds a part of.
fn begun(root: &PartitionId, file: &File, held: &Checkpoint) -> Vec<Range> {
    let parts = held.iter().filter(|(partition, _)| partition.is_within(root));
    let begun = parts.filter_map(|(partition, position)| {
        let name: RangeName = partition.as_str().rsplit('/').next()?.parse().ok()?;
        let (first, last) = name.blocks.filter(|_| name.file == file.node)?;
        let read = read_up_to(position.ordered()?)?;
        Some(Range {
            read,
            stale: read,
            ..Range::new(root, file, first, last)
        })
    });
    begun.collect()
}

impl fmt::Display for RangeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.blocks {
            None => write!(f, "{}:all", self.file),
            Some((first, LAST_BLOCK)) => write!(f, "{}:{first}-", self.file),
            Some((first, last)) => write!(f, "{}:{first}-{last}", self.file),
        }
    }
}

/// The text is not the name of a range.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRange;

impl FromStr for RangeName {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let number = |text: &str| text.parse::<u32>().map_err(|_| NoRange);
        let (file, blocks) = text.split_once(':').ok_or(NoRange)?;
        let blocks = match blocks.split_once('-') {
            None if blocks == "all" => None,
            None => return Err(NoRange),
            Some((first, "")) => Some((number(first)?, LAST_BLOCK)),
            Some((first, last)) => Some((number(first)?, number(last)?)),
        };
        Ok(Self {
            file: number(file)?,
            blocks: blocks.filter(|(first, last)| first <= last),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::Lsn;
    use crate::run::copy::place::Places;

    fn file(node: u32, blocks: u32) -> File {
        File {
            node,
            relation: "t".to_owned(),
            filter: None,
            blocks,
            addressable: true,
            toasted: false,
        }
    }

    fn root() -> PartitionId {
        PartitionId::new("s", "copy/public.t")
    }

    fn names(ranges: &[Range]) -> Vec<&str> {
        let names = ranges.iter().map(|range| range.partition.as_str());
        names.map(|name| name.rsplit('/').next().unwrap()).collect()
    }

    #[test]
    fn a_table_is_cut_evenly_and_its_end_stays_open() {
        let cut = |blocks, parts| {
            let ranges = ranges(&root(), &[file(7, blocks)], &Checkpoint::default(), (parts, 1280));
            names(&ranges).join(" ")
        };
        assert_eq!(cut(0, 4), "7:0-");
        assert_eq!(cut(1000, 4), "7:0-");
        assert_eq!(cut(8000, 4), "7:0-1999 7:2000-3999 7:4000-5999 7:6000-");
        assert_eq!(cut(8001, 4), "7:0-2000 7:2001-4001 7:4002-6002 7:6003-");
    }

    #[test]
    fn files_in_a_line_go_on_where_the_target_stands() {
        let files = [file(9, 10), file(7, 10), file(8, 10)];
        let read = |position: &str| {
            let ranges = line(&root(), &files, &Position::at(position));
            let read = ranges
                .iter()
                .map(|range| (range.file.node, range.read.block, range.is_done()));
            read.collect::<Vec<_>>()
        };
        assert_eq!(read("00AB"), [(7, 0, false), (8, 0, false), (9, 0, false)]);
        let at = Places::new(Lsn(9), 8).up_to(Tid { block: 4, row: 2 }, 0);
        assert_eq!(read(&at), [(7, LAST_BLOCK, true), (8, 4, false), (9, 0, false)]);
        let moved = Places::moved(Lsn(9), 7).up_to(Tid { block: 4, row: 2 }, 0);
        assert!(moved > at && moved < super::super::place::end(Lsn(9)));
        assert!(read(&moved).iter().all(|(.., done)| *done));
    }

    #[test]
    fn a_file_without_addresses_is_read_whole_each_time() {
        let whole = File {
            addressable: false,
            ..file(9, 8000)
        };
        let first = ranges(&root(), std::slice::from_ref(&whole), &Checkpoint::default(), (4, 1280));
        assert_eq!(names(&first), ["9:all"]);
        let held = [(first[0].partition.clone(), Position::at("AB/1/2~"))]
            .into_iter()
            .collect();
        assert_eq!(ranges(&root(), &[whole], &held, (4, 1280)), first);
    }

    proptest! {
        /// Every block is in one range, and only what is held counts as read.
        #[test]
        fn ranges_cover_the_file_once(
            blocks in 0u32..20_000,
            parts in 1u32..9,
            later_parts in 1u32..9,
            reached in proptest::collection::vec(proptest::option::of(0u32..20_000), 9),
            another_file in any::<bool>(),
        ) {
            let before = ranges(&root(), &[file(7, blocks)], &Checkpoint::default(), (parts, 1280));
            let places = Places::new(Lsn(9), 7);
            let mut held = Checkpoint::default();
            for (range, reached) in before.iter().zip(&reached) {
                if let Some(reached) = reached {
                    let block = (range.first + reached).min(range.last);
                    held.set(range.partition.clone(), Position::at(places.up_to(Tid::end_of(block), 0)));
                }
            }
            let node = if another_file { 8 } else { 7 };
            let after = ranges(&root(), &[file(node, blocks + 500)], &held, (later_parts, 1280));
            let mut next = 0;
            for range in &after {
                prop_assert_eq!(range.first, next);
                prop_assert!(range.last >= range.first);
                next = range.last + 1;
                let known = before.iter().zip(&reached).find(|(old, _)| old.partition == range.partition);
                match known.and_then(|(old, reached)| Some((old, (*reached)?))).filter(|_| !another_file) {
                    Some((old, reached)) => {
                        prop_assert_eq!(range.read, Tid::end_of((old.first + reached).min(old.last)));
                    }
                    None => prop_assert_eq!(range.read, Tid::start_of(range.first)),
                }
            }
            prop_assert_eq!(next, LAST_BLOCK + 1);
        }
    }
}
