//! Queries over tables that a sink has written as Parquet.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use millstream_core::{Error, ErrorKind, Result, envelope};

use crate::catalog::quoted;
use crate::fold;

/// A table to query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryTable {
    /// Its name in SQL.
    pub name: String,
    /// The columns that identify a row; empty for a table without a key.
    pub key: Vec<String>,
    /// Its Parquet files, as paths or `file://` URLs.
    pub files: Vec<String>,
}

/// Runs one SQL query over Parquet files.
///
/// Each table is registered as it was written: one row for each change, with the reserved
/// columns. Beside it stands `<name>_current`, the rows as they are after all changes: the
/// latest of each key by `__position` and `__ordinal`, without deleted ones and without the
/// reserved columns. It is made only if the SQL names it, and is held in memory.
///
/// # Errors
/// `Config` with code `SQ0024` if the query cannot be planned or run.
pub async fn query(tables: &[QueryTable], sql: &str) -> Result<Vec<RecordBatch>> {
    let mut config = SessionConfig::new().with_information_schema(true);
    config.options_mut().execution.parquet.schema_force_view_types = false;
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let context = SessionContext::new_with_config(config);
    for table in tables {
        register(&context, table, sql)
            .await
            .map_err(|error| failed(&error).with("table", &table.name))?;
    }
    let frame = context.sql(sql).await.map_err(|error| failed(&error))?;
    frame.collect().await.map_err(|error| failed(&error))
}

async fn register(context: &SessionContext, table: &QueryTable, sql: &str) -> Result<(), DataFusionError> {
    let files = context
        .read_parquet(table.files.clone(), ParquetReadOptions::default().parquet_pruning(true))
        .await?;
    let changes = files.schema().has_column_with_unqualified_name(envelope::OP);
    context.register_table(quoted(&table.name).as_str(), files.into_view())?;
    let current = format!("{}_current", table.name);
    if !changes || !sql.to_lowercase().contains(&current.to_lowercase()) {
        return Ok(());
    }
    let sorted = format!(
        "SELECT * FROM {} ORDER BY {position}, {ordinal}",
        quoted(&table.name),
        position = envelope::POSITION,
        ordinal = envelope::ORDINAL,
    );
    let rows = context.sql(&sorted).await?.collect().await?;
    let folded = fold::current(&rows, &table.key)?;
    if let Some(folded) = folded {
        let view = MemTable::try_new(folded.schema(), vec![vec![folded]])?;
        context.register_table(quoted(&current).as_str(), Arc::new(view))?;
    }
    Ok(())
}

fn failed(error: &DataFusionError) -> Error {
    let message = error
        .diagnostic()
        .map_or_else(|| error.strip_backtrace(), |known| known.message.clone());
    Error::new(ErrorKind::Config, format!("the query cannot be run: {message}"))
        .code("SQ0024")
        .hint("each table is there as its changes, and as <name>_current for its rows as they are now")
}

/// Rows as a text table: one header, columns aligned, numbers to the right, NULL for null, no
/// colour. Long cells are not cut.
pub fn format_table(batches: &[RecordBatch]) -> String {
    let Some(first) = batches.first() else {
        return "(no rows)\n".to_owned();
    };
    let schema = first.schema();
    let options = FormatOptions::default().with_null("NULL");
    let mut cells: Vec<Vec<String>> = vec![schema.fields().iter().map(|field| field.name().clone()).collect()];
    for batch in batches {
        let formatters: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect();
        for row in 0..batch.num_rows() {
            let cell = |formatter: &Result<ArrayFormatter<'_>, _>| match formatter {
                Ok(formatter) => formatter.value(row).try_to_string().unwrap_or_else(|_| "?".to_owned()),
                Err(_) => "?".to_owned(),
            };
            cells.push(formatters.iter().map(cell).collect());
        }
    }
    let widths: Vec<usize> = (0..schema.fields().len())
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in cells.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            let separator = if column == 0 { "" } else { "  " };
            let line = match schema.field(column).data_type().is_numeric() {
                true => format!("{separator}{padding}{cell}"),
                false => format!("{separator}{cell}{padding}"),
            };
            text.push_str(&line);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&rules.join("  "));
            text.push('\n');
        }
    }
    text
}
