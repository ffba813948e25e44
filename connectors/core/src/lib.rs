//! The connector contract.
//!
//! A [`Source`] turns a database, a log or a queue into [`SourceEvent`]s: Arrow change
//! batches, and boundaries at which the stream may be cut. A [`Sink`] opens tables whose
//! [`TableWriter`]s publish rows and positions in one atomic step. The engine stands between
//! them and knows nothing of either but this crate.
//!
//! This crate performs no I/O, imports no other workspace crate and no DataFusion.

mod backfill;
mod batch;
mod budget;
mod checkpoint;
pub mod config;
mod copying;
pub mod envelope;
mod error;
mod position;
mod preflight;
pub mod quarantine;
mod runs;
mod sink;
mod source;
mod table;

pub use backfill::{Backfill, BackfillDesk, BackfillRequests, backfill_desk};
pub use batch::ChangeBatch;
pub use budget::{ByteBudget, BytePermit};
pub use checkpoint::{Checkpoint, CheckpointDelta, DeltaVerdict, Span};
pub use copying::{CopyBoard, CopyKind, CopyProgress};
pub use envelope::{EnvelopeBuilder, Op};
pub use error::{Directive, Error, ErrorKind, Result};
pub use position::{PartitionId, Position};
pub use preflight::{Finding, Severity};
pub use runs::text_runs;
pub use sink::{CommitReceipt, Delivery, Prepared, Sink, SinkTable, TableWriter};
pub use source::{
    Boundary, EventReceiver, EventSender, ResumePoints, Source, SourceContext, SourceEvent, event_channel,
};
pub use table::{TableId, TableSchema};
