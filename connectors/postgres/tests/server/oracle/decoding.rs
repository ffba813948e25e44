//! PostgreSQL's own tests of logical decoding, which `scripts/setup.sh test` fetches: run statement
//! by statement, with a source beside them. Wherever a test reads what was decoded, and where a
//! table came, the source's tables are compared with the server's.

use std::path::Path;

use millstream_testkit::postgres::TestCluster;
use millstream_testkit::tools::postgres_tests;

use super::follower::{Follower, tables_of};
use super::pair::{MARKER, SETTINGS, differ_from_subscriber};
use super::session::Session;

/// Tests that are left out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("binary", "no table is written in it"),
    ("slot", "it is about slots, and waits for other sessions"),
    ("stats", "it waits for counters of slots"),
    ("time", "it has a table for one statement"),
];

/// How many comparisons there have to be in all.
const LEAST: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_s_tests_of_decoding_fold_to_what_the_server_holds() {
    let Some(folder) = postgres_tests() else {
        eprintln!("PostgreSQL's tests were not fetched: they are not replayed");
        return;
    };
    let only = std::env::var("MILLSTREAM_REPLAY").unwrap_or_default();
    let mut files: Vec<_> = std::fs::read_dir(folder.join("decoding"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let cluster = TestCluster::with_settings(&SETTINGS).unwrap();
    cluster.psql(MARKER).unwrap();
    cluster.psql("CREATE PUBLICATION p FOR ALL TABLES").unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !name.contains(&only) || LEFT_OUT.iter().any(|(left_out, _)| *left_out == name) {
            continue;
        }
        let began = std::time::Instant::now();
        let before = compared;
        replay(&cluster, &path, &mut compared, &mut wrong).await;
        println!("{name}: {} comparisons in {:?}", compared - before, began.elapsed());
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= LEAST || !only.is_empty(), "{compared} comparisons");
}

async fn replay(cluster: &TestCluster, path: &Path, compared: &mut usize, wrong: &mut Vec<String>) {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let mut session = Session::of(cluster);
    let mut follower = Follower::new(&format!("follower_of_{name}"));
    let mut is_open = false;
    for statement in statements(&std::fs::read_to_string(path).unwrap()) {
        session.run(&statement);
        let words: Vec<String> = statement.split_whitespace().take(3).map(str::to_lowercase).collect();
        let words: Vec<&str> = words.iter().map(|word| word.trim_end_matches(';')).collect();
        match words.as_slice() {
            ["begin", ..] | ["start", "transaction", ..] => is_open = true,
            ["rollback", "to", ..] => {}
            ["commit" | "rollback" | "end" | "abort", ..] | ["prepare", "transaction", ..] => is_open = false,
            _ => {}
        }
        let reads = statement.contains("pg_logical_slot_get_changes") || words.starts_with(&["create", "table"]);
        if !reads || is_open || cluster.psql("SELECT count(*) FROM pg_prepared_xacts").unwrap() != "0" {
            continue;
        }
        let tables: Vec<_> = tables_of(cluster).into_keys().collect();
        follower.keep_up(cluster, &["p".to_owned()], &tables).await;
        let differ = differ_from_subscriber(cluster, &follower, cluster, std::time::Duration::ZERO, |_| false).await;
        *compared += follower.tables().len() - differ.len();
        for ((_, table), how) in differ {
            wrong.push(format!("{name}: {table} behind {statement:.100}: {how}"));
        }
    }
    follower.stop().await;
    drop(session);
    let drop_slot = format!("SELECT pg_drop_replication_slot('follower_of_{name}')");
    let _ = cluster.psql(&drop_slot);
}

/// The statements of a script of `psql`, and its commands, each of which is a line. What is copied
/// in goes with its statement.
fn statements(script: &str) -> Vec<String> {
    let (mut statements, mut statement) = (Vec::new(), String::new());
    let (mut quote, mut is_data) = (None::<String>, false);
    for line in script.lines() {
        if statement.is_empty() && (line.trim().is_empty() || line.starts_with("--")) {
            continue;
        }
        let is_command = statement.is_empty() && line.starts_with('\\');
        statement += line;
        statement.push('\n');
        if is_data || is_command && line.to_lowercase().starts_with("\\copy") {
            is_data = line != "\\.";
        } else if !is_command {
            for tag in line.match_indices('$').collect::<Vec<_>>().windows(2) {
                let tag = &line[tag[0].0..=tag[1].0];
                if tag.chars().any(|letter| !letter.is_alphanumeric() && !matches!(letter, '$' | '_')) {
                    continue;
                }
                match &quote {
                    None => quote = Some(tag.to_owned()),
                    Some(open) if open == tag => quote = None,
                    Some(_) => {}
                }
            }
        }
        let code = line.split("--").next().unwrap_or_default().trim_end();
        if !is_data && quote.is_none() && (is_command || line == "\\." || code.ends_with(';')) {
            statements.push(std::mem::take(&mut statement));
        }
    }
    statements
}
