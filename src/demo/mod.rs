//! `millstream demo`: the whole system on this machine, in under a minute.
//!
//! ```text
//! Cluster (PostgreSQL) ─┐
//!   shop, workload      ├─► Daemon (child process: millstream run <folder>/shop) ─► <folder>/lake
//! Broker (Kafka mock)  ─┘                                                             │
//!   clicks                                      proof: source = fold of the files ◄───┘
//! ```
//!
//! The project folder that runs is `examples/shop`, as a user would copy it. Servers are child
//! processes that die with this one; the broker lives inside it.

mod broker;
mod child;
mod clicks;
mod cluster;
mod daemon;
mod fault;
mod folder;
mod lake;
mod progress;
mod proof;
mod report;
mod shop;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::broker::Broker;
use self::cluster::Cluster;
use self::daemon::Daemon;
use self::folder::Folder;
use self::progress::Progress;
use self::shop::Shop;
use self::workload::Workload;

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct DemoOptions {
    /// Leave everything running until Ctrl-C.
    pub keep: bool,
    /// The folder to work in, which must be empty or missing; a fresh one if absent.
    pub dir: Option<PathBuf>,
}

/// Runs the demo. The exit code says whether the target equals its sources.
///
/// # Errors
/// What failed, where its log is, and a hint. No process is left behind.
pub fn main(options: &DemoOptions) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // On the main thread: a parent-death signal follows the thread that started the child.
    let equal = runtime.block_on(run(options))?;
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(options: &DemoOptions) -> anyhow::Result<bool> {
    let interrupted = cancelled_by_signals()?;
    let started = Instant::now();
    let folder = Folder::create(options.dir.as_deref())?;
    println!("Millstream demo, in {}", folder.path().display());
    let mut session = tokio::select! {
        session = Session::start(folder) => session?,
        () = interrupted.cancelled() => bail!("interrupted"),
    };
    let equal = tokio::select! {
        equal = session.show(options.keep) => equal?,
        () = interrupted.cancelled() => bail!("interrupted"),
    };
    let outcome = if equal {
        "the target equals its sources, and each change is there once"
    } else {
        "THE TARGET DIFFERS FROM ITS SOURCES, see above"
    };
    println!("\nDone in {:.0} seconds: {outcome}.", started.elapsed().as_secs_f64());
    if options.keep {
        session.keep_running(&interrupted).await?;
    }
    Ok(equal)
}

/// A token that SIGINT and SIGTERM cancel. The servers have process groups of their own, so a
/// Ctrl-C reaches this process alone, which then stops them in order.
fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = token.clone();
    #[expect(clippy::disallowed_methods, reason = "waits for signals until the process ends")]
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}

/// Everything that runs. Fields are dropped in order: readers before what they read.
struct Session {
    daemon: Daemon,
    workload: Workload,
    shop: Shop,
    cluster: Cluster,
    folder: Folder,
}

impl Session {
    async fn start(folder: Folder) -> anyhow::Result<Self> {
        let cluster = Cluster::start(&folder.log("postgres"))?;
        println!(
            "PostgreSQL {} on port {}, data in {}",
            cluster.version(),
            cluster.port(),
            cluster.data().display()
        );
        let shop = Shop::create(&cluster).await?;
        let broker = Broker::start()?;
        println!("Kafka-protocol broker on {}", broker.address());
        println!("The shop already has {}.", shop::INITIAL_ROWS);
        let daemon = Daemon::start(&folder, &shop.url(&cluster), &broker.address()).await?;
        println!(
            "millstream run {}   (admin on {})\n",
            folder.project().display(),
            daemon.admin()
        );
        let workload = Workload::new(broker);
        Ok(Self {
            daemon,
            workload,
            shop,
            cluster,
            folder,
        })
    }

    /// The workload, the wait until all of it is committed, and the proof: whether source and target are equal.
    async fn show(&mut self, keep: bool) -> anyhow::Result<bool> {
        let mut progress = Progress::new();
        let end = progress
            .beside(&mut self.daemon, self.workload.run(&mut self.shop))
            .await?;
        println!("\nThe workload is over; waiting until every table holds the sources' last positions.");
        progress.until_caught_up(&mut self.daemon, &end).await?;
        if !keep {
            let peak = self.daemon.peak_memory();
            self.daemon.stop()?;
            println!(
                "The daemon drained and stopped{}.",
                peak.map(|peak| format!("; its memory peaked at {peak}"))
                    .unwrap_or_default()
            );
        }
        let lake = lake::Lake::new(&self.folder.lake());
        let verdict = proof::prove(&self.shop, self.workload.sent(), &lake).await?;
        report::print(&verdict, &lake, &self.folder).await?;
        Ok(verdict.holds())
    }

    async fn keep_running(mut self, interrupted: &CancellationToken) -> anyhow::Result<()> {
        println!("\nEverything goes on with a gentle workload until Ctrl-C.");
        println!("  psql {}", self.cluster.url(cluster::SUPERUSER, cluster::DATABASE));
        println!("  Kafka brokers: {} (topic {})", self.workload.broker(), broker::TOPIC);
        println!(
            "  curl http://{}/api/v1/pipelines   and /metrics, /health/ready",
            self.daemon.admin()
        );
        println!("  millstream status --admin {}\n", self.daemon.admin());
        let mut progress = Progress::new();
        tokio::select! {
            ended = progress.beside(&mut self.daemon, self.workload.go_on(&mut self.shop)) => ended?,
            () = interrupted.cancelled() => {}
        }
        println!("\nStopping: the daemon drains, then PostgreSQL stops and its data go.");
        self.daemon.stop()
    }
}
