//! `millstream status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use millstream_core::{CopyKind, CopyProgress};

use super::{Format, StatusArgs};
use crate::admin::client;
use crate::engine::status::PipelineStatus;

pub fn main(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(5), client::pipelines(args.admin))
            .await
            .with_context(|| format!("no answer from {} within 5 seconds", args.admin))?
    })?;
    match args.format {
        Format::Json => println!("{body}"),
        Format::Text => print(&serde_json::from_str::<Vec<PipelineStatus>>(&body)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(pipelines: &[PipelineStatus]) {
    for pipeline in pipelines {
        let state = serde_json::to_value(pipeline.state)
            .ok()
            .and_then(|state| state.as_str().map(str::to_owned));
        let lag = pipeline
            .lag_seconds
            .map(|lag| format!(", {lag:.1} s behind"))
            .unwrap_or_default();
        println!(
            "{}: {} ({}{lag}), {} rows in, {} commits, {} restarts",
            pipeline.pipeline,
            state.unwrap_or_default(),
            pipeline.delivery,
            pipeline.rows_in,
            pipeline.commits,
            pipeline.restarts
        );
        println!(
            "  {:<32} {:>12} {:>10} {:>12} {:>10} {:>8}",
            "table", "rows", "pending", "quarantined", "dropped", "version"
        );
        for (name, table) in &pipeline.tables {
            println!(
                "  {name:<32} {:>12} {:>10} {:>12} {:>10} {:>8}",
                table.rows, table.pending, table.quarantined, table.dropped, table.version
            );
        }
        for (table, copy) in pipeline.copies.iter().filter(|(_, copy)| !copy.finished) {
            println!("  {}", progress(table, copy));
        }
        if let Some(error) = &pipeline.last_error {
            println!("  last error: {}", error.message);
            if let Some(hint) = &error.hint {
                println!("  hint: {hint}");
            }
        }
    }
}

/// `copying shop.public.orders: 45 %, 1200000 rows, 90 of 200 MB, 30 s left`
fn progress(table: &str, copy: &CopyProgress) -> String {
    const MB: u64 = 1_000_000;
    let left = copy
        .seconds_left
        .map(|seconds| format!(", {seconds} s left"))
        .unwrap_or_default();
    let what = match copy.kind {
        CopyKind::First => "copying",
        CopyKind::Backfill => "copying again",
        CopyKind::Attached => "copying partitions attached to",
        CopyKind::Replaced => "copying the new table",
        CopyKind::Changed => "copying for its changed columns",
        CopyKind::LostSlot => "copying after the loss of the slot",
    };
    format!(
        "{what} {table}: {:.0} %, {} rows, {} of {} MB{left}",
        copy.ratio * 100.0,
        copy.rows,
        copy.bytes / MB,
        copy.total_bytes / MB
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line() {
        let copy = CopyProgress {
            kind: CopyKind::First,
            rows: 1_200_000,
            bytes: 90_000_000,
            total_bytes: 200_000_000,
            ratio: 0.45,
            seconds_left: Some(30),
            finished: false,
        };
        assert_eq!(
            progress("shop.public.orders", &copy),
            "copying shop.public.orders: 45 %, 1200000 rows, 90 of 200 MB, 30 s left"
        );
    }
}
