//! The proof that the target equals its sources: row count and SHA-256 per table, over rows in
//! one canonical form: the lines of PostgreSQL's `COPY … TO STDOUT`, sorted byte by byte.
//!
//! On one side PostgreSQL itself is asked, with the models' SQL and the checks written once
//! more in its dialect; on the other the fold of the committed Parquet files. Timestamps are
//! compared as microseconds since the Unix epoch, decimals as text with all their digits.

mod canonical;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use futures::TryStreamExt;
use futures::pin_mut;
use sha2::{Digest, Sha256};

use super::lake::{Lake, TABLES, Table};
use super::shop::{self, Shop};
use super::workload::Sent;

/// How many differing rows are shown.
const SHOWN: usize = 3;

const CUSTOMERS: (&str, &str) = (
    "SELECT customer_id, name, country, tier, credit, array_to_json(tags), settings, born, biography, \
     (extract(epoch FROM created_at) * 1000000)::bigint FROM customers",
    "SELECT customer_id, name, country, tier, credit, tags, settings, born, biography, created_at FROM customers_current",
);

const ORDER_ITEMS: (&str, &str) = (
    "SELECT order_id, line, sku, quantity, price, gift::text FROM order_items",
    "SELECT order_id, line, sku, quantity, price, gift FROM order_items_current",
);

/// `sql/orders_clean.sql` and its row checks. An order that breaks a rule never kept it
/// before, so that there is no older version of it that the target would rightly show.
const ORDERS_CLEAN: (&str, &str) = (
    "SELECT order_id, customer_id, lower(btrim(email)), status, upper(currency), amount, discount, amount - discount, \
     CASE WHEN amount >= 500 THEN 'large' WHEN amount >= 100 THEN 'medium' ELSE 'small' END, \
     (placed_at AT TIME ZONE 'UTC')::date, (extract(epoch FROM placed_at) * 1000000)::bigint, note \
     FROM orders WHERE status <> 'draft' AND customer_id IS NOT NULL AND placed_at IS NOT NULL \
     AND status IN ('new', 'paid', 'sent', 'returned') AND amount BETWEEN 0 AND 100000 \
     AND lower(btrim(email)) ~ '^[^@ ]+@[^@ ]+\\.[a-z]+$' AND length(currency) = 3 AND discount <= amount \
     AND email NOT LIKE '%@monitoring.example'",
    "SELECT order_id, customer_id, email, status, currency, amount, discount, net_amount, size, placed_on, placed_at, \
     note FROM orders_clean_current",
);

const CLICKS_CLEAN: &str = "SELECT click_id, customer_id, page, seconds, clicked_at FROM clicks_clean_current";

/// What was found.
#[derive(Debug)]
pub struct Verdict {
    /// Each table, in the order of [`TABLES`].
    pub tables: Vec<TableVerdict>,
    /// Rows that must be in quarantine, and rows that are.
    pub quarantine: (u64, u64),
}

/// One table on both sides.
#[derive(Debug)]
pub struct TableVerdict {
    /// The table.
    pub table: &'static Table,
    /// What the source holds.
    pub source: Side,
    /// What the target holds.
    pub target: Side,
    /// Changes in the files, by the letter of their operation.
    pub changes: BTreeMap<String, u64>,
    /// Changes that are there more than once.
    pub duplicates: u64,
    /// Some of the rows that one side has alone: `source …` or `target …`.
    pub differences: Vec<String>,
}

/// The rows of a table on one side.
#[derive(Debug, PartialEq, Eq)]
pub struct Side {
    /// How many there are.
    pub rows: usize,
    /// SHA-256 over them, in hex.
    pub sha256: String,
}

impl Verdict {
    /// Whether everything is as it must be.
    pub fn holds(&self) -> bool {
        self.quarantine.0 == self.quarantine.1 && self.tables.iter().all(TableVerdict::holds)
    }
}

impl TableVerdict {
    /// Whether target and source are equal, and every change is there once.
    pub fn holds(&self) -> bool {
        self.source == self.target && self.duplicates == 0
    }
}

/// Compares every table, and counts what is in quarantine.
///
/// # Errors
/// If one side cannot be read; a difference is no error.
pub async fn prove(shop: &Shop, sent: &Sent, lake: &Lake) -> Result<Verdict> {
    let mut tables = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        tables.push(
            compare(table, shop, sent, lake)
                .await
                .with_context(|| format!("cannot compare {}", table.name))?,
        );
    }
    let mut quarantined = 0;
    for table in TABLES {
        let committed = lake.committed(table.folder, table.name).await?;
        quarantined += committed.quarantine.iter().map(|file| file.rows).sum::<u64>();
    }
    Ok(Verdict {
        tables,
        quarantine: (shop::BAD_ORDERS + sent.bad, quarantined),
    })
}

async fn compare(table: &'static Table, shop: &Shop, sent: &Sent, lake: &Lake) -> Result<TableVerdict> {
    let (mut source, target_sql) = match table.name {
        "customers" => (rows_in_source(shop, CUSTOMERS.0).await?, CUSTOMERS.1),
        "order_items" => (rows_in_source(shop, ORDER_ITEMS.0).await?, ORDER_ITEMS.1),
        "orders_clean" => (rows_in_source(shop, ORDERS_CLEAN.0).await?, ORDERS_CLEAN.1),
        _ => {
            let wanted = sent.clicks.iter().filter(|click| click.is_wanted());
            (wanted.map(|click| click.row()).collect(), CLICKS_CLEAN)
        }
    };
    let mut target = Vec::new();
    for batch in lake.query(&[table], target_sql).await? {
        canonical::append_rows(&batch, &mut target)?;
    }
    source.sort_unstable();
    target.sort_unstable();
    let (changes, duplicates) = count_changes(table, lake).await?;
    let differences = differences(&source, &target);
    Ok(TableVerdict {
        table,
        source: side(&source),
        target: side(&target),
        changes,
        duplicates,
        differences,
    })
}

async fn rows_in_source(shop: &Shop, sql: &str) -> Result<Vec<String>> {
    let copy = shop.client().copy_out(&format!("COPY ({sql}) TO STDOUT")).await?;
    pin_mut!(copy);
    let mut text = Vec::new();
    while let Some(chunk) = copy.try_next().await? {
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(text)?.lines().map(str::to_owned).collect())
}

fn side(sorted: &[String]) -> Side {
    let mut hash = Sha256::new();
    for row in sorted {
        hash.update(row);
        hash.update(b"\n");
    }
    Side {
        rows: sorted.len(),
        sha256: hex::encode(hash.finalize()),
    }
}

/// The first rows that only one of two sorted lists has.
fn differences(source: &[String], target: &[String]) -> Vec<String> {
    let (mut left, mut right, mut found) = (0, 0, Vec::new());
    while found.len() < SHOWN && (left < source.len() || right < target.len()) {
        match (source.get(left), target.get(right)) {
            (Some(a), Some(b)) if a == b => {
                left += 1;
                right += 1;
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => {
                found.push(format!("source {a}"));
                left += 1;
            }
            (_, Some(b)) => {
                found.push(format!("target {b}"));
                right += 1;
            }
            _ => break,
        }
    }
    found
}

/// Changes by operation, and how many of them are repetitions of another.
async fn count_changes(table: &Table, lake: &Lake) -> Result<(BTreeMap<String, u64>, u64)> {
    // The inner query has one row for each place in the sources.
    let sql = format!(
        "SELECT op, CAST(sum(times) AS bigint) AS changes, CAST(sum(times - 1) AS bigint) AS repeated FROM \
         (SELECT __op AS op, count(*) AS times FROM {} GROUP BY __op, __partition, __position, __ordinal) \
         GROUP BY op",
        table.name
    );
    let (mut changes, mut duplicates) = (BTreeMap::new(), 0);
    for batch in lake.query(&[table], &sql).await? {
        let (ops, counts, repeated) = (
            batch.column(0).as_string::<i32>(),
            batch.column(1).as_primitive::<Int64Type>(),
            batch.column(2).as_primitive::<Int64Type>(),
        );
        for row in 0..batch.num_rows() {
            changes.insert(ops.value(row).to_owned(), counts.value(row).unsigned_abs());
            duplicates += repeated.value(row).unsigned_abs();
        }
    }
    Ok((changes, duplicates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_fails_on_any_difference() {
        let verdict = || Verdict {
            tables: vec![TableVerdict {
                table: &TABLES[0],
                source: side(&["a".to_owned()]),
                target: side(&["a".to_owned()]),
                changes: BTreeMap::new(),
                duplicates: 0,
                differences: Vec::new(),
            }],
            quarantine: (7, 7),
        };
        assert!(verdict().holds());
        let tampered: [fn(&mut Verdict); 5] = [
            |verdict| verdict.quarantine.1 = 6,
            |verdict| verdict.tables[0].duplicates = 1,
            |verdict| verdict.tables[0].target = side(&["b".to_owned()]),
            |verdict| verdict.tables[0].target = side(&[]),
            |verdict| verdict.tables[0].source = side(&["a".to_owned(), "a".to_owned()]),
        ];
        for tamper in tampered {
            let mut verdict = verdict();
            tamper(&mut verdict);
            assert!(!verdict.holds(), "{verdict:?}");
        }
    }

    #[test]
    fn rows_of_one_side_alone_are_shown() {
        let rows = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            differences(&rows(&["a", "b", "d"]), &rows(&["a", "c", "d", "d"])),
            ["source b", "target c", "target d"]
        );
        assert!(differences(&rows(&["a"]), &rows(&["a"])).is_empty());
        assert_ne!(side(&rows(&["ab", ""])), side(&rows(&["a", "b"])));
    }
}
