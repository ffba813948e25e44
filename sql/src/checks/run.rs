//! Runs planned checks on the batches and epochs of one table.

use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use millstream_core::quarantine::{self, QuarantineBuilder, Raw, RowPlace};
use millstream_core::{ChangeBatch, Error, ErrorKind, Op, PartitionId, Result, Severity, TableSchema, envelope};

use super::fault;
use super::freshness::{FreshnessState, Turn};
use super::masks::{self, Masks, View};
use super::outcome::{BatchOutcome, CheckReport, EpochOutcome, Scope};
use super::plan::{Compiled, Test, compile_all};
use super::row_json::RowEncoder;
use super::spec::{Action, CheckSpec};
use super::unique::{MAX_VALUES, UniqueState};

/// Planned checks of one table or model, with what they have seen of the epoch.
#[derive(Debug)]
pub struct Checks {
    specs: Vec<CheckSpec>,
    table: TableSchema,
    checks: Vec<Compiled>,
    states: Vec<State>,
    clock: fn() -> i64,
}

/// What one check has seen.
#[derive(Debug, Default)]
struct State {
    /// Rows of the epoch that failed.
    failing: u64,
    /// Rows of the epoch that were checked.
    rows: u64,
    unique: UniqueState,
    freshness: FreshnessState,
    /// Living rows of the epoch that passed and that the check's `where` picks.
    counted: u64,
    /// What differed from a `schema_match` in this epoch.
    differs: Option<String>,
    /// The difference that was last reported, so that a standing one is reported once.
    reported: Option<String>,
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
        clock: system_clock,
    })
}

/// Microseconds since the Unix epoch.
fn system_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Checks {
    /// Uses `clock`, which gives microseconds since the Unix epoch, for the time of quarantine.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> i64) -> Self {
        self.clock = clock;
        self
    }

    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// Names of the checks, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.checks.iter().map(|check| check.name.as_str())
    }

    /// Checks a batch and splits it. A batch with another schema plans the checks again first.
    ///
    /// # Errors
    /// `SchemaChange` (CK0102) if the checks cannot be planned on the batch's schema; the epoch's
    /// state is then unchanged. `Internal` if rows cannot be filtered or written as JSON.
    pub fn on_batch(&mut self, batch: ChangeBatch) -> Result<BatchOutcome> {
        self.follow_schema(&batch)?;
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
                Test::RowCount { min, max } => count_verdict(check, state.counted, *min, *max),
                Test::Schema { .. } => schema_verdict(check, state),
                Test::Freshness(_) => None,
            };
            let report = |(severity, message): (Severity, String)| CheckReport {
                check: check.name.clone(),
                kind: check.kind,
                table: self.table.id.to_string(),
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

    /// Forgets the epoch: its rows will be read again.
    pub fn abort_epoch(&mut self) {
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
                table: self.table.id.to_string(),
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

    fn follow_schema(&mut self, batch: &ChangeBatch) -> Result<()> {
        if batch.schema().as_ref() == &self.table {
            return Ok(());
        }
        self.checks = compile_all(&self.specs, batch.schema(), false).map_err(|faults| {
            let error = Error::new(ErrorKind::SchemaChange, "the checks do not fit the table's new columns")
                .code(fault::SCHEMA_CHANGED)
                .with("table", &batch.schema().id)
                .hint("adapt the checks to the table's new columns; `millstream check` lists every fault");
            match faults.into_iter().next() {
                Some((_, first)) => error.caused_by(first),
                None => error,
            }
        })?;
        self.table = batch.schema().as_ref().clone();
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
            if let Test::Unique(test) = &check.test {
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
        let passing = &view.living & &split.passing();
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
                    test.observe(view.rows, &subject, &mut state.freshness);
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

    fn quarantine(
        &self,
        batch: &ChangeBatch,
        view: &View<'_>,
        split: &Split,
        verdicts: &[Option<Masks>],
    ) -> Result<Option<ChangeBatch>> {
        if split.quarantined.count_set_bits() == 0 {
            return Ok(None);
        }
        let failed = |e| self.internal("cannot write a row as JSON", e);
        let mut encoder = RowEncoder::try_new(view.rows, self.table.columns.fields().len()).map_err(failed)?;
        let table = self.table.id.to_string();
        let now = (self.clock)();
        let partitions: Vec<PartitionId> = batch
            .partitions()
            .values()
            .as_string::<i32>()
            .iter()
            .map(|name| PartitionId::from(name.unwrap_or_default()))
            .collect();
        let committed_at = view
            .rows
            .column_by_name(envelope::COMMITTED_AT)
            .and_then(|column| column.as_primitive_opt::<arrow_array::types::TimestampMicrosecondType>());
        let mut builder = QuarantineBuilder::default();
        let mut raw = Vec::new();
        for row in split.quarantined.set_indices() {
            encoder.encode(row, |column| view.is_unchanged(column, row), &mut raw);
            let text = std::str::from_utf8(&raw)
                .map_err(|e| self.internal("cannot write a row as JSON", ArrowError::JsonError(e.to_string())))?;
            let (check, reason) = self.reasons(row, verdicts);
            let place = RowPlace {
                partition: &partitions[batch.partitions().keys().value(row) as usize],
                position: batch.positions().value(row),
                ordinal: batch.ordinals().value(row),
                committed_at: committed_at
                    .filter(|times| times.is_valid(row))
                    .map(|times| times.value(row)),
            };
            builder.append(&table, &check, &reason, Raw::Json(text), place, now);
        }
        let rows = builder.finish()?;
        batch.derive(quarantine::schema(), rows.rows().clone()).map(Some)
    }

    /// The checks that put a row into quarantine, and the reasons of all checks that it failed.
    fn reasons(&self, row: usize, verdicts: &[Option<Masks>]) -> (String, String) {
        let (mut names, mut reasons) = (Vec::new(), Vec::new());
        for (check, masks) in self.checks.iter().zip(verdicts) {
            let Some(masks) = masks else { continue };
            let known = reasons.len();
            reasons.extend(
                masks
                    .failing
                    .iter()
                    .filter(|(_, mask)| mask.value(row))
                    .map(|(reason, _)| reason.as_ref()),
            );
            if reasons.len() > known && check.action == Action::Quarantine {
                names.push(check.name.as_str());
            }
        }
        (names.join(", "), reasons.join("; "))
    }

    fn passing(&self, batch: &ChangeBatch, split: &Split) -> Result<Option<ChangeBatch>> {
        let passing = split.passing();
        match passing.count_set_bits() {
            0 => Ok(None),
            count if count == batch.num_rows() => Ok(Some(batch.clone())),
            _ => {
                let rows = filter_record_batch(batch.rows(), &BooleanArray::new(passing, None))
                    .map_err(|e| self.internal("cannot split a batch", e))?;
                batch.derive(batch.schema().clone(), rows).map(Some)
            }
        }
    }

    fn internal(&self, message: &str, cause: ArrowError) -> Error {
        Error::new(ErrorKind::Internal, message)
            .with("table", &self.table.id)
            .caused_by(cause)
    }
}

/// Which rows are held back. A row is in one of the masks at most.
struct Split {
    quarantined: BooleanBuffer,
    dropped: BooleanBuffer,
    /// Rows that a `unique` check has held back since, before they are settled into the masks.
    late: Vec<Option<Action>>,
}

impl Split {
    fn new(checks: &[Compiled], verdicts: &[Option<Masks>], rows: usize) -> Self {
        let by = |action: Action| {
            let none = BooleanBuffer::new_unset(rows);
            checks
                .iter()
                .zip(verdicts)
                .filter(|(check, _)| check.action == action)
                .fold(none, |any, (_, masks)| {
                    masks.as_ref().map_or(any.clone(), |masks| &any | &masks.any())
                })
        };
        let quarantined = by(Action::Quarantine);
        let dropped = &by(Action::Drop) & &!&quarantined;
        Self {
            quarantined,
            dropped,
            late: Vec::new(),
        }
    }

    fn passing(&self) -> BooleanBuffer {
        !&(&self.quarantined | &self.dropped)
    }

    fn held_back(&self, row: usize) -> bool {
        self.quarantined.value(row) || self.dropped.value(row) || self.late.get(row).is_some_and(Option::is_some)
    }

    /// Holds `row` back, if that is what `action` says.
    fn reject(&mut self, row: usize, action: Action) {
        if let Action::Drop | Action::Quarantine = action {
            self.late.resize(self.late.len().max(self.quarantined.len()), None);
            self.late[row] = self.late[row].max(Some(action));
        }
    }

    fn settle(&mut self) {
        let by = |action| {
            self.late
                .iter()
                .map(|late| *late == Some(action))
                .collect::<BooleanBuffer>()
        };
        if !self.late.is_empty() {
            self.quarantined = &self.quarantined | &by(Action::Quarantine);
            self.dropped = &self.dropped | &by(Action::Drop);
            self.late.clear();
        }
    }
}

fn batch_report(check: &Compiled, masks: &Masks, failing: u64, rows: u64, table: &TableSchema) -> CheckReport {
    let reasons: Vec<String> = masks
        .failing
        .iter()
        .filter(|(_, mask)| mask.count_set_bits() > 0)
        .map(|(reason, mask)| format!("{reason} ({} rows)", mask.count_set_bits()))
        .collect();
    let thresholds = check.mostly.is_some() || check.warn_if.is_some() || check.error_if.is_some();
    let severity = match check.action {
        _ if thresholds => Severity::Info,
        Action::Fail => Severity::Error,
        Action::Warn | Action::Drop | Action::Quarantine => Severity::Warning,
    };
    CheckReport {
        check: check.name.clone(),
        kind: check.kind,
        table: table.id.to_string(),
        scope: Scope::Batch,
        action: check.action,
        severity,
        failing,
        rows,
        message: reasons.join("; "),
    }
}

/// What the rows of an epoch add up to.
fn rows_verdict(check: &Compiled, state: &State) -> Option<(Severity, String)> {
    let (failing, rows) = (state.failing, state.rows);
    let said = format!("{failing} of {rows} checked rows failed");
    if let Some(limit) = check.error_if.filter(|limit| limit.met_by(failing)) {
        return Some((Severity::Error, format!("{said}, which meets `error_if: {limit}`")));
    }
    if let Some(mostly) = check.mostly {
        // An epoch in which nothing was checked holds.
        let share = if rows == 0 {
            1.0
        } else {
            (rows - failing) as f64 / rows as f64
        };
        let held = share >= mostly;
        let severity = match check.action {
            _ if held => Severity::Info,
            Action::Fail => Severity::Error,
            _ => Severity::Warning,
        };
        let judged = if held { "still holds" } else { "does not hold" };
        return (failing > 0).then(|| (severity, format!("{said}, `mostly: {mostly}` {judged}")));
    }
    if check.action == Action::Fail && check.error_if.is_none() && failing > 0 {
        return Some((Severity::Error, said));
    }
    match check.warn_if {
        Some(limit) if limit.met_by(failing) => {
            Some((Severity::Warning, format!("{said}, which meets `warn_if: {limit}`")))
        }
        _ if failing == 0 => None,
        None if check.error_if.is_none() => Some((Severity::Warning, said)),
        _ => Some((Severity::Info, said)),
    }
}

fn count_verdict(check: &Compiled, counted: u64, min: u64, max: u64) -> Option<(Severity, String)> {
    let bound = match counted {
        few if few < min => format!("fewer than {min}"),
        many if many > max => format!("more than {max}"),
        _ => return None,
    };
    Some((whole(check.action), format!("the epoch has {counted} rows, {bound}")))
}

fn schema_verdict(check: &Compiled, state: &mut State) -> Option<(Severity, String)> {
    let differs = state.differs.take();
    let known = differs == state.reported;
    if differs.is_some() {
        state.reported.clone_from(&differs);
    }
    let differs = differs?;
    (check.action == Action::Fail || !known).then(|| (whole(check.action), differs))
}

fn whole(action: Action) -> Severity {
    if action == Action::Fail {
        Severity::Error
    } else {
        Severity::Warning
    }
}

/// The error of an epoch with at least one report of an error.
fn failure(reports: &[CheckReport], table: &TableSchema) -> Option<Error> {
    let failed: Vec<&CheckReport> = reports
        .iter()
        .filter(|report| report.severity == Severity::Error)
        .collect();
    if failed.is_empty() {
        return None;
    }
    let names = failed
        .iter()
        .map(|report| report.check.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let found = failed
        .iter()
        .map(|report| format!("{}: {}", report.check, report.message))
        .collect::<Vec<_>>();
    Some(
        Error::new(
            ErrorKind::CheckFailed,
            format!("the epoch fails its checks: {}", found.join("; ")),
        )
        .code(fault::EPOCH_FAILED)
        .with("table", &table.id)
        .with("checks", names)
        .hint("nothing of the epoch was published; mend the data or set `then: quarantine` to pass the good rows"),
    )
}
