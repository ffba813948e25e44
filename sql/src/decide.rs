//! Decides what becomes of each change: see the table at [`Model::apply`](crate::Model::apply).

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::DataType;
use millstream_core::{ChangeBatch, Error, ErrorKind, Op, Result};

use crate::apply::internal;
use crate::evaluate::evaluate;
use crate::images::Images;
use crate::model::Branch;

/// Which image of a row is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    After,
    Before,
}

/// Which columns of an output row are null whatever the expressions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blank {
    Nothing,
    AllButKey,
    All,
}

/// One change to put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Emission {
    /// The source row.
    pub(crate) row: u32,
    pub(crate) op: Op,
    pub(crate) side: Side,
    pub(crate) blank: Blank,
    /// The row's second change.
    pub(crate) second: bool,
    /// A second change of the row follows.
    pub(crate) followed: bool,
}

/// What becomes of a batch.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) emissions: Vec<Emission>,
    /// Rows for quarantine, with the reason.
    pub(crate) rejected: BTreeMap<usize, String>,
    /// Rows that the filter kept out.
    pub(crate) filtered: usize,
}

/// Decides on every row of `batch`.
pub(crate) fn decide(batch: &ChangeBatch, branch: &Branch, images: &Images) -> Result<Decided> {
    let after = Verdicts::new(branch, Some(&images.after))?;
    // A filter on reserved columns cannot be known for the row before: they were others then.
    let exact = branch.filter.as_ref().is_none_or(|filter| !filter.reads_reserved);
    let before = Verdicts::new(branch, images.before.as_ref().filter(|_| exact))?;
    let keys = Keys::new(branch, images)?;
    let filter_reads = branch.filter.as_ref().map_or(&[][..], |filter| &filter.reads);

    let mut decided = Decided {
        emissions: Vec::with_capacity(batch.num_rows()),
        ..Decided::default()
    };
    for (row, letter) in batch.ops().iter().enumerate() {
        let op = letter.and_then(Op::from_letter);
        let op = op.ok_or_else(|| Error::new(ErrorKind::Internal, "a change has an unknown operation"))?;
        let has_before = images.has_before(row);
        // Unknown counts as passed: a delete too many does no harm, one too few does.
        let passed_before = !(exact && has_before) || before.verdict(row) != Ok(false);
        let emit = |op, side, blank| Emission {
            row: row as u32,
            op,
            side,
            blank,
            second: false,
            followed: false,
        };
        match op {
            Op::Truncate if branch.shares_output => {
                let reason = "a TRUNCATE of one of the tables of a UNION ALL: the rows of the others stay";
                decided.rejected.insert(row, reason.to_owned());
            }
            Op::Truncate => decided.emissions.push(emit(op, Side::After, Blank::All)),
            Op::Delete if !passed_before => decided.filtered += 1,
            Op::Delete if has_before => decided.emissions.push(emit(op, Side::Before, Blank::Nothing)),
            Op::Delete if branch.rekeys => {
                let reason = "a delete without its before-image does not name the model's key";
                decided.rejected.insert(row, reason.to_owned());
            }
            Op::Delete if batch.schema().key.is_empty() => {
                decided
                    .rejected
                    .insert(row, "a delete from a table without a key".to_owned());
            }
            Op::Delete => decided.emissions.push(emit(op, Side::After, Blank::AllButKey)),
            Op::Read | Op::Create | Op::Update => {
                if let Some(column) = images.missing_of(row, filter_reads) {
                    decided.rejected.insert(row, unsent("the filter", column));
                    continue;
                }
                match after.verdict(row) {
                    Err(reason) => {
                        decided.rejected.insert(row, format!("the filter: {reason}"));
                        if op == Op::Update && passed_before && keys.changed(row) {
                            decided.emissions.push(emit(Op::Delete, Side::Before, Blank::Nothing));
                        }
                    }
                    Ok(true) => {
                        if let Some(reason) = uncomputable(branch, images, row) {
                            decided.rejected.insert(row, reason);
                        } else if op == Op::Update && has_before && !passed_before {
                            decided.emissions.push(emit(Op::Create, Side::After, Blank::Nothing));
                        } else if op == Op::Update && branch.rekeys && !has_before {
                            let reason = "an update without its before-image may have changed the model's key";
                            decided.rejected.insert(row, reason.to_owned());
                        } else if op == Op::Update && keys.changed(row) {
                            let old = emit(Op::Delete, Side::Before, Blank::Nothing);
                            decided.emissions.push(Emission { followed: true, ..old });
                            let new = emit(Op::Create, Side::After, Blank::Nothing);
                            decided.emissions.push(Emission { second: true, ..new });
                        } else {
                            decided.emissions.push(emit(op, Side::After, Blank::Nothing));
                        }
                    }
                    Ok(false) if op != Op::Update || !passed_before => decided.filtered += 1,
                    Ok(false) if has_before => decided.emissions.push(emit(Op::Delete, Side::Before, Blank::Nothing)),
                    Ok(false) => decided.emissions.push(emit(Op::Delete, Side::After, Blank::AllButKey)),
                }
            }
        }
    }
    Ok(decided)
}

/// Why a computed column cannot be computed from what the source sent.
fn uncomputable(branch: &Branch, images: &Images, row: usize) -> Option<String> {
    if !images.misses_any(row) {
        return None;
    }
    branch
        .outputs
        .iter()
        .filter(|output| output.plain.is_none())
        .find_map(|output| {
            let column = images.missing_of(row, &output.reads)?;
            Some(unsent(&format!("column `{}`", output.field.name()), column))
        })
}

fn unsent(what: &str, column: &str) -> String {
    format!("{what} needs `{column}`, which the source did not send because it did not change")
}

/// Whether rows pass the filter.
struct Verdicts(Option<(ArrayRef, BTreeMap<usize, &'static str>)>);

impl Verdicts {
    fn new(branch: &Branch, image: Option<&RecordBatch>) -> Result<Self> {
        let (Some(filter), Some(image)) = (&branch.filter, image) else {
            return Ok(Self(None));
        };
        let evaluated = evaluate(filter.expr.as_ref(), image, &DataType::Boolean)?;
        let failures = evaluated
            .failures
            .iter()
            .map(|failure| (failure.row, failure.reason))
            .collect();
        Ok(Self(Some((evaluated.values, failures))))
    }

    /// Whether the row passes; NULL does not. `Err` is the reason why it is not known.
    fn verdict(&self, row: usize) -> Result<bool, &'static str> {
        let Some((passes, failures)) = &self.0 else {
            return Ok(true);
        };
        let passes = passes.as_boolean();
        if passes.is_valid(row) {
            return Ok(passes.value(row));
        }
        failures.get(&row).map_or(Ok(false), |reason| Err(*reason))
    }
}

/// The output keys before and after each change, where they can differ.
struct Keys(Option<(Rows, Rows)>);

impl Keys {
    fn new(branch: &Branch, images: &Images) -> Result<Self> {
        let (Some(before), true) = (&images.before, branch.rekeys) else {
            return Ok(Self(None));
        };
        let keys = || branch.outputs.iter().filter(|output| output.key);
        let fields = keys()
            .map(|output| SortField::new(output.field.data_type().clone()))
            .collect();
        let converter = RowConverter::new(fields).map_err(internal)?;
        let rows = |image: &RecordBatch| -> Result<Rows> {
            let columns: Result<Vec<ArrayRef>> = keys()
                .map(|output| Ok(evaluate(output.expr.as_ref(), image, output.field.data_type())?.values))
                .collect();
            converter.convert_columns(&columns?).map_err(internal)
        };
        Ok(Self(Some((rows(before)?, rows(&images.after)?))))
    }

    /// Whether the output key before differs from the one after. A key that cannot be computed
    /// counts as NULL here; the row's own evaluation deals with it.
    fn changed(&self, row: usize) -> bool {
        self.0
            .as_ref()
            .is_some_and(|(before, after)| before.row(row) != after.row(row))
    }
}
