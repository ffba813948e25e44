//! Input of `psql`, cut into pieces between which tables can be compared.

/// The pieces of a script, in order: together they are all of it. A piece ends behind a statement
/// behind which there is something to see, and before tables are dropped.
pub fn pieces(script: &str) -> Vec<&str> {
    let statements = statements(script);
    let (mut pieces, mut begin, mut may_have_changed, mut is_owed) = (Vec::new(), 0, false, false);
    for (index, (end, text)) in statements.iter().enumerate() {
        let begins = |text: &str, words: &[&str]| words.iter().any(|word| text.starts_with(word));
        let next = statements.get(index + 1).map_or("", |(_, text)| text);
        may_have_changed |= !begins(text, &["SELECT", "BEGIN", "DROP TABLE", "\\"]);
        is_owed = may_have_changed && (is_owed || shows_something(text) || begins(next, &["DROP TABLE"]));
        // Tables that are made together are to be read from the same start on.
        let definitions = ["CREATE", "ALTER TABLE"];
        if is_owed && !(begins(text, &definitions) && begins(next, &definitions)) {
            pieces.push(&script[begin..*end]);
            (begin, may_have_changed, is_owed) = (*end, false, false);
        }
    }
    pieces.push(&script[begin..]);
    pieces
}

/// A new table is to be read from its beginning on, a prepared transaction must not be seen yet,
/// and where a test of decoding looks at the changes, so do we.
fn shows_something(statement: &str) -> bool {
    let ends = ["CREATE TABLE", "COMMIT", "PREPARE TRANSACTION", "ROLLBACK PREPARED"];
    let statement = statement.to_uppercase();
    ends.iter().any(|end| statement.starts_with(end))
        || statement.contains("PG_LOGICAL_SLOT_") && statement.contains("_CHANGES(")
}

/// Where each statement or command of `psql` ends, with its text without comments. Data of a
/// COPY belongs to it.
fn statements(script: &str) -> Vec<(usize, String)> {
    let (mut statements, mut text, mut at) = (Vec::new(), String::new(), 0);
    while let Some(next) = script[at..].chars().next() {
        let rest = &script[at..];
        let (length, is_text) = token(rest);
        at += length;
        if is_text {
            text += &rest[..length];
        }
        let is_command = next == '\\';
        if next == ';' || is_command {
            let lower = text.to_lowercase();
            if lower.contains("copy") && lower.contains("from stdin") {
                at += copied(&script[at..]);
            }
            statements.push((at, std::mem::take(&mut text).trim().to_owned()));
        }
    }
    statements
}

/// The length of what the text begins with that has to be taken as one, and whether it is more
/// than a comment.
fn token(text: &str) -> (usize, bool) {
    let line = text.find('\n').unwrap_or(text.len());
    let until = |begin: usize, end: &str| {
        let found = text[begin..].find(end);
        found.map_or(text.len(), |at| begin + at + end.len())
    };
    if text.starts_with("--") {
        (line, false)
    } else if text.starts_with("/*") {
        (until(2, "*/"), false)
    } else if text.starts_with('\\') {
        (line, true)
    } else if let Some(quote) = ["'", "\""].into_iter().find(|quote| text.starts_with(quote)) {
        (until(1, quote), true)
    } else if let Some(mark) = dollar_quote(text) {
        (until(mark.len(), mark), true)
    } else {
        (text.chars().next().map_or(0, char::len_utf8), true)
    }
}

/// `$$` or `$tag$`, if the text begins with it.
fn dollar_quote(text: &str) -> Option<&str> {
    let (tag, _) = text.strip_prefix('$')?.split_once('$')?;
    let is_tag = tag.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    is_tag.then(|| &text[..tag.len() + 2])
}

/// The length of the data that stands behind a COPY, with its last line.
fn copied(text: &str) -> usize {
    const LAST: &str = "\n\\.\n";
    text.find(LAST).map_or(text.len(), |at| at + LAST.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_cut_where_there_is_something_to_see() {
        let parts = [
            "-- first; this\nSET a = ';';\nCREATE TABLE t (\n  id int -- ;\n);CREATE TABLE u (a text);\nALTER TABLE u ADD b text;",
            "\nINSERT INTO u SELECT 'a';CREATE FUNCTION f() RETURNS text AS $f$ SELECT 'COMMIT; $$';$f$; /* ; */ INSERT INTO t VALUES (1);INSERT INTO t VALUES (2);\n\
             \\copy t FROM stdin\n3\nSELECT * FROM pg_logical_slot_get_changes(';');\n\\.\n\\set x ';'\n",
            "DROP TABLE a;DROP TABLE b;\nBEGIN;DELETE FROM t;SELECT data\nFROM pg_logical_slot_peek_changes('slot', NULL)\nWHERE true;",
            " SELECT data FROM pg_logical_slot_get_changes('slot');SAVEPOINT a;\nSELECT 1\n\\gexec\ncommit;",
            "\nSELECT 2;\n",
        ];
        // What stands before a comparison is not told from what stands behind it by blanks.
        let expected: Vec<_> = parts.iter().map(|part| part.trim()).collect();
        let script = parts.concat();
        let found = pieces(&script);
        assert_eq!(found.concat(), script);
        assert_eq!(found.iter().map(|piece| piece.trim()).collect::<Vec<_>>(), expected);
    }
}
