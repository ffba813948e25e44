//! The folder in which a demo leaves its project, its logs and its Parquet files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::fault::hinted;

/// `examples/shop`, as it stands in the repository.
const PROJECT: &[(&str, &str)] = &[
    ("shop.yaml", include_str!("../../examples/shop/shop.yaml")),
    ("schema.sql", include_str!("../../examples/shop/schema.sql")),
    (
        "sql/orders_clean.sql",
        include_str!("../../examples/shop/sql/orders_clean.sql"),
    ),
    (
        "sql/clicks_clean.sql",
        include_str!("../../examples/shop/sql/clicks_clean.sql"),
    ),
    ("README.md", include_str!("../../examples/shop/README.md")),
];

/// The shop's tables, as the example gives them to its users.
pub const SCHEMA: &str = include_str!("../../examples/shop/schema.sql");

/// A demo's folder. It stays when the demo ends.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes `dir`, or a fresh folder for temporary files, and writes the project into it.
    ///
    /// # Errors
    /// If it cannot be written, or holds anything already.
    pub fn create(dir: Option<&Path>) -> Result<Self> {
        let path = match dir {
            None => tempfile::Builder::new()
                .prefix("millstream-demo-")
                .tempdir()
                .context("cannot make a folder")?
                .keep(),
            Some(dir) => {
                let made = fs::create_dir_all(dir).and_then(|()| fs::canonicalize(dir));
                let path = made.with_context(|| format!("cannot make the folder {}", dir.display()))?;
                if fs::read_dir(&path)?.next().is_some() {
                    let taken = anyhow!("the folder {} is not empty", path.display());
                    return Err(hinted(taken, "name one that is empty or does not exist yet with --dir"));
                }
                path
            }
        };
        let folder = Self(path);
        for (name, content) in PROJECT {
            let file = folder.project().join(name);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(folder)
    }

    /// The folder itself; absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The project folder that `millstream run` is given.
    pub fn project(&self) -> PathBuf {
        self.0.join("shop")
    }

    /// Where the tables are.
    pub fn lake(&self) -> PathBuf {
        self.0.join("lake")
    }

    /// Where the server called `name` logs to.
    pub fn log(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gets_the_project_and_is_never_taken_twice() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let folder = Folder::create(Some(&dir)).unwrap();
        assert!(folder.project().join("sql/orders_clean.sql").is_file());
        let error = Folder::create(Some(&dir)).unwrap_err().to_string();
        assert!(error.contains("not empty") && error.contains("hint: "), "{error}");
    }

    #[test]
    fn every_file_of_the_example_is_written() {
        let example = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("examples/shop");
        let found = |folder: &Path| {
            fs::read_dir(folder)
                .unwrap()
                .filter(|e| e.as_ref().unwrap().path().is_file())
                .count()
        };
        assert_eq!(found(&example) + found(&example.join("sql")), PROJECT.len());
    }
}
