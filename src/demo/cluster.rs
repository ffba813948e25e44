//! A throw-away PostgreSQL cluster from the machine's own server binaries.

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;
use uuid::Uuid;

use super::child::{self, Child, SystemUser};
use super::fault::{hinted, with_log};

/// The cluster's superuser, who owns the shop.
pub const SUPERUSER: &str = "postgres";
/// The shop's database.
pub const DATABASE: &str = "shop";

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const INSTALL: &str = "install the server: `apt install postgresql` (Debian, Ubuntu) or `dnf install postgresql-server` \
    (Fedora); or set MILLSTREAM_PG_BIN to the folder of `initdb` and `postgres`";

/// A running cluster on a free loopback port, with `wal_level=logical`. Dropping it stops the
/// server and removes its data.
#[derive(Debug)]
pub struct Cluster {
    _server: Child,
    port: u16,
    password: String,
    version: String,
    data: PathBuf,
    // Last, so that the server is gone before its files are.
    _folder: TempDir,
}

impl Cluster {
    /// Creates and starts it. The server's output goes to `log`.
    ///
    /// # Errors
    /// If the binaries are missing, or one of them fails.
    pub fn start(log: &Path) -> Result<Self> {
        let binaries = binaries()?;
        let user = if child::is_root() {
            Some(unprivileged_user()?)
        } else {
            None
        };
        // Not in the demo's own folder, into which another user may not be able to look.
        let folder = tempfile::Builder::new()
            .prefix("millstream-demo-pg-")
            .tempdir()
            .context("cannot make a folder")?;
        give(folder.path(), user)?;
        let cluster = Plan {
            binaries,
            user,
            folder: folder.path(),
            port: child::free_port()?,
            password: Uuid::new_v4().to_string(),
        };
        cluster.initialise()?;
        let mut server = cluster.spawn(log)?;
        cluster.wait_until_ready(&mut server, log)?;
        let version = fs::read_to_string(cluster.data().join("PG_VERSION")).unwrap_or_default();
        let (port, password, data) = (cluster.port, cluster.password.clone(), cluster.data());
        Ok(Self {
            _server: server,
            port,
            password,
            version: version.trim().to_owned(),
            data,
            _folder: folder,
        })
    }

    /// `postgres://user:password@127.0.0.1:port/database`, with the password that all users of
    /// the cluster share.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The password that all users share.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The major version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// What a cluster is made of, before it runs.
struct Plan<'a> {
    binaries: PathBuf,
    user: Option<SystemUser>,
    folder: &'a Path,
    port: u16,
    password: String,
}

impl Plan<'_> {
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn initialise(&self) -> Result<()> {
        let password = self.folder.join("password");
        fs::write(&password, &self.password)?;
        give(&password, self.user)?;
        let mut command: Command = child::tied_command(&self.binaries.join("initdb"), self.user, "TERM");
        command.arg("-D").arg(self.data()).current_dir(self.folder);
        command.args([
            "-U",
            SUPERUSER,
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--auth=scram-sha-256",
        ]);
        command.arg(format!("--pwfile={}", password.display()));
        let output = command.output().context("cannot run initdb")?;
        fs::remove_file(&password)?;
        ensure!(
            output.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nwal_level = logical\n\
             timezone = 'UTC'\nfsync = off\nsynchronous_commit = off\nshared_buffers = 64MB\n",
            self.port,
            self.folder.display()
        );
        let mut file = fs::File::options()
            .append(true)
            .open(self.data().join("postgresql.conf"))?;
        Ok(file.write_all(settings.as_bytes())?)
    }

    fn spawn(&self, log: &Path) -> Result<Child> {
        // SIGINT is the fast shutdown: clients are cut off and a checkpoint is written.
        let server = Child::spawn(
            &self.binaries.join("postgres"),
            self.user,
            log,
            ("INT", STOP_LIMIT),
            |command| {
                command.arg("-D").arg(self.data()).current_dir(self.folder);
            },
        );
        server.context("cannot start postgres")
    }

    /// The eighth line of `postmaster.pid` tells the server's state (`miscadmin.h`,
    /// `LOCK_FILE_LINE_PM_STATUS`).
    fn wait_until_ready(&self, server: &mut Child, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            if status.lines().nth(7).map(str::trim) == Some("ready") {
                return Ok(());
            }
            if let Some(status) = server.exited() {
                return Err(with_log(anyhow!("PostgreSQL ended with {status}"), log));
            }
            if Instant::now() > deadline {
                return Err(with_log(anyhow!("PostgreSQL is not ready after {START_LIMIT:?}"), log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Makes `user` the owner of `path`.
fn give(path: &Path, user: Option<SystemUser>) -> Result<()> {
    let Some(SystemUser { uid, gid }) = user else {
        return Ok(());
    };
    chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot change the owner of {}", path.display()))
}

/// The folder of `postgres` and `initdb`: `$MILLSTREAM_PG_BIN`, else the newest of Debian's
/// packages, else the one on `PATH`.
fn binaries() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("MILLSTREAM_PG_BIN").map(PathBuf::from) {
        if !folder.join("initdb").is_file() {
            bail!(hinted(
                anyhow!("MILLSTREAM_PG_BIN={} has no initdb", folder.display()),
                INSTALL
            ));
        }
        return Ok(folder);
    }
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            folder.join("initdb").is_file().then_some((version, folder))
        });
    let newest = versions.max().map(|(_, folder)| folder);
    let on_path = || Some(child::on_path("initdb")?.canonicalize().ok()?.parent()?.to_owned());
    newest.or_else(on_path).ok_or_else(|| {
        hinted(
            anyhow!("there are no PostgreSQL server binaries on this machine"),
            INSTALL,
        )
    })
}

/// PostgreSQL refuses to run as root.
fn unprivileged_user() -> Result<SystemUser> {
    ["postgres", "nobody"]
        .into_iter()
        .find_map(SystemUser::named)
        .ok_or_else(|| {
            let refused = anyhow!("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`");
            hinted(refused, "run the demo as an ordinary user")
        })
}
