//! One table's copy under one snapshot: what is to be read, and what was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::{
    Boundary, Checkpoint, Error, ErrorKind, PartitionId, Position, Result, ResumePoints, SourceEvent, TableId,
    TableSchema,
};

use super::piece::Addresses;
use super::place::Tid;
use super::purpose::{Purpose, horizon_partition, horizon_position};
use super::ranges::{Range, is_range, line, ranges};
use super::stride::Stride;
use crate::catalog::{CatalogTable, TableFile as File};
use crate::config::Settings;
use crate::decode::{Catalog, ChangeContext, ColumnType, CopyDecoder, Lsn, Room, TableDecoder};
use crate::plan::copy_partition;
use crate::run::tables::{batches, rows_counter};
use crate::shape::Shape;

/// A table's copy under one snapshot.
pub(super) struct TableJob {
    pub(super) table: CatalogTable,
    pub(super) schema: Arc<TableSchema>,
    pub(super) types: Vec<ColumnType>,
    pub(super) root: PartitionId,
    pub(super) purpose: Purpose,
    /// What every boundary raises.
    raises: Vec<(PartitionId, Position)>,
    pub(super) rows: metrics::Counter,
    /// The last commit that the snapshot includes.
    pub(super) held: Lsn,
    /// The horizon of the first snapshot that any of the target's rows were read under.
    pub(super) horizon: u64,
    /// Parts of files that were read under earlier snapshots: rows may have moved there since, of
    /// which the stream did not tell all.
    pub(super) stale: Vec<(File, u32, Tid)>,
    /// Blocks of all files.
    pub(super) blocks: u64,
    /// Blocks that were read before.
    pub(super) blocks_read: u64,
    /// Ranges that are not finished.
    left: AtomicUsize,
    /// What was sent so far, earlier runs and snapshots included.
    reached: Mutex<Checkpoint>,
    learned: Mutex<Learned>,
}

/// What the ranges that were read tell of those to come.
#[derive(Debug, Clone, Default)]
pub(super) struct Learned {
    /// How many blocks a statement reads.
    pub(super) stride: Option<Stride>,
    /// What a batch takes.
    pub(super) room: Option<Room>,
}

/// What to know of a table before its copy goes on.
#[derive(Debug, Clone)]
pub(in crate::run) struct Begun {
    /// What every target table holds of it.
    pub(super) held: Checkpoint,
    /// Whether any target table holds rows of it.
    pub(in crate::run) rows: bool,
}

impl Begun {
    /// Nothing was read yet, of a table that the target holds.
    pub(in crate::run) fn nothing() -> Self {
        Self {
            held: Checkpoint::default(),
            rows: true,
        }
    }

    /// What the target holds of the first copy of `table`.
    pub(in crate::run) fn of(table: &TableId, resume: &ResumePoints) -> Self {
        let root = copy_partition(table);
        let has_rows = |held: &&Checkpoint| held.iter().any(|(part, _)| is_range(&root, part));
        let mut held = resume.of(table);
        let horizons = resume.holdings(table).filter(has_rows);
        let horizons = horizons.filter_map(|held| Purpose::First.first_horizon(&root, held));
        if let Some(oldest) = horizons.min() {
            // Of target tables that began apart, each has rows from its own first snapshot on.
            held.set(horizon_partition(&root), horizon_position(oldest));
        }
        Self {
            held,
            rows: resume.holdings(table).any(|held| has_rows(&held)),
        }
    }
}

impl TableJob {
    /// Plans the copy of `table` as a snapshot sees it, with its ranges that are to be read.
    /// `may_leave_out` says whether the stream may leave values of it out.
    ///
    /// A table without a key is a list, of which a second reading cannot be told from more rows:
    /// what the target has of it is thrown away by a truncation, and all is read again.
    pub(super) fn plan(
        settings: &Settings,
        table: CatalogTable,
        types: &Catalog,
        purpose: &Purpose,
        (held, horizon): (Lsn, u64),
        (files, may_leave_out): (&[File], bool),
        begun: &Begun,
    ) -> Result<(Self, Vec<Range>)> {
        let shape = Shape::of(&table, settings.forms);
        let schema = shape.schema(types)?;
        if schema.key.is_empty() && purpose.condition().is_some() {
            return Err(Error::new(
                ErrorKind::Config,
                "a table without a key cannot be copied again in part",
            )
            .code("PG0070")
            .with("table", &table.id)
            .hint("leave the condition out: all of it is copied, in the place of what the target has"));
        }
        let root = purpose.partition(&table.id);
        let mut reached = begun.held.clone();
        let first_horizon = purpose.first_horizon(&root, &reached);
        if schema.key.is_empty() || first_horizon.is_none() {
            // Nothing that was read before is of use.
            reached = Checkpoint::default();
        }
        let all = match purpose {
            Purpose::First => ranges(&root, files, &reached, layout(settings)),
            Purpose::Backfill { .. } => line(&root, files, reached.position(&root)),
        };
        let stale = all
            .iter()
            .filter(|range| may_leave_out && range.stale > Tid::start_of(range.first));
        let stale = stale
            .map(|range| (range.file.clone(), range.first, range.stale))
            .collect();
        let blocks_read = all.iter().map(|range| u64::from(range.blocks_read())).sum();
        let left: Vec<Range> = all.into_iter().filter(|range| !range.is_done()).collect();
        let job = Self {
            types: shape.column_types(types),
            rows: rows_counter(&table.id, "copy"),
            raises: purpose.raises(&root, &table, first_horizon.unwrap_or(horizon)),
            horizon: first_horizon.unwrap_or(horizon),
            purpose: purpose.clone(),
            blocks: files.iter().map(|file| u64::from(file.blocks)).sum(),
            left: AtomicUsize::new(left.len()),
            reached: Mutex::new(reached),
            learned: Mutex::default(),
            table,
            schema,
            root,
            held,
            stale,
            blocks_read,
        };
        Ok((job, left))
    }

    /// Whether rows are told apart by a key.
    pub(super) fn is_keyed(&self) -> bool {
        !self.schema.key.is_empty()
    }

    /// An empty decoder of rows of `partition`.
    pub(super) fn decoder(&self, partition: &PartitionId) -> TableDecoder {
        TableDecoder::new(self.schema.clone(), self.types.clone(), partition.clone())
    }

    /// What the last range that was read to its end has told.
    pub(super) fn learned(&self) -> Learned {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn learn(&self, learned: Learned) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = learned;
    }

    /// What cuts the stream of a statement into rows.
    pub(super) fn copy_decoder(&self, addresses: Addresses) -> CopyDecoder {
        CopyDecoder::new(usize::from(addresses == Addresses::Sent) + self.types.len())
    }

    /// The events that make the target forget the rows that it has.
    pub(super) fn emptied(&self) -> Result<Vec<SourceEvent>> {
        let mut decoder = self.decoder(&self.root);
        let position = self.held.padded();
        decoder.truncate(&ChangeContext {
            position: &position,
            ordinal: 0,
            committed_at: None,
        })?;
        let mut events = batches(&mut decoder)?;
        events.push(self.beginning());
        Ok(events)
    }

    /// A boundary up to which `partition` was read.
    pub(super) fn boundary(&self, partition: &PartitionId, position: Position) -> SourceEvent {
        self.boundary_that_gives(Vec::new(), partition, position, false)
    }

    fn boundary_that_gives(
        &self,
        gives: Vec<(PartitionId, Position)>,
        partition: &PartitionId,
        position: Position,
        urgent: bool,
    ) -> SourceEvent {
        let mut reached = self.reached();
        let from = reached.position(partition).clone();
        reached.set(partition.clone(), position.clone());
        for (raised, to) in &self.raises {
            reached.raise(raised, to);
        }
        SourceEvent::Boundary(Boundary {
            partition: partition.clone(),
            from: from.clone(),
            position,
            table: Some(self.table.id.clone()),
            raises: self.raises.iter().cloned().chain(gives).collect(),
            committed_at: None,
            // A request for a copy is as good as forgotten until it is committed.
            urgent: urgent || from == Position::Beginning && matches!(self.purpose, Purpose::Backfill { .. }),
        })
    }

    /// The boundary that begins a copy, other than a first one.
    pub(super) fn beginning(&self) -> SourceEvent {
        let gives = self.purpose.gives(&self.table, self.held);
        self.boundary_that_gives(gives, &self.root, Position::at(self.held.padded()), false)
    }

    /// The boundary that ends the copy; `is_last` says that no first copy is left under its snapshot.
    ///
    /// Behind the last of the first copies, and behind a copy that was asked for, a commit would wait in
    /// vain for more rows, while the target may have been emptied for them.
    pub(super) fn ending(&self, is_last: bool) -> SourceEvent {
        let urgent = is_last || matches!(self.purpose, Purpose::Backfill { .. });
        self.boundary_that_gives(Vec::new(), &self.root, self.purpose.end(self.held), urgent)
    }

    /// Notes that one range is finished. Returns whether it was the last.
    pub(super) fn finish_range(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether a part of the copy was sent.
    pub(super) fn has_begun(&self) -> bool {
        *self.reached().position(&self.root) != Position::Beginning
    }

    /// Whether the whole table was read.
    pub(super) fn is_finished(&self) -> bool {
        *self.reached().position(&self.root) == self.purpose.end(self.held)
    }

    /// What was sent so far, for the next snapshot.
    pub(super) fn begun(&self) -> Begun {
        let held = self.reached().clone();
        Begun { held, rows: true }
    }

    fn reached(&self) -> std::sync::MutexGuard<'_, Checkpoint> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Into how many ranges a table is cut, and the blocks of the smallest: several for each session, so
/// that they end at about the same time, and each of at least about one piece.
fn layout(settings: &Settings) -> (u32, u32) {
    let piece = settings.batch.rows / ROWS_PER_BLOCK;
    (
        settings.copy.workers * 4,
        u32::try_from(piece).unwrap_or(u32::MAX).clamp(1, 1280),
    )
}

/// Of narrow rows.
const ROWS_PER_BLOCK: usize = 64;
