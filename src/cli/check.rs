//! `millstream check`.

use std::cmp::Reverse;
use std::process::ExitCode;
use std::sync::Arc;

use futures::future::join_all;
use millstream_core::{Finding, Severity, Sink, SinkTable, Source, TableSchema};
use serde::Serialize;

use super::{CheckArgs, Format, outline};
use crate::config::{Diagnostic, LoadedPipeline, Place, Project};
use crate::engine::plan;

/// What was found out about one pipeline that has no fault.
#[derive(Debug, Serialize)]
struct Report {
    pipeline: String,
    tables: Vec<TableReport>,
}

#[derive(Debug, Serialize)]
struct TableReport {
    table: String,
    from: Vec<String>,
    sink: String,
    #[serde(flatten)]
    delivery: millstream_core::Delivery,
    key: Vec<String>,
}

pub fn main(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let (project, mut diagnostics) = Project::read(&args.project);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (reports, found) = runtime.block_on(check_project(&project, args.offline));
    diagnostics.extend(found);
    diagnostics.sort_by(|a, b| order(a).cmp(&order(b)));
    // What the files alone show is found again when the tables are planned.
    diagnostics.dedup();
    match args.format {
        Format::Json => {
            let document = serde_json::json!({ "pipelines": reports, "findings": diagnostics });
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        Format::Text => print(&reports, &diagnostics),
    }
    let failed = diagnostics.iter().any(Diagnostic::is_error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// By place, the gravest first.
fn order(diagnostic: &Diagnostic) -> (&Place, Reverse<Severity>, &str) {
    let finding = &diagnostic.finding;
    (&diagnostic.place, Reverse(finding.severity), &finding.message)
}

/// Looks at the pipelines side by side, so that servers that do not answer cost their time once.
async fn check_project(project: &Project, offline: bool) -> (Vec<Report>, Vec<Diagnostic>) {
    let pipelines = project.pipelines.values();
    let checked = join_all(pipelines.map(|pipeline| check_pipeline(pipeline, offline))).await;
    let (reports, diagnostics): (Vec<_>, Vec<_>) = checked.into_iter().unzip();
    (
        reports.into_iter().flatten().collect(),
        diagnostics.into_iter().flatten().collect(),
    )
}

async fn check_pipeline(pipeline: &LoadedPipeline, offline: bool) -> (Option<Report>, Vec<Diagnostic>) {
    if offline {
        return (None, outline::faults(pipeline, &[]).await);
    }
    let mut found = Vec::new();
    let mut schemas = Vec::new();
    let mut unread = false;
    for (name, source) in pipeline.build_sources() {
        // A source that cannot be built was reported when the project was read.
        let Ok(mut source) = source else {
            unread = true;
            continue;
        };
        let place = pipeline.source_place(name);
        let (tables, findings) = inspect_source(&mut *source).await;
        unread |= tables.is_empty();
        let findings = findings.into_iter();
        found.extend(findings.map(|finding| Diagnostic::new(place.clone(), finding)));
        schemas.extend(tables);
    }
    let mut sinks = Vec::new();
    let mut places = Vec::new();
    for (name, sink) in pipeline.build_sinks() {
        let Ok(sink) = sink else { continue };
        places.push(pipeline.sink_place(name));
        sinks.push(sink);
    }
    let planned = plan::plan(&pipeline.models, &sinks, &schemas).await;
    for (number, (place, sink)) in places.into_iter().zip(&sinks).enumerate() {
        let tables = planned.iter().flatten().filter(|table| table.sink == number);
        let tables: Vec<_> = tables
            .map(|table| SinkTable {
                name: table.name.clone(),
                schema: table.stage.schema.clone(),
            })
            .collect();
        let findings = inspect_sink(&*sink.sink, &tables).await.into_iter();
        found.extend(findings.map(|finding| Diagnostic::new(place.clone(), finding)));
    }
    let whole = pipeline.complete && sinks.len() == pipeline.config.sinks.len();
    if unread || !whole {
        found.extend(outline::faults(pipeline, &schemas).await);
        return (None, found);
    }
    match planned {
        Err(faults) => {
            found.extend(faults.iter().map(|fault| pipeline.diagnostic(fault)));
            // A fault of a model's SQL keeps its checks from being planned; some of theirs show anyway.
            found.extend(outline::faults(pipeline, &schemas).await);
            (None, found)
        }
        Ok(planned) => {
            let tables = planned.iter().map(|table| TableReport {
                table: table.name.clone(),
                from: table.inputs.iter().map(ToString::to_string).collect(),
                sink: sinks[table.sink].name.clone(),
                delivery: sinks[table.sink].sink.delivery(),
                key: table.stage.schema.key.clone(),
            });
            let report = Report {
                pipeline: pipeline.config.pipeline.value.clone(),
                tables: tables.collect(),
            };
            (Some(report), found)
        }
    }
}

/// The source's tables, as far as they can be read, and what its preflight found.
async fn inspect_source(source: &mut dyn Source) -> (Vec<Arc<TableSchema>>, Vec<Finding>) {
    let mut findings = match source.preflight().await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::from(&error)],
    };
    let tables = match source.tables().await {
        Ok(tables) => tables,
        Err(error) => {
            // The preflight has most likely said it already, and better.
            if !findings.iter().any(|finding| finding.severity == Severity::Error) {
                findings.push(Finding::from(&error));
            }
            Vec::new()
        }
    };
    (tables, findings)
}

async fn inspect_sink(sink: &dyn Sink, tables: &[SinkTable]) -> Vec<Finding> {
    match sink.preflight(tables).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::from(&error)],
    }
}

fn print(reports: &[Report], diagnostics: &[Diagnostic]) {
    for report in reports {
        println!("pipeline {}", report.pipeline);
        for table in &report.tables {
            let key = if table.key.is_empty() {
                "no key".to_owned()
            } else {
                format!("key {}", table.key.join(", "))
            };
            println!(
                "  {} <- {}  ({}, {}, {key})",
                table.table,
                table.from.join(" + "),
                table.sink,
                table.delivery
            );
        }
    }
    for diagnostic in diagnostics {
        println!("{diagnostic}");
    }
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let has_warnings = diagnostics
        .iter()
        .any(|diagnostic| diagnostic.finding.severity == Severity::Warning);
    match (errors, diagnostics.len() - errors) {
        (0, _) if !has_warnings => println!("ok"),
        (errors, others) => println!("{errors} error(s), {others} other finding(s)"),
    }
}
