//! Memory source and sink, fault injection and the conformance suites every connector runs.
