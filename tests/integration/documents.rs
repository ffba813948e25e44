//! Examples in the documents are configuration that the program reads.

use std::process::Command;

use crate::daemon::MILLSTREAM;
use crate::project::ProjectFolder;

/// The YAML blocks of a document that begin with `# NAME.yaml`, with that name.
fn examples(document: &str) -> Vec<(String, String)> {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let text = std::fs::read_to_string(format!("{root}/{document}")).unwrap();
    let blocks = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    blocks
        .filter_map(|block| {
            let name = block.lines().next()?.strip_prefix("# ")?.split(' ').next()?;
            name.ends_with(".yaml").then(|| (name.to_owned(), block.to_owned()))
        })
        .collect()
}

#[test]
fn the_examples_in_the_documents_are_valid() {
    for (document, expected) in [("README.md", 1), ("docs/reference/configuration.md", 2)] {
        let found = examples(document);
        assert_eq!(found.len(), expected, "examples in {document}");
        let mut files: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        files.push(("password", "hunter2"));
        let project = ProjectFolder::new(&files);
        let output = Command::new(MILLSTREAM)
            .args(["check", "--offline"])
            .arg(project.path())
            .current_dir(project.path())
            .env("SHOP_URL", "postgres://reader@db/shop")
            .env("LAKE", project.lake())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{document}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
