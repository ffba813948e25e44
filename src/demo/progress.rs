//! One line a second about the pipeline: plain text, on terminals and in files alike.

use std::time::{Duration, Instant};

use anyhow::Result;
use millstream_core::{Checkpoint, PartitionId, Position};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::broker::TOPIC;
use super::daemon::Daemon;
use super::lake::TABLES;
use super::workload::End;
use crate::engine::status::PipelineStatus;

/// How long the last rows may take.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// Prints the pipeline's numbers.
pub struct Progress {
    started: Instant,
}

impl Progress {
    /// Prints the heading.
    pub fn new() -> Self {
        println!("  time     rows in   committed  waiting  quarantined  dropped  filtered      lag");
        Self {
            started: Instant::now(),
        }
    }

    /// Prints while `work` goes on.
    ///
    /// # Errors
    /// Those of `work`, and of a daemon or pipeline that failed.
    pub async fn beside<T>(&mut self, daemon: &mut Daemon, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        seconds.tick().await;
        let watch = async {
            loop {
                seconds.tick().await;
                self.print(&daemon.status().await?);
            }
        };
        tokio::select! {
            done = work => done,
            failed = watch => failed,
        }
    }

    /// Prints until every table holds what the sources ended with.
    ///
    /// # Errors
    /// If that takes too long, or the pipeline fails.
    pub async fn until_caught_up(&mut self, daemon: &mut Daemon, end: &End) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        let mut next_line = Instant::now();
        loop {
            let status = daemon.status().await?;
            let behind = behind(&status, end);
            if behind.is_empty() || Instant::now() >= next_line {
                self.print(&status);
                next_line += Duration::from_secs(1);
            }
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let tables = behind.join(", ");
                return Err(daemon.failed(format!(
                    "these tables are still behind after {CATCH_UP_LIMIT:?}: {tables}"
                )));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn print(&self, status: &PipelineStatus) {
        let sum = |of: fn(&crate::engine::status::TableStatus) -> u64| -> u64 { status.tables.values().map(of).sum() };
        println!(
            "{:>4} s  {:>10}  {:>10}  {:>7}  {:>11}  {:>7}  {:>8}  {:>7}",
            self.started.elapsed().as_secs(),
            grouped(status.rows_in),
            grouped(sum(|table| table.rows)),
            grouped(sum(|table| table.pending)),
            grouped(sum(|table| table.quarantined)),
            grouped(sum(|table| table.dropped)),
            grouped(sum(|table| table.filtered)),
            status
                .lag_seconds
                .map_or_else(|| "-".to_owned(), |lag| format!("{lag:.1} s")),
        );
    }
}

/// The tables that do not hold the sources' last positions yet.
fn behind(status: &PipelineStatus, end: &End) -> Vec<&'static str> {
    let holds = |positions: &Checkpoint, partition: PartitionId, base: u32, at_least: u64| {
        let place = positions
            .position(&partition)
            .ordered()
            .and_then(|text| u64::from_str_radix(text, base).ok());
        place.is_some_and(|place| place >= at_least)
    };
    let up_to_date = |name: &str, from_kafka: bool| {
        let Some(table) = status.tables.get(name) else {
            return false;
        };
        if from_kafka {
            let held = |(partition, offset): &(usize, i64)| {
                holds(
                    &table.positions,
                    PartitionId::new("events", format!("{TOPIC}/{partition}")),
                    10,
                    offset.unsigned_abs(),
                )
            };
            end.offsets.iter().all(held)
        } else {
            let copies = table
                .positions
                .iter()
                .filter(|(partition, _)| partition.within_source().starts_with("copy/"));
            let copied = copies
                .map(|(_, position)| position)
                .all(|position| *position == Position::End);
            copied && holds(&table.positions, PartitionId::new("store", "wal"), 16, end.lsn)
        }
    };
    TABLES
        .iter()
        .filter(|table| !up_to_date(table.name, table.from_kafka))
        .map(|table| table.name)
        .collect()
}

/// A number with its thousands apart: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn a_table_is_behind_until_it_holds_the_last_positions() {
        let end = End {
            lsn: 0x20,
            offsets: vec![(0, 9)],
        };
        let mut status = PipelineStatus::default();
        let positions: Checkpoint = [
            (PartitionId::new("store", "wal"), Position::at("0000000000000020")),
            (
                PartitionId::new("events", "clicks/0"),
                Position::at("00000000000000000008"),
            ),
        ]
        .into_iter()
        .collect();
        for table in TABLES {
            status.tables.entry(table.name.to_owned()).or_default().positions = positions.clone();
        }
        assert_eq!(behind(&status, &end), ["clicks_clean"]);
    }
}
