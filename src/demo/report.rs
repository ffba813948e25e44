//! What is printed at the end: tables, proof, quarantine, a query, and where things are.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;

use super::folder::Folder;
use super::lake::{Lake, TABLES};
use super::progress::grouped;
use super::proof::{TableVerdict, Verdict};

/// How much of a hash is shown, and of a rejected row.
const HASH: usize = 16;
const SAMPLE: usize = 112;

const REVENUE: &str = "\
SELECT c.country, count(*) AS orders, sum(o.net_amount) AS revenue
FROM orders_clean_current AS o
JOIN customers_current AS c ON c.customer_id = o.customer_id
WHERE o.status IN ('paid', 'sent')
GROUP BY c.country
ORDER BY revenue DESC";

/// Prints everything.
///
/// # Errors
/// If the files cannot be read.
pub async fn print(verdict: &Verdict, lake: &Lake, folder: &Folder) -> Result<()> {
    print_changes(verdict);
    print_proof(verdict);
    print_quarantine(verdict, lake).await?;
    print_query(lake).await?;
    print_places(lake, folder)
}

fn print_changes(verdict: &Verdict) {
    println!("\nThe tables, as changes in Parquet files");
    println!(
        "  {:<14}{:>12}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "table", "first copy", "created", "updated", "deleted", "repeated", "rows now"
    );
    for TableVerdict {
        table,
        target,
        changes,
        duplicates,
        ..
    } in &verdict.tables
    {
        let count = |letter: &str| grouped(changes.get(letter).copied().unwrap_or_default());
        println!(
            "  {:<14}{:>12}{:>10}{:>10}{:>10}{:>10}{:>12}",
            table.name,
            count("r"),
            count("c"),
            count("u"),
            count("d"),
            grouped(*duplicates),
            grouped(target.rows as u64)
        );
    }
}

fn print_proof(verdict: &Verdict) {
    println!("\nSource = target, by count and SHA-256 of all rows");
    println!(
        "  {:<14}{:>10}{:>10}   {:<w$}  {:<w$}",
        "table",
        "source",
        "target",
        "sha-256 of source",
        "sha-256 of target",
        w = HASH + 2
    );
    for TableVerdict {
        table,
        source,
        target,
        differences,
        ..
    } in &verdict.tables
    {
        let word = if source == target { "equal" } else { "DIFFERENT" };
        let (left, right) = (&source.sha256[..HASH], &target.sha256[..HASH]);
        let (rows, theirs) = (grouped(source.rows as u64), grouped(target.rows as u64));
        println!(
            "  {:<14}{rows:>10}{theirs:>10}   {left}…   {right}…   {word}",
            table.name
        );
        for row in differences {
            println!("    only in the {row}");
        }
    }
    let (expected, found) = verdict.quarantine;
    let word = if expected == found { "equal" } else { "DIFFERENT" };
    println!(
        "  {:<14}{expected:>10}{found:>10}   rows that broke a rule, and rows in quarantine   {word}",
        "quarantine"
    );
}

async fn print_quarantine(verdict: &Verdict, lake: &Lake) -> Result<()> {
    println!(
        "\nIn quarantine ({} rows), with the row itself and its position",
        verdict.quarantine.1
    );
    for table in TABLES {
        // By table, check and reason: how many, and the first.
        let mut kinds: BTreeMap<(String, String, String), (u64, String)> = BTreeMap::new();
        for batch in lake
            .query_quarantine(table, "SELECT \"table\", \"check\", reason, raw FROM rejected")
            .await?
        {
            for row in 0..batch.num_rows() {
                let [table, check, reason] = [0, 1, 2].map(|column| text(&batch, column, row));
                let raw = batch.column(3).as_binary::<i32>().value(row);
                kinds
                    .entry((table, check, reason))
                    .or_insert_with(|| (0, sample(raw)))
                    .0 += 1;
            }
        }
        for ((table, check, reason), (count, sample)) in kinds {
            println!("  {count} x {table} / {check}: {reason}\n      {sample}");
        }
    }
    Ok(())
}

fn text(batch: &RecordBatch, column: usize, row: usize) -> String {
    batch.column(column).as_string::<i32>().value(row).to_owned()
}

/// The beginning of a rejected row, printable.
fn sample(raw: &[u8]) -> String {
    let shown = match std::str::from_utf8(raw) {
        Ok(text) => text.escape_debug().to_string().replace("\\\"", "\""),
        Err(_) => format!("bytes {}", hex::encode(raw)),
    };
    match shown.char_indices().nth(SAMPLE) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

async fn print_query(lake: &Lake) -> Result<()> {
    println!("\nOne query over the Parquet files\n");
    println!("{}\n", indented(REVENUE));
    let rows = lake.query(&[&TABLES[2], &TABLES[0]], REVENUE).await?;
    println!("{}", indented(millstream_sql::format_table(&rows).trim_end()));
    Ok(())
}

fn print_places(lake: &Lake, folder: &Folder) -> Result<()> {
    let script = folder.path().join("duckdb.sql");
    fs::write(&script, duckdb_script(lake))?;
    println!("\nWhere it is");
    println!("  Parquet files   {}", lake.path().display());
    println!("  project folder  {}", folder.project().display());
    println!(
        "  logs            {}, {}",
        folder.log("daemon").display(),
        folder.log("postgres").display()
    );
    println!("  with DuckDB     duckdb -f {}", script.display());
    println!(
        "  with pyarrow    pyarrow.parquet.read_table(file), for the files that {}/<table>/_commits/*.json list",
        TABLES[0].folder
    );
    Ok(())
}

/// Current orders by status, from the files that are committed and no others.
fn duckdb_script(lake: &Lake) -> String {
    let table = lake
        .path()
        .join("shop/orders_clean")
        .display()
        .to_string()
        .replace('\'', "''");
    format!(
        "-- A table is the files that its commit records list.\n\
         SET VARIABLE files = (SELECT list('{table}/' || file.path)\n  \
         FROM (SELECT unnest(files) AS file FROM read_json('{table}/_commits/0*.json', maximum_object_size = 100000000)));\n\
         -- The files hold changes; the latest one of each key is the row as it is now.\n\
         CREATE TEMP VIEW orders AS\n  \
         SELECT * EXCLUDE (latest) FROM (\n    \
         SELECT *, row_number() OVER (PARTITION BY order_id ORDER BY __position DESC, __ordinal DESC) AS latest\n    \
         FROM read_parquet(getvariable('files'), union_by_name = true))\n  \
         WHERE latest = 1 AND __op <> 'd';\n\
         SELECT status, size, count(*) AS orders, sum(net_amount) AS revenue FROM orders GROUP BY ALL ORDER BY ALL;\n"
    )
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_short_and_printable() {
        assert_eq!(sample(b"{\"a\": 1}"), "{\"a\": 1}");
        assert_eq!(sample(&[0xff, 0x00]), "bytes ff00");
        assert_eq!(sample("é".repeat(2 * SAMPLE).as_bytes()).chars().count(), SAMPLE + 1);
    }
}
