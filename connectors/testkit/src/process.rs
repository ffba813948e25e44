//! Child processes that never outlive the tests that started them.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(10);

/// A server started by a test. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
}

/// A request to the keeper: what to start, and where the child goes.
type SpawnRequest = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts every child from one thread that lives as long as the process. A parent-death signal
/// follows the *thread* that forked, and test threads end long before the test process does.
static KEEPER: LazyLock<mpsc::Sender<SpawnRequest>> = LazyLock::new(|| {
    let (requests, inbox) = mpsc::channel::<SpawnRequest>();
    thread::Builder::new()
        .name("testkit-keeper".to_owned())
        .spawn(move || {
            for (mut command, reply) in inbox {
                // A requester that is gone leaves a child without an owner: end it at once.
                if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        })
        .expect("the machine can start one more thread");
    requests
});

/// A user to run a server as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemUser {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric id of the user's own group.
    pub gid: u32,
}

impl SystemUser {
    /// Looks `name` up in `/etc/passwd`.
    pub fn named(name: &str) -> Option<Self> {
        std::fs::read_to_string("/etc/passwd").ok()?.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then_some(())?;
            Some(Self {
                uid: fields.nth(1)?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        })
    }
}

/// Whether this process runs as root: then servers that refuse root need another user.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The first file called `name` on `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A command whose process is killed when the test process dies, even by `SIGKILL`, where
/// util-linux's `setpriv` is installed. `user` needs root.
pub fn tied_command(program: &Path, user: Option<SystemUser>) -> Command {
    let mut command = match on_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    if let Some(SystemUser { uid, gid }) = user {
        // The standard library drops supplementary groups when root gives up its user id.
        command.uid(uid).gid(gid);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs `command` to its end with `input` on its standard input.
///
/// # Errors
/// If it cannot be started or read; a failure of the command itself is in the output's status.
pub fn output_with_input(mut command: Command, input: &[u8]) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("standard input was piped");
    thread::scope(|scope| {
        // Apart, so that a child that answers while it reads does not block both.
        scope.spawn(move || {
            // A child that ends early closes the pipe; its status and stderr say why.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output()
    })
}

impl ServerProcess {
    /// Starts `command`, usually from [`tied_command`].
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub fn spawn(command: Command) -> io::Result<Self> {
        let (reply, child) = mpsc::channel();
        KEEPER.send((command, reply)).expect("the keeper never ends");
        child
            .recv()
            .expect("the keeper answers every request")
            .map(|child| Self { child })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends the signal called `name` (`INT`, `TERM`, `KILL`, `STOP`, `CONT`, `HUP`).
    ///
    /// # Errors
    /// If `kill` cannot be run or the process is gone.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .stderr(Stdio::null())
            .status()?;
        if sent.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("kill -{name} {}: {sent}", self.id())))
        }
    }

    /// Waits until the process ends, at most `limit`. `None` if it still runs.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    /// Asks with `signal`, waits `grace`, then kills. Returns the status.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn stop(&mut self, signal: &str, grace: Duration) -> io::Result<ExitStatus> {
        if self.exited().is_none()
            && self.signal(signal).is_ok()
            && let Some(status) = self.wait(grace)
        {
            return Ok(status);
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.exited().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> ServerProcess {
        let mut command = tied_command(Path::new("/bin/sleep"), None);
        command.arg("60");
        ServerProcess::spawn(command).unwrap()
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_and_dies_with_its_handle() {
        let mut process = thread::spawn(sleeper).join().unwrap();
        assert_eq!(process.wait(Duration::from_millis(150)), None);
        let proc_entry = PathBuf::from(format!("/proc/{}", process.id()));
        drop(process);
        assert!(!proc_entry.exists());
    }

    #[test]
    fn stop_ends_a_child_by_the_signal() {
        use std::os::unix::process::ExitStatusExt;
        let mut process = sleeper();
        // The signal must not meet setpriv before it has become the sleeper.
        let name = format!("/proc/{}/comm", process.id());
        while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
            thread::sleep(Duration::from_millis(10));
        }
        // Not INT, which a shell makes its background commands ignore.
        assert_eq!(process.stop("TERM", Duration::from_secs(5)).unwrap().signal(), Some(15));
    }
}
