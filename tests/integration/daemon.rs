//! A `millstream run` of its own process, as an operator would start it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use millstream::engine::status::{PipelineStatus, State};
use millstream_testkit::{loudly, ports};

/// The binary under test.
pub const MILLSTREAM: &str = env!("CARGO_BIN_EXE_millstream");

/// A running daemon; killed when it is dropped.
pub struct Daemon {
    child: Child,
    admin: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts the daemon on `project`; its log goes beside it.
    pub fn start(project: &Path, env: &[(&str, String)]) -> Self {
        Self::start_as(Command::new(MILLSTREAM), project, env)
    }

    /// As [`start`](Self::start), with a file system of 32 MiB mounted at `folder`, of which the
    /// file `filler` leaves half a MiB. Root, or a kernel that lets users have name spaces, is
    /// needed: `None`, and a loud word, without.
    pub fn start_on_full_disk(project: &Path, env: &[(&str, String)], folder: &Path) -> Option<Self> {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--map-root-user", "sh", "-c"]);
            command
        };
        let mount = "mount -t tmpfs -o size=32m tmpfs \"$0\"";
        let tried = unshare().arg(mount).arg(folder).status();
        if !tried.is_ok_and(|status| status.success()) {
            loudly("LEFT OUT, this user may not mount a file system: the test of a full disk (run it as root)");
            return None;
        }
        let mut command = unshare();
        command.arg(format!(
            "{mount} && head -c 32000k /dev/zero > \"$0/filler\" && exec \"$@\""
        ));
        command.arg(folder).arg(MILLSTREAM);
        Some(Self::start_as(command, project, env))
    }

    /// Runs `command`, which is the binary with what goes before it.
    fn start_as(mut command: Command, project: &Path, env: &[(&str, String)]) -> Self {
        let port = ports::free_port();
        let admin = format!("127.0.0.1:{port}");
        let log = project.join(format!("daemon-{port}.log"));
        let file = File::create(&log).unwrap();
        let child = command
            .arg("run")
            .arg(project)
            .args(["--admin-listen", &admin])
            .env("RUST_LOG", "info,millstream=debug")
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("the daemon starts");
        Self { child, admin, log }
    }

    /// The address of the admin interface.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The daemon's status; `None` while it does not answer.
    pub fn status(&self) -> Option<Vec<PipelineStatus>> {
        let output = Command::new(MILLSTREAM)
            .args(["status", "--format", "json", "--admin", &self.admin])
            .output()
            .expect("the status command runs");
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("status is JSON"))
    }

    /// The most memory that the process has had, in bytes: `VmHWM` of `proc(5)`.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// One GET of the admin interface: the status code and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&self.admin).expect("the admin interface listens");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits until `reached` holds for the status, at most `patience`; else panics with the log.
    pub fn wait_until(&mut self, what: &str, patience: Duration, reached: impl Fn(&[PipelineStatus]) -> bool) {
        let deadline = Instant::now() + patience;
        loop {
            if self.status().is_some_and(|status| reached(&status)) {
                return;
            }
            assert!(
                self.exited().is_none(),
                "the daemon ended before: {what}\n{}",
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "not within {patience:?}: {what}\n{:#?}\n{}",
                self.status(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the first pipeline has halted.
    pub fn wait_halted(&mut self) -> PipelineStatus {
        self.wait_until("halted", Duration::from_secs(60), |status| {
            status[0].state == State::Halted
        });
        self.status().unwrap().remove(0)
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the process to end by itself.
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon did not end within {patience:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// SIGTERM, then waits for the drain.
    pub fn drain(mut self) {
        self.signal("TERM");
        let status = self.wait_exit(Duration::from_secs(60));
        assert!(status.success(), "the drain failed: {status}\n{}", self.log());
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
