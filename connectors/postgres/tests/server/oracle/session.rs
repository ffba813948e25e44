//! A session of `psql` that is fed piece by piece.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use millstream_testkit::postgres::TestCluster;

pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const END: &str = "-- end of the piece --";

impl Session {
    pub fn of(cluster: &TestCluster) -> Self {
        let mut command = cluster.psql_command("postgres").unwrap();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    /// Runs statements or commands of `psql` to their end; they may fail.
    pub fn run(&mut self, piece: &str) {
        writeln!(self.input, "{piece}\n\\echo {END}").unwrap();
        self.input.flush().unwrap();
        let mut line = String::new();
        while line.trim_end() != END {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "psql ended in {piece}");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
