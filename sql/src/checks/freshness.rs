//! Freshness: how old the newest time is that a table has shown.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, TimeUnit};

/// How far a source's clock may be ahead of ours, in microseconds. A later time is no time at
/// which anything happened.
const CLOCK_SKEW: i64 = 5 * 60 * 1_000_000;

/// Which column is watched, and how old it may get.
#[derive(Debug)]
pub(super) struct FreshnessTest {
    column: usize,
    /// `None` for the commit time, which every change carries.
    user_column: Option<String>,
    /// In microseconds.
    max_age: i64,
}

/// What a watch has seen. Times count microseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct FreshnessState {
    newest: Option<i64>,
    /// When the watch began; an idle source's age counts from here.
    since: Option<i64>,
    stale: bool,
}

/// A change of state that is worth a report.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The age passed the limit, in microseconds.
    Stale(i64),
    /// Fresh again.
    Recovered,
}

impl FreshnessTest {
    pub(super) fn new(column: usize, user_column: Option<String>, max_age: i64) -> Self {
        Self {
            column,
            user_column,
            max_age,
        }
    }

    /// The user column watched, or `None` for the commit time.
    pub(super) fn user_column(&self) -> Option<&str> {
        self.user_column.as_deref()
    }

    /// In microseconds.
    pub(super) fn max_age(&self) -> i64 {
        self.max_age
    }

    /// Notes the newest time among the rows of `subject`, `now` at the latest. Infinite times and
    /// those of the future say nothing of age.
    pub(super) fn observe(&self, rows: &RecordBatch, subject: &BooleanBuffer, now: i64, state: &mut FreshnessState) {
        let column = rows.column(self.column);
        let zone = match column.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let Ok(times) = arrow_cast::cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone)) else {
            return;
        };
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let newest = subject
            .set_indices()
            .filter(|row| times.is_valid(*row))
            .map(|row| times.value(row))
            .filter(|time| *time != i64::MIN && *time <= now.saturating_add(CLOCK_SKEW))
            .map(|time| time.min(now))
            .max();
        state.newest = state.newest.max(newest);
    }

    /// Looks at the clock: reports when the table turns stale, and when it has recovered.
    pub(super) fn at(&self, now: i64, state: &mut FreshnessState) -> Option<Turn> {
        let since = *state.since.get_or_insert(now);
        let age = now.saturating_sub(state.newest.unwrap_or(since));
        let stale = age > self.max_age;
        match std::mem::replace(&mut state.stale, stale) {
            false if stale => Some(Turn::Stale(age)),
            true if !stale => Some(Turn::Recovered),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Date32Array, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn a_time_of_the_future_is_none() {
        let newest = |column: ArrayRef, now: i64| {
            let rows = RecordBatch::try_from_iter([("at", column)]).unwrap();
            let mut state = FreshnessState::default();
            let all = BooleanBuffer::new_set(rows.num_rows());
            FreshnessTest::new(0, Some("at".to_owned()), 10).observe(&rows, &all, now, &mut state);
            state.newest
        };
        let times = |times: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(times));
        assert_eq!(
            newest(times(vec![3, 2, i64::MIN, i64::MAX, 101 + CLOCK_SKEW]), 100),
            Some(3)
        );
        assert_eq!(
            newest(times(vec![3, 100 + CLOCK_SKEW]), 100),
            Some(100),
            "a clock that is ahead"
        );
        assert_eq!(newest(times(vec![i64::MAX, i64::MIN]), 100), None);
        let day = 86_400_000_000;
        let days = Arc::new(Date32Array::from(vec![1, i32::MAX, i32::MIN]));
        assert_eq!(newest(days, 2 * day), Some(day));
    }

    #[test]
    fn an_idle_table_trips_once_and_recovers() {
        let test = FreshnessTest::new(0, None, 10);
        let mut state = FreshnessState::default();
        assert_eq!(test.at(100, &mut state), None);
        assert_eq!(test.at(110, &mut state), None);
        assert_eq!(test.at(111, &mut state), Some(Turn::Stale(11)));
        assert_eq!(test.at(200, &mut state), None);
        state.newest = Some(195);
        assert_eq!(test.at(200, &mut state), Some(Turn::Recovered));
        assert_eq!(test.at(206, &mut state), Some(Turn::Stale(11)));
    }
}
