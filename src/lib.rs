//! The Millstream daemon.
