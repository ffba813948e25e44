//! A source that reads a [`MemoryLog`].

use std::future::Future;
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use async_trait::async_trait;
use millstream_core::quarantine::{QuarantineBuilder, Raw, RowPlace};
use millstream_core::{
    Boundary, ChangeBatch, EnvelopeBuilder, Error, ErrorKind, Finding, Op, PartitionId, Position, Result, Source,
    SourceContext, SourceEvent, TableSchema,
};

use crate::memory_log::{Change, MemoryLog, MemoryRow};

/// Commit time of transaction 0, in microseconds since the Unix epoch: 2026-01-01. Each
/// transaction is a millisecond later, so that a run can be repeated to the byte.
const FIRST_COMMIT: i64 = 1_767_225_600_000_000;

/// How a [`MemorySource`] cuts what it reads.
#[derive(Debug, Clone)]
pub struct MemorySourceOptions {
    /// Rows of a batch at most; a larger transaction is sent in several.
    pub batch_rows: usize,
    /// Transactions before each boundary; their rows share batches.
    pub transactions_per_boundary: u64,
    /// Begin with a first copy of each table, in chunks of so many rows. `None` reads the log
    /// from its beginning.
    pub copy_chunk: Option<usize>,
    /// Return at the end of the log instead of waiting for more.
    pub ends: bool,
    /// Fail as unavailable after this transaction was sent and before its boundary is.
    pub fail_at: Option<u64>,
}

impl Default for MemorySourceOptions {
    fn default() -> Self {
        Self {
            batch_rows: 8,
            transactions_per_boundary: 3,
            copy_chunk: None,
            ends: false,
            fail_at: None,
        }
    }
}

/// Reads a [`MemoryLog`] from any position on. With a first copy, chunk `c` of a copy taken
/// after transaction `t` stands at `<t>.<c>` in the partition `<source>/copy/<table>`, which
/// ends at [`Position::End`]; an interrupted copy goes on where it was, as of the same `t`.
#[derive(Debug, Clone)]
pub struct MemorySource {
    log: Arc<MemoryLog>,
    options: MemorySourceOptions,
}

impl MemorySource {
    /// A reader of `log`.
    pub fn new(log: Arc<MemoryLog>, options: MemorySourceOptions) -> Self {
        Self { log, options }
    }

    /// The partition of a table's first copy.
    pub fn copy_partition(table: &TableSchema) -> PartitionId {
        PartitionId::new(&table.id.source, format_args!("copy/{}", table.id.within_source()))
    }
}

#[async_trait]
impl Source for MemorySource {
    fn name(&self) -> &str {
        self.log.name()
    }

    async fn preflight(&mut self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        Ok(self.log.tables().to_vec())
    }

    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let cancel = context.cancel.clone();
        let log = self.log.clone();
        let durable = context.durable.clone();
        let stopped = cancel.cancelled_owned();
        let result = until(
            stopped,
            Reader {
                log: self.log,
                options: self.options,
                context,
            }
            .read(),
        )
        .await;
        log.acknowledge(durable.borrow().position(&log.partition()));
        result
    }
}

/// Drops `work` when `stopped` completes: every await of the reader may be dropped, because
/// what it has sent counts and what it has not is read again.
async fn until(stopped: impl Future<Output = ()>, work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        biased;
        () = stopped => Ok(()),
        result = work => result,
    }
}

struct Reader {
    log: Arc<MemoryLog>,
    options: MemorySourceOptions,
    context: SourceContext,
}

impl Reader {
    async fn read(mut self) -> Result<()> {
        let partition = self.log.partition();
        let mut starts = Vec::new();
        for (index, table) in self.log.tables().to_vec().iter().enumerate() {
            if !self.context.resume.contains(&table.id) {
                continue;
            }
            let copied = match self.options.copy_chunk {
                Some(chunk) => self.copy(index, table, chunk).await?,
                None => None,
            };
            let resume = &self.context.resume;
            starts.extend(copied);
            if self.options.copy_chunk.is_none() {
                starts.push(number_of(resume.of(&table.id).position(&partition))?);
            } else if let Some(held) = resume.least_held(&table.id, &partition) {
                // A target table that has its copy goes on, while another gets one.
                starts.push(number_of(held)?);
            }
        }
        let mut read = starts.into_iter().min().unwrap_or_default();
        let mut length = self.log.watch_length();
        loop {
            let end = *length.borrow_and_update();
            while read < end {
                let last = end.min(read + self.options.transactions_per_boundary.max(1));
                self.stream(read + 1, last).await?;
                read = last;
                self.log.acknowledge(self.context.durable.borrow().position(&partition));
            }
            if self.options.ends {
                return Ok(());
            }
            tokio::select! {
                changed = length.changed() => if changed.is_err() { return Ok(()) },
                Ok(()) = self.context.durable.changed() => {
                    self.log.acknowledge(self.context.durable.borrow_and_update().position(&partition));
                }
            }
        }
    }

    /// Sends what is missing of a table's first copy, and returns the transaction it was taken
    /// after; `None` if the copy is complete already. Where one target table holds a part of it,
    /// it is taken as of the same transaction for all.
    async fn copy(&self, index: usize, table: &Arc<TableSchema>, chunk: usize) -> Result<Option<u64>> {
        let partition = MemorySource::copy_partition(table);
        let mut reached = self.context.resume.of(&table.id).position(&partition).clone();
        let begun = self.context.resume.least_held(&table.id, &partition);
        let (taken, mut next) = match (&reached, begun) {
            (Position::End, _) => return Ok(None),
            (Position::Beginning, None | Some(Position::End)) => (self.log.len(), 0),
            (Position::Beginning, Some(begun)) => (copy_place(begun)?.0, 0),
            (other, _) => copy_place(other)?,
        };
        let rows: Vec<_> = self.log.rows_at(index, taken).into_values().collect();
        let chunks = rows.chunks(chunk.max(1)).collect::<Vec<_>>();
        let last = chunks.len().saturating_sub(1);
        loop {
            let place = format!("{taken:020}.{next:020}");
            if let Some(rows) = chunks.get(next) {
                let mut builder = BatchBuilder::new(table);
                for (ordinal, row) in (0..).zip(*rows) {
                    builder.append(Op::Read, Some(row), &[], &partition, &place, ordinal, None);
                }
                self.context
                    .events
                    .send(SourceEvent::Changes(builder.finish()?))
                    .await?;
            }
            let done = next >= last;
            let boundary = Boundary {
                partition: partition.clone(),
                from: std::mem::replace(&mut reached, Position::at(place.clone())),
                position: if done { Position::End } else { Position::at(place) },
                table: Some(table.id.clone()),
                raises: if done {
                    vec![(self.log.partition(), MemoryLog::position(taken))]
                } else {
                    Vec::new()
                },
                committed_at: None,
                urgent: false,
            };
            self.context.events.send(SourceEvent::Boundary(boundary)).await?;
            if done {
                return Ok(Some(taken));
            }
            next += 1;
        }
    }

    /// Sends the transactions `first..=last` and their boundary.
    async fn stream(&self, first: u64, last: u64) -> Result<()> {
        let partition = self.log.partition();
        let mut builders: Vec<_> = self.log.tables().iter().map(BatchBuilder::new).collect();
        for number in first..=last {
            let place = format!("{number:020}");
            let committed = Some(committed_at(number));
            for (ordinal, change) in (0..).zip(self.log.transaction(number).iter()) {
                let (table, op, row, unchanged): (_, _, _, &[&str]) = match change {
                    Change::Create(table, row) => (*table, Op::Create, Some(row.clone()), &[]),
                    Change::Update(table, row) => (*table, Op::Update, Some(row.clone()), &[]),
                    Change::UpdateValue(table, id, value) => (
                        *table,
                        Op::Update,
                        Some(MemoryRow {
                            id: *id,
                            value: *value,
                            label: None,
                        }),
                        &["label"],
                    ),
                    Change::Delete(table, id) => (
                        *table,
                        Op::Delete,
                        Some(MemoryRow {
                            id: *id,
                            value: None,
                            label: None,
                        }),
                        &[],
                    ),
                    Change::Truncate(table) => (*table, Op::Truncate, None, &[]),
                    Change::Poison(table, raw) => {
                        self.reject(
                            *table,
                            raw,
                            RowPlace {
                                partition: &partition,
                                position: &place,
                                ordinal,
                                committed_at: committed,
                            },
                        )
                        .await?;
                        continue;
                    }
                };
                let builder = &mut builders[table];
                builder.append(op, row.as_ref(), unchanged, &partition, &place, ordinal, committed);
                if builder.len() >= self.options.batch_rows.max(1) {
                    self.context
                        .events
                        .send(SourceEvent::Changes(builder.finish()?))
                        .await?;
                }
            }
        }
        for mut builder in builders {
            if builder.len() > 0 {
                self.context
                    .events
                    .send(SourceEvent::Changes(builder.finish()?))
                    .await?;
            }
        }
        if self.options.fail_at.is_some_and(|at| (first..=last).contains(&at)) {
            return Err(
                Error::new(ErrorKind::Unavailable, "the memory source was told to fail").with("transaction", last)
            );
        }
        let boundary = Boundary {
            partition,
            from: MemoryLog::position(first - 1),
            position: MemoryLog::position(last),
            table: None,
            raises: Vec::new(),
            committed_at: Some(committed_at(last)),
            urgent: false,
        };
        self.context.events.send(SourceEvent::Boundary(boundary)).await
    }

    async fn reject(&self, table: usize, raw: &[u8], place: RowPlace<'_>) -> Result<()> {
        let origin = self.log.tables()[table].id.clone();
        let mut rejected = QuarantineBuilder::default();
        let now = place.committed_at.unwrap_or_default();
        rejected.append(
            &origin.to_string(),
            "decode",
            "the log says that it is poison",
            Raw::Bytes(raw),
            place,
            now,
        );
        self.context
            .events
            .send(SourceEvent::Rejected {
                origin,
                rows: rejected.finish()?,
            })
            .await
    }
}

fn committed_at(number: u64) -> i64 {
    FIRST_COMMIT + i64::try_from(number).unwrap_or(i64::MAX / 2_000) * 1_000
}

fn not_ours(position: &Position) -> Error {
    Error::new(ErrorKind::PositionLost, "not a position of a memory log").with("position", position)
}

fn number_of(position: &Position) -> Result<u64> {
    match position {
        Position::Beginning => Ok(0),
        other => other
            .ordered()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| not_ours(other)),
    }
}

/// The transaction that a copy was taken after, and the next chunk to send.
fn copy_place(position: &Position) -> Result<(u64, usize)> {
    let parts = position.ordered().and_then(|text| text.split_once('.'));
    parts
        .and_then(|(taken, chunk)| Some((taken.parse().ok()?, chunk.parse::<usize>().ok()? + 1)))
        .ok_or_else(|| not_ours(position))
}

/// Collects rows of one table.
struct BatchBuilder {
    schema: Arc<TableSchema>,
    id: Int64Builder,
    value: Int64Builder,
    label: StringBuilder,
    envelope: EnvelopeBuilder,
}

impl BatchBuilder {
    fn new(schema: &Arc<TableSchema>) -> Self {
        Self {
            schema: schema.clone(),
            id: Int64Builder::new(),
            value: Int64Builder::new(),
            label: StringBuilder::new(),
            envelope: EnvelopeBuilder::default(),
        }
    }

    fn len(&self) -> usize {
        self.envelope.len()
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    fn append(
        &mut self,
        op: Op,
        row: Option<&MemoryRow>,
        unchanged: &[&str],
        partition: &PartitionId,
        position: &str,
        ordinal: i64,
        committed_at: Option<i64>,
    ) {
        self.id.append_option(row.map(|row| row.id));
        self.value.append_option(row.and_then(|row| row.value));
        self.label.append_option(row.and_then(|row| row.label.as_deref()));
        self.envelope
            .append_partial(op, partition, position, ordinal, committed_at, unchanged);
    }

    fn finish(&mut self) -> Result<ChangeBatch> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.label.finish()),
        ];
        columns.extend(self.envelope.finish());
        let rows = RecordBatch::try_new(self.schema.batch_schema(), columns)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot build a memory batch").caused_by(error))?;
        ChangeBatch::try_new(self.schema.clone(), rows)
    }
}
