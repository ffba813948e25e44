//! `millstream run`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{Format, RunArgs};
use crate::admin::{self, Exposition};
use crate::config::{Diagnostic, Project};
use crate::supervisor::Supervisor;

pub fn main(args: &RunArgs) -> anyhow::Result<ExitCode> {
    start_logging(args.log_format);
    // Reads FAILPOINTS; does nothing in a binary built without the feature.
    let _failpoints = fail::FailScenario::setup();
    let project = match Project::load(&args.project) {
        Ok(project) => project,
        Err(faults) => {
            explain(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    let io = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("io")
        .enable_all()
        .build()?;
    let compute = Builder::new_multi_thread()
        .thread_name("compute")
        .enable_all()
        .build()?;
    let ended = io.block_on(serve(args, project, &io, &compute));
    // Blocking work that is still under way must not hold up the exit: everything is committed.
    compute.shutdown_timeout(Duration::from_secs(1));
    io.shutdown_timeout(Duration::from_secs(1));
    ended
}

fn start_logging(format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second initialisation only happens in tests, where the first stays in force.
    let _ = match format {
        Format::Text => logs
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        Format::Json => logs.json().try_init(),
    };
}

fn explain(faults: &[Diagnostic]) {
    for fault in faults {
        eprintln!("{fault}");
    }
}

async fn serve(args: &RunArgs, mut project: Project, io: &Runtime, compute: &Runtime) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let exposition = Exposition::install()?;
    let listen = args.admin_listen.unwrap_or(project.daemon.admin.listen);
    let listener = admin::bind(listen).await.context("cannot start the admin interface")?;
    tracing::info!(address = %listener.local_addr()?, "admin interface listening");
    let supervisor = Supervisor::new(io.handle().clone(), compute.handle().clone());
    let stop = CancellationToken::new();
    let upkeep = io.spawn(exposition.clone().keep_up());
    supervisor.apply(&project).await;
    // After the pipelines are there: without any, the daemon would say that it is ready.
    let serving = io.spawn(admin::serve(listener, supervisor.clone(), exposition, stop.clone()));
    notify(&[NotifyState::Ready]);
    let mut watchdog = tokio::time::interval(watchdog_period());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(args, &mut project, &supervisor).await,
            _ = watchdog.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
    tracing::info!("draining");
    notify(&[NotifyState::Stopping]);
    supervisor.drain().await;
    stop.cancel();
    serving.await??;
    upkeep.abort();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Reads the project folder again. A folder with faults changes nothing.
async fn reload(args: &RunArgs, project: &mut Project, supervisor: &Supervisor) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
    match Project::load(&args.project) {
        Ok(loaded) => {
            supervisor.apply(&loaded).await;
            *project = loaded;
            tracing::info!(pipelines = project.pipelines.len(), "reloaded");
        }
        Err(faults) => {
            tracing::error!(
                faults = faults.len(),
                "the project has faults; the running pipelines stay as they are"
            );
            explain(&faults);
        }
    }
    notify(&[NotifyState::Ready]);
}

/// Half of what systemd asks for, as its manual advises; without a watchdog, rarely.
fn watchdog_period() -> Duration {
    sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |period| period / 2)
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
