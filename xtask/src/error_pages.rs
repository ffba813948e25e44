//! Every error code has a page under `docs/errors/`, and every page has its code.

use std::collections::{BTreeMap, BTreeSet};

use crate::File;

/// The letters that codes begin with, one pair for each part of the system.
const PREFIXES: [&str; 7] = ["CF", "CK", "EN", "KF", "PG", "PQ", "SQ"];

/// One line for each code without a page, page without a code, or page with another title.
pub fn faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut pages = BTreeSet::new();
    let mut used = BTreeMap::new();
    for file in files {
        if let Some(code) = file
            .path
            .strip_prefix("docs/errors/")
            .and_then(|name| name.strip_suffix(".md"))
        {
            if !file.text.starts_with(&format!("# {code}: ")) {
                faults.push(format!("{}: begins with something else than `# {code}: `", file.path));
            }
            pages.insert(code);
        } else if file.path.ends_with(".rs") && file.path.contains("src/") && !file.path.starts_with("xtask/") {
            for code in codes(&file.text) {
                used.entry(code).or_insert(file.path.as_str());
            }
        }
    }
    let missing = used.iter().filter(|(code, _)| !pages.contains(*code));
    faults.extend(missing.map(|(code, path)| format!("{path}: {code} has no page docs/errors/{code}.md")));
    let orphans = pages.iter().filter(|code| !used.contains_key(*code));
    faults.extend(orphans.map(|code| format!("docs/errors/{code}.md: no source says \"{code}\"")));
    faults
}

/// The codes that stand in `text` as whole string literals.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').filter(|word| {
        word.len() == 6
            && word.get(..2).is_some_and(|prefix| PREFIXES.contains(&prefix))
            && word.bytes().skip(2).all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn codes_and_pages_match_both_ways() {
        let source = file("src/a.rs", r#"error.code("PG0001").code("PG0002"); "not PG0003""#);
        let page = |code: &str, title: &str| file(&format!("docs/errors/{code}.md"), title);
        let good = [
            &source,
            &page("PG0001", "# PG0001: a\n"),
            &page("PG0002", "# PG0002: b\n"),
        ];
        let faults_of = |files: &[&File]| {
            let owned: Vec<File> = files.iter().map(|each| file(&each.path, &each.text)).collect();
            faults(&owned).len()
        };
        assert_eq!(faults_of(&good), 0);
        assert_eq!(faults_of(&good[..2]), 1, "a page is missing");
        assert_eq!(faults_of(&good[1..]), 2, "nothing uses the pages");
        assert_eq!(
            faults_of(&[&source, good[1], &page("PG0002", "# Other\n")]),
            1,
            "a wrong title"
        );
    }
}
