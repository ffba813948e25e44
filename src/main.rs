//! The `millstream` binary: a thin shell around the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    millstream::cli::main()
}
