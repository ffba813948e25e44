//! What a source file may say, and how long it may be.

use crate::File;

/// Above this a file holds a second idea that wants a file of its own.
const LONGEST_SOURCE: usize = 600;

/// One line for each file that breaks a rule.
pub fn faults(files: &[File]) -> Vec<String> {
    files.iter().flat_map(file_faults).collect()
}

fn file_faults(file: &File) -> Vec<String> {
    let path = file.path.as_str();
    let mut faults = Vec::new();
    let mut add = |line: usize, what: &str| faults.push(format!("{path}:{line}: {what}"));
    // This folder names what it forbids.
    if path.starts_with("xtask/") {
        return faults;
    }
    for (index, line) in file.text.lines().enumerate() {
        let number = index + 1;
        if path.starts_with("src/") && path != "src/registry.rs" && line.contains("cfg(feature") {
            add(number, "`cfg(feature)` of the daemon stands in src/registry.rs alone");
        }
        if path.starts_with("src/engine/") && ["crate::cli", "crate::admin"].iter().any(|outer| line.contains(outer)) {
            add(
                number,
                "the engine knows neither the command line nor the admin interface",
            );
        }
        if path.ends_with(".rs") && line.contains("env!(\"CARGO_MANIFEST_DIR\")") {
            add(
                number,
                "read CARGO_MANIFEST_DIR when the test runs: checkouts share a build folder",
            );
        }
        if ["/root/", "/home/"].iter().any(|home| line.contains(home)) {
            add(number, "a path of one person's machine");
        }
    }
    let length = file.text.lines().count();
    if path.ends_with(".rs") && length > LONGEST_SOURCE {
        add(
            length,
            &format!("{length} lines, and {LONGEST_SOURCE} are the most: look for the second idea"),
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(path: &str, text: &str) -> usize {
        file_faults(&File {
            path: path.to_owned(),
            text: text.to_owned(),
        })
        .len()
    }

    #[test]
    fn features_are_named_in_the_registry_alone() {
        let text = "#[cfg(feature = \"kafka\")]\n";
        assert_eq!(faults_of("src/registry.rs", text), 0);
        assert_eq!(faults_of("src/engine/run.rs", text), 1);
        assert_eq!(faults_of("connectors/kafka/src/lib.rs", text), 0);
    }

    #[test]
    fn the_engine_imports_nothing_above_it() {
        assert_eq!(faults_of("src/engine/run.rs", "use crate::cli::Cli;\n"), 1);
        assert_eq!(faults_of("src/cli/run.rs", "use crate::admin::serve;\n"), 0);
    }

    #[test]
    fn long_files_and_private_paths_are_refused() {
        assert_eq!(faults_of("sql/src/lib.rs", &"\n".repeat(LONGEST_SOURCE)), 0);
        assert_eq!(faults_of("sql/src/lib.rs", &"\n".repeat(LONGEST_SOURCE + 1)), 1);
        assert_eq!(faults_of("README.md", "see /home/me/notes\n"), 1);
    }
}
