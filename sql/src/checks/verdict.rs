//! What the rows of a batch and of an epoch amount to, in reports.

use millstream_core::{Error, ErrorKind, Severity, TableSchema};

use super::fault;
use super::masks::Masks;
use super::outcome::{CheckReport, Scope};
use super::plan::Compiled;
use super::run::State;
use super::spec::Action;
use crate::reject::shown_name;

/// What one batch adds to a check of rows.
pub(super) fn batch_report(
    check: &Compiled,
    masks: &Masks,
    failing: u64,
    rows: u64,
    table: &TableSchema,
) -> CheckReport {
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
        table: shown_name(&table.id),
        scope: Scope::Batch,
        action: check.action,
        severity,
        failing,
        rows,
        message: reasons.join("; "),
    }
}

/// What the rows of an epoch add up to.
pub(super) fn rows_verdict(check: &Compiled, state: &State) -> Option<(Severity, String)> {
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

/// Whether the epoch's number of rows is within bounds.
pub(super) fn count_verdict(check: &Compiled, counted: u64, min: u64, max: u64) -> Option<(Severity, String)> {
    let bound = match counted {
        few if few < min => format!("fewer than {min}"),
        many if many > max => format!("more than {max}"),
        _ => return None,
    };
    Some((whole(check.action), format!("the epoch has {counted} rows, {bound}")))
}

/// Whether the epoch's columns were as expected. A standing difference is told once.
pub(super) fn schema_verdict(check: &Compiled, state: &mut State) -> Option<(Severity, String)> {
    let differs = state.differs.take();
    let known = differs == state.reported;
    if differs.is_some() {
        state.reported.clone_from(&differs);
    }
    let differs = differs?;
    (check.action == Action::Fail || !known).then(|| (whole(check.action), differs))
}

/// The severity of a failed check of the whole.
fn whole(action: Action) -> Severity {
    if action == Action::Fail {
        Severity::Error
    } else {
        Severity::Warning
    }
}

/// The error of an epoch with at least one report of an error.
pub(super) fn failure(reports: &[CheckReport], table: &TableSchema) -> Option<Error> {
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
