//! Names of the objects of a table.

use std::fmt;
use std::str::FromStr;

/// The folder of commit records within a table.
pub(crate) const COMMITS: &str = "_commits";
/// The folder of data files within a table.
pub(crate) const DATA: &str = "data";
/// The folder of the files of rejected rows within a table.
pub(crate) const QUARANTINE: &str = millstream_core::quarantine::NAME;
/// The object in [`COMMITS`] that hints where the newest commit is.
pub(crate) const HINT: &str = "_last.json";

/// The name of a commit record.
pub(crate) fn commit_file(version: u64) -> String {
    format!("{version:020}.json")
}

/// The version of a commit record's name; `None` for any other object.
pub(crate) fn parse_commit_file(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The name of a data file: `g00000007-1a2b3c4d-000042.parquet`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataFileName {
    /// Generation of the writer.
    pub generation: u64,
    /// The first eight hex digits of the writer's id.
    pub writer: String,
    /// The file's number among those of its generation in the table, from 1, rising.
    pub seq: u64,
}

impl fmt::Display for DataFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{:08}-{}-{:06}.parquet", self.generation, self.writer, self.seq)
    }
}

/// The text is not a data file's name.
#[derive(Debug, thiserror::Error)]
#[error("not the name of a data file")]
pub struct NotADataFile;

impl FromStr for DataFileName {
    type Err = NotADataFile;

    fn from_str(name: &str) -> Result<Self, NotADataFile> {
        let number = |digits: &str, width: usize| -> Option<u64> {
            let plain = digits.len() >= width && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok())?
        };
        let parse = || {
            let mut parts = name.strip_suffix(".parquet")?.strip_prefix('g')?.split('-');
            let (generation, writer, seq) = (parts.next()?, parts.next()?, parts.next()?);
            let hex = writer.len() == 8 && writer.bytes().all(|b| b.is_ascii_hexdigit());
            let parsed = Self {
                generation: number(generation, 8)?,
                writer: writer.to_owned(),
                seq: number(seq, 6)?,
            };
            (hex && parts.next().is_none()).then_some(parsed)
        };
        parse().ok_or(NotADataFile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_text() {
        for (generation, seq) in [(1, 1), (123_456_789, 42), (7, 1_000_001)] {
            let name = DataFileName {
                generation,
                writer: "1a2b3c4d".into(),
                seq,
            };
            assert_eq!(name.to_string().parse::<DataFileName>().unwrap(), name);
        }
        assert_eq!(
            parse_commit_file(&commit_file(u64::from(u32::MAX) + 1)),
            Some(u64::from(u32::MAX) + 1)
        );
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in [
            "part-0.parquet",
            "g1-1a2b3c4d-000001.parquet",
            "g00000001-1a2b3c4d-000001.parquet.bak",
            "g00000001-xxxxxxxx-000001.parquet",
        ] {
            assert!(name.parse::<DataFileName>().is_err(), "{name}");
        }
        for name in [
            HINT,
            "1.json",
            "0000000000000000000x.json",
            "00000000000000000001.json#1",
        ] {
            assert_eq!(parse_commit_file(name), None, "{name}");
        }
    }
}
