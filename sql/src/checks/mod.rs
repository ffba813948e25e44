//! Data-quality checks over change batches.
//!
//! [`plan_model`] turns what a user wrote ([`CheckSpec`]) into [`Checks`] of a model, or into
//! every fault at once; [`Checks::follow`] plans them again when the model's columns change. Row checks are evaluated as masks while batches pass ([`Checks::on_batch`]); what
//! they add up to, and the checks of the whole, are judged when the epoch is prepared and
//! before it is committed ([`Checks::on_epoch_end`]), so that a bad epoch never becomes
//! visible; freshness is judged by the clock ([`Checks::on_timer`]).
//!
//! Rules that hold for every check:
//! - Deletes and truncates are neither checked nor held back: a delete must not be lost.
//! - The after-image is checked. A column that the source did not send because it did not
//!   change is not NULL and is not checked; it was when it was written.
//! - NULL passes every check but `not_null`, as in dbt.
//! - A row that fails several checks is handled once: quarantined if any of them says so,
//!   else dropped if any says so. `fail` holds no row back: it fails the epoch.
//! - No report, reason or error holds a cell's value; a quarantined row does, in `raw`.
//!
//! `docs/reference/checks.md` has every check with an example.

mod fault;
mod freshness;
mod kinds;
mod literal;
mod masks;
mod outcome;
mod plan;
mod program;
mod run;
mod spec;
mod split;
mod suggest;
mod threshold;
mod type_name;
mod unique;
mod verdict;

#[cfg(test)]
mod tests;

pub use literal::Literal;
pub use outcome::{BatchOutcome, CheckReport, EpochOutcome, Scope};
pub use run::{Checks, plan, plan_each, plan_model};
pub use spec::{
    AcceptedRange, AcceptedValues, Action, CheckKind, CheckSpec, Freshness, LengthBetween, Per, RegexMatch, RowCount,
    SchemaMatch,
};
pub use threshold::Threshold;
