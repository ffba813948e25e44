//! Whether a slot holds back too much: a decision from what was seen, without I/O.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::decode::Lsn;
use crate::slot_config::Budget;

/// More moments than this are thinned out, which makes the age less exact by one step in so many.
const MOST_MOMENTS: usize = 4096;

/// What was seen of a slot over time.
#[derive(Debug, Default)]
pub(super) struct History {
    /// When the log ended where; those ends that are not confirmed.
    moments: VecDeque<(Instant, Lsn)>,
    over: bool,
}

/// What became of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is exceeded now, and was not before.
    Exceeded,
    /// It is met again.
    Met,
    /// Neither.
    Unchanged,
}

impl History {
    /// For how long the log, which ends at `end` now, has been ahead of what is confirmed: since
    /// the first look that found it there. Of what was written before that look nothing is known.
    pub(super) fn unconfirmed_for(&mut self, now: Instant, end: Lsn, confirmed: Lsn) -> Duration {
        if self.moments.back().is_some_and(|(_, last)| *last > end) {
            // Another server, or one that went back.
            self.moments.clear();
        }
        while self.moments.front().is_some_and(|(_, seen)| *seen <= confirmed) {
            self.moments.pop_front();
        }
        if end > confirmed && self.moments.back().is_none_or(|(_, last)| *last < end) {
            self.moments.push_back((now, end));
        }
        if self.moments.len() > MOST_MOMENTS {
            // The first is the one that counts.
            let mut keep = false;
            self.moments.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.moments
            .front()
            .map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since))
    }

    /// Compares what is held back with the budget.
    pub(super) fn judge(&mut self, budget: Option<Budget>, retained_bytes: f64, age: Duration) -> Verdict {
        let over = budget.is_some_and(|budget| {
            budget.bytes.is_some_and(|most| retained_bytes > most as f64)
                || budget.time.is_some_and(|longest| age > longest)
        });
        match (std::mem::replace(&mut self.over, over), over) {
            (false, true) => Verdict::Exceeded,
            (true, false) => Verdict::Met,
            _ => Verdict::Unchanged,
        }
    }

    /// Whether the budget was exceeded when it was last compared.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_age_counts_from_the_first_end_that_is_not_confirmed() {
        let start = Instant::now();
        let mut history = History::default();
        let mut age = |at, end, confirmed| history.unconfirmed_for(start + seconds(at), Lsn(end), Lsn(confirmed));
        assert_eq!(age(0, 100, 100), seconds(0));
        assert_eq!(age(10, 200, 100), seconds(0));
        assert_eq!(age(20, 300, 100), seconds(10));
        // What stood there at 10 is confirmed, what came by 20 is not.
        assert_eq!(age(30, 300, 250), seconds(10));
        assert_eq!(age(40, 300, 300), seconds(0));
        assert_eq!(age(500, 310, 300), seconds(0));
        // A log that ends earlier is another one.
        assert_eq!(age(600, 50, 40), seconds(0));
    }

    #[test]
    fn a_long_history_stays_short_and_keeps_its_beginning() {
        let start = Instant::now();
        let mut history = History::default();
        for at in 0..100_000 {
            let age = history.unconfirmed_for(start + seconds(at), Lsn(at + 1), Lsn(0));
            assert_eq!(age, seconds(at));
        }
        assert!(history.moments.len() <= MOST_MOMENTS);
    }

    #[test]
    fn a_budget_is_crossed_once_in_each_direction() {
        let budget = Some(Budget {
            bytes: Some(1000),
            time: Some(seconds(60)),
        });
        let mut history = History::default();
        let mut judge = |bytes, age| history.judge(budget, bytes, seconds(age));
        assert_eq!(judge(1000.0, 60), Verdict::Unchanged);
        assert_eq!(judge(1001.0, 0), Verdict::Exceeded);
        assert_eq!(judge(5000.0, 90), Verdict::Unchanged);
        assert_eq!(judge(0.0, 61), Verdict::Unchanged);
        assert_eq!(judge(0.0, 0), Verdict::Met);
        assert_eq!(
            History::default().judge(None, f64::MAX, seconds(u64::MAX)),
            Verdict::Unchanged
        );
    }
}
