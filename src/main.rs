//! The `millstream` binary: a thin shell around the library.

use std::process::ExitCode;

/// glibc's allocator keeps freed batches in per-thread arenas; this one returns them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millstream::cli::main()
}
