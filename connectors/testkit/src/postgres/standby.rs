//! Hot standbys of a throw-away cluster.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use super::{SUPERUSER, TestCluster, say_skipped};
use crate::ports::free_port;
use crate::process::tied_command;

impl TestCluster {
    /// A hot standby that streams from this cluster through a physical slot called
    /// [`STANDBY_SLOT`](Self::STANDBY_SLOT) of it, with `hot_standby_feedback` and these further
    /// lines in `postgresql.conf`. A cluster can have one. `None`, after saying so on the terminal,
    /// where the server came without `pg_basebackup`: the test has to be skipped then.
    ///
    /// # Errors
    /// If `pg_basebackup` or the server fail; with their output.
    pub fn standby(&self, settings: &[(&str, &str)]) -> Result<Option<Self>> {
        let program = self.binaries.join("pg_basebackup");
        if !program.is_file() {
            say_skipped("this PostgreSQL came without pg_basebackup")?;
            return Ok(None);
        }
        let standby = Self {
            server: Mutex::new(None),
            binaries: self.binaries.clone(),
            user: self.user,
            port: free_port(),
            folder: super::server_folder(self.user)?,
        };
        let mut command = tied_command(&program, self.user);
        command
            .arg("-D")
            .arg(standby.data_dir())
            .current_dir(standby.folder.path());
        command.arg("-h").arg(self.socket_dir());
        command.args(["-p", &self.port.to_string(), "-U", SUPERUSER]);
        command.args([
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-C",
            "-S",
            Self::STANDBY_SLOT,
        ]);
        let output = command.output().context("cannot run pg_basebackup")?;
        ensure!(
            output.status.success(),
            "pg_basebackup: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let mut lines = format!(
            "port = {}\nunix_socket_directories = '{}'\nhot_standby_feedback = on\n\
             primary_slot_name = '{}'\nprimary_conninfo = 'host={} port={} user={SUPERUSER} dbname=postgres'\n",
            standby.port,
            standby.folder.path().display(),
            Self::STANDBY_SLOT,
            self.socket_dir().display(),
            self.port
        );
        for (name, value) in settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let mut file = File::options()
            .append(true)
            .open(standby.data_dir().join("postgresql.conf"))?;
        file.write_all(lines.as_bytes())?;
        standby.write_owned(&standby.data_dir().join("standby.signal"), b"")?;
        standby.start()?;
        Ok(Some(standby))
    }

    /// The slot of this cluster that its standby streams through.
    pub const STANDBY_SLOT: &str = "standby";

    /// Makes a standby the primary, on a new timeline, and waits until it is.
    ///
    /// # Errors
    /// As [`psql`](Self::psql), and if it takes longer than a minute.
    pub fn promote(&self) -> Result<()> {
        ensure!(self.psql("SELECT pg_promote()")? == "t", "not promoted in a minute");
        Ok(())
    }

    /// The version as in `server_version_num`: 150004.
    ///
    /// # Errors
    /// As [`psql`](Self::psql).
    pub fn version(&self) -> Result<u32> {
        Ok(self.psql("SHOW server_version_num")?.parse()?)
    }
}
