//! Repository checks that cargo has no lint for: `cargo run -p xtask -- tidy`.

mod error_pages;
mod imports;
mod sources;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use cargo_metadata::MetadataCommand;

fn main() -> anyhow::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy(),
        _ => bail!("usage: cargo run -p xtask -- tidy"),
    }
}

/// Prints every fault at once, so that one run is enough to mend them all.
fn tidy() -> anyhow::Result<ExitCode> {
    let metadata = MetadataCommand::new().no_deps().exec()?;
    let root = metadata.workspace_root.as_std_path();
    let files = tracked_files(root)?;
    let mut faults = imports::faults(&metadata);
    faults.extend(sources::faults(&files));
    faults.extend(error_pages::faults(&files));
    for fault in &faults {
        println!("tidy: {fault}");
    }
    println!("tidy: {} files, {} faults", files.len(), faults.len());
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A text file of the repository.
struct File {
    /// Relative to the repository's root, with `/`.
    path: String,
    text: String,
}

/// Every text file that git tracks or would track.
fn tracked_files(root: &Path) -> anyhow::Result<Vec<File>> {
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git lists the repository's files")?;
    if !listing.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&listing.stderr));
    }
    let paths = String::from_utf8(listing.stdout)?;
    let read = |path: &str| {
        Some(File {
            path: path.to_owned(),
            text: std::fs::read_to_string(root.join(path)).ok()?,
        })
    };
    Ok(paths.lines().filter_map(read).collect())
}
