//! Server processes that never outlive the demo.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);

/// A user to run a server as.
#[derive(Debug, Clone, Copy)]
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

/// Whether this process runs as root.
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

/// A TCP port on 127.0.0.1 that is free now.
///
/// # Errors
/// If no socket can be bound.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A command that runs as `user`, in a process group of its own, so that a Ctrl-C in the
/// terminal does not reach it. Where util-linux's `setpriv` is installed, `signal` also ends it
/// when this process is killed.
pub fn tied_command(program: &Path, user: Option<SystemUser>, signal: &str) -> Command {
    let mut command = match on_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", signal, "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    if let Some(SystemUser { uid, gid }) = user {
        // The standard library drops supplementary groups when root gives up its user id.
        command.uid(uid).gid(gid);
    }
    command.process_group(0).stdin(Stdio::null());
    command
}

/// A running server. Dropping it stops it, also after a panic.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    signal: &'static str,
    patience: Duration,
}

impl Child {
    /// Starts `program` with what `configure` adds to its command, and its output in `log`.
    /// `signal` (`TERM`, `INT`) asks it to stop; after `patience` it is killed.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(
        program: &Path,
        user: Option<SystemUser>,
        log: &Path,
        (signal, patience): (&'static str, Duration),
        configure: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = tied_command(program, user, signal);
        command.stdout(output.try_clone()?).stderr(output);
        configure(&mut command);
        Ok(Self {
            process: command.spawn()?,
            signal,
            patience,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Asks the process to stop and waits for its end; `None` if it had to be killed.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn stop(&mut self) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(Some(status));
        }
        // The shell's own `kill`, because the program of that name is not installed everywhere.
        let script = format!("kill -s {} {}", self.signal, self.id());
        Command::new("/bin/sh")
            .args(["-c", &script])
            .stderr(Stdio::null())
            .status()?;
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(POLL);
        }
        self.process.kill()?;
        self.process.wait()?;
        Ok(None)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path, script: &str, patience: Duration) -> Child {
        let child = Child::spawn(Path::new("/bin/sh"), None, log, ("TERM", patience), |command| {
            command.args(["-c", script]);
        });
        let child = child.unwrap();
        // The signal must not meet a process that has not set its traps.
        while !std::fs::read_to_string(log).unwrap().contains("ready") {
            std::thread::sleep(POLL);
        }
        child
    }

    #[test]
    fn a_child_stops_by_its_signal_and_one_that_does_not_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut polite = sleeper(
            &folder.path().join("a"),
            "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done",
            Duration::from_secs(5),
        );
        assert_eq!(polite.stop().unwrap().and_then(|status| status.code()), Some(7));
        let mut stubborn = sleeper(
            &folder.path().join("b"),
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
            Duration::from_millis(100),
        );
        assert_eq!(stubborn.stop().unwrap(), None);
    }

    #[test]
    fn a_child_dies_with_its_handle() {
        let folder = tempfile::tempdir().unwrap();
        let child = sleeper(
            &folder.path().join("a"),
            "echo ready; exec sleep 60",
            Duration::from_secs(5),
        );
        let entry = PathBuf::from(format!("/proc/{}", child.id()));
        drop(child);
        assert!(!entry.exists());
    }
}
