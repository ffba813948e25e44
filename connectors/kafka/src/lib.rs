//! Kafka source: manual assignment from committed offsets, JSON decoded straight into Arrow.
