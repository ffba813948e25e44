//! Parquet sink on object stores, with atomic commits of files and positions.
