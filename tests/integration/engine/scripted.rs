//! A source that sends what a test tells it to.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use async_trait::async_trait;
use millstream_core::{
    Boundary, ChangeBatch, EnvelopeBuilder, Error, ErrorKind, Finding, Op, PartitionId, Position, Result, Source,
    SourceContext, SourceEvent, TableId, TableSchema,
};

/// The table `t` of the source `s`, with these Int64 columns; the first is its key.
pub fn table(columns: &[&str]) -> Arc<TableSchema> {
    let fields = columns.iter().map(|name| Field::new(*name, DataType::Int64, true));
    Arc::new(TableSchema {
        id: TableId::new("s", None, "t"),
        columns: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        key: vec![columns[0].to_owned()],
        not_null: Vec::new(),
        before_image: false,
    })
}

/// Rows of `table` in `partition`, all at `position`, one value for each column.
pub fn rows(table: &Arc<TableSchema>, partition: &str, position: &str, rows: &[&[i64]]) -> SourceEvent {
    let columns = 0..table.columns.fields().len();
    let mut arrays: Vec<ArrayRef> = columns
        .map(|column| Arc::new(rows.iter().map(|row| Some(row[column])).collect::<Int64Array>()) as ArrayRef)
        .collect();
    let mut envelope = EnvelopeBuilder::default();
    for ordinal in 0..rows.len() {
        let ordinal = i64::try_from(ordinal).unwrap();
        envelope.append(Op::Create, &PartitionId::new("s", partition), position, ordinal, None);
    }
    arrays.extend(envelope.finish());
    let batch = RecordBatch::try_new(table.batch_schema(), arrays).unwrap();
    SourceEvent::Changes(ChangeBatch::try_new(table.clone(), batch).unwrap())
}

/// The boundary of `partition` from one position, as text, to another.
pub fn boundary(partition: &str, from: &str, to: &str) -> SourceEvent {
    let position = |text: &str| text.parse::<Position>().unwrap();
    SourceEvent::Boundary(Boundary {
        partition: PartitionId::new("s", partition),
        from: position(from),
        position: position(to),
        table: None,
        raises: Vec::new(),
        committed_at: None,
        urgent: false,
    })
}

/// The same boundary, to be committed at once.
pub fn urgent(event: SourceEvent) -> SourceEvent {
    match event {
        SourceEvent::Boundary(boundary) => SourceEvent::Boundary(Boundary {
            urgent: true,
            ..boundary
        }),
        other => other,
    }
}

/// Sends its events, whatever the target holds, and ends.
pub struct Scripted {
    /// The table as the source describes it at the start.
    pub table: Arc<TableSchema>,
    pub events: Vec<SourceEvent>,
    /// Fail at the end, once this position is durable.
    pub fails_at: Option<(PartitionId, Position)>,
}

#[async_trait]
impl Source for Scripted {
    fn name(&self) -> &str {
        "s"
    }

    async fn preflight(&mut self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        Ok(vec![self.table.clone()])
    }

    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        for event in self.events {
            context.events.send(event).await?;
        }
        if let Some((partition, position)) = self.fails_at {
            let mut durable = context.durable;
            let reached = durable
                .wait_for(|durable| *durable.position(&partition) >= position)
                .await;
            drop(reached.expect("the engine outlives its source"));
            return Err(Error::new(ErrorKind::Unavailable, "the script ends here"));
        }
        Ok(())
    }
}
