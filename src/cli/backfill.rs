//! `millstream backfill`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::{BackfillArgs, Format};
use crate::admin::client::{self, BackfillAnswer};

/// Taking a snapshot waits for transactions that write.
const PATIENCE: Duration = Duration::from_secs(600);

pub fn main(args: &BackfillArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let asked = client::backfill(args.admin, &args.pipeline, &args.table, args.condition.as_deref());
        tokio::time::timeout(PATIENCE, asked)
            .await
            .with_context(|| format!("no answer from {} within {} seconds", args.admin, PATIENCE.as_secs()))?
    })?;
    match (args.format, &answer) {
        (Format::Json, _) => println!("{}", serde_json::to_string(&answer)?),
        (Format::Text, BackfillAnswer { error: None, .. }) => {
            println!(
                "{}: `{}` is being copied again; `millstream status` tells how far it is",
                args.pipeline, args.table
            );
        }
        (
            Format::Text,
            BackfillAnswer {
                error: Some(error),
                hint,
            },
        ) => {
            eprintln!("error: {error}");
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
        }
    }
    Ok(if answer.error.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
