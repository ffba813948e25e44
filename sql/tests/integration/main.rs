//! Transforms as a user sees them: files of examples, and a property over random streams.

mod fold_property;
mod moved_rows;
mod queries;
mod rejects;
mod script;
mod stream;
mod text_table;

use std::path::{Path, PathBuf};

/// The folder of this crate, when the test runs.
fn crate_folder() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR for tests"))
}

fn check(path: &Path, text: &str, failures: &mut Vec<String>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let run = runtime.block_on(script::run(text));
    failures.extend(
        run.differences
            .iter()
            .map(|difference| format!("{}:{difference}", path.display())),
    );
    run.updated
}

/// Every `.slt` beside this folder. With `UPDATE_SLT=1` the files are written anew as things are.
#[test]
fn the_examples_in_slt_files_hold() {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(crate_folder().join("tests"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 6, "the examples are missing");
    let mut failures = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let updated = check(&path, &text, &mut failures);
        if std::env::var_os("UPDATE_SLT").is_some() {
            std::fs::write(&path, updated).unwrap();
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The blocks marked `slt` in the reference are examples, too; together they are one file.
#[test]
fn the_examples_in_the_reference_hold() {
    let path = crate_folder().join("../docs/reference/transforms.md");
    let text = std::fs::read_to_string(&path).unwrap();
    // Other lines are blanked rather than left out, so that line numbers stay those of the page.
    let (mut within, mut examples) = (false, String::new());
    for line in text.lines() {
        match line {
            "```slt" => within = true,
            "```" => within = false,
            line if within => examples.push_str(line),
            _ => {}
        }
        examples.push('\n');
    }
    assert!(examples.contains("----"), "the page has examples");
    let mut failures = Vec::new();
    check(&path, &examples, &mut failures);
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
