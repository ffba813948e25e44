//! SQL transforms and data-quality checks over change batches, on DataFusion.
//!
//! [`plan`] makes a [`Model`] of one SELECT; [`Model::apply`] turns change batches of its
//! source tables into change batches of the model's table. The SQL is written as over a plain
//! table, and what a stream of changes cannot do is refused when it is planned, with a code
//! and a hint.
//!
//! A plan is reduced to one expression for each output column and one filter, over the columns
//! of one source table; these run directly on the batch, without a query engine around them.

mod apply;
mod catalog;
mod caught;
pub mod checks;
mod constant;
mod date_trunc;
mod decide;
mod evaluate;
mod fault;
mod float;
pub mod fold;
mod images;
mod injective;
mod keys;
mod mixed;
mod model;
mod physical;
mod query;
mod reduce;
mod reject;
mod row_json;
mod screen;
mod unsent;

pub use apply::Transformed;
pub use model::{MODELS, Model, ModelSpec, plan};
pub use query::{QueryTable, format_table, query};
