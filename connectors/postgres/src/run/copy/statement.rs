//! The statements that read a table as the stream would send it: published columns, filtered
//! rows, and as text what we cannot read in binary.

use postgres_protocol::escape::escape_identifier;

use super::job::TableJob;
use super::piece::Addresses;
use super::place::{LAST_BLOCK, Tid};
use crate::catalog::TableFile as File;

/// Which rows of a file are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Selection {
    /// Those behind the first, up to the block.
    Behind(Tid, u32),
    /// Those behind the first and up to the second that were written by transactions from this
    /// one on: the horizon of a snapshot.
    Moved(Tid, Tid, u64),
}

/// The statements by which a condition over the columns of `relation` is tried. It must be one
/// expression: what leaves the parentheses of one of them does not fit in the other's brackets.
pub(in crate::run) fn selects(relation: &str, condition: &str) -> Vec<String> {
    if condition.is_empty() {
        return vec![format!("SELECT FROM {relation}")];
    }
    // The line's end closes a comment.
    vec![
        format!("SELECT FROM {relation} WHERE ({condition}\n)"),
        format!("SELECT FROM {relation} WHERE (ARRAY[{condition}\n])[1]"),
    ]
}

/// `COPY (SELECT ctid, … ) TO STDOUT (FORMAT binary)`: each row begins with its address where those are sent.
pub(super) fn statement(job: &TableJob, file: &File, selection: &Selection, addresses: Addresses) -> String {
    let columns = job.table.columns.iter().zip(&job.types).map(|(column, r#type)| {
        let name = escape_identifier(&column.name);
        if r#type.needs_text() {
            format!("{name}::pg_catalog.text")
        } else {
            name
        }
    });
    let address = (addresses == Addresses::Sent).then(|| "ctid".to_owned());
    let filters = job
        .table
        .row_filter
        .iter()
        .chain(job.purpose.condition())
        .chain(&file.filter);
    // The line's end closes a comment.
    let mut conditions: Vec<String> = filters.map(|filter| format!("({filter}\n)")).collect();
    if file.addressable {
        match selection {
            Selection::Behind(after, last) => {
                conditions.push(format!("ctid > {}", after.sql()));
                if *last < LAST_BLOCK {
                    conditions.push(format!("ctid < {}", Tid::start_of(last + 1).sql()));
                }
            }
            Selection::Moved(after, last, horizon) => {
                conditions.push(format!("ctid > {} AND ctid <= {}", after.sql(), last.sql()));
                conditions.push(written_since(*horizon));
            }
        }
    }
    let filter = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    format!(
        "COPY (SELECT {} FROM {}{filter}) TO STDOUT (FORMAT binary)",
        address.into_iter().chain(columns).collect::<Vec<_>>().join(", "),
        file.relation
    )
}

/// Whether a row was written by the transaction `horizon` or one that began later. A row's `xmin`
/// is the lower half of a transaction's number, and wraps around: what is more than 2^31
/// transactions old passes too, and is read for nothing.
fn written_since(horizon: u64) -> String {
    let lower = horizon & u64::from(u32::MAX);
    format!("((xmin::pg_catalog.text::bigint - {lower}) & 4294967295) < 2147483648")
}
