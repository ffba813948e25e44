//! Reading one YAML file.

use std::ops::Range;
use std::path::Path;

use millstream_core::{Finding, Severity};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Diagnostic, Place};

/// Parses a YAML file; also returns its text.
///
/// # Errors
/// Reading ends at a fault, so that each entry of a section (a source, a model, a sink) with a
/// fault is left out and the rest read again: one fault for each entry.
pub fn read_yaml<T: DeserializeOwned>(file: &Path, shown: &Path) -> Result<(T, String), Vec<Diagnostic>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("cannot read the file: {error}");
        let finding = Finding::new(Severity::Error, shown.display().to_string(), message)
            .code("CF0002")
            .hint("the user that runs millstream needs to read every file of the project");
        vec![Diagnostic::new(Place::file(shown), finding)]
    })?;
    match serde_saphyr::from_str(&text) {
        Ok(value) => Ok((value, text)),
        Err(error) => {
            let mut faults = vec![diagnostic(&error, shown)];
            // Where the YAML itself is broken, what follows would be guesswork.
            if serde_saphyr::from_str::<IgnoredAny>(&text).is_ok() {
                faults.extend(further_faults::<T>(&text, &error, shown));
            }
            Err(faults)
        }
    }
}

/// The faults of the entries that come after that of `first`.
fn further_faults<T: DeserializeOwned>(text: &str, first: &serde_saphyr::Error, shown: &Path) -> Vec<Diagnostic> {
    let mut lines: Vec<&str> = text.lines().collect();
    let mut faults = Vec::new();
    let mut next = entry_of(&lines, first);
    while let Some(entry) = next {
        leave_out(&mut lines, entry);
        let Err(error) = serde_saphyr::from_str::<T>(&lines.join("\n")) else {
            break;
        };
        // A fault anywhere else may be that the entry is missing.
        next = entry_of(&lines, &error);
        if next.is_some() {
            faults.push(diagnostic(&error, shown));
        }
    }
    faults
}

/// Takes an entry out, and its section if it was the only one.
fn leave_out(lines: &mut [&str], entry: Range<usize>) {
    lines[entry.clone()].fill("");
    let header = (0..entry.start).rev().find(|&line| is_content(lines[line]));
    let next = (entry.end..lines.len()).find(|&line| is_content(lines[line]));
    if let Some(header) = header.filter(|&line| indent(lines[line]) == 0)
        && next.is_none_or(|line| indent(lines[line]) == 0)
    {
        lines[header] = "";
    }
}

/// The lines of the section's entry that an error is in; `None` if it is in no entry.
fn entry_of(lines: &[&str], error: &serde_saphyr::Error) -> Option<Range<usize>> {
    let at = usize::try_from(error.location()?.line()).ok()?.checked_sub(1)?;
    let at = at.min(lines.len().checked_sub(1)?);
    let section = (0..=at)
        .rev()
        .find(|&line| is_content(lines[line]) && indent(lines[line]) == 0)?;
    let first = (section + 1..lines.len()).find(|&line| is_content(lines[line]))?;
    let depth = indent(lines[first]);
    let begins = |line: &usize| is_content(lines[*line]) && indent(lines[*line]) <= depth;
    let start = (section + 1..=at).rev().find(begins)?;
    let end = (start + 1..lines.len()).find(begins).unwrap_or(lines.len());
    (depth > 0 && indent(lines[start]) == depth).then_some(start..end)
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn is_content(line: &str) -> bool {
    let text = line.trim_start();
    !text.is_empty() && !text.starts_with('#')
}

fn diagnostic(error: &serde_saphyr::Error, shown: &Path) -> Diagnostic {
    let place = error
        .location()
        .map_or_else(|| Place::file(shown), |location| Place::at(shown, location));
    let message = yaml_message(error);
    let hint = if message.ends_with("is not set") {
        "set it where millstream runs; under systemd with Environment= or EnvironmentFile="
    } else {
        "docs/reference/configuration.md lists every key with its form"
    };
    let finding = Finding::new(Severity::Error, shown.display().to_string(), message)
        .code("CF0001")
        .hint(hint);
    Diagnostic::new(place, finding)
}

/// The parser's message without the snippet and the place, which we show in our own way, and
/// without the names that YAML's grammar has for lists and maps.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let place = error
        .location()
        .map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    let message = place
        .and_then(|place| text.strip_suffix(&place).map(str::to_owned))
        .unwrap_or(text);
    match message.as_str() {
        "expected sequence start" => "expected a list, such as `[first, second]`".to_owned(),
        "expected mapping start" => "expected keys and values, such as `{key: value}`".to_owned(),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PipelineConfig;

    /// Line and column of each fault.
    fn places(text: &str) -> Vec<(u64, u64)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let faults = read_yaml::<PipelineConfig>(file.path(), Path::new("x.yaml")).err();
        let places = faults.into_iter().flatten().map(|fault| fault.place);
        places.map(|place| (place.line, place.column)).collect()
    }

    const SOUND: &str = "pipeline: p\nsources:\n  s:\n    kafka: {brokers: b, topics: [t], decode: json}\n\
        models:\n  m:\n    sql: SELECT 1\n    # a comment\n  n:\n    sql: SELECT 2\nsinks:\n  a:\n    parquet: {url: a}\n  \
        b:\n    parquet: {url: b}\n";

    #[test]
    fn each_entry_shows_its_fault() {
        assert_eq!(places(SOUND), []);
        let wrong = SOUND
            .replace("sql: SELECT", "sqk: SELECT")
            .replace("{url: a}", "{urk: a}");
        assert_eq!(places(&wrong), [(7, 5), (10, 5), (13, 15)]);
        // The only source is wrong: that `sources` would be empty without it is no fault.
        let wrong = SOUND.replace("decode", "decod").replace("SELECT 1", "[1]");
        assert_eq!(places(&wrong).len(), 2, "{:?}", places(&wrong));
    }

    #[test]
    fn a_fault_of_a_whole_section_or_of_the_yaml_stands_alone() {
        assert_eq!(
            places(&SOUND.replace("models", "modles").replace("urk", "url")).len(),
            1
        );
        assert_eq!(
            places(&SOUND.replace("topics: [t]", "topics: [t").replace("url: a", "urk: a")).len(),
            1
        );
        assert_eq!(places("pipeline: p\n"), [(1, 1)]);
    }
}
