//! The `millstream` binary: a thin shell around the library.

use std::process::ExitCode;

/// glibc's allocator keeps freed batches in per-thread arenas; this one returns them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Buffers that live as long as a batch would each get whole huge pages, to be zeroed, for their
    // parts: more memory and more time. Where the kernel refuses, only that is lost.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    millstream::cli::main()
}
