//! In which form values are stored that their usual Arrow type cannot hold in full.

use serde::Deserialize;

/// What `numeric(p,s)` becomes. `numeric` without a precision is text in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NumericForm {
    /// A decimal. It has no NaN: a row that holds one goes to quarantine.
    #[default]
    Decimal,
    /// PostgreSQL's text of it, which is exact for every value.
    Text,
}

/// What an array becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrayForm {
    /// A list. It has neither dimensions nor a lower bound: a row with an array of two or more
    /// dimensions, or of another lower bound than 1, goes to quarantine.
    #[default]
    List,
    /// PostgreSQL's text of it, which is exact for every value.
    Text,
}

/// The forms that a source was configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Forms {
    pub(crate) numeric: NumericForm,
    pub(crate) arrays: ArrayForm,
}
