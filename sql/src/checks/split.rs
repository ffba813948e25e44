//! Which rows of a batch are held back, and what becomes of them.

use arrow_array::BooleanArray;
use arrow_buffer::BooleanBuffer;
use arrow_select::filter::filter_record_batch;
use millstream_core::{ChangeBatch, Result};

use super::masks::{Masks, View};
use super::plan::Compiled;
use super::run::Checks;
use super::spec::Action;
use crate::reject::{Rejects, shown_name};

/// Which rows are held back. A row is in one of the masks at most.
pub(super) struct Split {
    pub(super) quarantined: BooleanBuffer,
    pub(super) dropped: BooleanBuffer,
    /// Rows that a `unique` check has held back since, before they are settled into the masks.
    late: Vec<Option<Action>>,
}

impl Split {
    pub(super) fn new(checks: &[Compiled], verdicts: &[Option<Masks>], rows: usize) -> Self {
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

    pub(super) fn passing(&self) -> BooleanBuffer {
        !&(&self.quarantined | &self.dropped)
    }

    pub(super) fn held_back(&self, row: usize) -> bool {
        self.quarantined.value(row) || self.dropped.value(row) || self.late.get(row).is_some_and(Option::is_some)
    }

    /// Holds `row` back, if that is what `action` says.
    pub(super) fn reject(&mut self, row: usize, action: Action) {
        if let Action::Drop | Action::Quarantine = action {
            self.late.resize(self.late.len().max(self.quarantined.len()), None);
            self.late[row] = self.late[row].max(Some(action));
        }
    }

    pub(super) fn settle(&mut self) {
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

impl Checks {
    /// The rows that go to quarantine, as a batch of its table.
    pub(super) fn quarantine(
        &self,
        batch: &ChangeBatch,
        view: &View<'_>,
        split: &Split,
        verdicts: &[Option<Masks>],
    ) -> Result<Option<ChangeBatch>> {
        if split.quarantined.count_set_bits() == 0 {
            return Ok(None);
        }
        let table = shown_name(&self.table.id);
        let now = (self.clock)();
        let mut rejects = Rejects::try_new(batch, &view.unsent, &table, &[], self.ordinals_per_change, now)?;
        for row in split.quarantined.set_indices() {
            let (check, reason) = self.reasons(row, verdicts);
            rejects.add(row, &check, &reason)?;
        }
        rejects.finish().map(Some)
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

    /// The rows that pass.
    pub(super) fn passing(&self, batch: &ChangeBatch, split: &Split) -> Result<Option<ChangeBatch>> {
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
}
