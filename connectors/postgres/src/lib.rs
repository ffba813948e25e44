//! PostgreSQL source: consistent first copy and logical replication, decoded straight into Arrow.
