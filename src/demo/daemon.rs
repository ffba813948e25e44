//! The daemon under show: a child process, started exactly as a user would.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::child::{self, Child};
use super::fault::with_log;
use super::folder::Folder;
use crate::admin::client;
use crate::engine::status::{PipelineStatus, State};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// `millstream run <project>`, with its log in the demo's folder.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until its pipeline runs.
    ///
    /// # Errors
    /// If it ends, or its pipeline does not run in time; with the end of its log.
    pub async fn start(folder: &Folder, shop_url: &str, brokers: &str) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let admin = SocketAddr::from(([127, 0, 0, 1], child::free_port()?));
        let log = folder.log("daemon");
        let process = Child::spawn(&program, None, &log, ("TERM", STOP_LIMIT), |command| {
            command
                .arg("run")
                .arg(folder.project())
                .args(["--admin-listen", &admin.to_string()]);
            command
                .env("SHOP_URL", shop_url)
                .env("KAFKA", brokers)
                .env("LAKE", folder.lake());
            // Not the user's own choices, which could hide what the demo shows.
            command
                .env_remove("MILLSTREAM_LOG_FORMAT")
                .env_remove("FAILPOINTS")
                .env_remove("NOTIFY_SOCKET");
        });
        let mut daemon = Self {
            process: process.context("cannot start the daemon")?,
            admin,
            log,
        };
        let started = Instant::now();
        while !daemon.is_running().await? {
            if started.elapsed() > START_LIMIT {
                return Err(daemon.failed(format!("the pipeline does not run after {START_LIMIT:?}")));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(daemon)
    }

    /// The address of its admin interface.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// An error with the end of the daemon's log.
    pub fn failed(&self, what: impl std::fmt::Display) -> anyhow::Error {
        with_log(anyhow!("{what}"), &self.log)
    }

    /// The status of its pipeline.
    ///
    /// # Errors
    /// If the daemon has ended or does not answer, or the pipeline has failed.
    pub async fn status(&mut self) -> Result<PipelineStatus> {
        if let Some(status) = self.process.exited() {
            return Err(self.failed(format!("the daemon ended with {status}")));
        }
        let answer = timeout(ANSWER_LIMIT, client::pipelines(self.admin))
            .await
            .context("no answer in time")
            .and_then(|answer| answer);
        let body =
            answer.map_err(|error| self.failed(format!("the daemon's admin interface does not answer: {error:#}")))?;
        let pipelines: Vec<PipelineStatus> =
            serde_json::from_str(&body).context("the daemon's answer cannot be read")?;
        let pipeline = pipelines
            .into_iter()
            .next()
            .ok_or_else(|| self.failed("the daemon has no pipeline"))?;
        match (pipeline.state, &pipeline.last_error) {
            (State::Starting | State::Running, None) => Ok(pipeline),
            (_, Some(error)) => {
                let hint = error
                    .hint
                    .as_ref()
                    .map(|hint| format!("\nhint: {hint}"))
                    .unwrap_or_default();
                Err(self.failed(format!("the pipeline failed: {}{hint}", error.message)))
            }
            (state, None) => Err(self.failed(format!("the pipeline is {state:?}"))),
        }
    }

    /// Stops it by SIGTERM, on which it commits what is complete.
    ///
    /// # Errors
    /// If it has to be killed, or ends with a failure.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.stop().context("cannot stop the daemon")? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(format!("the daemon ended with {status}"))),
            None => Err(self.failed(format!("the daemon did not drain in {STOP_LIMIT:?} and was killed"))),
        }
    }

    /// The most memory that it has held, such as `120 MiB`; where the system tells.
    pub fn peak_memory(&self) -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(format!("{} MiB", kib / 1024))
    }

    async fn is_running(&mut self) -> Result<bool> {
        if self.process.exited().is_none() && TcpStream::connect(self.admin).await.is_err() {
            return Ok(false);
        }
        // The admin interface listens before the pipelines are there.
        Ok(self.status().await?.state == State::Running)
    }
}
