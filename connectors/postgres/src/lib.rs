//! PostgreSQL source: consistent first copy and logical replication, decoded straight into Arrow.
//!
//! ```text
//! config ─► Settings ─► preflight                      findings, with the SQL that mends them
//!                   └─► plan ─► snapshot ─► copy ─┐
//!                             └► stream ─► assembler ─► events
//!            wire: sockets, TLS, authentication     decode: bytes into Arrow
//! ```
//!
//! # Partitions and positions
//! `<source>/wal` is the log, `<source>/copy/<schema>.<table>` each table's first copy. A
//! position is the LSN at which a transaction's *commit record begins*, as 16 hex digits: all
//! rows of the transaction carry it, and so does the boundary behind it. The end of the commit
//! record would not do, since the next one may begin right there. Rows of a first copy carry
//! one less than the snapshot's consistent point, the last position that the snapshot includes.
//!
//! `<source>/relation/<schema>.<table>` is the OID of the relation that a table was copied from,
//! a token, so that another table under its name is noticed. It moves when that one is copied anew
//! in its place; until the copy has begun, `<source>/owed/<schema>.<table>` says that it is owed.
//!
//! `<source>/system` is the server that the positions are of: system identifier, timeline and
//! where that began. It moves when a standby is promoted.
//!
//! What is told to the server as durable is one past such a position, and never more than the target
//! and a [backlog] together hold. Without one the slot of a target that holds position `p` is
//! therefore confirmed at `p + 1` at most, and a start that finds it further ahead refuses to run.
//!
//! # Metrics
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `millstream_source_rows_total` | counter | `source`, `table`, `phase` (`copy`, `stream`) | changes decoded |
//! | `millstream_postgres_streamed_transactions` | gauge | `source` | transactions that are kept until they commit |
//! | `millstream_postgres_spilled_bytes`, `…_total` | gauge, counter | `source` | what is on disk of them, and was ever written |
//! | `millstream_postgres_logical_messages_total` | counter | `source` | what `pg_logical_emit_message` wrote, if asked for |
//! | `millstream_postgres_tables_recopied_total` | counter | `source`, `table`, `reason` | copies that begin by themselves, as of a table that was replaced |
//! | `millstream_postgres_slots_lost_total` | counter | `source` | slots that another was made for, `lost_slot: recopy` |
//! | `millstream_postgres_reread_rows_total` | counter | `source`, `table` | rows of which left-out values were re-read |
//! | `millstream_postgres_missing_values_total` | counter | `source`, `table` | left-out values that were handed on without one |
//! | `millstream_postgres_backlog_bytes`, `…_written_bytes_total` | gauge, counter | `source` | log that is kept on our disk, and was ever written there |
//! | `millstream_postgres_backlog_filling` | gauge | `source` | 1 while the log is taken off the server |
//! | `millstream_postgres_received_lsn` | gauge | `source` | the log's end in the server's last keepalive, bytes |
//! | `millstream_postgres_confirmed_lsn` | gauge | `source` | what the server was told is durable, bytes |
//! | `millstream_postgres_…` | gauge | `source` | what the governor sees of the slot: `run/governor/gauges.rs` |

mod arrivals;
mod attached;
mod attnums;
mod backlog;
mod catalog;
mod clock;
mod config;
mod ddl;
mod decode;
mod fault;
mod identity;
mod owed;
mod plan;
mod preflight;
mod recopy;
mod refusals;
mod run;
mod selection;
mod setup;
mod shape;
mod shape_looked_up;
mod slot_config;
mod source;
mod standby;
pub mod wire;

pub use config::{
    ArrayForm, BacklogConfig, BatchLimits, GovernorConfig, HeartbeatConfig, NumericForm, Origin, PostgresConfig,
    SchemaChanges, Unchanged, WalBudget,
};
#[cfg(feature = "benching")]
#[doc(hidden)]
pub use decode::benching;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use decode::fuzzing;
pub use recopy::{LostSlot, Recopy};
pub use setup::Setup;
pub use shape::TYPE_METADATA;
pub use source::PostgresSource;
