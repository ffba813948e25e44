//! `millstream check`.

use std::process::ExitCode;
use std::sync::Arc;

use millstream_core::{Finding, Severity, Sink, Source, TableSchema};
use serde::Serialize;

use super::{CheckArgs, Format};
use crate::config::{Diagnostic, LoadedPipeline, Project};
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
    let (reports, mut diagnostics) = match Project::load(&args.project) {
        Err(faults) => (Vec::new(), faults),
        Ok(_) if args.offline => (Vec::new(), Vec::new()),
        Ok(project) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(check_project(&project))
        }
    };
    diagnostics.sort_by(|a, b| (&a.place, b.finding.severity).cmp(&(&b.place, a.finding.severity)));
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

async fn check_project(project: &Project) -> (Vec<Report>, Vec<Diagnostic>) {
    let mut reports = Vec::new();
    let mut diagnostics = Vec::new();
    for pipeline in project.pipelines.values() {
        let (report, found) = check_pipeline(pipeline).await;
        reports.extend(report);
        diagnostics.extend(found);
    }
    (reports, diagnostics)
}

async fn check_pipeline(pipeline: &LoadedPipeline) -> (Option<Report>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let spec = match pipeline.build() {
        Ok(spec) => spec,
        Err(error) => {
            found.push(Diagnostic::new(
                crate::config::Place::file(&pipeline.file),
                Finding::from(&error),
            ));
            return (None, found);
        }
    };
    let mut schemas = Vec::new();
    let mut unread = false;
    for mut source in spec.sources {
        let place = pipeline.source_place(source.name());
        let (tables, findings) = inspect_source(&mut *source).await;
        unread |= tables.is_empty();
        found.extend(
            findings
                .into_iter()
                .map(|finding| Diagnostic::new(place.clone(), finding)),
        );
        schemas.extend(tables);
    }
    for sink in &spec.sinks {
        let place = pipeline.sink_place(&sink.name);
        let findings = inspect_sink(&*sink.sink).await;
        found.extend(
            findings
                .into_iter()
                .map(|finding| Diagnostic::new(place.clone(), finding)),
        );
    }
    if found.iter().any(Diagnostic::is_error) && unread {
        // Without a source's columns, every name from it would be reported as unknown.
        return (None, found);
    }
    match plan::plan(&spec.models, &spec.sinks, &schemas).await {
        Err(faults) => {
            let faults = faults
                .iter()
                .map(|fault| (pipeline.place(&fault.subject), Finding::from(&fault.error)));
            found.extend(faults.map(|(place, finding)| Diagnostic::new(place, finding)));
            (None, found)
        }
        Ok(planned) => {
            let tables = planned.iter().map(|table| TableReport {
                table: table.name.clone(),
                from: table.inputs.iter().map(ToString::to_string).collect(),
                sink: spec.sinks[table.sink].name.clone(),
                delivery: spec.sinks[table.sink].sink.delivery(),
                key: table.stage.schema.key.clone(),
            });
            (
                Some(Report {
                    pipeline: spec.name.clone(),
                    tables: tables.collect(),
                }),
                found,
            )
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

async fn inspect_sink(sink: &dyn Sink) -> Vec<Finding> {
    match sink.preflight().await {
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
    match (errors, diagnostics.len() - errors) {
        (0, 0) => println!("ok"),
        (errors, others) => println!("{errors} error(s), {others} other finding(s)"),
    }
}
