//! `millstream setup`.

use std::process::ExitCode;

use anyhow::bail;
use millstream_core::{Finding, Severity};
use serde::Serialize;

use super::{Format, SetupPostgresArgs};
use crate::config::{Diagnostic, Project};

/// What to run for one source.
#[derive(Debug, Serialize)]
struct SourceSetup {
    pipeline: String,
    source: String,
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
    statements: Vec<Finding>,
}

pub fn postgres(args: &SetupPostgresArgs) -> anyhow::Result<ExitCode> {
    let (project, faults) = Project::read(&args.project);
    if let Some(name) = &args.pipeline
        && !project.pipelines.contains_key(name)
    {
        print_faults(&faults);
        bail!("there is no pipeline `{name}` in {}", args.project.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let setups = runtime.block_on(collect(&project, args.pipeline.as_deref()));
    // Its other faults are for `check`.
    if setups.is_empty() {
        print_faults(&faults);
        bail!("there is no PostgreSQL source in {}", args.project.display());
    }
    match args.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&setups)?),
        Format::Text => setups.iter().for_each(print),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_faults(faults: &[Diagnostic]) {
    for fault in faults {
        eprintln!("{fault}");
    }
}

async fn collect(project: &Project, only: Option<&str>) -> Vec<SourceSetup> {
    let mut setups = Vec::new();
    let wanted = project.pipelines.values();
    for pipeline in wanted.filter(|pipeline| only.is_none_or(|only| pipeline.config.pipeline.value == only)) {
        for (name, source) in &pipeline.config.sources {
            let Some(setup) = source.value.setup(&pipeline.config.pipeline.value, name).await else {
                continue;
            };
            setups.push(SourceSetup {
                pipeline: pipeline.config.pipeline.value.clone(),
                source: name.clone(),
                server: setup.server,
                unreachable: setup.unreachable,
                statements: setup.statements,
            });
        }
    }
    setups
}

/// As a script for psql: what is not to be run as it is, is a comment.
fn print(setup: &SourceSetup) {
    println!(
        "-- {}: source `{}` of pipeline `{}`",
        one_line(&setup.server),
        setup.source,
        setup.pipeline
    );
    match &setup.unreachable {
        Some(why) => {
            println!(
                "-- could not be looked at ({}): this is all that a new server needs",
                one_line(why)
            );
        }
        None if setup
            .statements
            .iter()
            .all(|statement| statement.severity != Severity::Error) =>
        {
            println!("-- nothing is missing");
        }
        None => println!("-- this is what is missing there"),
    }
    if setup.statements.iter().any(takes_password) {
        println!("-- run it by: psql -v ON_ERROR_STOP=1 -v password=… as a superuser, in this database");
    }
    for statement in &setup.statements {
        let code = statement.code.map(|code| format!(" [{code}]")).unwrap_or_default();
        println!();
        println!(
            "-- {}: {}{code}",
            one_line(&statement.subject),
            one_line(&statement.message)
        );
        if let Some(hint) = &statement.hint {
            println!("-- hint: {}", one_line(hint));
        }
        match &statement.sql {
            Some(sql) if statement.severity == Severity::Error => println!("{sql}"),
            Some(sql) => println!("-- {}", one_line(sql)),
            None => {}
        }
    }
    println!();
}

fn takes_password(statement: &Finding) -> bool {
    statement.sql.as_ref().is_some_and(|sql| sql.contains(":'password'"))
}

/// A name may hold a line's end, behind which a comment would no longer be one.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
