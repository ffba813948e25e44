//! Prometheus metrics: the recorder, and what each metric means.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Renders what was recorded.
#[derive(Clone)]
pub struct Exposition(Arc<PrometheusHandle>);

static INSTALLED: OnceLock<Exposition> = OnceLock::new();

/// Bounds of the commit-duration histogram, in seconds.
const COMMIT_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Exposition {
    /// Installs the process's recorder, once; later calls return the same one.
    ///
    /// # Errors
    /// If another recorder was installed by somebody else.
    pub fn install() -> anyhow::Result<Self> {
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), COMMIT_SECONDS)?
            .install_recorder()?;
        describe();
        Ok(INSTALLED.get_or_init(|| Self(Arc::new(handle))).clone())
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds histogram samples together now and then, which bounds their memory.
    pub async fn keep_up(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.0.run_upkeep();
        }
    }
}

/// What each metric counts, those of the connectors included.
fn describe() {
    use Kind::{Counter, Gauge, Histogram};
    use Unit::{Bytes, Count, Seconds};
    for (kind, name, unit, help) in [
        (
            Counter,
            "millstream_received_rows_total",
            Count,
            "Rows received from sources, rejected ones included",
        ),
        (
            Counter,
            "millstream_committed_rows_total",
            Count,
            "Rows published in target tables",
        ),
        (
            Counter,
            "millstream_quarantined_rows_total",
            Count,
            "Rows sent to quarantine",
        ),
        (
            Counter,
            "millstream_check_failures_total",
            Count,
            "Rows that failed a check",
        ),
        (
            Gauge,
            "millstream_copy_read_bytes",
            Bytes,
            "Bytes of a source table that its last copy has read",
        ),
        (
            Gauge,
            "millstream_copy_total_bytes",
            Bytes,
            "Bytes of a source table that is copied",
        ),
        (
            Gauge,
            "millstream_copy_read_rows",
            Count,
            "Rows that the last copy of a source table has read since it was put up",
        ),
        (
            Gauge,
            "millstream_copy_ratio",
            Count,
            "The part of a source table that its last copy has read, from 0 to 1",
        ),
        (
            Gauge,
            "millstream_copy_left_seconds",
            Seconds,
            "Seconds until the last copy of a source table ends, at the present pace",
        ),
        (
            Counter,
            "millstream_pipeline_failures_total",
            Count,
            "Errors that ended a run of a pipeline, by kind",
        ),
        (
            Gauge,
            "millstream_commit_lag_seconds",
            Seconds,
            "Time between a source's commit and ours, last epoch",
        ),
        (
            Histogram,
            "millstream_commit_duration_seconds",
            Seconds,
            "Time that one epoch's commit took",
        ),
        (
            Counter,
            "millstream_source_rows_total",
            Count,
            "Rows that a source decoded",
        ),
        (
            Counter,
            "millstream_source_rejected_rows_total",
            Count,
            "Rows that a source could not decode",
        ),
        (
            Gauge,
            "millstream_postgres_received_lsn",
            Bytes,
            "End of the server's log, as it last said",
        ),
        (
            Gauge,
            "millstream_postgres_confirmed_lsn",
            Bytes,
            "What the server was told is durable",
        ),
        (
            Gauge,
            "millstream_postgres_governor_up",
            Count,
            "Whether the server answered when the slot was last looked at",
        ),
        (
            Gauge,
            "millstream_postgres_retained_wal_bytes",
            Bytes,
            "Log that the server keeps for the slot",
        ),
        (
            Gauge,
            "millstream_postgres_unconfirmed_wal_bytes",
            Bytes,
            "Log behind what is confirmed",
        ),
        (
            Gauge,
            "millstream_postgres_unconfirmed_seconds",
            Seconds,
            "For how long the log has been ahead of what is confirmed",
        ),
        (
            Gauge,
            "millstream_postgres_wal_over_budget",
            Count,
            "Whether the slot holds back more than its budget allows",
        ),
        (
            Gauge,
            "millstream_postgres_safe_wal_bytes",
            Bytes,
            "What may still be written before the slot may be lost",
        ),
        (
            Gauge,
            "millstream_postgres_slot_wal_status",
            Count,
            "Whether the slot is in this state",
        ),
        (
            Gauge,
            "millstream_postgres_slot_invalidated",
            Count,
            "Whether the slot was invalidated for this reason",
        ),
        (
            Gauge,
            "millstream_postgres_slot_inactive_seconds",
            Seconds,
            "For how long nobody has read the slot",
        ),
        (
            Gauge,
            "millstream_postgres_slot_catalog_xmin_xids",
            Count,
            "Transactions since the oldest whose catalog rows the slot holds back",
        ),
        (
            Gauge,
            "millstream_postgres_slot_failover",
            Count,
            "Whether standbys keep a copy of the slot",
        ),
        (
            Gauge,
            "millstream_postgres_slot_synced",
            Count,
            "Whether the slot is a standby's copy",
        ),
        (
            Gauge,
            "millstream_postgres_oldest_transaction_seconds",
            Seconds,
            "Age of the oldest transaction that writes",
        ),
        (
            Gauge,
            "millstream_postgres_oldest_transaction_xids",
            Count,
            "Transactions begun since the oldest that writes",
        ),
        (
            Gauge,
            "millstream_postgres_oldest_prepared_seconds",
            Seconds,
            "Age of the oldest prepared transaction",
        ),
        (
            Gauge,
            "millstream_postgres_oldest_prepared_xids",
            Count,
            "Transactions begun since the oldest prepared one",
        ),
        (
            Counter,
            "millstream_postgres_tables_recopied_total",
            Count,
            "Copies of tables that began by themselves, for this reason",
        ),
        (
            Counter,
            "millstream_postgres_slots_lost_total",
            Count,
            "Lost slots that were made up for by copies",
        ),
        (
            Gauge,
            "millstream_postgres_streamed_transactions",
            Count,
            "Transactions that are kept until they commit",
        ),
        (
            Gauge,
            "millstream_postgres_spilled_bytes",
            Bytes,
            "What is on disk of transactions that are kept until they commit",
        ),
        (
            Counter,
            "millstream_postgres_spilled_bytes_total",
            Bytes,
            "What was written to disk of transactions that are kept until they commit",
        ),
        (
            Counter,
            "millstream_postgres_logical_messages_total",
            Count,
            "Messages of pg_logical_emit_message",
        ),
        (
            Counter,
            "millstream_postgres_reread_rows_total",
            Count,
            "Rows of which values that the stream left out were read again",
        ),
        (
            Gauge,
            "millstream_postgres_backlog_bytes",
            Bytes,
            "Segments of the log that was taken off the server, until the target holds them",
        ),
        (
            Gauge,
            "millstream_postgres_backlog_filling",
            Count,
            "1 while the log is taken off the server",
        ),
        (
            Counter,
            "millstream_postgres_backlog_written_bytes_total",
            Bytes,
            "What was written to disk of the log that was taken off the server",
        ),
        (
            Counter,
            "millstream_postgres_missing_values_total",
            Count,
            "Values that the stream left out and that could not be read again",
        ),
        (
            Gauge,
            "millstream_kafka_lag_messages",
            Count,
            "Messages of a partition that are not yet read",
        ),
    ] {
        match kind {
            Counter => describe_counter!(name, unit, help),
            Gauge => describe_gauge!(name, unit, help),
            Histogram => describe_histogram!(name, unit, help),
        }
    }
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}
