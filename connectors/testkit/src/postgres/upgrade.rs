//! A new major version of a throw-away cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use super::{ClusterOptions, SUPERUSER, Shutdown, TestCluster};
use crate::process::tied_command;

/// The folder of a newer server's programs, which the tests of upgrades need:
/// `$MILLSTREAM_PG_NEW_BIN`.
pub fn newer_binaries() -> Option<PathBuf> {
    std::env::var_os("MILLSTREAM_PG_NEW_BIN").map(PathBuf::from)
}

impl TestCluster {
    /// Stops this cluster and makes one of the newer server in the folder `binaries` from it with
    /// `pg_upgrade`, on the same port. The old one must not be started again.
    ///
    /// # Errors
    /// If `initdb`, `pg_upgrade` or the server fail; with their output.
    pub fn upgraded(&self, binaries: &Path) -> Result<Self> {
        self.stop(Shutdown::Fast)?;
        let new = Self {
            server: Mutex::new(None),
            binaries: binaries.to_owned(),
            user: self.user,
            port: self.port,
            folder: super::server_folder(self.user)?,
        };
        // Version 18 keeps checksums unless told otherwise, and both must do the same.
        let help = Command::new(binaries.join("initdb")).arg("--help").output()?;
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let plain = Some("--no-data-checksums").filter(|option| help.contains(option));
        new.initialise(plain)?;
        new.configure(&ClusterOptions::default())?;
        let mut command = tied_command(&binaries.join("pg_upgrade"), self.user);
        command.arg("-b").arg(&self.binaries).arg("-B").arg(binaries);
        command.arg("-d").arg(self.data_dir()).arg("-D").arg(new.data_dir());
        let port = self.port.to_string();
        command.args(["-U", SUPERUSER, "-p", &port, "-P", &port]);
        command.arg("-s").arg(new.folder.path()).current_dir(new.folder.path());
        let output = command.output().context("cannot run pg_upgrade")?;
        ensure!(
            output.status.success(),
            "pg_upgrade: {}{}",
            String::from_utf8_lossy(&output.stdout).trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        new.start()?;
        Ok(new)
    }
}
