//! Runs a file of examples. Its blocks are separated by empty lines; `#` begins a comment.
//!
//! ```text
//! table shop.orders (id int64, status utf8) key (id) [before]
//!
//! model [key (a, b)]
//! SELECT …
//!
//! changes shop.orders
//! c | 1 | new
//! ----
//! c | 1 | new          what the last model makes of them
//! ! 0: the reason      the change with this ordinal is rejected
//! (1 filtered)
//!
//! refused [key (a, b)]
//! SELECT …
//! ----
//! SQ0006: the summary of the error, with its place
//! hint: what to do
//! ```

use std::sync::Arc;

use arrow_array::cast::AsArray;
use millstream_core::{ChangeBatch, TableSchema};
use millstream_sql::{Model, ModelSpec, plan};

use crate::text_table::{parse_changes, parse_table, show_changes};

/// What a run found.
pub struct Run {
    /// `line: what differs`.
    pub differences: Vec<String>,
    /// The file with what the blocks yield in place of what they expect.
    pub updated: String,
}

#[derive(Default)]
struct State {
    tables: Vec<Arc<TableSchema>>,
    model: Option<Model>,
    position: usize,
}

/// Runs all blocks of `text`.
pub async fn run(text: &str) -> Run {
    let mut state = State::default();
    let mut run = Run {
        differences: Vec::new(),
        updated: String::new(),
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut next = 0;
    while next < lines.len() {
        if lines[next].trim().is_empty() || lines[next].starts_with('#') {
            run.updated.push_str(lines[next]);
            run.updated.push('\n');
            next += 1;
            continue;
        }
        let start = next;
        while next < lines.len() && !lines[next].trim().is_empty() {
            next += 1;
        }
        let block = &lines[start..next];
        let rule = block.iter().position(|line| *line == "----");
        let (input, expected) = match rule {
            Some(rule) => (&block[..rule], &block[rule + 1..]),
            None => (block, &[][..]),
        };
        let found = state
            .block(input)
            .await
            .unwrap_or_else(|fault| vec![format!("the block is wrong: {fault}")]);
        if found != expected {
            run.differences.push(format!(
                "{}: expected\n  {}\nfound\n  {}",
                start + 1,
                expected.join("\n  "),
                found.join("\n  ")
            ));
        }
        let mut shown: Vec<String> = input.iter().map(|line| (*line).to_owned()).collect();
        if rule.is_some() || !found.is_empty() {
            shown.push("----".to_owned());
            shown.extend(found);
        }
        run.updated.push_str(&shown.join("\n"));
        run.updated.push('\n');
    }
    run
}

impl State {
    async fn block(&mut self, input: &[&str]) -> Result<Vec<String>, String> {
        let (head, body) = input.split_first().ok_or("an empty block")?;
        let (word, rest) = head.split_once(' ').unwrap_or((*head, ""));
        match word {
            "table" => {
                let table = parse_table(rest)?;
                self.tables.retain(|known| known.id != table.id);
                self.tables.push(table);
                Ok(Vec::new())
            }
            "model" => {
                let planned = plan(&spec(rest, body)?, &self.tables).await;
                self.model = Some(planned.map_err(|error| error.summary())?);
                Ok(Vec::new())
            }
            "refused" => match plan(&spec(rest, body)?, &self.tables).await {
                Ok(_) => Err("the model was planned".to_owned()),
                Err(error) => Ok(vec![
                    error.summary(),
                    format!("hint: {}", error.hint_text().unwrap_or("none")),
                ]),
            },
            "changes" => {
                let table = self.tables.iter().find(|table| table.id.to_string() == rest);
                let table = table.ok_or_else(|| format!("there is no table {rest}"))?;
                self.position += 1;
                let batch = parse_changes(table, body, self.position)?;
                let model = self.model.as_ref().ok_or("there is no model yet")?;
                apply(model, &batch).await
            }
            other => Err(format!("`{other}` begins no block")),
        }
    }
}

fn spec(head: &str, body: &[&str]) -> Result<ModelSpec, String> {
    let key = match head.trim() {
        "" => Vec::new(),
        head => {
            let names = head.strip_prefix("key (").and_then(|rest| rest.strip_suffix(')'));
            let names = names.ok_or("after `model` comes nothing or `key (a, b)`")?;
            names.split(',').map(|name| name.trim().to_owned()).collect()
        }
    };
    Ok(ModelSpec {
        name: "model".to_owned(),
        sql: body.join("\n"),
        file: None,
        key,
    })
}

async fn apply(model: &Model, batch: &ChangeBatch) -> Result<Vec<String>, String> {
    let transformed = model.apply(batch).await.map_err(|error| error.summary())?;
    let mut lines = transformed.changes.as_ref().map(show_changes).unwrap_or_default();
    if let Some(rejected) = &transformed.rejected {
        let reasons = rejected.rows()["reason"].as_string::<i32>();
        for row in 0..rejected.num_rows() {
            lines.push(format!("! {}: {}", rejected.ordinals().value(row), reasons.value(row)));
        }
    }
    if transformed.filtered > 0 {
        lines.push(format!("({} filtered)", transformed.filtered));
    }
    Ok(lines)
}
