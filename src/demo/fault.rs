//! How a stage of the demo fails: what, why, the end of the log, where it is, and a hint.

use std::fmt::Display;
use std::path::Path;

use anyhow::anyhow;

/// How much of a log is shown.
const LAST_LINES: usize = 12;

/// `error` with what the user can do about it.
pub fn hinted(error: impl Display, hint: impl Display) -> anyhow::Error {
    anyhow!("{error:#}\nhint: {hint}")
}

/// `error` of a server, with the end of its log and the log's place.
pub fn with_log(error: impl Display, log: &Path) -> anyhow::Error {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let end: String = lines[lines.len().saturating_sub(LAST_LINES)..]
        .iter()
        .map(|line| format!("  | {line}\n"))
        .collect();
    anyhow!("{error:#}\n{end}log: {}", log.display())
}
