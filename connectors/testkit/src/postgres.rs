//! Throw-away PostgreSQL clusters from the machine's own server binaries.

mod standby;
mod upgrade;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use self::upgrade::newer_binaries;
use crate::ports::free_port;
use crate::process::{ServerProcess, SystemUser, is_root, on_path, tied_command};

/// How long a start may take; a crash recovery of a test's few megabytes takes one second.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How much there must be for clusters to be kept in memory, in bytes.
const ROOM_IN_MEMORY: u64 = 8 << 30;

/// The superuser of every test cluster.
pub const SUPERUSER: &str = "postgres";
/// The superuser's password over TCP, by scram-sha-256.
pub const PASSWORD: &str = "millstream-test";

/// How to shut a cluster down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Clients are cut off and a checkpoint is written.
    Fast,
    /// As in a crash: the next start recovers from the WAL.
    Immediate,
}

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    settings: Vec<(String, String)>,
    tls: Option<(PathBuf, PathBuf)>,
}

impl ClusterOptions {
    /// Adds a line to `postgresql.conf`, or replaces one of the defaults.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Offers TLS with this certificate and key, both PEM. They are copied into the cluster.
    #[must_use]
    pub fn tls(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// Creates the cluster and starts it.
    ///
    /// # Errors
    /// If the server binaries are missing, or `initdb` or the server fail; with their output.
    pub fn launch(self) -> Result<TestCluster> {
        TestCluster::create(&self)
    }

    /// As [`launch`](Self::launch), with TLS by this certificate and key. `None`, after saying so
    /// on the terminal, where the server was built without TLS: the test has to be skipped then.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    pub fn launch_tls(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Option<TestCluster>> {
        match self.tls(certificate, key).launch() {
            Ok(cluster) => Ok(Some(cluster)),
            Err(error) if format!("{error:#}").contains(NO_TLS) => {
                say_skipped("this PostgreSQL was built without TLS")?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// How a server that was built without TLS refuses `ssl = on`.
const NO_TLS: &str = "SSL is not supported by this build";

/// Says on the terminal that the test on this thread is skipped.
///
/// # Errors
/// If the terminal cannot be written to.
pub fn say_skipped(why: &str) -> Result<()> {
    let test = thread::current();
    // Not by a macro, whose output is kept from the terminal.
    writeln!(std::io::stderr(), "SKIPPED {}: {why}", test.name().unwrap_or("a test"))?;
    Ok(())
}

/// A PostgreSQL cluster in a temporary folder, on a free loopback port and a Unix socket in that
/// folder, with `wal_level=logical` and `fsync=off`. Dropping it stops the server and removes
/// the folder. All methods block.
#[derive(Debug)]
pub struct TestCluster {
    server: Mutex<Option<ServerProcess>>,
    binaries: PathBuf,
    user: Option<SystemUser>,
    port: u16,
    // Last, so that the server is gone before its files are.
    folder: TempDir,
}

impl TestCluster {
    /// A cluster with the defaults.
    ///
    /// # Errors
    /// As [`ClusterOptions::launch`].
    pub fn new() -> Result<Self> {
        ClusterOptions::default().launch()
    }

    /// A cluster with further lines in `postgresql.conf`.
    ///
    /// # Errors
    /// As [`ClusterOptions::launch`].
    pub fn with_settings(settings: &[(&str, &str)]) -> Result<Self> {
        settings
            .iter()
            .fold(ClusterOptions::default(), |options, (name, value)| {
                options.setting(name, value)
            })
            .launch()
    }

    fn create(options: &ClusterOptions) -> Result<Self> {
        let binaries = binaries()?;
        let user = if is_root() { Some(unprivileged_user()?) } else { None };
        let folder = server_folder(user)?;
        let cluster = Self {
            server: Mutex::new(None),
            binaries,
            user,
            port: free_port(),
            folder,
        };
        cluster.initialise(None)?;
        cluster.configure(options)?;
        cluster.start()?;
        Ok(cluster)
    }

    /// `postgres://postgres:<password>@127.0.0.1:<port>/postgres`
    pub fn url(&self) -> String {
        self.url_as(SUPERUSER, PASSWORD, "postgres")
    }

    /// The URL of another role or database.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The TCP port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket, where every local user is trusted.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The server's log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The server's major version, such as 15.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn major(&self) -> Result<u32> {
        let version: u32 = self.psql("SHOW server_version_num")?.parse()?;
        Ok(version / 10_000)
    }

    /// Whether the server is of the major version `since` or later, which `what` came with. If it
    /// is not, that is said on the terminal: the test has to be skipped then.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn has(&self, what: &str, since: u32) -> Result<bool> {
        let major = self.major()?;
        if major < since {
            say_skipped(&format!("PostgreSQL {major} has no {what}"))?;
        }
        Ok(major >= since)
    }

    /// The server's process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(ServerProcess::id)
    }

    /// Runs `sql`, one or more statements, as the superuser in the database `postgres`. Returns
    /// the rows, unaligned: columns separated by `|`, rows by newlines.
    ///
    /// # Errors
    /// The server's message, if a statement fails; those after it are not run.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.psql_in("postgres", sql)
    }

    /// As [`psql`](Self::psql), in another database.
    ///
    /// # Errors
    /// As [`psql`](Self::psql).
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = self.psql_command(database)?;
        command.args(["-v", "ON_ERROR_STOP=1"]);
        // Standard input, because a long script does not fit in an argument.
        let output = crate::process::output_with_input(command, sql.as_bytes())?;
        ensure!(
            output.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// A `psql` that runs what comes on its standard input, as the superuser, and prints rows as
    /// [`psql`](Self::psql) returns them. It goes on behind an error.
    ///
    /// # Errors
    /// If there is no `psql` on the machine.
    pub fn psql_command(&self, database: &str) -> Result<Command> {
        let mut command = Command::new(psql(&self.binaries)?);
        command
            .arg("-h")
            .arg(self.socket_dir())
            .args(["-p", &self.port.to_string(), "-U", SUPERUSER, "-d", database]);
        command.args(["-X", "-q", "-A", "-t", "-f", "-"]);
        command.env_remove("PGOPTIONS").env_remove("PGSERVICE");
        Ok(command)
    }

    /// Starts the server, if it does not run, and waits until it takes connections.
    ///
    /// # Errors
    /// If it ends or is not ready in a minute; with the end of its log.
    pub fn start(&self) -> Result<()> {
        let mut server = self.lock();
        if server.as_mut().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = tied_command(&self.binaries.join("postgres"), self.user);
        command.arg("-D").arg(self.data_dir()).current_dir(self.folder.path());
        command.stdout(log.try_clone()?).stderr(log);
        let process = server.insert(ServerProcess::spawn(command).context("cannot start postgres")?);
        let deadline = Instant::now() + START_LIMIT;
        while !self.is_ready(process.id()) {
            if let Some(status) = process.exited() {
                bail!("postgres ended with {status}:\n{}", self.end_of_log());
            }
            ensure!(
                Instant::now() < deadline,
                "postgres is not ready after {START_LIMIT:?}:\n{}",
                self.end_of_log()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops the server and waits for its end. Does nothing if it does not run.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn stop(&self, how: Shutdown) -> Result<()> {
        let signal = match how {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
        };
        if let Some(mut process) = self.lock().take() {
            process.stop(signal, STOP_LIMIT).context("cannot stop postgres")?;
        }
        Ok(())
    }

    /// [`stop`](Self::stop), then [`start`](Self::start).
    ///
    /// # Errors
    /// As these.
    pub fn restart(&self, how: Shutdown) -> Result<()> {
        self.stop(how)?;
        self.start()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ServerProcess>> {
        // A panic while it was held leaves a process that can still be stopped.
        self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn initialise(&self, option: Option<&str>) -> Result<()> {
        let password = self.folder.path().join("password");
        self.write_owned(&password, PASSWORD.as_bytes())?;
        let mut command = tied_command(&self.binaries.join("initdb"), self.user);
        command.arg("-D").arg(self.data_dir()).current_dir(self.folder.path());
        command.args(["-U", SUPERUSER, "--encoding=UTF8", "--locale=C", "--no-sync"]);
        command.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
        command.arg(format!("--pwfile={}", password.display())).args(option);
        let output = command.output().context("cannot run initdb")?;
        ensure!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn configure(&self, options: &ClusterOptions) -> Result<()> {
        let mut lines = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             wal_level = logical\nmax_wal_senders = 20\nmax_replication_slots = 20\nmax_connections = 60\n\
             fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nshared_buffers = 64MB\n\
             log_min_messages = info\nlog_connections = on\n",
            self.port,
            self.folder.path().display()
        );
        if let Some((certificate, key)) = &options.tls {
            for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
                let pem = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                self.write_owned(&self.data_dir().join(to), &pem)?;
            }
            lines.push_str("ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n");
        }
        for (name, value) in &options.settings {
            // The last line of a name counts.
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let mut file = File::options()
            .append(true)
            .open(self.data_dir().join("postgresql.conf"))?;
        Ok(file.write_all(lines.as_bytes())?)
    }

    /// Writes a file that the server's user alone may read, as it demands of keys.
    fn write_owned(&self, path: &Path, content: &[u8]) -> Result<()> {
        fs::write(path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        if let Some(SystemUser { uid, gid }) = self.user {
            chown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// The eighth line of `postmaster.pid` tells the server's state (`miscadmin.h`,
    /// `LOCK_FILE_LINE_PM_STATUS`); the first its process, which an older file would not have.
    fn is_ready(&self, pid: u32) -> bool {
        let Ok(content) = fs::read_to_string(self.data_dir().join("postmaster.pid")) else {
            return false;
        };
        let mut lines = content.lines();
        lines.next() == Some(pid.to_string().as_str()) && lines.nth(6).map(str::trim) == Some("ready")
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let _ = self.stop(Shutdown::Immediate);
    }
}

/// The folder of `postgres` and `initdb`: `$MILLSTREAM_PG_BIN`, else the newest of Debian's
/// packages, else the one on `PATH`.
///
/// # Errors
/// If there is none.
pub fn binaries() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("MILLSTREAM_PG_BIN").map(PathBuf::from) {
        ensure!(
            folder.join("initdb").is_file(),
            "MILLSTREAM_PG_BIN={} has no initdb",
            folder.display()
        );
        return Ok(folder);
    }
    packaged("initdb")
        .or_else(|| on_path("initdb").and_then(|initdb| Some(initdb.canonicalize().ok()?.parent()?.to_owned())))
        .context("no PostgreSQL server binaries; `make test` installs them, or set MILLSTREAM_PG_BIN")
}

/// The folder of the newest of Debian's packages that have `program`.
fn packaged(program: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            folder.join(program).is_file().then_some((version, folder))
        });
    versions.max().map(|(_, folder)| folder)
}

/// The client beside the server's binaries, or where they came without one any on the machine:
/// it speaks to servers of all versions.
fn psql(binaries: &Path) -> Result<PathBuf> {
    let beside = binaries.join("psql");
    if beside.is_file() {
        return Ok(beside);
    }
    packaged("psql")
        .map(|folder| folder.join("psql"))
        .or_else(|| on_path("psql"))
        .context("no psql on this machine; `make test` installs it")
}

/// A temporary folder that the server may write to.
fn server_folder(user: Option<SystemUser>) -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("millstream-pg-")
        .tempdir_in(place_of_clusters())
        .context("cannot create a folder")?;
    if let Some(SystemUser { uid, gid }) = user {
        chown(folder.path(), Some(uid), Some(gid))?;
    }
    Ok(folder)
}

/// Where clusters are: in memory, where there is plenty of it, since on a disk most of a test's
/// time goes into making and removing the thousand files of a cluster. `TMPDIR` says otherwise.
fn place_of_clusters() -> PathBuf {
    let in_memory = Path::new("/dev/shm");
    let has_room = || {
        let space = rustix::fs::statvfs(in_memory);
        space.is_ok_and(|space| space.f_bavail.saturating_mul(space.f_frsize) >= ROOM_IN_MEMORY)
    };
    if std::env::var_os("TMPDIR").is_none() && has_room() {
        in_memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// PostgreSQL refuses to run as root.
fn unprivileged_user() -> Result<SystemUser> {
    ["postgres", "nobody"]
        .into_iter()
        .find_map(SystemUser::named)
        .context("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`")
}
