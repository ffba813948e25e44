//! `millstream run`.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{Format, RunArgs};
use crate::admin::{self, Exposition};
use crate::config::{Diagnostic, Project};
use crate::supervisor::{Supervisor, panics};

/// How long an answer to the admin interface may take once everything else has stopped.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

pub fn main(args: &RunArgs) -> anyhow::Result<ExitCode> {
    start_logging(args.log_format);
    panics::report_places_only();
    // Reads FAILPOINTS; does nothing in a binary built without the feature.
    let _failpoints = fail::FailScenario::setup();
    let project = match Project::load(&args.project) {
        Ok(project) => project,
        Err(faults) => {
            explain(&faults, args.log_format);
            return Ok(ExitCode::FAILURE);
        }
    };
    let ended = run(args, project);
    match (&ended, args.log_format) {
        (Err(error), Format::Json) => {
            tracing::error!(error = format!("{error:#}"), "cannot run");
            Ok(ExitCode::FAILURE)
        }
        _ => ended,
    }
}

/// Threads of each runtime for access to files and for encoding. As many as there are tables, which
/// is what Tokio would make, take longer to start than they spare, and memory each.
const BLOCKING_THREADS: usize = 32;

fn run(args: &RunArgs, project: Project) -> anyhow::Result<ExitCode> {
    let io = Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("io")
        .enable_all()
        .build()?;
    let compute = Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
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
        Format::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let colours = terminal && !refuses_colours(std::env::var_os("NO_COLOR").as_deref());
            logs.with_ansi(colours).try_init()
        }
        Format::Json => logs.json().try_init(),
    };
}

/// As <https://no-color.org> asks: no colour if the variable is set and not empty.
fn refuses_colours(no_color: Option<&OsStr>) -> bool {
    no_color.is_some_and(|value| !value.is_empty())
}

/// Shows faults of the project: to people as `check` does, to machines one log line each.
fn explain(faults: &[Diagnostic], format: Format) {
    for fault in faults {
        match format {
            Format::Text => eprintln!("{fault}"),
            Format::Json => {
                let (place, finding) = (fault.place.to_string(), &fault.finding);
                tracing::error!(place, code = finding.code, hint = finding.hint, "{}", finding.message);
            }
        }
    }
}

async fn serve(args: &RunArgs, project: Project, io: &Runtime, compute: &Runtime) -> anyhow::Result<ExitCode> {
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
    // Apart from what follows: neither a reload nor a drain may keep a ping back.
    let pings = io.spawn(ping_watchdog());
    supervisor.apply(&project).await;
    // After the pipelines are there: without any, the daemon would say that it is ready.
    let mut serving = io.spawn(admin::serve(listener, supervisor.clone(), exposition, stop.clone()));
    notify(&[NotifyState::Ready]);
    let (reload, reloads) = mpsc::channel(1);
    let reloader = Reloader {
        project: args.project.clone(),
        format: args.log_format,
        listens: args.admin_listen.is_none().then_some(project.daemon.admin.listen),
        supervisor: supervisor.clone(),
    };
    let reloading = io.spawn(reloader.keep_up(reloads));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // One that waits already will read the folder as it is then.
            _ = hangup.recv() => drop(reload.try_send(())),
        }
    }
    tracing::info!("draining");
    notify(&[NotifyState::Stopping]);
    reloading.abort();
    // A reload that has ended starts nothing any more; its result is its cancellation.
    let _ = reloading.await;
    let failed = supervisor.drain().await;
    stop.cancel();
    match tokio::time::timeout(LAST_ANSWERS, &mut serving).await {
        Ok(served) => served??,
        // A request that was never sent whole; nobody waits for its answer.
        Err(_) => serving.abort(),
    }
    upkeep.abort();
    pings.abort();
    if failed.is_empty() {
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    } else {
        tracing::error!(pipelines = failed.join(", "), "stopped, but not all is well");
        Ok(ExitCode::FAILURE)
    }
}

/// Reads the project folder again when asked to, one time after the other.
struct Reloader {
    project: PathBuf,
    format: Format,
    /// The address from millstream.yaml that is in use; `None` if the command line gave one.
    listens: Option<SocketAddr>,
    supervisor: Supervisor,
}

impl Reloader {
    async fn keep_up(self, mut asked: mpsc::Receiver<()>) {
        while asked.recv().await.is_some() {
            if let Ok(now) = NotifyState::monotonic_usec_now() {
                notify(&[NotifyState::Reloading, now]);
            }
            self.reload().await;
            notify(&[NotifyState::Ready]);
        }
    }

    /// A folder with faults changes nothing.
    async fn reload(&self) {
        let folder = self.project.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || Project::load(&folder)).await else {
            tracing::error!("the project could not be read; the running pipelines stay as they are");
            return;
        };
        match loaded {
            Ok(project) => {
                if self
                    .listens
                    .is_some_and(|address| address != project.daemon.admin.listen)
                {
                    tracing::warn!("a new `admin.listen` takes effect when the daemon is started again");
                }
                self.supervisor.apply(&project).await;
                tracing::info!(pipelines = project.pipelines.len(), "reloaded");
            }
            Err(faults) => {
                explain(&faults, self.format);
                tracing::error!(
                    faults = faults.len(),
                    "the project has faults; the running pipelines stay as they are"
                );
            }
        }
    }
}

/// Half of what systemd asks for, as its manual advises. Runs where the sources' keepalives are
/// answered, so that a daemon that no longer answers them is started again.
async fn ping_watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut tick = tokio::time::interval(period / 2);
    loop {
        tick.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_in_no_color_refuses_colours() {
        assert!(refuses_colours(Some("1".as_ref())) && refuses_colours(Some("0".as_ref())));
        assert!(!refuses_colours(Some("".as_ref())) && !refuses_colours(None));
    }
}
