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
pub mod checks;
mod decide;
mod evaluate;
mod fault;
pub mod fold;
mod images;
mod keys;
mod model;
mod query;
mod reduce;
mod reject;
mod screen;

pub use apply::Transformed;
pub use model::{MODELS, Model, ModelSpec, plan};
pub use query::{QueryTable, format_table, query};
