//! Project folders that tests write.

use std::path::Path;

use tempfile::TempDir;

/// A project folder with a `lake` folder beside its files.
pub struct ProjectFolder {
    folder: TempDir,
}

impl ProjectFolder {
    /// A folder with these files.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("millstream-project-")
            .tempdir()
            .unwrap();
        let project = Self { folder };
        for (name, content) in files {
            project.write(name, content);
        }
        project
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the tables go.
    pub fn lake(&self) -> String {
        format!("file://{}", self.path().join("lake").display())
    }
}
