//! Where `scripts/setup.sh test` puts the servers and readers that are no system packages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of the tools: `$XDG_CACHE_HOME/millstream/tools`, or the same under `~/.cache`.
///
/// # Errors
/// If neither variable is set.
pub fn folder() -> Result<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("millstream/tools"))
}

/// A program of the Python environment, such as `python` or `weed`.
///
/// # Errors
/// If the environment lacks it.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = folder()?.join("venv/bin").join(name);
    path.is_file()
        .then_some(path)
        .with_context(|| format!("no `{name}` among the test tools; `scripts/setup.sh test` installs it"))
}

/// The folder with the jars of Apache Kafka, the newest release if there are several. `None`
/// where they could not be fetched.
pub fn kafka_jars() -> Option<PathBuf> {
    newest_kafka(&folder().ok()?)
}

/// The folder with Debezium's tables of types, `tables.sql`, and their values, `inserts.class`. `None`
/// where they could not be fetched.
pub fn debezium_tables() -> Option<PathBuf> {
    let folder = folder().ok()?.join("debezium-tables");
    folder.join("version").is_file().then_some(folder)
}

/// The folder with PostgreSQL's own tests of logical replication, `subscription/*.pl`, and, where they
/// were fetched since, of logical decoding, `decoding/*.sql`. `None` where they could not be fetched.
pub fn postgres_tests() -> Option<PathBuf> {
    let folder = folder().ok()?.join("postgres-tests");
    folder.join("package").is_file().then_some(folder)
}

fn newest_kafka(tools: &Path) -> Option<PathBuf> {
    let releases = std::fs::read_dir(tools).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version: Vec<u32> = name
            .strip_prefix("kafka-")?
            .split('.')
            .map(|part| part.parse().ok())
            .collect::<Option<_>>()?;
        Some((version, entry.path()))
    });
    releases.max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_release_is_found() {
        let tools = tempfile::tempdir().unwrap();
        assert_eq!(newest_kafka(tools.path()), None);
        for name in [
            "kafka-4.1.0",
            "kafka-4.10.0",
            "kafka-4.9.0",
            "partial-kafka.x",
            "kafka-5.0.0.tmp",
        ] {
            std::fs::create_dir(tools.path().join(name)).unwrap();
        }
        assert_eq!(newest_kafka(tools.path()), Some(tools.path().join("kafka-4.10.0")));
    }
}
