//! Runs planned checks on the batches and epochs of one table.

use std::time::{SystemTime, UNIX_EPOCH};

use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use arrow_schema::ArrowError;
use millstream_core::{ChangeBatch, Error, ErrorKind, Op, Result, Severity, TableSchema, envelope};

use super::fault;
use super::freshness::{FreshnessState, Turn};
use super::masks::{self, Masks, View};
use super::outcome::{BatchOutcome, CheckReport, EpochOutcome, Scope};
use super::plan::{Compiled, Test, compile_all};
use super::spec::{Action, CheckSpec};
use super::split::Split;
use super::unique::{MAX_VALUES, UniqueState};
use super::verdict::{batch_report, count_verdict, failure, rows_verdict, schema_verdict};
use crate::Model;
use crate::reject::shown_name;

/// Planned checks of one table or model, with what they have seen of the epoch.
#[derive(Debug)]
pub struct Checks {
    specs: Vec<CheckSpec>,
    pub(super) table: TableSchema,
    pub(super) checks: Vec<Compiled>,
    states: Vec<State>,
    /// Whether the epoch brought rows to look at, held back or not.
    any_rows: bool,
    /// By what the batches' ordinals are divided to give the source's.
    pub(super) ordinals_per_change: i64,
    pub(super) clock: fn() -> i64,
}

/// What one check has seen.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Rows of the epoch that failed.
    pub(super) failing: u64,
    /// Rows of the epoch that were checked.
    pub(super) rows: u64,
    unique: UniqueState,
    freshness: FreshnessState,
    /// Living rows of the epoch that passed and that the check's `where` picks.
    counted: u64,
    /// What differed from a `schema_match` in this epoch.
    pub(super) differs: Option<String>,
    /// The difference that was last reported, so that a standing one is reported once.
    pub(super) reported: Option<String>,
}

/// Plans `specs` against `table`.
///
/// # Errors
/// Every fault at once, each with its code, the check's name and a hint.
pub fn plan(specs: &[CheckSpec], table: &TableSchema) -> Result<Checks, Vec<Error>> {
    plan_each(specs, table).map_err(|faults| faults.into_iter().map(|(_, error)| error).collect())
}

/// As [`plan`]; each fault comes with the index of its check in `specs`, so that the caller can
/// say in which line of a file it stands.
///
/// # Errors
/// As [`plan`].
pub fn plan_each(specs: &[CheckSpec], table: &TableSchema) -> Result<Checks, Vec<(usize, Error)>> {
    let checks = compile_all(specs, table, true)?;
    let states = checks.iter().map(|_| State::default()).collect();
    Ok(Checks {
        specs: specs.to_vec(),
        table: table.clone(),
        checks,
        states,
        any_rows: false,
        ordinals_per_change: 1,
        clock: system_clock,
    })
}

/// As [`plan_each`], against what `model` puts out: rows in quarantine get the source's ordinals,
/// which some models double.
///
/// # Errors
/// As [`plan`].
pub fn plan_model(specs: &[CheckSpec], model: &Model) -> Result<Checks, Vec<(usize, Error)>> {
    Ok(Checks {
        ordinals_per_change: model.ordinals_per_change(),
        ..plan_each(specs, model.output())?
    })
}

/// Microseconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the one clock of the checks; tests give another"
)]
fn system_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Whether the epoch fails by `check`, whatever rows follow.
fn has_failed(check: &Compiled, state: &State) -> bool {
    check.action == Action::Fail && check.mostly.is_none() && check.error_if.is_none() && state.failing > 0
}

impl Checks {
    /// Uses `clock`, which gives microseconds since the Unix epoch, for the time of quarantine and
    /// to tell times of the future.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> i64) -> Self {
        self.clock = clock;
        self
    }

    /// Follows `model` to the columns that it puts out since it was planned again, and keeps what
    /// was seen of the epoch. A `schema_match` that no longer holds is no error here: it is
    /// judged with the epoch.
    ///
    /// # Errors
    /// `SchemaChange` (CK0102) if the checks cannot be planned on the new columns; nothing has
    /// changed then.
    pub fn follow(&mut self, model: &Model) -> Result<()> {
        self.follow_schema(model.output())?;
        self.ordinals_per_change = model.ordinals_per_change();
        Ok(())
    }

    /// Checks a batch and splits it. A batch with another schema plans the checks again first.
    ///
    /// # Errors
    /// `SchemaChange` (CK0102) if the checks cannot be planned on the batch's schema; the epoch's
    /// state is then unchanged. `Internal` if rows cannot be filtered or written as JSON.
    pub fn on_batch(&mut self, batch: ChangeBatch) -> Result<BatchOutcome> {
        self.follow_schema(batch.schema())?;
        if self.checks.is_empty() || batch.num_rows() == 0 {
            let passed = (batch.num_rows() > 0).then_some(batch);
            return Ok(BatchOutcome {
                passed,
                quarantined: None,
                dropped: 0,
                reports: Vec::new(),
            });
        }
        let view = View::new(&batch);
        let mut verdicts = self.row_verdicts(&view);
        let mut split = Split::new(&self.checks, &verdicts, view.rows.num_rows());
        self.judge_unique(&view, &mut split, &mut verdicts)
            .map_err(|e| self.internal("cannot compare rows", e))?;
        self.observe(&view, &split);
        self.any_rows |= view.living.count_set_bits() > 0;

        let mut reports = Vec::new();
        for ((check, state), masks) in self.checks.iter().zip(&mut self.states).zip(&verdicts) {
            let Some(masks) = masks else { continue };
            let (failing, rows) = (
                masks.any().count_set_bits() as u64,
                masks.subject.count_set_bits() as u64,
            );
            state.failing += failing;
            state.rows += rows;
            if failing > 0 {
                reports.push(batch_report(check, masks, failing, rows, &self.table));
            }
            if has_failed(check, state) {
                state.unique.clear();
            }
        }
        let quarantined = self.quarantine(&batch, &view, &split, &verdicts)?;
        let dropped = split.dropped.count_set_bits() as u64;
        let passed = self.passing(&batch, &split)?;
        Ok(BatchOutcome {
            passed,
            quarantined,
            dropped,
            reports,
        })
    }

    /// Judges the epoch, between prepare and commit, and starts the next.
    pub fn on_epoch_end(&mut self) -> EpochOutcome {
        let mut reports = Vec::new();
        for (check, state) in self.checks.iter().zip(&mut self.states) {
            let verdict = match &check.test {
                Test::Rows(_) | Test::Unique(_) => rows_verdict(check, state),
                // An epoch without rows records positions, or deletes; how many rows come at a
                // time is not to be seen in it.
                Test::RowCount { .. } if !self.any_rows => None,
                Test::RowCount { min, max } => count_verdict(check, state.counted, *min, *max),
                Test::Schema { .. } => schema_verdict(check, state),
                Test::Freshness(_) => None,
            };
            let report = |(severity, message): (Severity, String)| CheckReport {
                check: check.name.clone(),
                kind: check.kind,
                table: shown_name(&self.table.id),
                scope: Scope::Epoch,
                action: check.action,
                severity,
                failing: state.failing,
                rows: if let Test::RowCount { .. } = check.test {
                    state.counted
                } else {
                    state.rows
                },
                message,
            };
            reports.extend(verdict.map(report));
            if state.unique.unverified > 0 {
                let message = format!(
                    "uniqueness was not verified for {} rows: the epoch holds more than {MAX_VALUES} values",
                    state.unique.unverified
                );
                reports.push(report((Severity::Warning, message)));
            }
        }
        let failed = failure(&reports, &self.table);
        self.abort_epoch();
        EpochOutcome { reports, failed }
    }

    /// Forgets the epoch.
    pub(super) fn abort_epoch(&mut self) {
        self.any_rows = false;
        for state in &mut self.states {
            state.failing = 0;
            state.rows = 0;
            state.counted = 0;
            state.differs = None;
            state.unique.clear();
        }
    }

    /// Judges freshness; `now` counts microseconds since the Unix epoch. A stale table is
    /// reported once, and once more when it has recovered. Before the first row, the age counts
    /// from the first call.
    pub fn on_timer(&mut self, now: i64) -> Vec<CheckReport> {
        let mut reports = Vec::new();
        for (check, state) in self.checks.iter().zip(&mut self.states) {
            let Test::Freshness(test) = &check.test else { continue };
            let Some(turn) = test.at(now, &mut state.freshness) else {
                continue;
            };
            let column = test.user_column().unwrap_or(envelope::COMMITTED_AT);
            let limit = test.max_age() / 1_000_000;
            let (severity, message) = match turn {
                Turn::Stale(age) => (
                    if check.action == Action::Fail {
                        Severity::Error
                    } else {
                        Severity::Warning
                    },
                    format!(
                        "the newest `{column}` is {} s old, more than {limit} s",
                        age / 1_000_000
                    ),
                ),
                Turn::Recovered => (
                    Severity::Info,
                    format!("the newest `{column}` is no longer older than {limit} s"),
                ),
            };
            reports.push(CheckReport {
                check: check.name.clone(),
                kind: check.kind,
                table: shown_name(&self.table.id),
                scope: Scope::Timer,
                action: check.action,
                severity,
                failing: 0,
                rows: 0,
                message,
            });
        }
        reports
    }

    fn follow_schema(&mut self, table: &TableSchema) -> Result<()> {
        if *table == self.table {
            return Ok(());
        }
        self.checks = compile_all(&self.specs, table, false).map_err(|faults| {
            let error = Error::new(ErrorKind::SchemaChange, "the checks do not fit the table's new columns")
                .code(fault::SCHEMA_CHANGED)
                .with("table", &table.id)
                .hint("adapt the checks to the table's new columns; `millstream check` lists every fault");
            match faults.into_iter().next() {
                Some((_, first)) => error.caused_by(first),
                None => error,
            }
        })?;
        self.table = table.clone();
        Ok(())
    }

    fn row_verdicts(&self, view: &View<'_>) -> Vec<Option<Masks>> {
        let verdict = |check: &Compiled| match &check.test {
            Test::Rows(test) => Some(masks::of(check, test, view)),
            _ => None,
        };
        self.checks.iter().map(verdict).collect()
    }

    /// Follows the values of `unique` checks row by row, because each row's fate decides what
    /// the next one meets: a row that is held back takes no value.
    fn judge_unique(
        &mut self,
        view: &View<'_>,
        split: &mut Split,
        verdicts: &mut [Option<Masks>],
    ) -> Result<(), ArrowError> {
        let rows = view.rows.num_rows();
        let mut runs = Vec::new();
        for (index, check) in self.checks.iter().enumerate() {
            if let Test::Unique(test) = &check.test
                && !has_failed(check, &self.states[index])
            {
                let (picked, _) = view.subject(check.condition.as_ref());
                let names = || test.names().iter().map(String::as_str);
                let sent = view.sent(&view.living, names());
                let (mut checked, mut failing) = (BooleanBufferBuilder::new(rows), BooleanBufferBuilder::new(rows));
                checked.append_n(rows, false);
                failing.append_n(rows, false);
                runs.push((index, test, test.prepare(view.rows)?, picked, sent, checked, failing));
            }
        }
        if runs.is_empty() {
            return Ok(());
        }
        for (row, op) in view.ops.iter().copied().enumerate() {
            if !view.living.value(row) {
                for (index, test, prepared, ..) in &runs {
                    let state = &mut self.states[*index].unique;
                    match op {
                        Op::Truncate => state.empty(),
                        _ => test.release(prepared, row, state),
                    }
                }
                continue;
            }
            for (index, test, prepared, picked, sent, checked, failing) in &mut runs {
                // A row that another check holds back never comes to live beside the others.
                if split.held_back(row) || !picked.value(row) || !sent.value(row) {
                    continue;
                }
                if let Some(clash) = test.clashes(prepared, row, op, &self.states[*index].unique) {
                    checked.set_bit(row, true);
                    failing.set_bit(row, clash);
                }
            }
            for (index, .., failing) in &runs {
                if failing.get_bit(row) {
                    split.reject(row, self.checks[*index].action);
                }
            }
            if split.held_back(row) {
                continue;
            }
            for (index, test, prepared, picked, sent, ..) in &runs {
                let state = &mut self.states[*index].unique;
                match (picked.value(row), sent.value(row)) {
                    (true, true) => test.admit(prepared, row, op, state),
                    // The value was not sent because it did not change: it is still held.
                    (_, false) => {}
                    (false, true) => test.release(prepared, row, state),
                }
            }
        }
        for (index, test, .., mut checked, mut failing) in runs {
            let masks = Masks {
                subject: checked.finish(),
                failing: vec![(test.reason.clone(), failing.finish())],
            };
            verdicts[index] = Some(masks);
        }
        split.settle();
        Ok(())
    }

    /// Feeds the checks of the whole.
    fn observe(&mut self, view: &View<'_>, split: &Split) {
        let passing = split.passing();
        let now = (self.clock)();
        for (check, state) in self.checks.iter().zip(&mut self.states) {
            match &check.test {
                Test::RowCount { .. } => {
                    let (picked, _) = view.subject(check.condition.as_ref());
                    state.counted += (&picked & &passing).count_set_bits() as u64;
                }
                Test::Freshness(test) => {
                    let subject = match (test.user_column(), &check.condition) {
                        (None, None) => BooleanBuffer::new_set(view.rows.num_rows()),
                        (None, condition) => view.subject(condition.as_ref()).0,
                        (Some(column), condition) => view.sent(&view.subject(condition.as_ref()).0, [column]),
                    };
                    test.observe(view.rows, &(&subject & &passing), now, &mut state.freshness);
                }
                Test::Schema { differs } => {
                    if state.differs.is_none() {
                        state.differs.clone_from(differs);
                    }
                }
                Test::Rows(_) | Test::Unique(_) => {}
            }
        }
    }

    pub(super) fn internal(&self, message: &str, cause: ArrowError) -> Error {
        Error::new(ErrorKind::Internal, message)
            .with("table", &self.table.id)
            .caused_by(cause)
    }
}
