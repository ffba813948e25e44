//! Throw-away S3: SeaweedFS's all-in-one server, whose conditional PUT is atomic.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::{ServerProcess, tied_command};
use crate::tools;

/// A start takes one second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The id of the only access key.
pub const ACCESS_KEY: &str = "millstream";
/// The secret of the only access key.
pub const SECRET_KEY: &str = "millstream-test";

/// An S3 server on free loopback ports with its data in a temporary folder. Dropping it kills
/// the server and removes the folder.
pub struct TestS3 {
    port: u16,
    // Declared in the order in which they have to go.
    server: ServerProcess,
    _sockets: Sockets,
    folder: TempDir,
}

/// The server's components talk over Unix sockets in a place that cannot be chosen; a kill
/// leaves them behind.
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for socket in &self.0 {
            let _ = fs::remove_file(socket);
        }
    }
}

impl TestS3 {
    /// Starts a server with one empty bucket, and waits until it takes requests.
    ///
    /// # Errors
    /// If the binary is missing or the server does not come up; with the end of its log.
    pub fn start(bucket: &str) -> Result<Self> {
        let weed = tools::program("weed")?;
        let folder = tempfile::Builder::new().prefix("millstream-s3-").tempdir()?;
        let data = folder.path().join("data");
        fs::create_dir(&data)?;
        let identities = format!(
            r#"{{"identities": [{{"name": "tests", "actions": ["Admin", "Read", "Write", "List"],
                "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET_KEY}"}}]}}]}}"#
        );
        let config = folder.path().join("s3.json");
        fs::write(&config, identities)?;
        let log = File::create(folder.path().join("server.log"))?;

        let port = free_port();
        let mut command = tied_command(&weed, None);
        command.current_dir(folder.path()).env("HOME", folder.path());
        // A flag of the program, not of `mini`: without it, logs are left in /tmp.
        command.arg(format!("-logdir={}", folder.path().display()));
        command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]);
        command.args([
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]);
        command.arg(format!("-dir={}", data.display()));
        command.arg(format!("-bucket={bucket}"));
        command.arg(format!("-s3.config={}", config.display()));
        command.arg(format!("-s3.port={port}"));
        let mut sockets = Vec::new();
        for component in ["master", "volume", "filer", "s3", "admin"] {
            let grpc = free_port();
            command.arg(format!("-{component}.port.grpc={grpc}"));
            sockets.push(PathBuf::from(format!("/tmp/seaweedfs-{component}-grpc-{grpc}.sock")));
            if component != "s3" {
                command.arg(format!("-{component}.port={}", free_port()));
            }
        }
        for component in ["filer", "s3"] {
            command.arg(format!(
                "-{component}.localSocket={}",
                folder.path().join(format!("{component}.sock")).display()
            ));
        }
        command.stdout(log.try_clone()?).stderr(log);
        let mut s3 = Self {
            port,
            server: ServerProcess::spawn(command).context("cannot start weed")?,
            _sockets: Sockets(sockets),
            folder,
        };
        s3.wait_until_ready()?;
        Ok(s3)
    }

    /// The address of the S3 interface, which speaks plain HTTP.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            // It creates the bucket before it says so.
            if self.log().contains("All enabled components are running") && self.answers() {
                return Ok(());
            }
            if let Some(status) = self.server.exited() {
                bail!("weed ended with {status}:\n{}", self.end_of_log());
            }
            ensure!(
                Instant::now() < deadline,
                "S3 is not ready after {START_LIMIT:?}:\n{}",
                self.end_of_log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A request without a signature is refused, by a server that is there.
    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address())?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains(" 403 "))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_and_leaves_nothing() {
        let s3 = TestS3::start("lake").unwrap();
        let (folder, sockets) = (s3.folder.path().to_owned(), s3._sockets.0.clone());
        assert!(folder.exists());
        drop(s3);
        assert!(!folder.exists());
        assert!(sockets.iter().all(|socket| !socket.exists()));
    }
}
