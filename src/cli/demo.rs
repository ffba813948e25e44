//! `millstream demo`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::demo::{self, DemoOptions};

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave everything running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The folder to work in, empty or missing; a fresh one in the system's temporary folder by default
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub fn main(args: DemoArgs) -> anyhow::Result<ExitCode> {
    demo::main(&DemoOptions {
        keep: args.keep,
        dir: args.dir,
    })
}
