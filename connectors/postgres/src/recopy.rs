//! What is done about a table or a slot that is no longer the one that the target was filled from.

use serde::Deserialize;

/// When a table is copied anew by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recopy {
    /// Never: the pipeline halts.
    Never,
    /// When another table has its name.
    #[default]
    Replaced,
    /// Then, and when its columns change in a way that the stream does not tell of older rows.
    Changed,
}

/// What happens when changes were lost because the slot was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LostSlot {
    /// The pipeline halts.
    #[default]
    Halt,
    /// Another slot is made, and the tables that may lack changes are copied anew.
    Recopy,
}
