//! SQL transforms and data-quality checks over change batches, on DataFusion.
